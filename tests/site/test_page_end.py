"""The end of each page: the panel's command is what Python quotes and reads, the buttons copy, a dispute has its id."""

import json
import pathlib
import re
import shlex
import sys
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from site_pages import REPOSITORY, SITE, pages  # noqa: F401 (a fixture)

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "book" / "_ext"), str(ROOT / "notebooks")]
import page as run_card  # noqa: E402
import page_end  # noqa: E402
import parameters  # noqa: E402

SCRIPT = ROOT / "book" / "_static" / "page_end.js"
CELL = """\
steps: int = 40  # 1 to 10000
rate: float = 0.1  # learning rate, above 0
threshold: float = -0.1  # in (-1, 0]
epochs: int = None  # at least 1
profile: str = 'tiny'  # one of tiny, small, paper
title: str = 'plain'  # of the figure
controls: bool = False  # show them
methods: list = ['equal', 'mgda']  # rows
networks: list = ['GroupNorm', 'constant width']  # 1 or more of these
gradients: list = [[2.6, 0.3], [-0.7, 0.8]]  # 2 by 2 numbers
"""
GIVEN = {  # what is typed -> what `make run` must read
    "steps": {"7": 7, " 1_000 ": 1000},
    "rate": {"1": 1.0, "1e-3": 1e-3, ".5": 0.5},
    "threshold": {"0": 0.0, "-0.5": -0.5},
    "epochs": {"3": 3},
    "profile": {"small": "small"},
    "title": {"two words": "two words", "it's": "it's", 'a "b" $c `d`': 'a "b" $c `d`', "x=1 y=2": "x=1 y=2", "7": "7"}
    | {"True": "True", "back\\slash": "back\\slash", "é; rm *": "é; rm *"},
    "controls": {"True": True},
    "methods": {"sam_gs": ["sam_gs"], "equal, sam_gs": ["equal", "sam_gs"], "['a b']": ["a b"]},
    "networks": {"constant width": ["constant width"], "['GroupNorm']": ["GroupNorm"]},
    "gradients": {"[[1,-2.5],[3,4]]": [[1, -2.5], [3, 4]]},
}
WRONG = {
    "steps": ["0", "10001", "1.5", "many", "", "[1]", "None"],
    "rate": ["0", "-1", "inf", "nan", "1e999", "'1'"],
    "threshold": ["-1", "0.1"],
    "epochs": ["0", "2.5"],
    "title": [""],
    "methods": ["[]", "['a'", "a,,b"],
    "networks": ["LeNet", "[]"],
    "gradients": ["[1, 2]", "[[1,2],[3,'a']]", "[[1,2],[3,4],[5,6]]"],
}


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    file = tmp_path_factory.mktemp("panel") / "made.ipynb"
    cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": CELL}
    file.write_text(json.dumps({"cells": [cell], "metadata": {}}))
    return parameters.parse(file)


@pytest.fixture(scope="module")
def page(known, tmp_path_factory):
    file = tmp_path_factory.mktemp("panel") / "page.html"
    text = page_end.panel("a_page", known)
    file.write_text(f'<!doctype html><meta charset="utf-8"><script>{SCRIPT.read_text("utf-8")}</script>{text}', "utf-8")
    return file


def given(chromium, **values):
    """The command after these values were typed; what is wrong with each."""
    typed = json.dumps(values)
    return chromium.run(
        f"""(() => {{
          for (const [name, text] of Object.entries({typed})) document.getElementById(`value-${{name}}`).value = text;
          document.querySelector(".rerun-panel").dispatchEvent(new Event("input"));
          const wrong = [...document.querySelectorAll(".wrong")].map((box) => box.textContent).filter(Boolean);
          return [document.getElementById("rerun-command").textContent, wrong];
        }})()"""
    )


def test_without_changes_the_command_is_the_page_s_own(chromium, page):
    chromium.open(page)
    assert given(chromium) == ["make run PAGE=a_page", []]
    assert run_card.command("a_page", "") == "make run PAGE=a_page"


@pytest.mark.parametrize(("name", "text"), [(name, text) for name in GIVEN for text in GIVEN[name]])
def test_a_command_is_read_as_it_was_meant(chromium, page, known, name, text):
    chromium.open(page)
    command, wrong = given(chromium, **{name: text})
    assert wrong == []
    first, target, chosen, values = shlex.split(command)
    assert (first, target, chosen) == ("make", "run", "PAGE=a_page") and values.startswith("P=")
    read = parameters.resolve(parameters.split(values[2:], known), known, page)
    assert read == {name: GIVEN[name][text]}
    assert command == run_card.command("a_page", values[2:])  # quoted as Python quotes it


