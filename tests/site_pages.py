"""What the tests of the built site share: its pages, read as text, and what can be wrong with them."""

import pathlib
import re
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SITE = ROOT / "_build" / "html"
REPOSITORY = "https://github.com/conflicting-gradients/conflicting-gradients"
ELSEWHERE = re.compile(r"(?<![\w:/.~-])/(?:root|work|tmp|var|home/\w+|Users/\w+)/\S*")  # a path of a build machine
NOT_LOADED = ("canonical", "next", "prev", "index", "alternate", "search")
HEAVY = 10**6  # bytes of a page with its figures, without what all pages share


class Page(HTMLParser):
    """What a page links to, loads, and shows without words."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loads, self.images, self.wordless = set(), [], [], [], []
        self.text, self.announces, self.size = [], [], len(text.encode())
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
        if tag == "link" and given.get("href"):
            kind = self.announces if given.get("rel") in NOT_LOADED else self.loads
            kind.append(given["href"])
        if tag == "img":
            self.images.append((given.get("src"), given.get("alt") or ""))
        if tag == "object" and not given.get("aria-label"):
            self.wordless.append(given.get("data"))

    def handle_data(self, data):
        self.text.append(data)


def read(site):
    return {p: Page(p.read_text(encoding="utf-8")) for p in site.rglob("*.html") if "_static" not in p.parts}


@pytest.fixture(scope="session")
def pages():
    built = SITE / "index.html"
    assert built.exists(), "there is no site: run `make book`"
    sources = [ROOT / "_config.yml", ROOT / "CHANGELOG.md"]
    sources += [p for p in (ROOT / "book").rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    newer = [str(p.relative_to(ROOT)) for p in sources if p.stat().st_mtime > built.stat().st_mtime]
    assert not newer, f"the site is older than {newer[:3]}: run `make book`"
    return read(SITE)


# --- faults; each function takes a site and its pages, and returns sentences


def printed_objects(site, pages):
    """What Python calls an object that has nothing to show, such as <IPython.core.display.Markdown object>."""
    found = {path: re.search(r"<[\w.]+ object( at 0x\w+)?>", "".join(page.text)) for path, page in pages.items()}
    return [f"{path.relative_to(site)} shows {match.group()}" for path, match in found.items() if match]


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


def broken_source_links(site, pages):
    """Links to files of the repository (edit, Colab, code) whose file is not in it."""
    name = urlsplit(REPOSITORY).path
    place = re.compile(rf"{name}/(?:edit|blob|commits)/main/([^?#]+)")
    found = [(path, hit.group(1)) for path, page in pages.items() for href in page.links if (hit := place.search(href))]
    return [
        f"{p.relative_to(site)}: {file} is not in the repository" for p, file in found if not (ROOT / file).exists()
    ]


def outside_loads(site, pages):
    found = [f"{p.relative_to(site)}: {src}" for p, page in pages.items() for src in page.loads if urlsplit(src).netloc]
    for sheet in site.rglob("*.css"):
        for place in re.findall(r"(?:@import\s+|url\()\s*['\"]?((?:https?:)?//[^'\")\s]+)", sheet.read_text("utf-8")):
            found.append(f"{sheet.relative_to(site)}: {place}")
    return found


def own_loads(path, page):
    """(address, file) of what a page loads from its own site."""
    for src in page.loads:
        parts = urlsplit(src)
        if not parts.netloc and parts.scheme != "data":
            yield src, path.parent / unquote(parts.path)


def absent_loads(site, pages):
    return [
        f"{path.relative_to(site)}: {src}"
        for path, page in pages.items()
        for src, file in own_loads(path, page)
        if not file.exists()
    ]


def heavy_pages(site, pages):
    """Pages that weigh a megabyte or more, with their figures and without `_static`, which all pages share."""
    found = []
    for path, page in pages.items():
        own = {file.resolve() for _, file in own_loads(path, page) if file.exists() and "_static" not in file.parts}
        size = page.size + sum(file.stat().st_size for file in own)
        if size >= HEAVY:
            found.append(f"{path.relative_to(site)}: {size / 1e6:.2f} MB, expected less than {HEAVY / 1e6:g}")
    return found


def wordless_images(site, pages):
    """Images whose alternative text is missing, too short to say what is to be seen, or that of another image."""
    found = [f"{path.relative_to(site)}: {src}" for path, page in pages.items() for src in page.wordless]
    for path, page in pages.items():
        seen = {}
        for src, alt in page.images:
            name = f"{path.relative_to(site)}: {src}"
            figure = "_static" not in (src or "")
            if len(alt.split()) < (6 if figure else 1):
                found.append(f"{name}: {alt!r} does not say what the figure shows")
            elif figure and seen.setdefault(alt, src) != src:
                found.append(f"{name}: the same words as {seen[alt]}")
    return found


def machine_paths(site):
    files = [p for kind in ("*.html", "*.ipynb", "*.md", "*.xml", "searchindex.js") for p in site.rglob(kind)]
    files = [p for p in files if "_static" not in p.relative_to(site).parts]
    found = []
    for path in files:
        text = path.read_text(encoding="utf-8")
        found += [
            f"{path.relative_to(site)}: {hit}" for hit in {str(ROOT), str(pathlib.Path.home())} if hit + "/" in text
        ]
        found += [f"{path.relative_to(site)}: {hit}" for hit in ELSEWHERE.findall(text)]
    return found
