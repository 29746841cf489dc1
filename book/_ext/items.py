"""`{items}`all`` in running text: how many tables and figures of the three papers have a page, from items.yml.

    {items}`all`       50: how many there are
    {items}`rerun`     how many have a page that reruns them
    {items}`needs`     how many have a page that says what a rerun needs, and its command

What is none of these stops the build (`-W`). A page of the list says which items it has, below its answer and its
first figure, and what those need that it cannot rerun, with the command.
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
PAPERS = {"recon": "Recon", "rotograd": "RotoGrad's submission", "sam_gs": "SAM-GS"}
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


def in_words(names) -> str:
    """ "Tables 1 and 3 and Figure 2"."""
    said = []
    for which in ("Table", "Figure"):
        if numbers := [name.split()[1] for name in names if name.startswith(which)]:
            *others, last = numbers
            said.append(f"{which}s {', '.join(others)} and {last}" if others else f"{which} {last}")
    return " and ".join(said)


def of_page(page) -> list[list[nodes.Node]]:
    """What a page says of its items, a line for each need."""
    groups: dict[tuple, dict[str, list[str]]] = {}
    for (paper, item), entry in load().items():
        if page in entry["pages"]:
            groups.setdefault((entry.get("needs"), entry.get("command")), {}).setdefault(paper, []).append(item)
    lines = []
    for (needs, command), papers in groups.items():
        said = ", ".join(f"{in_words(names)} of {PAPERS[paper]}" for paper, names in papers.items())
        text = f"This page covers {said}."
        more = [nodes.Text(f" The printed settings need {needs}: "), nodes.literal(text=command)] if needs else []
        lines.append([nodes.Text(text), *more])
    return lines


def mark(app, doctree):
    """The items of a page: after its first figure, or before its first table or its second heading."""
    if lines := of_page(app.env.docname):
        chapter = next(doctree.findall(nodes.section))
        shown = (nodes.section, nodes.figure, nodes.image, nodes.table, nodes.raw)
        until = next(n for n, part in enumerate(chapter) if any(isinstance(x, shown) for x in part.findall()))
        until += not isinstance(chapter[until], nodes.section) and bool([*chapter[until].findall(nodes.figure)])
        chapter.insert(until, nodes.container("", *(nodes.paragraph("", "", *x) for x in lines), classes=["items"]))


def setup(app):
    app.connect("doctree-read", mark)
    app.add_role("items", quotes.Quote(items))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
