"""What each page ends with: a panel that builds the command for other values, its source, how to cite and dispute it.

Without scripts the panel shows the command with the page's own values; book/_static/page_end.js makes it a form.
"""

import html
import json
import pathlib
import re
import sys

import checkout
import ledger
from docutils import nodes
from sphinx.errors import ExtensionError

import mtl_core
from mtl_lab.claims import verdicts

ROOT = pathlib.Path(checkout.ROOT)
sys.path.insert(0, str(ROOT / "notebooks"))
import page as run_card  # noqa: E402 (notebooks/page.py)
import parameters  # noqa: E402

HEADING = "Rerun this page with other values"
ASIDE = {"genindex", "search"}


def rules(parameter):
    """What a value of the parameter must be, for the script: the statements of its help that `make run` enforces."""
    stated = parameter.help
    found = {"ranges": [[words, low, high if high < 1e300 else None, e] for words, low, high, e in
                        parameters.ranges(stated)]}  # fmt: skip
    if choice := re.search(parameters.CHOICE, stated):
        found["one of"] = choice[1].split(", ")
    if shape := re.search(parameters.SHAPE, stated):
        found["shape"] = [int(size) for size in shape.groups() if size]
    if count := re.search(parameters.COUNT, stated):
        found["or more"] = [int(count[1]), parameter.default]
    return found


def panel(page, known):
    """HTML of the panel for the notebook `page` with the parameters `known`."""
    lines = []
    for item in known.values():
        name, default = html.escape(item.name), html.escape(repr(item.default), quote=True)
        about, rule = html.escape(item.help), html.escape(json.dumps(rules(item)), quote=True)
        allowed = (
            rules(item).get("one of") if item.kind == "str" else ["True", "False"] if item.kind == "bool" else None
        )
        common = f'id="value-{name}" name="{name}" data-kind="{html.escape(item.kind)}" data-default="{default}"'
        common += f' data-rules="{rule}" aria-describedby="about-{name}"'
        if allowed:
            own = "".join(f"<option{' selected' * (o == str(item.default))}>{html.escape(o)}</option>" for o in allowed)
            field = f"<select {common}>{own}</select>"
        else:
            shown = html.escape(item.default if isinstance(item.default, str) else repr(item.default), quote=True)
            field = f'<input type="text" autocomplete="off" spellcheck="false" value="{shown}" {common}>'
        lines.append(
            f'<div class="value"><label for="value-{name}"><code>{name}</code></label>{field}'
            f'<span class="about" id="about-{name}"><i>{html.escape(item.kind)}</i>{": " * bool(about)}{about}'
            f'<span class="wrong"></span></span></div>'
        )
    command = html.escape(run_card.command(page, ""))
    return (
        f'<form class="rerun-panel" data-page="{html.escape(page)}"><div class="values" hidden>{"".join(lines)}</div>'
        f'<p class="command"><code id="rerun-command">{command}</code>'
        f'<button type="button" data-copy="rerun-command" hidden>Copy</button></p>'
        f'<p class="said" role="status"></p></form>'
    )


def rerun(page, known):
    section = nodes.section(ids=["rerun-this-page"], names=["rerun this page"], classes=["rerun"])
    section += nodes.title(text=HEADING)
    section += nodes.paragraph(
        text="In a copy of the repository, this command executes the page anew, on your machine."
    )
    section += nodes.raw("", panel(page, known), format="html")
    return section


def bibtex(title, address, config):
    """A BibTeX entry for one page."""
    key = re.sub(r"[^a-z0-9]+", "_", title.lower()).strip("_")
    marked = re.sub(r"([&%$#_])", r"\\\1", title)
    fields = {
        "title": f"{{{marked}}}",
        "author": f"{{{config.author}}}",
        "booktitle": config.html_title,
        "year": re.search(r"\d{4}", config.copyright)[0],
        "note": f"Version {mtl_core.__version__}",
        "url": address,
    }
    body = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
    return f"@misc{{conflicting_gradients_{key},\n{body}\n}}"


def commit(paper):
    return ledger.last_commit(verdicts.ROOT / f"{paper}.yml")


def end(title, name, source, claims, config):
    """The last lines of a page, as HTML: its source, its BibTeX entry, and a link for each verdict that it shows."""
    repository = config.html_theme_options.get("repository_url", "")
    entry = html.escape(bibtex(title, f"{config.html_baseurl}{name}.html", config))
    text = (
        f'<div class="page-end"><p><a href="{repository}/blob/main/{source}">Source of this page</a></p>'
        f'<details class="cite"><summary>Cite this page</summary><div class="entry"><code id="bibtex">{entry}</code>'
        f'<button type="button" data-copy="bibtex" hidden>Copy</button></div></details>'
    )
    if claims:
        links = (
            f'<a href="{html.escape(ledger.dispute(repository, claim, commit(paper)))}">{html.escape(claim)}</a>'
            for paper, claim in claims
        )
        text += f"<details><summary>Dispute a verdict of this page</summary><p>{', '.join(links)}</p></details>"
    return nodes.raw("", text + "</div>", format="html")


def read(app, doctree):
    name = app.env.docname
    file = pathlib.Path(app.env.doc2path(name))
    chapter = next(iter(doctree.findall(nodes.section)), None)
    if chapter is None:
        raise ExtensionError(f"{file.name} has no heading, so nothing that a citation could name")
    source = f"{file.relative_to(app.srcdir).as_posix()}" if name.startswith("notebooks/") else f"book/{name}.md"
    if file.suffix == ".ipynb":
        known = parameters.parse(ROOT / source)
        chapter += rerun(file.stem, known)
    boxes = doctree.findall(lambda node: isinstance(node, nodes.inline) and "claim" in node)
    claims = list(dict.fromkeys((box["paper"], box["claim"]) for box in boxes))
    chapter += end(next(iter(chapter.findall(nodes.title))).astext(), name, source, claims, app.config)


def setup(app):
    app.connect("doctree-read", read, priority=410)  # after the run card, before the page's table of contents
    return {"parallel_read_safe": True, "parallel_write_safe": True}
