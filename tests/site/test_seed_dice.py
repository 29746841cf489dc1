"""The seed dice in a headless Chromium: the same numbers as Python, by keyboard, and words without scripts."""

import itertools
import json
import pathlib
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from mtl_lab import experiments
from mtl_lab.protocol import seed_subsets
from mtl_lab.protocol.table import Row, Table
from mtl_lab.runs.run import Run

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "book" / "_static" / "seed_dice.js"
sys.path.insert(0, str(ROOT / "book" / "_ext"))
import seed_dice  # noqa: E402

PAGE = ROOT / "_build" / "html" / "roll_the_seeds.html"
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
    head = '<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    file.write_text(f"{head}<script>{SCRIPT.read_text('utf-8')}</script>{dice}", "utf-8")
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
    assert SCRIPT.stat().st_size <= 14 * 1024


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


def shown(chromium):
    """What the forest shows, a line each: (name, words, mean, [interval])."""
    line = """(l) => [l.querySelector('.name').textContent,
      [...l.querySelector('.word').childNodes].map((n) => n.textContent),
      Number(l.querySelector('svg').dataset.mean), l.querySelector('svg').getAttribute('aria-label')]"""
    return chromium.run(f"[...document.querySelectorAll('#dice-of-seeds .line:has(.name)')].map({line})")


def expected(places=None):
    """The same from Python."""
    now, whole = seed_subsets.read_table(TABLE, example(), places), seed_subsets.read_table(TABLE, example())
    for name in NAMES[1:]:
        ends = f"{now[name].low:+.1f} to {now[name].high:+.1f}"
        mean = now[name].mean - now["static"].mean
        label = f"{name.title()}: mean {mean:+.1f}, interval {ends}".replace("-", "−")
        before = [f"was {whole[name].outcome}"] if now[name].outcome != whole[name].outcome else []
        yield [name.title(), [now[name].outcome, *before], pytest.approx(mean, abs=1e-9), label]


def count(places):
    """(outcomes, ranks) that these seeds turn."""
    now, whole = seed_subsets.read_table(TABLE, example(), places), seed_subsets.read_table(TABLE, example())
    return [sum(getattr(now[row], what) != getattr(whole[row], what) for row in now) for what in ("outcome", "rank")]


def test_all_seeds_are_shown_first_and_a_choice_by_hand_then(chromium, page):
    chromium.open(page)
    assert said(chromium) == "All 10 seeds. Roll, or choose three." and shown(chromium) == list(expected())
    for seed, left in ((27, "two"), (20, "one"), (23, None)):
        chromium.run(f"document.querySelector('#dice-of-seeds [aria-label=\"seed {seed}\"]').click()")
        assert left is None or said(chromium) == f"Choose {left} more."
    assert shown(chromium) == list(expected((0, 3, 7)))
    outcomes, ranks = count((0, 3, 7))
    assert outcomes, "the example must turn something"
    verb, of_ranks = ("changes" if outcomes == 1 else "change"), f"{ranks or 'no'} {'ranks' if ranks > 1 else 'rank'}"
    words = f"Seeds 20, 23, 27. Against all 10 seeds, {outcomes} of 7 outcomes {verb}, and {of_ranks}."
    assert said(chromium) == words
    chromium.run("document.querySelectorAll('#dice-of-seeds button')[1].click()")
    assert shown(chromium) == list(expected()) and chromium.run("location.search") == ""


def test_what_is_drawn_is_to_scale(chromium, page):
    """Dots, means and intervals lie on one scale; an interval beyond it ends in an arrow."""
    chromium.open(page.as_uri() + "?seeds=20,23,27")
    numbers = """[...document.querySelectorAll('#dice-of-seeds .line:has(.name) svg[role]')].map((svg) => ({
      dots: [...svg.querySelectorAll('circle')].map((c) => parseFloat(c.getAttribute('cx'))),
      ends: ['x1', 'x2'].map((x) => parseFloat(svg.querySelector('.interval').getAttribute(x))),
      marks: [...svg.querySelectorAll('svg')].map((s) => parseFloat(s.getAttribute('x')))}))"""
    found, delta = chromium.run(numbers), example()
    gaps = [[delta[name][SEEDS[k]] - delta["static"][SEEDS[k]] for k in (0, 3, 7)] for name in NAMES[1:]]
    (x0, x1), (y0, y1) = ([min(flat), max(flat)] for flat in (sum(gaps, []), sum((one["dots"] for one in found), [])))

    def at(x):
        return y0 + (x - x0) * (y1 - y0) / (x1 - x0)

    now, arrows = seed_subsets.read_table(TABLE, delta, (0, 3, 7)), 0
    for name, gap, one in zip(NAMES[1:], gaps, found, strict=True):
        assert one["dots"] == pytest.approx([at(x) for x in gap], abs=0.01)
        assert one["marks"][-1] == pytest.approx(at(np.mean(gap)), abs=0.01)
        for end, x in zip(one["ends"], (now[name].low, now[name].high), strict=True):
            inside = 3 - 0.01 <= at(x) <= 97 + 0.01
            assert end == pytest.approx(at(x) if inside else 3 if at(x) < 3 else 97, abs=0.01), name
            arrows += not inside
    assert sum(len(one["marks"]) - 1 for one in found) == arrows > 0, "the example has an interval beyond the scale"


