"""Every table and figure of the three papers has a page that names it in words of its own."""

import functools
import pathlib
import re
import sys
from collections import Counter

import pytest
from bs4 import BeautifulSoup
from site_pages import SITE, pages  # noqa: F401 (a fixture)

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book" / "_ext"))

import items  # noqa: E402

ENTRIES = items.load()


def source(page):
    """The file that a page of the book is made from."""
    return ROOT / f"{page}.ipynb" if page.startswith("notebooks/") else ROOT / "book" / f"{page}.md"


@functools.cache
def texts(page):
    """(text of the built page without the lines of items.py, text of its first screen: before its second heading)."""
    built = (SITE / f"{page}.html").read_text(encoding="utf-8")
    own, first = (BeautifulSoup(built, "html.parser").find("article") for _ in range(2))
    inserted = own.select("div.items")
    assert inserted, f"{page} has no line of items.py"
    for line in inserted:
        line.extract()
    for later in first.find("h2").find_all_next():
        later.extract()
    return tuple(" ".join(article.get_text(" ").split()) for article in (own, first))


def test_there_are_fifty():
    kinds = {(paper, item.split()[0]): 0 for paper, item in ENTRIES}
    for paper, item in ENTRIES:
        kinds[paper, item.split()[0]] += 1
        assert re.fullmatch(r"(Table|Figure) \d+", item)
    assert kinds == {
        ("recon", "Table"): 16,
        ("recon", "Figure"): 11,
        ("rotograd", "Table"): 4,
        ("rotograd", "Figure"): 4,
        ("sam_gs", "Table"): 7,
        ("sam_gs", "Figure"): 8,
    }
    assert len(ENTRIES) == 50
    for paper in ("recon", "rotograd", "sam_gs"):
        tables = {f"Table {int(file.stem[-2:])}" for file in (ROOT / "book/papers" / paper).glob("table_*.csv")}
        assert tables == {item for of, item in ENTRIES if of == paper and item.startswith("Table")}


@pytest.mark.parametrize("key", ENTRIES, ids=" ".join)
def test_its_page_names_it_and_says_what_it_needs(key, pages):  # noqa: F811
    entry, (paper, item) = ENTRIES[key], key
    assert {"pages"} <= set(entry) <= {"pages", "needs", "command"} and ("needs" in entry) == ("command" in entry)
    screens = []
    for page in entry["pages"]:
        assert source(page).is_file(), f"{page} is no page"
        own, first = texts(page)
        assert item in items.named(own), f"{page} does not name {item} of {paper} but in the line of items.py"
        screens.append(first)
    if "needs" in entry:
        assert any(entry["command"] in first for first in screens), f"no first screen has: {entry['command']}"


def test_the_front_page_counts_from_the_list():
    text = (ROOT / "book/index.md").read_text(encoding="utf-8")
    assert {"all", "rerun", "needs"} == set(re.findall(r"\{items\}`(\w+)`", text))
    counts = Counter(map(items.kind, ENTRIES.values()))
    assert [node.astext() for node in items.items("needs")] == [str(counts["needs"])]
    assert items.items("all")[0].astext() == "50" and sum(counts.values()) == 50
    with pytest.raises(LookupError):
        items.items("some")


def test_names_are_read_as_a_reader_reads_them():
    assert items.named("Tables 5 to 7, Figures 1 and 4, Figure 11") == {
        *(f"Table {n}" for n in (5, 6, 7)), *(f"Figure {n}" for n in (1, 4, 11))
    }  # fmt: skip
    assert items.named("Figures 2, 3, 4 and 6") == {f"Figure {n}" for n in (2, 3, 4, 6)}
    assert items.named("Table 12") == {"Table 12"} and items.named("a table 3") == set()
