"""Every page of the built site in a headless Chromium: on a desk, in dark mode, on a phone.

No error in the console, no request to outside, nothing wider than the window, formulas set, images there, nothing
that axe finds. The faults at the end show that each of these is seen.
"""

import json

import pytest
from browser import AXE, FORMULAS_SET, NAMES, needed
from site_pages import SITE, pages  # noqa: F401 (a fixture)
from test_environment import module

CALM = "document.head.insertAdjacentHTML('beforeend', '<style>* {transition: none !important}</style>')"
# Size of the window and whether the reader prefers dark; then whether contrast is measured there, and all other rules.
VIEWS = {"desk": ((1280, 900, False), True, True), "dark": ((1280, 900, True), True, False)}
VIEWS["phone"] = ((390, 844, False), False, False)  # what axe finds there it has found on the desk, hidden menus apart
# Contrast takes axe 10 ms a word: it measures one element for each pair of colours, size and weight that a page has.
SAMPLES = """(() => {
  const grounds = new Map(), seen = new Map();
  const ground = (box) => {
    if (!box) return "";
    if (!grounds.has(box)) {
      const own = getComputedStyle(box), plain = own.backgroundColor === "rgba(0, 0, 0, 0)" && own.opacity === "1";
      grounds.set(box, (plain ? "" : own.backgroundColor + own.opacity) + (plain ? ground(box.parentElement) : ""));
    }
    return grounds.get(box);
  };
  for (const box of document.body.querySelectorAll("*")) {
    const words = [...box.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!words || !box.checkVisibility()) continue;
    const own = getComputedStyle(box);
    const key = [own.color, own.fontSize, own.fontWeight, ground(box)].join();
    if (!seen.has(key)) seen.set(key, box);
  }
  return [...seen.values()];
})()"""
SEEN = """(() => {
  const page = document.documentElement, found = [], start = (text) => text.trim().slice(0, 90);
  if (page.scrollWidth > page.clientWidth) {
    const reach = (box) => box.getBoundingClientRect().right > page.clientWidth;
    const wide = [...document.querySelectorAll("main *")].filter((box) => reach(box) && ![...box.children].some(reach));
    found.push(`wider than the window: ${page.scrollWidth} > ${page.clientWidth}: ${start(wide[0]?.outerHTML ?? "")}`);
  }
  for (const math of document.querySelectorAll(".math")) {
    if (!math.querySelector("mjx-container")) found.push(`formula not set: ${start(math.textContent)}`);
    if (math.querySelector("[data-mjx-error], mjx-merror")) found.push(`formula error: ${start(math.innerHTML)}`);
  }
  for (const math of document.querySelectorAll("span.math")) {
    if (math.nextSibling?.nodeType !== 3 || !/^[.,;:?!)]/.test(math.nextSibling.data)) continue;
    const mark = document.createRange();
    mark.setStart(math.nextSibling, 0);
    mark.setEnd(math.nextSibling, 1);
    const parted = mark.getBoundingClientRect().left < math.getBoundingClientRect().right - 2;
    if (parted) found.push(`a line begins with what follows a formula: ${start(math.parentElement.textContent)}`);
  }
  for (const image of document.images) {
    if (!image.complete || !image.naturalWidth) found.push(`image not loaded: ${image.getAttribute("src")}`);
  }
  return found;
})()"""
# Events of another window size and of other colours come with the next frame, which the second one follows.
NEXT_FRAME = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))"
# The frame that all pages share, a script that draws, and slides, which are a deck in a wide window alone.
LOADED_FOR_EACH_VIEW = ("index.html", "playground.html", "lecture/index.html")
SPEED = "performance.timing.domInteractive - performance.timing.navigationStart"


def accessibility(chromium, contrast, others):
    """What axe finds, a line each."""
    if not chromium.run("'axe' in window"):
        chromium.send("Runtime.evaluate", expression=AXE.read_text(encoding="utf-8"))
    runs = [(SAMPLES, {"runOnly": ["color-contrast"]})] if contrast else []
    runs += [("document", {"rules": {"color-contrast": {"enabled": False}}})] if others else []
    found = []
    for where, what in runs:
        options = json.dumps({"preload": False, "resultTypes": ["violations"], **what})
        found += chromium.run(f"axe.run({where}, {options}).then((done) => done.violations)")
    return [f"axe {one['id']}: {node['html'][:120]}" for one in found for node in one["nodes"]]


def faults(chromium, path, view, load=True):
    """Everything that is wrong with one page in one view, as sentences. A phone's menus are those of index.html.

    load  False: the page is open already, and only the window's size and the colours change.
    """
    screen, contrast, others = VIEWS[view]
    others = others or path.name == "index.html"
    chromium.screen(*screen)
    if load:
        chromium.open(path)
        chromium.run(FORMULAS_SET)
        chromium.run(CALM)
    chromium.run(NEXT_FRAME)
    return chromium.run(SEEN) + accessibility(chromium, contrast, others) + chromium.complaints()


PAGES = sorted(p.relative_to(SITE).as_posix() for p in SITE.rglob("*.html") if "_static" not in p.parts)


def test_there_are_pages(pages):  # noqa: F811
    assert len(PAGES) == len(pages) > 5


@pytest.mark.parametrize("name", PAGES)
def test_page(chromium, pages, name):  # noqa: F811
    found = []
    for view in VIEWS:
        load = view == "desk" or name in LOADED_FOR_EACH_VIEW
        found += [f"{view}: {fault}" for fault in faults(chromium, SITE / name, view, load)]
        assert chromium.run("document.documentElement.dataset.theme") == ("dark" if view == "dark" else "light")
    assert not found, "\n".join(found)
    times = [chromium.run(SPEED)]
    while times[-1] >= 1000 and len(times) < 3:  # a busy machine, or a slow page?
        chromium.open(SITE / name)
        times.append(chromium.run(SPEED))
    assert times[-1] < 1000, f"interactive after {times} ms, expected less than a second"


