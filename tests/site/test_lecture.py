"""The lecture kit: slides, films, handouts, and what is left of them without reveal.js, without scripts, on paper."""

import re
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
from bs4 import BeautifulSoup
from site_pages import ROOT, SITE, pages  # noqa: F401 (a fixture)
from test_environment import module
from test_site_browser import CALM, NEXT_FRAME, accessibility

sys.path.insert(0, str(ROOT / "book" / "_ext"))

import films  # noqa: E402
import lecture  # noqa: E402

DECK = SITE / "lecture" / "index.html"
HANDOUTS = [SITE / "lecture" / f"{paper}.html" for paper in lecture.PAPERS]
SLIDES, MOST_WORDS, FEWEST_WORDS_OF_NOTES = 25, 25, 20
A4 = {"paperWidth": 8.27, "paperHeight": 11.69}
SEEN = "(one) => one.checkVisibility({ visibilityProperty: true, opacityProperty: true })"
SHOWN = f"[...document.querySelectorAll('.slides > section')].filter({SEEN}).length"

DRAWN = "(frame) => getComputedStyle(frame).display !== 'none'"


def faults(text, folder):
    """What is wrong with a page of slides that lies in `folder`, as sentences."""
    found, slides = [], BeautifulSoup(text, "html.parser").select(".slides > section")
    if len(slides) != SLIDES:
        found.append(f"{len(slides)} slides")
    for number, one in enumerate(slides, start=1):
        pictures, words = one.select("figure img, figure.film svg"), len(one.select_one(".words").get_text().split())
        gone = [i["src"] for i in one.select("figure img") if not (folder / i["src"]).exists()]
        titled = one.find(["h1", "h2"])
        found += [f"{number}: no figure {src}" for src in gone]
        if len(pictures) != 1:
            found.append(f"{number}: {len(pictures)} figures")
        if not 3 <= words <= MOST_WORDS:
            found.append(f"{number}: {words} words")
        if len(one.select_one("aside.notes").get_text().split()) < FEWEST_WORDS_OF_NOTES:
            found.append(f"{number}: no notes")
        if not titled or len(titled.get_text().split()) > 14 or one.find(["h1", "h2"]) is not one.find(True):
            found.append(f"{number}: no title, or a long one")
    return found


def test_every_slide_has_title_figure_few_words_and_notes(pages):  # noqa: F811
    assert not faults(DECK.read_text(encoding="utf-8"), DECK.parent)
    assert len(pages[DECK].images) >= SLIDES - len(films.FILMS)


