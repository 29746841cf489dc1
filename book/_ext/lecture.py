"""The lecture kit: slides and handouts made from the built site, when it is built.

`lecture/slides.md` holds a slide a section, `lecture/PAPER.md` a handout. In them

    ![](fig-harm-sign)              a figure of the site, by its name there (of a drawn one, its file's name); its words
                                    for who cannot see it and a link to its page come with it
    ![](film:descent)               one of films.FILMS
    ![](claim:recon CLAIM)          the paired differences that a claim on results is judged by
    {record}`qm9 small margin`      the roles record, verdict, tally, items, dose, as on pages; and
    {said}`PAGE#SECTION`            the answer that a page prints there, or at its top: an output's first bold words
    {held}`recon CLAIM`             1 of 3: how many comparisons of a claim hold; {holds}: 1 of 3 comparisons holds
    :::notes … :::                  what the speaker says

What is missing stops the build and is named. reveal.js comes from .venv/reveal (.ci/reveal.py); without it the slides
are one page that scrolls, which they also are on a narrow screen and without scripts.
"""

import html
import pathlib
import re
import shutil

import checkout  # noqa: F401 (before mtl_lab)
import drawn
import films
import items
import matplotlib.pyplot as plt
import quotes
import share
from docutils import nodes
from markdown_it import MarkdownIt
from sphinx.errors import ExtensionError

