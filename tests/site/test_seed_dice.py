"""The seed dice in a headless Chromium: the same numbers as Python, by keyboard, and words without scripts."""

import itertools
import json
import pathlib
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from mtl_lab import experiments
from mtl_lab.protocol import seed_subsets
from mtl_lab.protocol.table import Row, Table
from mtl_lab.runs.run import Run

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "book" / "_static" / "seed_dice.js"
PAGE = ROOT / "_build" / "html" / "notebooks" / "ideas" / "how_to_read_a_table.html"
SEEDS = list(range(20, 30))  # labels that are not the places
TRIPLES = [(0, 1, 2), (1, 4, 9), (7, 8, 9), (3, 5, 6), (0, 4, 8)]


EFFECTS = [0.0, 8.0, -8.0, 0.1, 2.0, 1.95, -1.5, 0.0]
SPREAD = [0.05, 0.2, 0.2, 0.05, 0.8, 0.2, 0.6, 0.5]
NAMES = ["static", "row1", "row2", "row3", "row4", "row5", "row6", "a_a"]
ROWS = [Row(name, name.title(), control=name == "a_a") for name in [*NAMES, "absent"]]
TABLE = Table("example", Run("qm9"), ROWS, margin=1.0, rate=(1e-3, 1e-1))


def example():
    """row -> seed -> Δm, with every outcome in some choice; one row of the table has no records."""
    random = np.random.default_rng(2)
    common, found = random.normal(size=10), {}
    for name, effect, spread in zip(NAMES, EFFECTS, SPREAD, strict=True):
        found[name] = dict(zip(SEEDS, (effect + common + spread * random.normal(size=10)).tolist(), strict=True))
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    dice = seed_subsets.seed_dice(TABLE, example())
    file = tmp_path_factory.mktemp("dice") / "page.html"
    file.write_text(f'<!doctype html><meta charset="utf-8"><script>{SCRIPT.read_text("utf-8")}</script>{dice}', "utf-8")
    return file


def same(found, expected):
    assert set(found) == set(expected)
    for row, reading in expected.items():
        for name in ("mean", "low", "high"):
            value = getattr(reading, name)
            assert found[row][name] == (value if value is None else pytest.approx(value, abs=1e-6)), (row, name)
        assert (found[row]["rank"], found[row]["outcome"]) == (reading.rank, reading.outcome), row


def in_words(readings):
    return {row: (reading.rank, reading.outcome) for row, reading in readings.items()}


def evaluated(chromium, places):
    return chromium.run(f"seedDice.evaluate({json.dumps(list(places))})")


def test_the_script_is_small():
    assert SCRIPT.stat().st_size <= 6 * 1024


def test_numbers_are_those_of_python(chromium, page):
    chromium.open(page)
    words = set()
    for places in TRIPLES:
        expected = seed_subsets.read_table(TABLE, example(), places)
        same(evaluated(chromium, places), expected)
        words |= {reading.outcome for reading in expected.values()}
    uncertain = {f"{word} (amount uncertain)" for word in ("better", "worse")}
    assert words & uncertain and words >= {"better", "worse", "equivalent", "cannot decide"}, (
        "the example must show the outcomes"
    )


def test_all_choices_agree_in_words(chromium, page):
    chromium.open(page)
    places = [list(c) for c in itertools.combinations(range(10), 3)]
    found = chromium.run(f"{json.dumps(places)}.map((p) => seedDice.evaluate(p))")
    for chosen, mine in zip(places, found, strict=True):
        expected = in_words(seed_subsets.read_table(TABLE, example(), chosen))
        assert {row: (value["rank"], value["outcome"]) for row, value in mine.items()} == expected


@pytest.mark.parametrize("places", ["[0, 1]", "[0, 1, 1]", "[0, 1, 10]", "[0, 1, 1.5]", "'012'", "undefined"])
def test_wrong_places_are_refused(chromium, page, places):
    chromium.open(page)
    with pytest.raises(AssertionError, match="expected 3 different places below 10"):
        chromium.run(f"seedDice.evaluate({places})")


def said(chromium):
    return chromium.run("document.querySelector('#dice-of-seeds [aria-live]').textContent")


