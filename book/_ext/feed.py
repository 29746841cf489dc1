"""`feed.xml`: the changelog as an Atom feed, one entry a version, made when the site is built."""

import datetime
import pathlib
import posixpath
import re
import subprocess
import xml.etree.ElementTree as xml

from docutils import nodes
from markdown_it import MarkdownIt
from sphinx.addnodes import pending_xref

CHANGELOG = pathlib.Path(__file__).resolve().parents[2] / "CHANGELOG.md"
NAME = "feed.xml"
ATOM = "http://www.w3.org/2005/Atom"


def versions(text):
    """(heading, day or None, body) of each `## VERSION (DAY)`, as written; a version without a day is not released."""
    parts = re.split(r"(?m)^## (.+)\n", text)[1:]
    for heading, body in zip(parts[::2], parts[1::2], strict=True):
        day = re.search(r"\d{4}-\d\d-\d\d", heading)
        yield heading.strip(), day and day.group() + "T00:00:00Z", body.strip()


def last_change(file=CHANGELOG):
    """When the file was last committed; its own time where there is no history."""
    done = subprocess.run(["git", "-C", file.parent, "log", "-1", "--format=%cI", "--", file.name], capture_output=True)
    own = datetime.datetime.fromtimestamp(file.stat().st_mtime, datetime.UTC).isoformat(timespec="seconds")
    return done.stdout.decode().strip() or own


def feed(text, title, author, address, changed):
    """The Atom document as a string. ValueError where the changelog names no version."""
    entries = list(versions(text))
    if not entries:
        raise ValueError("CHANGELOG.md: expected a heading `## VERSION (YYYY-MM-DD)` or `## VERSION (not released)`")
    top = xml.Element("feed", xmlns=ATOM)
    for name, words in (("id", address), ("title", f"{title}: changes"), ("updated", entries[0][1] or changed)):
        xml.SubElement(top, name).text = words
    xml.SubElement(xml.SubElement(top, "author"), "name").text = author
    xml.SubElement(top, "link", rel="self", href=address + NAME)
    xml.SubElement(top, "link", rel="alternate", href=address + "changelog.html")
    for heading, day, body in entries:
        entry = xml.SubElement(top, "entry")
        for name, words in (("id", f"{address}changelog.html#{heading.split()[0]}"), ("title", f"{title} {heading}")):
            xml.SubElement(entry, name).text = words
        xml.SubElement(entry, "updated").text = day or changed
        xml.SubElement(entry, "link", rel="alternate", href=address + "changelog.html")
        xml.SubElement(entry, "content", type="html").text = MarkdownIt().render(body)
    xml.indent(top)
    return xml.tostring(top, encoding="unicode", xml_declaration=True) + "\n"


def write(app, error):
    if error is None and app.builder.name == "html":
        text = CHANGELOG.read_text(encoding="utf-8")
        made = feed(text, app.config.html_title, app.config.author, app.config.html_baseurl, last_change())
        (pathlib.Path(app.outdir) / NAME).write_text(made, encoding="utf-8")


def announce(app, page, template, context, doctree):
    link = f'<link rel="alternate" type="application/atom+xml" title="Changes" href="{context["pathto"](NAME, 1)}" />'
    context["metatags"] = context.get("metatags", "") + link


def resolve(app, doctree):
    """`[feed](feed.xml)` on any page: the file is not among the sources."""
    here = posixpath.relpath(NAME, posixpath.dirname(app.env.docname) or ".")
    for node in list(doctree.findall(pending_xref)):
        if node["reftarget"] == NAME:
            node.replace_self(nodes.reference("", "", *node.children, refuri=here, internal=True))


def setup(app):
    app.connect("doctree-read", resolve)
    app.connect("html-page-context", announce)
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
