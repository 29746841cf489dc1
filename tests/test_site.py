"""The built site, offline: links and anchors, alt texts, nothing from outside, nothing of this machine."""

import pathlib
import re
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SITE = ROOT / "_build" / "html"
ELSEWHERE = re.compile(r"(?<![\w:/.~-])/(?:root|work|tmp|var|home/\w+|Users/\w+)/\S*")  # a path of a build machine


class Page(HTMLParser):
    """What a page links to, loads, and shows without words."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loads, self.wordless, self.text = set(), [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if given.get("id"):
            self.ids.add(given["id"])
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed") and given.get("src"):
            self.loads.append(given["src"])
        if tag == "object" and given.get("data"):
            self.loads.append(given["data"])
        if tag == "link" and given.get("href") and given.get("rel") not in ("canonical", "next", "prev", "index"):
            self.loads.append(given["href"])
        if tag == "img" and len(given.get("alt") or "") < 4:
            self.wordless.append(given.get("src"))
        if tag == "object" and not given.get("aria-label"):
            self.wordless.append(given.get("data"))

    def handle_data(self, data):
        self.text.append(data)


def read(site):
    return {p: Page(p.read_text(encoding="utf-8")) for p in site.rglob("*.html") if "_static" not in p.parts}


def broken_links(site, pages):
    bad = []
    for path, page in pages.items():
        for href in page.links:
            parts = urlsplit(href)
            if parts.scheme or parts.netloc or href == "#":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                bad.append(f"{path.relative_to(site)} -> {href}")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
                bad.append(f"{path.relative_to(site)} -> {href} (no such anchor)")
    return bad


def outside_loads(site, pages):
    found = [f"{p.relative_to(site)}: {src}" for p, page in pages.items() for src in page.loads if urlsplit(src).netloc]
    for sheet in site.rglob("*.css"):
        for place in re.findall(r"(?:@import\s+|url\()\s*['\"]?((?:https?:)?//[^'\")\s]+)", sheet.read_text("utf-8")):
            found.append(f"{sheet.relative_to(site)}: {place}")
    return found


def absent_loads(site, pages):
    return [
        f"{path.relative_to(site)}: {src}"
        for path, page in pages.items()
        for src in page.loads
        if not urlsplit(src).netloc
        and urlsplit(src).scheme != "data"
        and not (path.parent / unquote(urlsplit(src).path)).exists()
    ]


def wordless_images(site, pages):
    return [f"{path.relative_to(site)}: {src}" for path, page in pages.items() for src in page.wordless]


def machine_paths(site):
    files = [p for kind in ("*.html", "*.ipynb", "*.md", "searchindex.js") for p in site.rglob(kind)]
    files = [p for p in files if "_static" not in p.relative_to(site).parts]
    found = []
    for path in files:
        text = path.read_text(encoding="utf-8")
        found += [
            f"{path.relative_to(site)}: {hit}" for hit in {str(ROOT), str(pathlib.Path.home())} if hit + "/" in text
        ]
        found += [f"{path.relative_to(site)}: {hit}" for hit in ELSEWHERE.findall(text)]
    return found


@pytest.fixture(scope="module")
def pages():
    built = SITE / "index.html"
    assert built.exists(), "there is no site: run `make book`"
    sources = [ROOT / "_config.yml", ROOT / "CHANGELOG.md"]
    sources += [p for p in (ROOT / "book").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    newer = [str(p.relative_to(ROOT)) for p in sources if p.stat().st_mtime > built.stat().st_mtime]
    assert not newer, f"the site is older than {newer[:3]}: run `make book`"
    return read(SITE)


def test_links_and_anchors(pages):
    assert len(pages) > 5
    assert not broken_links(SITE, pages)


def test_nothing_comes_from_outside(pages):
    assert not outside_loads(SITE, pages)
    assert not absent_loads(SITE, pages)


def test_images_have_words(pages):
    assert not wordless_images(SITE, pages)


def test_nothing_of_the_build_machine(pages):
    assert not machine_paths(SITE)


def test_formulas_are_set_by_the_site_itself(pages):
    with_math = [p for p, page in pages.items() if any("mathjax/tex-svg.js" in src for src in page.loads)]
    assert with_math and (SITE / "_static" / "mathjax" / "tex-svg.js").stat().st_size > 10**6


def test_the_start_page_has_its_doors(pages):
    links = {urlsplit(href).path for href in pages[SITE / "index.html"].links}
    assert {"notebooks/recon_multi_fashion_mnist.html", "rerun.html", "add_a_method.html"} <= links


def test_executed_pages_carry_their_run_card(pages):
    executed = [p for p in pages if p.parent == SITE / "notebooks"]
    assert executed
    for path in executed:
        text = "".join(pages[path].text)
        assert "how-this-page-was-made" in pages[path].ids
        assert all(word in text for word in ("Hardware", "Commit", "Versions", f"make run PAGE={path.stem}"))


def test_edit_links_point_at_sources(pages):
    def sources(path):
        return {h.split("/edit/main/")[1] for h in pages[path].links if "/edit/main/" in h}

    assert sources(SITE / "rerun.html") == {"book/rerun.md"}
    name = "notebooks/recon_multi_fashion_mnist"
    assert sources(SITE / f"{name}.html") == {f"{name}.ipynb"}


# --- the checks themselves, on a site with one fault each

GOOD = '<a href="b.html#x">b</a><h2 id="x"></h2><img src="i.svg" alt="a curve">'
FAULTS = {
    "target": (GOOD.replace("b.html", "c.html"), broken_links),
    "anchor": (GOOD.replace("#x", "#y"), broken_links),
    "alt": (GOOD.replace("a curve", ""), wordless_images),
    "no alt": (GOOD.replace('alt="a curve"', ""), wordless_images),
    "script": (GOOD + '<script src="https://cdn.example/x.js"></script>', outside_loads),
    "style": (GOOD + '<link rel="stylesheet" href="//cdn.example/x.css">', outside_loads),
    "image": (GOOD.replace("i.svg", "j.svg"), absent_loads),
}


def small_site(folder, text):
    (folder / "a.html").write_text(text)
    (folder / "b.html").write_text(GOOD)
    (folder / "i.svg").write_text("<svg/>")
    return read(folder)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(tmp_path, name):
    text, check = FAULTS[name]
    assert check(tmp_path, small_site(tmp_path, GOOD)) == []
    assert check(tmp_path, small_site(tmp_path, text))


def test_outside_loads_of_a_style_sheet_are_found(tmp_path):
    pages = small_site(tmp_path, GOOD)
    (tmp_path / "s.css").write_text("@import url('https://fonts.example/f.css');")
    assert outside_loads(tmp_path, pages)


@pytest.mark.parametrize("word", [str(ROOT) + "/x", "in /tmp" + "/abc/run.py", "from /home" + "/ada/book"])
def test_machine_paths_are_found(tmp_path, word):
    small_site(tmp_path, GOOD)
    assert not machine_paths(tmp_path)
    small_site(tmp_path, f"<p>{word}</p>")
    assert machine_paths(tmp_path)
