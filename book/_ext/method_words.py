"""`{what-they-do}`: what methods do, half a sentence each, folded: book/papers/methods.yml.

    ```{what-they-do}
    MGDA; PCGrad; Norm-equalised sum, clipped
    ```

Names are apart by semicolons and come in the file's order; one that the file lacks stops the build (`-W`).
"""

import pathlib

import checkout  # noqa: F401 (before ledger, which needs mtl_lab)
import ledger
import yaml
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

FILE = pathlib.Path(__file__).resolve().parents[1] / "papers" / "methods.yml"


class WhatTheyDo(SphinxDirective):
    has_content = True

    def run(self):
        self.env.note_dependency(str(FILE))
        words = yaml.safe_load(FILE.read_text(encoding="utf-8"))
        asked = {name.strip() for name in " ".join(self.content).split(";")}
        if unknown := asked - set(words):
            raise self.error(f"{FILE.name} does not say what {', '.join(sorted(unknown))} does")
        shown = nodes.bullet_list()
        for name, said in words.items():
            if name in asked:
                line = nodes.paragraph("", "", nodes.strong(text=name), nodes.Text(f": {said}."))
                shown += nodes.list_item("", line)
        return [ledger.Folded("", ledger.Line("", nodes.Text("What each method does, in half a sentence")), shown)]


def setup(app):
    app.add_directive("what-they-do", WhatTheyDo)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