from mtl_lab import experiments
from mtl_lab.claims import verdicts
from mtl_lab.figures import plots
from mtl_lab.protocol.verdict import paired_differences
from mtl_lab.statistics import paired

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCES = ROOT / "book" / "lecture"
REVEAL = ROOT / ".venv" / "reveal" / "sphinx_revealjs" / "_static" / "revealjs"
PARTS = ("dist/reveal.css", "dist/reveal.js", "plugin/notes/notes.js", "LICENSE")
PAPERS = ("recon", "rotograd", "sam_gs")
ROLE = re.compile(r"\{(\w+)\}`([^`]+)`")
PICTURE = re.compile(r"^!\[\]\(([^)]+)\)\n", re.MULTILINE)
NOTES = re.compile(r"^:::notes\n(.*?)^:::\n?", re.MULTILINE | re.DOTALL)
FIGURE = re.compile(r'<figure[^>]*\bid="([^"]+)">(.*?)</figure>', re.DOTALL)
IMAGE = re.compile(r'<img alt="([^"]*)"[^>]*? src="([^":]+)"')
SHELL = """<!DOCTYPE html>
<html lang="en" data-theme="light" class="{kind}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="alternate" type="application/atom+xml" href="../feed.xml">
{head}<link rel="stylesheet" href="lecture.css">
<script defer src="lecture.js"></script>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""
DECK = """<link rel="stylesheet" id="reveal-style" media="not all" href="../_static/reveal/reveal.css">
<script defer src="../_static/reveal/reveal.js"></script>
<script defer src="../_static/reveal/notes.js"></script>
"""


def markdown(text):
    return MarkdownIt("commonmark").enable("table").render(text)


def compared(paper, name):
    """The Verdict of a claim that rests on comparisons; otherwise LookupError."""
    found = {one.claim["id"]: one for one in verdicts.verdicts(paper)}
    if name not in found or not found[name].checks:
        raise LookupError(f"no claim {name!r} of {paper} with comparisons")
    return found[name]


def held(paper, name):
    """Inline nodes: how many comparisons of a claim hold, of how many."""
    checks = compared(paper, name).checks
    return [nodes.Text(f"{sum(check.holds is True for check in checks)} of {len(checks)}")]


def holds(paper, name):
    """Inline nodes: the same as a clause."""
    (count,) = held(paper, name)
    return [nodes.Text(f"{count} comparisons hold{'s' * count.startswith('1 ')}")]


def comparisons(paper, name, file):
    """Save a figure of the paired differences behind a claim on results, as the ledger judges them; its words."""
    claim = compared(paper, name).claim
    table = experiments.committed(claim["results"]["experiment"], claim["results"]["profile"])
    gaps = {
        pair: paired_differences({n: r.delta for n, r in table.rows.items()}, *pair) for pair in verdicts.pairs(claim)
    }
    titles = {pair: " minus\n".join(table.rows[one].title.split(":")[0] for one in pair) for pair in gaps}
    ends = paired.holm_intervals(gaps)
    plots.style()
    figure = plots.differences(
        {titles[pair]: gap for pair, gap in gaps.items()},
        {titles[pair]: (ends[pair].low, ends[pair].high) for pair in gaps},
        "difference of Δm, points",
    )
    figure.axes[0].axvspan(-claim["margin"], claim["margin"], color="#eeeeee", zorder=0)
    figure.savefig(file, metadata={"Date": None})
    plt.close(figure)
    listed = "; ".join(title.replace("\n", " ") for title in titles.values())
    return f"Dots for each seed and an interval for each paired difference, around a grey margin at zero: {listed}"


class Site:
    """The built site, as what slides quote: figures by name, answers by section, places of ledger entries.

    folder  of the HTML.
    place   id of a claim -> address of its ledger entry, from the site's root; or None.
    """

    def __init__(self, folder, place=lambda claim: None):
        self.folder, self.place = folder, place
        self.roles = {"record": quotes.record, "verdict": quotes.verdict, "tally": quotes.tally, "items": items.items}
        self.roles |= {"dose": drawn.dose_of, "held": held, "holds": holds, "said": self.said}
        self.figures = {}
        for path in sorted(folder.rglob("*.html")):
            if path.relative_to(folder).parts[0] not in ("_static", "lecture"):
                self._collect(path, path.read_text(encoding="utf-8"))

    def _collect(self, path, text):
        page, title = (
            path.relative_to(self.folder).as_posix(),
            re.search(r"<title>(.*?)(?: &#8212; .*?)?</title>", text),
        )
        for anchor, inside in FIGURE.findall(text):
            if found := IMAGE.search(inside):
                file = (path.parent / found[2]).resolve().relative_to(self.folder.resolve())
                name = anchor if anchor.startswith("fig-") else file.stem
                self.figures.setdefault(
                    name, (file.as_posix(), found[1], f"{page}#{anchor}", title[1] if title else page)
                )

    def said(self, where):
        """Inline nodes: the first bold words that an output of a page, or of a section of it, prints."""
        page, _, section = where.partition("#")
        file = self.folder / f"{page}.html"
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        start = text.find(f'<section id="{section}"' if section else "<section ")
        found = re.search(r'<div class="[^"]*\bcell_output\b.*?<strong>(.*?)</strong>', text[start:], re.DOTALL)
        if start < 0 or not found:
            raise LookupError(f"{where} prints no answer in bold")
        return [nodes.Text(html.unescape(re.sub(r"<[^>]+>", "", found[1])))]

    def words(self, text):
        """Markdown in which every role has become words."""
        return ROLE.sub(lambda role: "".join(map(self._html, self._read(*role.groups()))), text)

    def _read(self, role, text):
        if role not in self.roles:
            raise LookupError(f"no role {role!r}; there are: {', '.join(self.roles)}")
        return self.roles[role](*text.split())

    def _html(self, node):
        inside = "".join(map(self._html, node.children)) or html.escape(node.astext(), quote=False)
        if "claim" in getattr(node, "attributes", {}) and (place := self.place(node["claim"])):
            return f'<a class="verdict-badges" href="../{place}">{inside}</a>'
        if "verdict-badge" in getattr(node, "attributes", {}).get("classes", ()):
            return f'<span class="{" ".join(node["classes"])}">{inside}</span>'
        return f"<em>{inside}</em>" if isinstance(node, nodes.emphasis) else inside

    def picture(self, name):
        """A <figure>; LookupError where the site has none of this name."""
        if name.startswith("film:"):
            kind = name.removeprefix("film:")
            if kind not in films.FILMS:
                raise LookupError(f"no film {kind!r}; there are: {', '.join(films.FILMS)}")
            return f'<figure class="film">{films.FILMS[kind]()[1]}</figure>'
        if name.startswith("claim:"):
            paper, claim = name.removeprefix("claim:").split()
            alt = html.escape(comparisons(paper, claim, self.folder / "_images" / f"{claim}.svg"))
            source = f'<figcaption>From <a href="../{self.place(claim) or "ledger.html"}">The ledger</a></figcaption>'
            return f'<figure><img src="../_images/{claim}.svg" alt="{alt}">{source}</figure>'
        if name not in self.figures:
            raise LookupError(f"the site has no figure {name!r}")
        file, alt, page, title = self.figures[name]
        source = f'<figcaption>From <a href="../{page}">{title}</a></figcaption>'
        return f'<figure><img src="../{file}" alt="{alt}">{source}</figure>'


def body_of(text, site):
    """(HTML of the words, of the figures, of the notes) of a slide or a handout's section."""
    notes = "".join(NOTES.findall(text))
    pictures = "".join(map(site.picture, PICTURE.findall(text)))
    linked = re.sub(r"\]\((\.\./[^):]+?)\.(?:md|ipynb)", r"](\1.html", site.words(PICTURE.sub("", NOTES.sub("", text))))
    said = re.sub(r"\]\((\.\./[^):]+?)\.(?:md|ipynb)", r"](\1.html", site.words(notes))
    return markdown(linked), pictures, markdown(said)


