"""The ten-minute path: five pages that answer the book's two questions. `PATH` is the only list of them.

Each of them has a bar under its title and one where its text ends, which say where it is and link what comes next.

    ```{ten-minute-path}            the five as a list of links, on the front page
    ```
"""

from docutils import nodes
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective

NAME = "Ten-minute path"
PATH = {  # page -> what it answers, in a few words
    "notebooks/ideas/multi_task_learning_in_a_page": "what multi-task learning is",
    "notebooks/ideas/what_is_a_conflict": "what a conflict is",
    "playground": "see it move",
    "notebooks/ideas/does_conflict_predict_harm": "does conflict predict harm?",
    "ledger": "the verdicts",
}


def link(here, there, text):
    """A link between two pages, which Sphinx resolves or warns of."""
    where = {"refdoc": here, "refdomain": "std", "reftype": "doc", "refexplicit": True, "refwarn": True}
    return addnodes.pending_xref("", nodes.inline(text=text), reftarget=f"/{there}", **where)


def bar(page):
    """The bar of a page of the path."""
    pages = list(PATH)
    step = pages.index(page)
    line = nodes.paragraph(classes=["ten-minute-path"])
    line += nodes.Text(f"{NAME}: {step + 1} of {len(pages)} · ")
    if step + 1 < len(pages):
        line += [nodes.Text("next: "), link(page, pages[step + 1], PATH[pages[step + 1]])]
    else:
        line += [nodes.Text("its end: "), link(page, "practitioners", "what to try first on your own tasks")]
    return line


def mark(app, doctree):
    """A bar under the title, and one where the page's own text ends: before what each executed page ends with."""
    if (page := app.env.docname) not in PATH:
        return
    chapter = next(doctree.findall(nodes.section))
    chapter.insert(1, bar(page))
    made = (child for child in chapter.children if {"run-card", "rerun"} & set(child.get("classes", ())))
    end = next(made, None)
    chapter.insert(len(chapter) if end is None else chapter.index(end), bar(page))


class Path(SphinxDirective):
    def run(self):
        items = [nodes.paragraph("", "", link(self.env.docname, page, text)) for page, text in PATH.items()]
        steps = nodes.enumerated_list("", *(nodes.list_item("", item) for item in items), enumtype="arabic", prefix="",
                                      suffix=".")  # fmt: skip
        return [nodes.container("", nodes.paragraph(text=f"{NAME}:"), steps, classes=["ten-minutes"])]


def setup(app):
    app.add_directive("ten-minute-path", Path)
    app.connect("doctree-read", mark, priority=405)  # after the run card, before the end of the page
    return {"parallel_read_safe": True, "parallel_write_safe": True}