def test_values_together_come_in_the_order_of_the_page(chromium, page, known):
    chromium.open(page)
    command, _ = given(chromium, title="two words", steps="3", methods="equal,mgda", rate="0.5")
    values = shlex.split(command)[3][2:]
    assert parameters.split(values, known) == {"steps": 3, "rate": 0.5, "title": "two words"}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name in WRONG for text in WRONG[name]])
def test_what_make_run_refuses_is_refused_on_the_page(chromium, page, known, name, text):
    chromium.open(page)
    before = given(chromium)[0]
    command, wrong = given(chromium, **{name: text})
    assert command == before and len(wrong) == 1 and wrong[0].startswith("must be")
    assert chromium.run(f"document.getElementById('value-{name}').getAttribute('aria-invalid')") == "true"
    assert chromium.run("document.querySelector('[data-copy]').disabled")


def test_ranges_are_those_that_python_enforces(known):
    assert page_end.rules(known["threshold"])["ranges"] == [["in (-1, 0]", -1.0, 0.0, "(]"]]
    assert page_end.rules(known["rate"])["ranges"] == [["above 0", 0.0, None, "()"]]
    assert page_end.rules(known["gradients"])["shape"] == [2, 2]


def test_keyboard_alone_reaches_every_value_and_the_copy(chromium, page):
    chromium.open(page)
    reached = []
    for _ in range(11):
        chromium.press("Tab")
        reached.append(chromium.run("document.activeElement.name || document.activeElement.textContent"))
    assert reached == [*(line.split(":")[0] for line in CELL.splitlines()), "Copy"]
    chromium.press("Enter")
    chromium.wait("document.activeElement.textContent !== 'Copy'", "the button does not answer")


def test_without_scripts_the_command_is_there_and_no_form(chromium, page):
    chromium.open(page, scripts=False)
    assert chromium.run("document.getElementById('rerun-command').textContent") == "make run PAGE=a_page"
    assert chromium.run("document.querySelector('.values').checkVisibility()") is False
    assert chromium.run("document.querySelector('[data-copy]').checkVisibility()") is False


def test_every_label_belongs_to_a_field(known):
    text = page_end.panel("a_page", known)
    assert re.findall(r'<label for="([^"]+)"', text) == re.findall(r'<(?:input|select) .*?id="([^"]+)"', text)


def test_an_entry_is_bibtex():
    config = SimpleNamespace(author="Some & Co.", html_title="A Book", copyright="2026")
    entry = page_end.bibtex("50 % of SAM_GS", "https://book.example/a_b.html", config)
    assert entry.startswith("@misc{conflicting_gradients_50_of_sam_gs,\n  title = {{50 \\% of SAM\\_GS}},\n")
    assert "url = {https://book.example/a_b.html}" in entry and entry.count("{") == entry.count("}")


# --- on the built site


def test_every_page_can_be_cited_and_read_at_its_source(pages):  # noqa: F811
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text(encoding="utf-8"))
    names = [toc["root"]] + [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    for name in names:
        found = pages[SITE / f"{name}.html"]
        source = f"{name}.ipynb" if name.startswith("notebooks/") else f"book/{name}.md"
        assert f"{REPOSITORY}/blob/main/{source}" in found.links, name
        assert f"url = {{{config['html']['baseurl']}{name}.html}}" in "".join(found.text), name


def test_a_verdict_on_a_page_can_be_disputed_there(pages):  # noqa: F811
    shown = 0
    for path, found in pages.items():
        claims = {urlsplit(href).fragment for href in found.links if "ledger.html#" in href}
        asked = [parse_qs(urlsplit(href).query) for href in found.links if "/issues/new?title=Dispute" in href]
        titles = {one["title"][0].removeprefix("Dispute: ") for one in asked}
        badges = path.read_text("utf-8").count('class="verdict-badges')
        if badges and path.name != "ledger.html" and path.parent.name != "lecture":
            assert titles and titles <= claims, path
            assert all(
                title in one["body"][0] for title, one in zip(sorted(titles), asked, strict=False) if len(asked) == 1
            )
            shown += 1
    assert shown


def test_a_link_elsewhere_shows_a_picture(pages):  # noqa: F811
    from PIL import Image

    picture = Image.open(SITE / "_static" / "share.png")
    assert picture.size == (1200, 630) and len(picture.convert("L").getcolors()) > 20
    for path in pages:
        text = path.read_text("utf-8")
        (address,) = re.findall(r'<meta property="og:image" content="([^"]+)"', text)
        assert address.endswith("/_static/share.png") and 'property="og:title"' in text
