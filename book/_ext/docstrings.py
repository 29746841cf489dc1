"""Our docstrings for `sphinx.ext.autodoc`, which reads reStructuredText: they are plain text with Markdown's marks.

`code`, $formula$ and $$formula$$ become what Sphinx has for them, and an aligned block

    name   what it is,
           over several lines
    other  …

becomes a list of definitions. What is not such a mark is shown as it stands.
"""

import re

import checkout  # noqa: F401 (before mtl_core)

MARK = re.compile(r"`([^`]+)`|\$([^$]+)\$|\*(\w[^*]*\w|\w)\*")
ENTRY = re.compile(r"(\S.*?) {2,}(\S.*)")


def inline(text):
    """One paragraph."""
    found, end = [], 0
    for mark in [*MARK.finditer(text), None]:
        found.append(re.sub(r"([\\*|_`])", r"\\\1", text[end : mark and mark.start()]))
        if mark is not None:
            code, formula, stressed = mark.groups()
            found.append(f"\\ ``{code}``\\ " if code else f"\\ :math:`{formula}`\\ " if formula else f"*{stressed}*")
            end = mark.end()
    return "".join(found)


def paragraph(lines):
    """Lines without an empty one among them: aligned entries become definitions, the rest is text."""
    parts = []  # [name or None, text]
    for line in lines:
        entry = ENTRY.fullmatch(line)
        if entry and (not parts or parts[-1][0] or line is lines[0]):
            parts.append([entry[1], entry[2]])
        elif parts and (line[0] == " " or parts[-1][0] is None):
            parts[-1][1] += f"\n{line.strip()}"
        else:
            parts.append([None, line.strip()])
    shown = []
    for name, text in parts:
        words = inline(text).split("\n")
        shown += [_names(name), *(f"    {line}" for line in words), ""] if name else [*words, ""]
    return shown


def _names(text):
    return f"``{text}``" if re.fullmatch(r"[\w, ]+", text) else inline(text)


def restructured(lines):
    """The lines of a docstring as reStructuredText."""
    shown = []
    for n, part in enumerate("\n".join(lines).split("$$")):
        if n % 2:
            shown += ["", ".. math::", "", *(f"    {line.strip()}" for line in part.strip().split("\n")), ""]
            continue
        for block in re.split(r"\n\s*\n", part.strip("\n")):
            shown += paragraph([line for line in block.split("\n") if line.strip()])
    return shown


def setup(app):
    app.connect("autodoc-process-docstring", lambda a, what, name, thing, options, lines: _replace(lines))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _replace(lines):
    lines[:] = restructured(lines)
