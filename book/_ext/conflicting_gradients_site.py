"""What the site needs beyond Jupyter Book: its own MathJax, links to sources, a run card."""

import importlib.util
import json
import pathlib
import shutil

from docutils import nodes
from sphinx.errors import ExtensionError

MATHJAX = "mathjax/tex-svg.js"
ROWS = (
    ("Parameters", "parameters"),
    ("Time", "seconds"),
    ("Hardware", "hardware"),
    ("Commit", "commit"),
    ("Versions", "versions"),
    ("Command that repeats it", "command"),
)


def copy_mathjax(app, error):
    """One file of MathJax beside the site, so that formulas need no request to anything outside."""
    if error is None and app.builder.format == "html":
        found = importlib.util.find_spec("sphinx-mathjax-offline")
        if found is None:
            raise ExtensionError("sphinx-mathjax-offline is not installed; run `make setup`")
        source = pathlib.Path(found.origin).parent / "static" / MATHJAX
        target = pathlib.Path(app.outdir) / "_static" / MATHJAX
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def point_at_sources(app, page, template, context, doctree):
    """Edit links: the source of a page under notebooks/ is in notebooks/ at the top, of others in book/."""
    top = "" if page.startswith("notebooks/") else "book"
    app.config.html_theme_options["path_to_docs"] = top
    context["doc_path"] = top


def _entries(pairs):
    """`name=value` items, one code word each; a narrow screen breaks the line between them."""
    line = nodes.paragraph()
    for name, value in pairs:
        line += [nodes.literal(text=f"{name}={value!r}"), nodes.Text(" ")]
    return line


def _cell(key, value):
    if key == "parameters":
        return _entries(value)
    if key == "versions":
        return nodes.paragraph(text=", ".join(f"{name} {version}" for name, version in value))
    if key == "seconds":
        return nodes.paragraph(text=f"{value:.0f} seconds" if value < 100 else f"{value / 60:.1f} minutes")
    if key == "command":
        return nodes.literal_block(value, value, language="bash")
    return nodes.paragraph(text=str(value))


def run_card(card):
    """The section `How this page was made`, from the metadata that notebooks/run.py stored."""
    section = nodes.section(ids=["how-this-page-was-made"], names=["how this page was made"], classes=["run-card"])
    section += nodes.title(text="How this page was made")
    table, group, body = nodes.table(classes=["run-card-table"]), nodes.tgroup(cols=2), nodes.tbody()
    group += [nodes.colspec(colwidth=25, stub=1), nodes.colspec(colwidth=75), body]
    for title, key in ROWS:
        row = nodes.row()
        row += nodes.entry("", nodes.paragraph(text=title))
        row += nodes.entry("", _cell(key, card[key]))
        body += row
    section += table
    table += group
    return section


def add_run_card(app, doctree):
    source = pathlib.Path(app.env.doc2path(app.env.docname))
    if source.suffix != ".ipynb":
        return
    card = json.loads(source.read_text(encoding="utf-8"))["metadata"].get("mtl_run")
    if card is None:
        raise ExtensionError(f"{source.name} has no run card: pages are made by notebooks/run.py (make book)")
    chapter = next(iter(doctree.findall(nodes.section)), doctree)
    chapter += run_card(card)


def setup(app):
    app.config.mathjax_path = MATHJAX
    app.connect("doctree-read", add_run_card, priority=400)  # before the page's table of contents is read off
    app.connect("html-page-context", point_at_sources, priority=400)  # before the theme makes the links
    app.connect("build-finished", copy_mathjax)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