BROKEN = {
    "25: no figure": (r'src="\.\./_images/[^"]+"(?!.*src=)', 'src="../_images/absent.svg"'),
    "4: 0 figures": (r'<figure class="film">', "<figure>"),
    "1: no notes": (r'<aside class="notes">.*?</aside>', '<aside class="notes"></aside>'),
    "2: no title": (r"<h2>One.*?</h2>", ""),
    "24 slides": (r"<section>.*?</section>", ""),
    "1: 105 words": (r'<div class="words">', '<div class="words">' + "word " * 87),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_fault_of_a_slide_is_found(name):
    good = DECK.read_text(encoding="utf-8")
    broken = re.sub(*BROKEN[name], good, count=1, flags=re.DOTALL)
    assert broken != good
    assert [one for one in faults(broken, DECK.parent) if one.startswith(name.partition(" words")[0][:8])]


# What a title or a slide says in words of its own, and the answer of the page that it rests on.
HARM = "notebooks/ideas/does_conflict_predict_harm"
RESTS = {
    "the task with the smaller loss pays": (
        HARM,
        "With equal weights, the task with the smaller loss pays for sharing",
    ),
    "conflict predicts a little harm": (f"{HARM}#balanced-scales", "^A little"),
    "A conflict set by hand does harm": (f"{HARM}#a-sign-set-by-hand", "^Yes"),
    "Removing conflict was not shown to help": (
        f"{HARM}#removing-conflict",
        "In none of \\w+ settings is PCGrad shown to help because it answers conflict",
    ),
}


@pytest.mark.parametrize("title", RESTS)
def test_a_title_says_what_its_page_says(title, pages):  # noqa: F811
    where, words = RESTS[title]
    assert title in (lecture.SOURCES / "slides.md").read_text(encoding="utf-8")
    if "#" in where:  # the answer of a section, else anywhere on the page
        (answer,) = lecture.Site(SITE).said(where)
        text = answer.astext()
    else:
        text = BeautifulSoup((SITE / f"{where}.html").read_text(encoding="utf-8"), "html.parser").article.get_text()
    assert re.search(words, text), f"{where} says {text[:300]!r}: look at the slide"


# --- films


def test_films_have_a_frame_a_step_and_end_with_their_still():
    assert len(films.FILMS) == 3
    for make in films.FILMS.values():
        words, drawing = make()
        frames = BeautifulSoup(drawing, "html.parser").select("svg > g.frame")
        assert len(frames) == 41 and ["still" in one["class"] for one in frames] == [False] * 40 + [True]
        assert (
            len({str(one) for one in frames}) == 41 and len(words.split()) > 20 and f'aria-label="{words}"' in drawing
        )


def test_one_descent_begins_without_conflict_and_both_end_in_it():
    _, cosine = films.two_descents()
    assert (cosine[:5, 0] > 0).all() and (cosine[:, 1] < 0).all() and (cosine[-1] < 0).all()


def test_rotograd_turns_the_two_optima_onto_each_other():
    pair, study = films.turning()
    optima = torch.tensor(pair.optima, dtype=torch.float64)
    seen = torch.einsum("tkji,kj->tki", study.rotations[:, 0, 0, 0], optima)  # R_k^T a_k
    apart = (seen[:, 0] - seen[:, 1]).norm(dim=-1)
    assert apart[0] > 4 and apart[-1] < 0.1 and study.solved[-1].item()


def test_the_update_halves_the_angle_below_the_gate_and_jumps_there():
    below, above = [], []
    for psi, J, update in films.gate_frames():
        cosines = torch.nn.functional.cosine_similarity(J, update[None], dim=1)
        (below if psi < films.GATE else above).append((cosines[0] - cosines[1]).abs().item())
    assert len(below) > 5 and max(below) < 1e-9 and len(above) > 5 and above[0] > 0.1


# --- in the browser


def test_the_deck_turns_its_slides_and_asks_nobody(chromium, pages):  # noqa: F811
    if not (SITE / "_static" / "reveal" / "reveal.js").exists():
        pytest.skip("reveal.js could not be fetched when the site was built")
    chromium.screen(1280, 800)
    chromium.open(DECK)
    chromium.wait("window.Reveal?.isReady()", "no deck")
    assert chromium.run("Reveal.getTotalSlides()") == SLIDES and chromium.run(SHOWN) == 1
    assert not chromium.run("document.querySelector('aside.notes').checkVisibility()")
    for _ in range(3):
        chromium.press("ArrowRight")
    chromium.wait("Reveal.getIndices().h === 3 && document.querySelector('.film.moves')", "the film does not begin")
    chromium.wait("document.querySelector('.present .film .still.shown')", "the film does not end")
    fits = """[...document.querySelectorAll('.slides > section')].map((one, at) => { Reveal.slide(at);
      return one.scrollHeight > 722 || one.scrollWidth > 1282 ? at + 1 : 0 }).filter(Boolean)"""
    assert chromium.run(fits) == [], "slides that are higher or wider than the screen"
    assert chromium.complaints() == []


def test_a_film_moves_by_hand_and_not_by_itself_where_less_motion_is_asked_for(chromium, pages):  # noqa: F811
    chromium.screen(1280, 800)
    chromium.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
    chromium.open(DECK)
    chromium.run("window.Reveal ? (Reveal.slide(3), true) : true")
    assert not chromium.run("!!document.querySelector('.film.moves')")
    assert not chromium.run("document.querySelector('.film button').checkVisibility()")
    chromium.run("(() => { const bar = document.querySelector('.film input'); bar.value = 7; "
                 "bar.dispatchEvent(new Event('input')) })()")  # fmt: skip
    assert chromium.run(f"[...document.querySelectorAll('.film .frame')].findIndex({DRAWN})") == 7
    chromium.screen(1280, 800)


@pytest.mark.parametrize("dark", [False, True])
def test_the_deck_has_the_colours_of_its_style(dark, chromium, pages):  # noqa: F811
    if not (SITE / "_static" / "reveal" / "reveal.js").exists():
        pytest.skip("reveal.js could not be fetched when the site was built")
    chromium.screen(1280, 800, dark)
    try:
        chromium.open(DECK)
        chromium.wait("window.Reveal?.isReady()", "no deck")
        look = "['backgroundColor', 'color'].map((name) => getComputedStyle(document.body)[name])"
        light = ["rgb(255, 255, 255)", "rgb(28, 32, 36)"]
        assert chromium.run(look) == (["rgb(0, 0, 0)", "rgb(230, 232, 234)"] if dark else light)
    finally:
        chromium.screen(1280, 800)


@pytest.mark.parametrize("how", ["plain", "phone", "no scripts"])
def test_all_slides_are_one_page_that_scrolls(how, chromium, pages):  # noqa: F811
    chromium.screen(*((390, 844) if how == "phone" else (1280, 900)))
    chromium.open(DECK.as_uri() + "?plain" * (how == "plain"), scripts=how != "no scripts")
    assert chromium.run(SHOWN) == SLIDES
    assert chromium.run("document.querySelector('aside.notes').checkVisibility()")
    assert chromium.run("document.documentElement.scrollWidth <= innerWidth")
    seen = f"[...film.querySelectorAll('.frame')].filter({DRAWN}).length === 1"
    assert chromium.run(f"[...document.querySelectorAll('.film')].every((film) => {seen})")
    if how != "no scripts":
        chromium.run(CALM)
        chromium.run(NEXT_FRAME)
        assert accessibility(chromium, True, True) == []
    assert chromium.complaints() == []


def sheets(chromium, address, folder):
    """How many sheets of A4 a page prints on."""
    chromium.screen(1280, 900)
    chromium.open(address)
    chromium.pdf(folder / "printed.pdf", **A4)
    return len(re.findall(rb"/Type\s*/Page\b", (folder / "printed.pdf").read_bytes()))


@pytest.mark.parametrize("page", HANDOUTS, ids=lambda page: page.stem)
def test_a_handout_prints_on_one_sheet(page, chromium, tmp_path, pages):  # noqa: F811
    assert sheets(chromium, page, tmp_path) == 1
    longer = SITE / "lecture" / f"longer_{page.name}"  # beside it, so that figures and style are there
    try:
        longer.write_text(re.sub(r"(<section>.*?</section>)", r"\1\1", page.read_text("utf-8"), flags=re.DOTALL))
        assert sheets(chromium, longer, tmp_path) == 2, "what is too long is seen"
    finally:
        longer.unlink()


def test_slides_print_one_a_sheet(chromium, tmp_path, pages):  # noqa: F811
    assert sheets(chromium, DECK.as_uri() + "?plain", tmp_path) == SLIDES


# --- the build

SMALL = (
    "# First\n\n![](fig-x)\n\nSome *words* {said}`page#here`.\n\n:::notes\nAloud.\n:::\n\n## Second\n\n![](film:gate)\n"
)
PAGE = """<title>A page &#8212; Book</title><section id="top">
<div class="cell_output docutils"><strong>At the top</strong></div>
<section id="here"><p><strong>prose</strong></p>
<div class="cell_output docutils"><p><strong>The answer</strong></p></div>
<figure class="align-default" id="fig-x"><img alt="a curve that falls" src="_images/x.svg" /></figure>
</section></section>"""
PICTURE = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'


@pytest.fixture
def small(tmp_path):
    """A site of one page, and sources of a kit that quotes it."""
    (tmp_path / "site" / "_images").mkdir(parents=True)
    (tmp_path / "site" / "page.html").write_text(PAGE)
    (tmp_path / "site" / "_images" / "x.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
    )
    shutil.copytree(ROOT / "book" / "_static", tmp_path / "site" / "_static")
    (tmp_path / "sources").mkdir()
    for name in ("slides", *lecture.PAPERS):
        (tmp_path / "sources" / f"{name}.md").write_text(SMALL)
    return tmp_path


def made(folder, reveal):
    lecture.make(folder / "site", lecture.Site(folder / "site"), reveal, folder / "sources")
    return folder / "site" / "lecture" / "index.html"


def test_without_reveal_the_build_passes_and_all_slides_are_there(chromium, small):
    page = made(small, small / "absent")
    assert "reveal.js" not in page.read_text() and not (small / "site" / "_static" / "reveal").exists()
    chromium.screen(1280, 900)
    chromium.open(page)
    assert chromium.run(SHOWN) == 2 and chromium.complaints() == []
    assert chromium.run("document.querySelector('.words').textContent.trim()") == "Some words The answer."


def test_with_reveal_its_files_come_into_the_site(small):
    for part in lecture.PARTS:
        (small / "reveal" / part).parent.mkdir(parents=True, exist_ok=True)
        (small / "reveal" / part).write_text("/* its file */")
    text = made(small, small / "reveal").read_text()
    loaded = re.findall(r'(?:src|href)="\.\./(_static/reveal/[^"]+)"', text)
    assert len(loaded) == 3 and all((small / "site" / name).exists() for name in [*loaded, "_static/reveal/LICENSE"])


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("fig-x", "fig-y", "the site has no figure 'fig-y'"),
        ("film:gate", "film:gates", "no film 'gates'; there are: descent"),
        ("{said}", "{says}", "no role 'says'"),
        ("page#here", "page#there", "page#there prints no answer in bold"),
        ("page#here", "gone", "gone prints no answer in bold"),
        ("{said}`page#here`", "{record}`qm9 small`", "no row ''"),
        ("{said}`page#here`", "{held}`recon none`", "no claim 'none' of recon"),
    ],
)
def test_what_is_missing_stops_the_build_and_is_named(old, new, said, small):
    (small / "sources" / "slides.md").write_text(SMALL.replace(old, new))
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        made(small, small / "absent")
    assert str(error.value).startswith("book/lecture/slides.md: ")


