"""`{items}`all`` in running text: how many tables and figures of the three papers have a page, from items.yml.

    {items}`all`       50: how many there are
    {items}`rerun`     how many have a page that reruns them
    {items}`needs`     how many have a page that says what a rerun needs, and its command

What is none of these stops the build (`-W`).
"""

import pathlib
import re
from collections import Counter

import checkout  # noqa: F401 (puts the checkout onto the path, as the other extensions do)
import quotes
import yaml
from docutils import nodes

BOOK = pathlib.Path(__file__).resolve().parents[1]
FILE = BOOK / "papers" / "items.yml"
NAMED = re.compile(r"\b(Table|Figure)s?\s(\d+)(?:\s?to\s(\d+))?((?:,\s\d+)*)(?:\sand\s(\d+))?")


def load(file=FILE) -> dict[tuple[str, str], dict]:
    """(paper, "Table 1") -> its entry."""
    return {(p, i): entry for p, of in yaml.safe_load(file.read_text("utf-8")).items() for i, entry in of.items()}


def kind(entry) -> str:
    """ "needs" or "rerun"."""
    return "needs" if "needs" in entry else "rerun"


def named(text) -> set[str]:
    """The items that a text names: "Tables 5 to 7" are three."""
    found = set()
    for which, first, last, more, end in NAMED.findall(text):
        numbers = [
            *range(int(first), int(last or first) + 1),
            *map(int, re.findall(r"\d+", more)),
            *map(int, [end] * bool(end)),
        ]
        found |= {f"{which} {number}" for number in numbers}
    return found


def items(which):
    """The number of items of one kind, or of all."""
    counts = Counter(map(kind, load().values()))
    counts["all"] = counts.total()
    if which not in ("all", "rerun", "needs"):
        raise LookupError("expected all, rerun or needs")
    return [nodes.Text(str(counts[which]))]


def setup(app):
    app.add_role("items", quotes.Quote(items))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
