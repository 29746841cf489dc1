"""The map's own file beside the registry: complete, nothing else, and its pages exist."""

import pathlib
import re

import nbformat
import pytest
import yaml

from mtl_core.methods import METHODS

ROOT = pathlib.Path(__file__).resolve().parents[2]
NOTES = yaml.safe_load((ROOT / "notebooks" / "methods" / "methods.yml").read_text(encoding="utf-8"))
FIELDS = {"rule", "guarantee", "page", "control"}


def faults(notes, methods, root=ROOT):
    found = [f"{name}: no entry in notebooks/methods/methods.yml" for name in methods if name not in notes]
    found += [f"{name}: no such method" for name in notes if name not in methods]
    for name, entry in notes.items():
        found += [f"{name}: no {field}" for field in ("rule", "guarantee") if not entry.get(field)]
        found += [f"{name}: unknown field {field!r}" for field in set(entry) - FIELDS]
        found += [f"{name}: an odd number of $ in {entry[f]!r}" for f in entry if str(entry[f]).count("$") % 2]
        page = entry.get("page")
        sources = [root / "book" / page, root / page] if page else []
        if page and not any(source.exists() for source in sources):
            found.append(f"{name}: there is no page {page}")
    return found


def test_every_method_has_its_line():
    assert len(NOTES) > 20 and faults(NOTES, METHODS) == []


def test_faults_are_found():
    notes = {"a": {"rule": "$x$", "guarantee": "–"}}
    assert faults(notes, ["a"]) == []
    assert "no entry" in faults(notes, ["a", "b"])[0]
    assert "no such method" in faults(notes, [])[0]
    assert "no rule" in faults({"a": {"guarantee": "–"}}, ["a"])[0]
    assert "unknown field" in faults({"a": notes["a"] | {"colour": "red"}}, ["a"])[0]
    assert "odd number" in faults({"a": notes["a"] | {"rule": "$x"}}, ["a"])[0]
    assert "no page" in faults({"a": notes["a"] | {"page": "nowhere.md"}}, ["a"])[0]
    assert faults({"a": notes["a"] | {"page": "playground.md"}}, ["a"]) == []


def without(text):
    """What a reader lacks who wants to go from the equation to the line that computes it."""
    equation = "$$" in text or re.search(r"^1\. \$", text, re.MULTILINE)
    code = re.search(r"\{code-of\}|\{literalinclude\}|library_code\(|show\(\"\w+\", \w|one shown above", text)
    return [what for what, there in (("equation", equation), ("code", code)) if not there]


@pytest.mark.parametrize("name", METHODS)
def test_equation_and_code_stand_in_one_section_of_the_methods_page(name):
    page = NOTES[name]["page"]
    if page.endswith(".md"):
        text = (ROOT / "book" / page).read_text(encoding="utf-8")
    else:
        text = "\n\n".join(cell.source for cell in nbformat.read(ROOT / page, 4).cells)
        called = re.search(rf'(facts|show)\("{name}".*', text)  # ends the section of a method of a family
        if called:
            start = [heading.start() for heading in re.finditer(r"^##+ ", text[: called.start()], re.MULTILINE)][-1]
            text = text[start : called.end()]
    assert without(text) == []


def test_what_is_lacking_is_found():
    assert without("words") == ["equation", "code"] and without("$$ x $$\n") == ["code"]
    assert without("```{code-of} a.b\n```\n$x$ in a line") == ["equation"]


# --- the picture of all paths: no script, CSS alone

PAGE = ROOT / "_build" / "html" / "notebooks" / "methods" / "map_of_methods.html"
LOOK = """[...document.querySelectorAll('#map-of-paths [id^=path-] path')].map((p) =>
  [p.parentNode.id.slice(5), getComputedStyle(p).opacity, parseFloat(getComputedStyle(p).strokeWidth)])"""
CENTRE = "(({left, top, width, height}) => [left + width / 2, top + height / 2])({}.getBoundingClientRect())"


@pytest.fixture
def picture(chromium):
    if not PAGE.exists():
        pytest.skip("there is no site: run `make book`")
    chromium.open(PAGE)
    yield chromium
    chromium.send("Emulation.clearDeviceMetricsOverride")
    chromium.send("Emulation.setScriptExecutionDisabled", value=False)