def test_keyboard_alone_draws(chromium, page):
    chromium.open(page)
    assert said(chromium) == "Nothing drawn yet."
    chromium.press("Tab")
    assert chromium.run("document.activeElement.tagName + document.activeElement.textContent").startswith(
        "BUTTONDraw 3"
    )
    chromium.press("Enter")
    first = said(chromium)
    chromium.press(" ")
    assert "Draws so far: 1" in first and "Draws so far: 2" in said(chromium)
    drawn = [int(number) for number in re.match(r"Seeds (\d+), (\d+), (\d+)\.", first).groups()]
    assert set(drawn) <= set(SEEDS) and drawn == sorted(set(drawn))


def test_what_is_shown_is_what_was_computed(chromium, page):
    chromium.open(page)
    chromium.run("document.querySelectorAll('#dice-of-seeds button')[1].click()")
    lines = chromium.run(
        "[...document.querySelectorAll('#dice-of-seeds tbody tr')].map((r) => [...r.cells].map((c) => c.textContent))"
    )
    now = seed_subsets.read_table(TABLE, example(), (0, 1, 2))
    whole = seed_subsets.read_table(TABLE, example())
    ranks = sum(now[row].rank != whole[row].rank for row in now)
    outcomes = sum(now[row].outcome != whole[row].outcome for row in now)
    assert said(chromium).startswith(
        f"Seeds 20, 21, 22. Differing from all 10 seeds: ranks {ranks}, outcomes {outcomes}. "
    )
    assert ranks and outcomes, "the example must flip something"
    for line, (row, reading) in zip(lines, now.items(), strict=True):
        assert line[0] == row.title() and line[4] == f"{reading.mean:+.1f}".replace("-", "−")
        assert ("was" in line[2]) == (reading.rank != whole[row].rank)
        assert ("was" in line[1]) == (reading.outcome != whole[row].outcome)
        assert line[1].startswith(reading.outcome or "reference")
        ends = "–" if reading.low is None else f"{reading.low:+.1f} to {reading.high:+.1f}".replace("-", "−")
        assert line[3] == ends


def test_draws_cover_the_seeds_and_are_counted(chromium, page):
    chromium.open(page)
    drawn = chromium.run(
        "Array.from({length: 60}, () => { document.querySelector('#dice-of-seeds button').click();"
        " return document.querySelector('#dice-of-seeds caption').textContent.match(/\\d+/g).map(Number); })"
    )
    assert {seed for triple in drawn for seed in triple} == set(SEEDS)
    assert len({tuple(triple) for triple in drawn}) > 20
    whole = in_words(seed_subsets.read_table(TABLE, example()))
    every = seed_subsets.all_choices(TABLE, example(), 3)
    same_table = sum(in_words(every[tuple(seed - 20 for seed in triple)]) == whole for triple in drawn)
    assert said(chromium).endswith(f"Draws so far: 60; with the same table: {same_table}.")


def test_without_scripts_a_sentence_stands_there(chromium, page):
    chromium.open(page, scripts=False)
    assert chromium.run("document.querySelector('#dice-of-seeds p').textContent").startswith("The dice need JavaScript")
    assert chromium.run("document.querySelectorAll('#dice-of-seeds button').length") == 0


def test_nothing_happens_on_other_pages(chromium, tmp_path):
    file = tmp_path / "other.html"
    watch = "<script>var failed = 0; addEventListener('error', () => failed++)</script>"
    file.write_text(f"<!doctype html>{watch}<script>{SCRIPT.read_text('utf-8')}</script><p>text</p>", "utf-8")
    chromium.open(file)
    assert chromium.run("typeof window.seedDice + document.body.children.length + failed") == "undefined10"


class Json(HTMLParser):
    """The text of the first JSON script of a page."""

    text, inside = "", False

    def handle_starttag(self, tag, attributes):
        self.inside = tag == "script" and dict(attributes).get("type") == "application/json"

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        self.text += data if self.inside else ""


def test_the_page_of_the_book_plays(chromium):
    if not PAGE.exists():
        pytest.skip("there is no site: run `make book`")
    parser = Json()
    parser.feed(PAGE.read_text("utf-8"))
    data = json.loads(parser.text)
    delta = {row["name"]: dict(enumerate(row["delta"])) for row in data["rows"]}
    table = experiments.TABLES["qm9"]("small")
    assert data["margin"] == table.margin and data["family"] == len(table.shared()) - 1
    chromium.open(PAGE)
    for places in TRIPLES:
        same(evaluated(chromium, places), seed_subsets.read_table(table, delta, places))
    assert chromium.run("document.querySelectorAll('#dice-of-seeds button').length") == 2
    assert chromium.run("document.querySelector('#seed-dice h3').textContent").startswith("Seed dice")
