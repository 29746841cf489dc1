"""What a link to the book shows elsewhere: a picture with the two answers of the start page and its first figure.

`_static/share.png`, 1200 by 630, is made when the site is built; every page names it, with its
own title and first words.
"""

import html
import io
import pathlib
import textwrap

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402
from docutils import nodes  # noqa: E402
from sphinx.errors import ExtensionError  # noqa: E402

SIZE = (1200, 630)
FILE = "_static/share.png"
INK, PAPER = "#1c2024", "#ffffff"


def first_words(doctree, most=200):
    """The first paragraph of running text, cut at a word."""
    for paragraph in doctree.findall(nodes.paragraph):
        if "ten-minute-path" in paragraph["classes"]:
            continue
        if isinstance(paragraph.parent, nodes.section | nodes.document) and len(text := paragraph.astext().split()) > 5:
            return textwrap.shorten(" ".join(text), most, placeholder=" …")
    return ""


def answers(doctree):
    """The two questions with their answers, from what has the class `first-screen`."""
    found = (node for node in doctree.findall(nodes.Element) if "first-screen" in node.get("classes", ()))
    screen = next(found, None)
    texts = [] if screen is None else [" ".join(p.astext().split()) for p in screen.findall(nodes.paragraph)]
    if len(asked := [text for text in texts if "?" in text][:2]) < 2:
        raise ExtensionError("the start page has no `first-screen` with two questions and their answers")
    return asked


def picture(title, words, figure):
    """PNG bytes: the title and paragraphs of words on the left, the figure (a PNG file) on the right."""
    with plt.rc_context({"figure.constrained_layout.use": False}):
        sheet = plt.figure(figsize=(SIZE[0] / 100, SIZE[1] / 100), dpi=100, facecolor=PAPER)
        sheet.text(0.04, 0.9, textwrap.fill(title, 20), va="top", size=30, weight="bold", color=INK)
        text = "\n\n".join(textwrap.fill(paragraph, 38) for paragraph in words)
        sheet.text(0.04, 0.64, text, va="top", size=16, color=INK, linespacing=1.35)
        place = sheet.add_axes((0.46, 0.03, 0.52, 0.94))
        place.imshow(plt.imread(figure), interpolation="antialiased")
        place.axis("off")
        made = io.BytesIO()
        sheet.savefig(made, format="png", metadata={"Software": None})
        plt.close(sheet)
    return made.getvalue()


def write(app, error):
    if error is not None or app.builder.name != "html":
        return
    start = app.env.get_doctree(app.config.root_doc)
    image = next(iter(start.findall(nodes.image)), None)
    drawn = image and pathlib.Path(app.srcdir, image["uri"].lstrip("/")).with_suffix(".png")
    if drawn is None or not drawn.exists():
        raise ExtensionError(f"the first figure of {app.config.root_doc} must be drawn by book/_ext/drawn.py")
    made = picture(app.config.html_title, answers(start), drawn)
    (pathlib.Path(app.outdir) / FILE).write_bytes(made)


def tags(config, page, title):
    """What the head of a page says of its picture and title."""
    found = {
        "og:type": "article",
        "og:title": html.escape(title, quote=True),
        "og:site_name": html.escape(config.html_title, quote=True),
        "og:url": f"{config.html_baseurl}{page}.html",
        "og:image": config.html_baseurl + FILE,
        "og:image:width": str(SIZE[0]),
        "og:image:height": str(SIZE[1]),
        "og:image:alt": "The two questions of the book with their answers, beside its first figure",
    }
    lines = [f'<meta property="{name}" content="{value}" />' for name, value in found.items()]
    return [*lines, '<meta name="twitter:card" content="summary_large_image" />']


def announce(app, page, template, context, doctree):
    found = tags(app.config, page, context.get("title", ""))
    if doctree is not None and (words := first_words(doctree)):
        found.append(f'<meta property="og:description" content="{html.escape(words, quote=True)}" />')
    context["metatags"] = context.get("metatags", "") + "\n".join(found)


def setup(app):
    app.connect("html-page-context", announce)
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