def bold(chromium):
    """The paths that are thicker than the others, and whether all others are pale."""
    look = chromium.run(LOOK)
    found = [name for name, opacity, width in look if width >= 4 and opacity == "1"]
    return found, all(float(opacity) < 0.2 for name, opacity, _ in look if name not in found)


def test_every_method_has_a_path_and_a_name_in_the_group_where_it_ends(picture):
    plane = [name for name, spec in METHODS.items() if spec.kind != "feature rotation"]
    wanted = [name for name in plane if not NOTES[name].get("control")]
    assert sorted(name for name, *_ in picture.run(LOOK)) == sorted(wanted)
    groups = picture.run(
        "[...document.querySelectorAll('#map-of-paths fieldset p:has(b)')].map((p) =>"
        " [p.firstChild.textContent, [...p.querySelectorAll('input')].map((i) => i.value)])"
    )
    assert [number for number, _ in groups] == [str(k + 1) for k in range(len(groups))]
    assert sorted(name for _, names in groups for name in names) == sorted(wanted)
    ends = dict(
        picture.run(
            "[...document.querySelectorAll('#map-of-paths [id^=end-] use')].map((u) =>"
            " [u.closest('[id^=end-]').id.slice(4), Number(u.getAttribute('x'))])"
        )
    )
    middles = [sum(ends[name] for name in names) / len(names) for _, names in groups]
    assert middles == sorted(middles), "numbers go from left to right"
    assert all(max(ends[n] for n in names) - min(ends[n] for n in names) < 12 for _, names in groups)
    strong = [name for name, opacity, _ in picture.run(LOOK) if opacity == "1"]
    assert strong == ["equal", "mgda"], "at the start two paths are seen, the others are pale"
    picture.run("document.querySelector('#all-paths').checked = true")
    assert {opacity for _, opacity, _ in picture.run(LOOK)} == {"1"}, "or all, equally strong"


def test_a_name_under_the_pointer_or_chosen_by_keyboard_shows_its_path_and_pales_the_others(picture):
    place = picture.run(CENTRE.replace("{}", "document.getElementById('of-mgda')"))
    picture.run(f"scrollTo(0, {place[1]} - 300)")
    x, y = picture.run(CENTRE.replace("{}", "document.getElementById('of-mgda')"))
    picture.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert bold(picture) == (["mgda"], True)
    picture.send("Input.dispatchMouseEvent", type="mouseMoved", x=2, y=2)
    assert bold(picture)[0] == []
    picture.run("document.querySelector('#map-of-paths input').focus()")
    picture.press("ArrowRight")
    assert picture.run("document.activeElement.value") == "all"
    picture.press("ArrowRight")
    first = picture.run("document.activeElement.value")
    assert bold(picture) == ([first], True) and first in METHODS
    ring = "getComputedStyle(document.activeElement.parentNode).boxShadow"
    assert "5px" in picture.run(ring)
    picture.press("ArrowLeft")
    assert bold(picture)[0] == [] and picture.run("document.activeElement.value") == "all"


def test_without_scripts_on_a_phone_it_is_whole_and_legible(picture):
    picture.open(PAGE, scripts=False)
    picture.screen(390, 844)
    texts = "[...document.querySelectorAll('#map-of-paths svg text')]"
    sizes = picture.run(f"{texts}.map((t) => t.getBoundingClientRect().height)")
    assert len(sizes) > 20 and min(sizes) >= 9
    width = picture.run("document.querySelector('#map-of-paths svg').getBoundingClientRect().width")
    assert 300 < width <= 390 and picture.run("document.documentElement.scrollWidth") <= 390
    picture.run("document.querySelector('#map-of-paths input[value=mgda]').checked = true")
    assert bold(picture) == (["mgda"], True), "CSS alone does it"
    words = picture.run("document.querySelector('#map-of-paths svg').getAttribute('aria-label')")
    assert re.match(r"Paths of \d+ methods from one start", words)


def test_the_drawing_turns_dark_with_the_page(picture):
    picture.screen(1280, 900, dark=True)
    picture.open(PAGE)
    assert picture.run("getComputedStyle(document.querySelector('#map-of-paths svg')).filter").startswith("invert(1)")
    box = picture.run("getComputedStyle(document.querySelector('.text_html:has(#map-of-paths)')).backgroundColor")
    assert box == "rgba(0, 0, 0, 0)"