def test_keyboard_alone_rolls(chromium, page):
    chromium.open(page)
    chromium.press("Tab")
    assert chromium.run("document.activeElement.textContent") == "Roll three seeds"
    chromium.press("Enter")
    first = said(chromium)
    chromium.press(" ")
    assert "Rolls so far: 1" in first and "Rolls so far: 2" in said(chromium)
    rolled = [int(number) for number in re.match(r"Seeds (\d+), (\d+), (\d+)\.", first).groups()]
    assert set(rolled) <= set(SEEDS) and rolled == sorted(set(rolled))


def test_rolls_cover_the_seeds_and_are_counted(chromium, page):
    chromium.open(page)
    rolled = chromium.run(
        "Array.from({length: 60}, () => { document.querySelector('#dice-of-seeds button').click();"
        " return document.querySelector('#dice-of-seeds .said').textContent.match(/\\d+/g).slice(0, 3).map(Number); })"
    )
    assert {seed for triple in rolled for seed in triple} == set(SEEDS)
    assert len({tuple(triple) for triple in rolled}) > 20
    whole = in_words(seed_subsets.read_table(TABLE, example()))
    every = seed_subsets.all_choices(TABLE, example(), 3)
    same_table = sum(in_words(every[tuple(seed - 20 for seed in triple)]) == whole for triple in rolled)
    assert said(chromium).endswith(f"Rolls so far: 60; with the same table: {same_table}.")


def test_an_address_reproduces_a_choice(chromium, page):
    chromium.open(page)
    chromium.run("document.querySelector('#dice-of-seeds button').click()")
    copied, there, words = (
        chromium.run("document.querySelector('#dice-address').value"),
        shown(chromium),
        said(chromium),
    )
    assert copied == chromium.run("location.href") and re.search(r"\?seeds=2\d,2\d,2\d$", copied)
    chromium.open(page)
    assert shown(chromium) != there
    chromium.open(copied)
    assert shown(chromium) == there and words.startswith(said(chromium))
    pressed = chromium.run("[...document.querySelectorAll('[aria-pressed=true]')].map((b) => b.textContent).join()")
    assert copied.endswith(f"={pressed}")
    chromium.open(page.as_uri() + "?seeds=27,20,23")  # in any order
    assert shown(chromium) == list(expected((0, 3, 7)))


@pytest.mark.parametrize("wrong", ["20,21", "20,21,21", "20,21,30", "", "20,21,22,23", "a,b,c"])
def test_an_address_that_names_no_choice_says_so_and_shows_all_seeds(chromium, page, wrong):
    chromium.open(page.as_uri() + f"?seeds={wrong}")
    assert said(chromium).startswith("The address names no three of these seeds. All 10 seeds.")
    assert shown(chromium) == list(expected())


@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1280, True)])
def test_it_fits_a_phone_and_names_do_not_cover_words(chromium, page, width, dark):
    chromium.screen(width, 800, dark)
    try:
        chromium.open(page.as_uri() + "?seeds=20,23,27")
        assert chromium.run("document.documentElement.scrollWidth") <= width
        apart = """[...document.querySelectorAll('.line:has(.name)')].every((line) => {
          const [a, b] = ['.name', '.word'].map((k) => line.querySelector(k).getBoundingClientRect());
          return a.right <= b.left && line.querySelector('svg').getBoundingClientRect().width > 250; })"""
        assert chromium.run(apart)
    finally:
        chromium.screen(1280)


def test_without_scripts_a_sentence_stands_there(chromium, page):
    chromium.open(page, scripts=False)
    assert chromium.run("document.querySelector('#dice-of-seeds p').textContent").startswith("Rolling needs JavaScript")
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
    committed = seed_dice.measured("qm9", "small")[1]
    assert list(delta) == list(committed)
    for row, values in committed.items():
        assert [*delta[row].values()] == pytest.approx([*values.values()], abs=1e-9), row
    chromium.open(PAGE.as_uri() + "?seeds=0%2C3%2C7")  # as the theme rewrites it
    for places in TRIPLES:
        same(evaluated(chromium, places), seed_subsets.read_table(table, delta, places))
    assert said(chromium).startswith("Seeds 0, 3, 7. ") and len(shown(chromium)) == len(delta) - 1
    assert chromium.run("document.querySelectorAll('#dice-of-seeds img').length") == 0, "the still makes room"
    chromium.open(PAGE, scripts=False)
    assert chromium.run("document.querySelectorAll('#dice-of-seeds figure img').length") == 1
    assert "All seeds of the table" in chromium.run("document.querySelector('#dice-of-seeds figcaption').textContent")


def test_the_counted_sentence_is_that_of_all_choices(monkeypatch):
    (node,) = seed_dice.choices("qm9", "small", "3")
    table, delta = seed_dice.measured("qm9", "small")
    whole = in_words(seed_subsets.read_table(table, delta))
    same_words = 0
    for found in seed_subsets.all_choices(table, delta, 3).values():
        same_words += all(found[row].outcome == outcome for row, (_, outcome) in whole.items())
    said = "none of the 120 ways to choose three of ten seeds gives every method the outcome that all ten give"
    assert same_words == 0 and node.astext() == said
    agree = {name: dict(enumerate([float(k)] * 5)) for k, name in enumerate(NAMES)}
    monkeypatch.setattr(seed_dice, "measured", lambda *_: (TABLE, agree))
    with pytest.raises(LookupError, match="10 of 10 choices agree"):
        seed_dice.choices("qm9", "small", "3")


def test_a_table_without_records_is_named():
    with pytest.raises(LookupError, match="no judged runs of qm9, paper"):
        seed_dice.measured("qm9", "paper")