def sections(text):
    """(title, text) of what begins with a heading of the first or the second level."""
    parts = re.split(r"^##? (.+)\n", text, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def slide(number, title, text, site):
    words, picture, notes = body_of(text, site)
    level = 1 if number == 1 else 2
    heading = re.sub(r"^<p>|</p>\n?$", "", markdown(site.words(title)))
    return (
        f'<section>\n<h{level}>{heading}</h{level}>\n<div class="beside">\n{picture}\n'
        f'<div class="words">\n{words}</div>\n</div>\n<aside class="notes">\n{notes}</aside>\n</section>\n'
    )


def deck(text, site, reveal):
    """The page of slides."""
    found = [slide(n, *part, site) for n, part in enumerate(sections(text), start=1)]
    body = f'<div class="reveal"><div class="slides">\n{"".join(found)}</div></div>'
    return SHELL.format(kind="slides-page", title="Conflicting Gradients: the lecture", head=DECK * reveal, body=body)


def handout(text, site):
    """A page that prints on one sheet."""
    first, *rest = sections(text)
    words, picture, _ = body_of(first[1], site)
    parts = [f"<header><h1>{first[0]}</h1>\n{words}</header>\n{picture}"]
    for title, inside in rest:
        words, picture, _ = body_of(inside, site)
        parts.append(f"<section>\n<h2>{title}</h2>\n{words}{picture}</section>")
    return SHELL.format(kind="sheet-page", title=f"{first[0]}: a handout", head="", body="\n".join(parts))


def make(folder, site, reveal=REVEAL, sources=SOURCES):
    """Write the kit into folder/lecture. ValueError names what a source asks for and the site does not have."""
    out, there = folder / "lecture", all((reveal / part).exists() for part in PARTS)
    out.mkdir(exist_ok=True)
    for name in ("lecture.css", "lecture.js"):  # beside the pages: what lies in _static, every page of the book loads
        shutil.copy(SOURCES / name, out)
    if there:
        (folder / "_static" / "reveal").mkdir(parents=True, exist_ok=True)
        for part in PARTS:
            shutil.copy(reveal / part, folder / "_static" / "reveal")
    for name in ("slides", *PAPERS):
        text = (sources / f"{name}.md").read_text(encoding="utf-8")
        try:
            page = deck(text, site, there) if name == "slides" else handout(text, site)
        except (LookupError, TypeError) as error:
            raise ValueError(f"book/lecture/{name}.md: {error}") from error
        (out / f"{'index' if name == 'slides' else name}.html").write_text(page, encoding="utf-8")


def write(app, error):
    if error is not None or app.builder.name != "html":
        return
    labels = app.env.get_domain("std").anonlabels

    def place(claim):
        page = labels.get(quotes.label(claim))
        return page and f"{page[0]}.html#{page[1]}"

    folder = pathlib.Path(app.outdir)
    try:
        make(folder, Site(folder, place))
    except ValueError as error:
        raise ExtensionError(str(error)) from error
    for page in (folder / "lecture").glob("*.html"):
        text = page.read_text(encoding="utf-8")
        title = html.unescape(re.search("<title>(.*)</title>", text)[1])
        head = "\n".join(share.tags(app.config, f"lecture/{page.stem}", title))
        page.write_text(text.replace("</title>\n", f"</title>\n{head}\n", 1), encoding="utf-8")


def setup(app):
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
