"""What of a notebook's code cells is on its page: code that teaches, figures, tables, and no raw print.

A cell's tags decide. The notebook itself, which one can download and run, keeps every cell.

    teach          its code is on the page; all other code is left out
    result         what it prints is set as a table or a list; all other prints, which tests compare, are left out
    answer         the same, folded under the answer of an exercise
    result-code    what it prints is code
"""

import json
import re

import checkout  # noqa: F401 (before mtl_core)
from docutils import nodes

from mtl_core.methods import METHODS

SHOWN = {"result", "answer", "result-code"}
FOLDS = {"hide-input", "hide-output", "hide-cell"}  # bars of the theme: a cell is on the page, or it is not
SAID = {"True": "yes", "False": "no"}


def plain(word):
    """A cell of a table as Markdown: a method by its title, a truth as yes or no, nothing taken for a mark."""
    word = METHODS[word].title if word in METHODS else SAID.get(word, word)
    return re.sub(r"([\\`*_{}\[\]()#+!|<>$~-])", r"\\\1", word)


def as_markdown(text):
    """What a cell printed, as Markdown: lines in columns become a table, anything else a list.

    Columns are two blanks or more apart. A first line with fewer cells than the others is a title, if it has one
    cell, or the head of a table whose last columns share a heading. Below a title the next line is the head if it
    has no digits; a table that has none gets an empty one, which `without_empty_heads` takes away.
    """
    parts = [part for part in re.split(r"\n\s*\n", text.strip("\n")) if part.strip()]
    return "\n\n".join(_part([re.split(r"\s{2,}|\t", line.strip()) for line in part.splitlines()]) for part in parts)


def _part(lines):
    head, body = lines[0], lines[1:]
    width = {len(line) for line in body}
    if len(lines) > 1 and len(width) == 1 and max(width) > 1 and len(head) <= max(width):
        columns = max(width)
        if len(head) == 1:
            named = len(body) > 1 and not any(re.search(r"\d", word) or word in SAID for word in body[0])
            return f"{plain(head[0])}\n\n" + (_table(body[0], body[1:]) if named else _table([""] * columns, body))
        if not _has_numbers(head):
            return _table(head + [""] * (columns - len(head)), body)
    if len({len(line) for line in lines}) == 1 and len(head) > 1:
        return _table([""] * len(head), lines)
    return "\n".join("- " + plain(", ".join(line)) for line in lines)


def _has_numbers(line):
    return any(re.fullmatch(r"[-+−]?\d[\d.,e+-]*°?|True|False", word) for word in line[1:])


def _table(head, body):
    right = [all(re.match(r"[-+−]?\d", line[k]) for line in body) for k in range(len(head))]
    rule = "".join("|---:" if r else "|:---" for r in right) + "|"
    rows = ["| " + " | ".join(plain(word) or " " for word in line) + " |" for line in (head, *body)]
    return "\n".join([rows[0], rule, *rows[1:]])


def shown(text, tag):
    """A print as the page has it, Markdown."""
    if tag == "result-code":
        return f"```python\n{text.strip()}\n```"
    table = as_markdown(text)
    fold = tag == "answer"
    return f"<details><summary>Computed answer</summary>\n\n{table}\n\n</details>" if fold else table


def on_page(cell):
    """Change a code cell of a notebook, as JSON, to what its page has of it."""
    tags = set(cell["metadata"].get("tags", []))
    kept = sorted(tags & SHOWN)
    if len(kept) > 1:
        raise ValueError(f"expected one of the tags {', '.join(sorted(SHOWN))} on a cell, got {', '.join(kept)}")
    outputs, printed = [], []
    for output in cell["outputs"]:
        if output["output_type"] == "stream" and output["name"] == "stdout":
            if kept and not printed:  # where it begins; the kernel may send one print in any number of parts
                outputs.append({"output_type": "display_data", "data": printed, "metadata": {}})
            printed += output["text"]
        elif set(output.get("data", ())) != {"text/plain"}:  # a value that nothing sets is a print as well
            outputs.append(output)
    for output in outputs:
        if output.get("data") is printed:
            output["data"] = {"text/markdown": shown("".join(printed), kept[0])}
    cell["outputs"] = outputs
    off = [] if "teach" in tags else ["remove-input"] if outputs else ["remove-cell"]
    cell["metadata"]["tags"] = sorted(tags - FOLDS) + off


def read(app, page, source):
    if not app.env.doc2path(page).endswith(".ipynb"):
        return
    book = json.loads(source[0])
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            on_page(cell)
    source[0] = json.dumps(book)


def without_empty_heads(app, doctree):
    """A table in Markdown must have a head; one in which nothing is written is left out."""
    for head in list(doctree.findall(nodes.thead)):
        if not head.astext().strip():
            head.parent.remove(head)


def setup(app):
    app.connect("source-read", read)
    app.connect("doctree-read", without_empty_heads)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