@pytest.mark.parametrize("count, words", [(0, "0 of 3 comparisons hold"), (1, "1 of 3 comparisons holds")])
def test_comparisons_that_hold_are_counted_in_a_clause(count, words, monkeypatch):
    checks = [SimpleNamespace(holds=place < count) for place in range(3)]
    monkeypatch.setattr(lecture, "compared", lambda *claim: SimpleNamespace(checks=checks))
    assert lecture.holds("recon", "a-claim")[0].astext() == words


def test_an_answer_is_that_of_its_section(small):
    site = lecture.Site(small / "site")
    assert [site.said(where)[0].astext() for where in ("page", "page#here")] == ["At the top", "The answer"]


def test_reveal_is_pinned_and_a_failure_is_said_and_survived(tmp_path, monkeypatch, capsys):
    reveal = module("reveal")
    assert re.search(r"(?m)^sphinx-revealjs==[\d.]+ --hash=sha256:[0-9a-f]{64}$", reveal.LOCK.read_text("utf-8"))
    assert lecture.REVEAL.is_relative_to(reveal.FOLDER)
    calls, lock, folder = [], tmp_path / "reveal.lock", tmp_path / "reveal"
    lock.write_text("a package")

    def run(command, **_):
        calls.append(command)
        folder.mkdir(exist_ok=True)
        return type("Done", (), {"returncode": len(calls) == 1})

    monkeypatch.setattr(reveal.packages.subprocess, "run", run)
    assert reveal.main(lock, folder) == 1 and "one page that scrolls" in capsys.readouterr().out
    assert reveal.main(lock, folder) == 0 and "--require-hashes" in calls[1] and "--no-deps" in calls[1]
    assert reveal.main(lock, folder) == 0 and len(calls) == 2, "what is there is not fetched again"
    lock.write_text("another")
    assert reveal.main(lock, folder) == 0 and len(calls) == 3


def test_the_kit_is_on_a_page_and_its_sources_are_the_slides(pages):  # noqa: F811
    links = pages[SITE / "lecture.html"].links
    assert {f"lecture/{page.name}" for page in [DECK, *HANDOUTS]} <= set(links)
    assert (lecture.SOURCES / "slides.md").read_text(encoding="utf-8").count(":::notes\n") == SLIDES