def test_search_works_from_a_disk(chromium, pages):  # noqa: F811
    chromium.open((SITE / "search.html").as_uri() + "?q=conflict")
    chromium.wait("document.querySelectorAll('#search-results li').length > 2", "the search found nothing")
    assert "Glossary" in chromium.run("document.querySelector('#search-results').textContent")
    assert chromium.complaints() == []


def test_drawings_turn_dark_and_pictures_do_not(chromium, pages):  # noqa: F811
    chromium.screen(1280, 900, True)
    chromium.open(SITE / "notebooks" / "recon" / "recon_multi_fashion_mnist.html")
    found = chromium.run(
        "[...document.querySelectorAll('figure img')].map((i) =>"
        " [i.classList.contains('picture'), getComputedStyle(i).filter])"
    )
    assert {tuple(one) for one in found} == {(True, "none"), (False, "invert(1) hue-rotate(180deg) brightness(1.3)")}


# --- the checks themselves, on a page with one fault each

BODY = """<main><h1>A page</h1><p>Text</p><p class="math"><mjx-container>x</mjx-container></p>
<img src="i.svg" alt="a square"></main>"""
GOOD = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">\
<title>A page</title><script src="s.js"></script></head><body>{BODY}</body></html>'
FAULTS = {
    "script error": ("Text", "<script>absent()</script>", "absent is not defined"),
    "console": ("Text", "<script>console.error('this')</script>", "console: this"),
    "outside": ("Text", '<img src="http://outside.example/a.png" alt="a picture">', "outside request"),
    "no script": ("s.js", "t.js", "ERR_FILE_NOT_FOUND"),
    "no image": ("i.svg", "j.svg", "image not loaded: j.svg"),
    "wide": ("<p>Text", '<p style="width: 1400px">Text', "wider than the window"),
    "formula": ("<mjx-container>x</mjx-container>", "x", "formula not set: x"),
    "parted": (
        "Text",
        '<span class="math" style="display: inline-block; width: 100%"><mjx-container>x</mjx-container></span>, said',
        "a line begins with what follows a formula",
    ),
    "no alt": (' alt="a square"', "", "axe image-alt"),
    "contrast": ("<p>Text", '<p style="color: #aaa">Text', "axe color-contrast"),
    "no title": ("<title>A page</title>", "", "axe document-title"),
}


def page_with(folder, name=None):
    (folder / "s.js").write_text("")
    (folder / "i.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')
    old, new, _ = FAULTS.get(name, ("", "", ""))
    assert old in GOOD
    (folder / "page.html").write_text(GOOD.replace(old, new, 1))
    return folder / "page.html"


@pytest.mark.parametrize("view", VIEWS)
def test_a_good_page_passes(chromium, tmp_path, view):
    assert faults(chromium, page_with(tmp_path), view) == []


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_seen(chromium, tmp_path, name):
    found = faults(chromium, page_with(tmp_path, name), "desk")
    assert [one for one in found if FAULTS[name][2] in one], found


def test_a_page_too_wide_for_a_phone_is_seen(chromium, tmp_path):
    page = page_with(tmp_path)
    page.write_text(page.read_text().replace("<p>Text", '<p style="width: 600px">Text'))
    assert faults(chromium, page, "desk") == []
    assert any(one.startswith("wider than the window") for one in faults(chromium, page, "phone"))


def test_a_fault_of_another_view_is_seen_without_loading_the_page_anew(chromium, tmp_path):
    page = page_with(tmp_path)
    dark = "<style>@media (prefers-color-scheme: dark) {p {color: #333; background: #222}}</style>"
    page.write_text(page.read_text().replace("<p>Text", f'{dark}<p style="width: 600px">Text'))
    assert faults(chromium, page, "desk") == []
    assert any("axe color-contrast" in one for one in faults(chromium, page, "dark", load=False))
    assert any(one.startswith("wider than the window") for one in faults(chromium, page, "phone", load=False))


def test_printed_as_one_file(chromium, tmp_path):
    chromium.open(page_with(tmp_path))
    chromium.pdf(tmp_path / "page.pdf")
    data = (tmp_path / "page.pdf").read_bytes()
    assert data.startswith(b"%PDF") and data.rstrip().endswith(b"%%EOF") and len(data) > 3000


def test_absence_is_an_error_in_ci(monkeypatch):
    monkeypatch.setattr("browser.PROGRAM", None)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="Chromium"):
        needed()
    monkeypatch.setenv("CI", "")
    with pytest.raises(pytest.skip.Exception, match="Chromium"):
        needed()


def test_the_set_up_knows_the_same_names_and_ends_with_an_error_in_ci(monkeypatch, capsys):
    set_up = module("browser")
    assert set_up.NAMES == NAMES and set_up.AXE in AXE.parents
    monkeypatch.setattr(set_up, "install_chromium", lambda: False)
    monkeypatch.setattr(set_up.packages, "fetch", lambda lock, folder: (lock, folder) == (set_up.LOCK, set_up.AXE))
    monkeypatch.setenv("CI", "true")
    assert set_up.main() == 1
    assert "need Chromium" in capsys.readouterr().err
    monkeypatch.setenv("CI", "")
    assert set_up.main() == 0
    monkeypatch.setattr(set_up, "install_chromium", lambda: True)
    monkeypatch.setenv("CI", "true")
    assert set_up.main() == 0
