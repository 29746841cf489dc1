"""What the site needs beyond Jupyter Book: its own MathJax, links to sources, a run card."""

import importlib.util
import json
import pathlib
import re
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
    ("First cell in Colab", "colab"),
)
COLAB = """\
repository = "{repository}"
!git clone -q --depth 1 $repository book
%cd book/notebooks/{folder}
%pip install -q -e "../..[lab]"
import sys; sys.path.insert(0, "../..")"""


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


def repair_head(app, page, template, context, doctree):
    """The theme's default mode is empty, which its own script reports as an error. Thebe, which Jupyter Book loads
    unasked, declares a constant twice, and would fetch its code from outside."""
    context["default_mode"] = "auto"
    context["script_files"] = [s for s in context.get("script_files", []) if not _is_thebe(s)]
    context["css_files"] = [s for s in context.get("css_files", []) if not _is_thebe(s)]


def tidy_body(app, page, template, context, doctree):
    """What screen readers stumble over: a role that WAI-ARIA 1.2 withdrew, table heads without a word."""
    body = context.get("body", "")
    body = body.replace('role="doc-biblioentry"', 'role="listitem"')
    context["body"] = re.sub(r'<th class="([^"]*)"><p></p></th>', r'<td class="\1"></td>', body)


def name_toggles(app, page, template, context, doctree):
    """The theme's arrow that opens a part of the contents has no word for screen readers."""
    if make := context.get("generate_toctree_html"):
        named = '<summary aria-label="Pages of this part"><span class="toctree-toggle"'
        context["generate_toctree_html"] = lambda *given, **options: str(make(*given, **options)).replace(
            '<summary><span class="toctree-toggle"', named
        )


def _is_thebe(file):
    return "thebe" in f"{getattr(file, 'filename', file)} {getattr(file, 'attributes', {}).get('body', '')}".lower()


def mark_pictures(app, doctree, page):
    """Drawings turn dark with the page (site.css); a photograph turned negative would show other data."""
    for image in doctree.findall(nodes.image):
        file = pathlib.Path(app.srcdir) / image["uri"]
        if file.suffix != ".svg" or "<image" in file.read_text(encoding="utf-8"):
            image["classes"].append("picture")


def _listed(entries):
    """A list on one line; a narrow screen breaks the line between its entries."""
    return nodes.bullet_list(
        "", *(nodes.list_item("", nodes.paragraph("", "", e)) for e in entries), classes=["inline"]
    )


def _time(seconds):
    if seconds >= 100:
        return f"{seconds / 60:.1f} minutes"
    whole = max(round(seconds), 1)
    return f"{whole} second{'s' * (whole != 1)}"


def _cell(key, value):
    if key == "parameters":
        return _listed(nodes.literal(text=f"{name}={given!r}") for name, given in value)
    if key == "versions":
        return _listed(nodes.Text(f"{name} {version}") for name, version in value)
    if key == "seconds":
        return nodes.paragraph(text=_time(value))
    if key in ("command", "colab"):
        return nodes.literal_block(value, value, language={"command": "bash", "colab": "ipython3"}[key])
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
    repository = app.config.html_theme_options["repository_url"]
    chapter += run_card(card | {"colab": COLAB.format(repository=repository, folder=source.parent.name)})


def setup(app):
    app.config.mathjax_path = MATHJAX
    app.connect("doctree-read", add_run_card, priority=400)  # before the page's table of contents is read off
    app.connect("doctree-resolved", mark_pictures)
    app.connect("html-page-context", point_at_sources, priority=400)  # before the theme makes the links
    app.connect("html-page-context", repair_head, priority=900)
    app.connect("html-page-context", name_toggles, priority=900)
    app.connect("html-page-context", tidy_body)
    app.connect("build-finished", copy_mathjax)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
