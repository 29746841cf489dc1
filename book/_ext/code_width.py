"""Python on a page is at most 76 columns wide, whatever the width of the file that it comes from.

ruff breaks the statements; comments and strings, which it leaves alone, are wrapped here, and a comment at the end of a
line that is too long goes above it. Only layout changes: the syntax tree is the same before and after, up to the blanks
of docstrings.
"""

import functools
import io
import itertools
import pathlib
import re
import subprocess
import sys
import textwrap
import tokenize

from docutils import nodes

WIDTH = 76
PYTHON = {"python", "python3", "ipython", "ipython3", "py"}


@functools.cache
def narrow(code):
    """The code in WIDTH columns; as it came where it is no Python, or where a word is longer than a line."""
    if max(map(len, code.splitlines()), default=0) <= WIDTH:
        return code
    code = textwrap.dedent(code)
    code = re.sub(r"  # fmt: skip$", "", code, flags=re.M)  # an order to ruff, not a word to the reader
    return "\n".join(_string(line) for line in _words(_statements(_words(code))).splitlines())


def _statements(code):
    ruff = pathlib.Path(sys.executable).with_name("ruff")
    asked = [ruff, "format", "--isolated", "--quiet", "--line-length", str(WIDTH), "-"]
    done = subprocess.run(asked, input=code, capture_output=True, text=True, encoding="utf-8")
    return done.stdout.rstrip("\n") if done.returncode == 0 else code


def _words(code):
    """Comments and docstrings of long lines, wrapped."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(code).readline))
    except (tokenize.TokenError, SyntaxError):
        return code
    lines = code.splitlines()
    strings = [t for t in tokens if t.type == tokenize.STRING and t.string.lstrip("rR").startswith('"""')]
    for token in reversed(strings):  # from the end, so that the numbers of the lines before it still hold
        first, last = token.start[0] - 1, token.end[0]
        parts = [[*group] for _, group in itertools.groupby(lines[first:last], key=lambda line: bool(line.strip()))]
        lines[first:last] = [line for part in parts for line in _paragraph(part)]
    code = "\n".join(lines)
    tokens = list(tokenize.generate_tokens(io.StringIO(code).readline))
    comments = {t.start[0]: t for t in tokens if t.type == tokenize.COMMENT}
    found = []
    for number, line in enumerate(lines, 1):
        indent = line[: len(line) - len(line.lstrip())]
        if len(line) <= WIDTH:
            found.append(line)
        elif number in comments:
            column = comments[number].start[1]
            words = comments[number].string.lstrip("# ")
            wrapped = textwrap.wrap(words, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
            found += [*wrapped, *([line[:column].rstrip()] if line[:column].strip() else [])]
        else:
            found.append(line)
    return "\n".join(found)


def _paragraph(lines):
    """One paragraph of a docstring in WIDTH columns; an entry `name  what it is` begins anew and hangs."""
    if max(map(len, lines)) <= WIDTH or any("$$" in line for line in lines):
        return lines
    items = []  # [indent, hanging indent, words]
    for line in lines:
        indent = line[: len(line) - len(line.lstrip())]
        entry = re.match(r"\S+(?: \S+){0,3} {2,}(?=\S)", line.lstrip())
        if (
            entry
            or not items
            or line.strip() == '"""'
            or (items[-1][1] != items[-1][0] and len(indent) <= len(items[-1][0]))
        ):
            items.append([indent, indent + " " * len(entry[0] if entry else ""), line.strip()])
        else:
            items[-1][2] += f" {line.strip()}"
    long = [
        textwrap.wrap(
            text,
            WIDTH,
            initial_indent=i,
            subsequent_indent=h,
            fix_sentence_endings=False,
            break_on_hyphens=False,
            break_long_words=True,
        )
        for i, h, text in items
    ]
    return [line for item in long for line in item]


def _string(line):
    """A line that holds one long string, as two strings that Python joins."""
    found = re.fullmatch(r"""( *)(f?)(["'])((?:(?!\3).)+)\3(,?)""", line)
    if len(line) <= WIDTH or not found:
        return line
    indent, kind, quote, text, comma = found.groups()
    room, depth, cut = WIDTH - len(indent + kind) - 2, 0, 0
    for place, letter in enumerate(text[:room]):
        depth += (letter == "{") - (letter == "}")
        cut = place + 1 if letter == " " and not depth else cut
    if not cut:
        return line
    rest = _string(f"{indent}{kind}{quote}{text[cut:]}{quote}{comma}")
    return f"{indent}{kind}{quote}{text[:cut]}{quote}\n{rest}"


def read(app, doctree):
    for block in doctree.findall(nodes.literal_block):
        if block.get("language") in PYTHON and max(map(len, block.astext().splitlines()), default=0) > WIDTH:
            text = narrow(block.astext())
            block.rawsource, block[:] = text, [nodes.Text(text)]


def setup(app):
    app.connect("doctree-read", read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
