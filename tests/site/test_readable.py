"""The built site does not keep its readers off: no folded code, raw print or wide code, and no denser than it was."""

import pytest
import readable
from site_pages import SITE, pages  # noqa: F401 (a fixture)


@pytest.fixture(scope="module")
def found(pages):  # noqa: F811
    return readable.counts(SITE)


@pytest.mark.parametrize("fault", ["bars", "prints", "wide"])
def test_pages_have_no(fault, found):
    wrong = {name: getattr(page, fault)[:3] for name, page in found.items() if getattr(page, fault)}
    assert not wrong, {"bars": "tag the cell `teach`, or nothing", "prints": "see book/_ext/page_cells.py"}.get(fault)


def test_no_page_is_denser_than_it_was(found):
    """Two sentences more are borne: what a machine measures, such as hours and minutes, stands in some of them."""
    wrong = readable.too_many(found, readable.limits(), spare=2)
    assert not wrong, "\n".join(wrong)


def test_limits_are_those_of_pages_and_follow_their_fall(found):
    held = readable.limits()
    assert set(held) <= set(found), f"gone: {set(held) - set(found)}; python tests/readable.py --lower"


# --- the checker itself

PROSE = "One page says one thing, and it says that in words that everybody knows."
GOOD = f'<article><p>{PROSE} It has 2 of 3 parts.</p><pre>{"x" * 78}</pre><p class="math">1 2 3</p></article>'
FAULTS = {
    "bars": '<details class="hide above-input"><summary>Show code cell source</summary></details>',
    "prints": '<div class="output stream highlight">uneven_bowls 1.0</div>',
    "wide": f"<pre>{'x' * 79}</pre>",
    "dense": "<li>It gained 1.2 points, between −0.5 and 3 of them.</li>",
    "private": "<p>Six of the rows of this table stand for a method each.</p>",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_counted(fault):
    page = readable.count(GOOD)
    assert page.words == 20 and not any(page[1:])
    worse = readable.count(GOOD.replace("</article>", FAULTS[fault] + "</article>"))
    assert getattr(worse, fault) and not any(getattr(worse, key) for key in FAULTS if key != fault)


def test_formulas_code_and_controls_are_no_prose():
    page = readable.count(
        '<article><form><p>1 2 3 4 5 6 7 8</p></form><p>Six words <span class="math">1 2 3</span></p>'
    )
    assert page.words == 0 and not page.dense


def test_limits_only_fall(tmp_path):
    file = tmp_path / "limits.csv"
    dense = readable.count(f"<article>{FAULTS['dense'] * 3}</article>")
    fewer = readable.count(f"<article><p>{PROSE}</p>{FAULTS['dense']}</article>")
    readable.lower({"a.html": dense, "gone.html": dense}, file)
    assert readable.limits(file)["a.html"] == {"dense": 3, "private": 0}
    readable.lower({"a.html": fewer}, file)
    readable.lower({"a.html": dense, "new.html": fewer}, file)
    assert readable.limits(file) == {"a.html": {"dense": 1, "private": 0}, "new.html": {"dense": 1, "private": 0}}
    assert readable.too_many({"a.html": fewer}, readable.limits(file)) == []
    (wrong,) = readable.too_many({"a.html": dense}, readable.limits(file))
    assert wrong.startswith("a.html: 3 dense, at most 1 allowed")
    assert readable.too_many({"b.html": fewer}, {})  # a page without limits is held to the goals
