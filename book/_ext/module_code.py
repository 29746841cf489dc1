"""`{code-of} mtl_core.methods.sam_gs.SAMGS.forward`: that code as it stands in the module, with a link to its place.

The object is found by its name, so that a moved line changes nothing and a renamed object stops the build (`-W`).
Options are those of `literalinclude`.
"""

import os
import pathlib

from docutils import nodes
from sphinx.directives.code import LiteralInclude
from sphinx.pycode import ModuleAnalyzer

ROOT = pathlib.Path(__file__).resolve().parents[2]


class CodeOf(LiteralInclude):
    def run(self):
        name = self.arguments[0]
        file, thing = find(name)
        if file is None:
            return [self.state.document.reporter.warning(f"code-of: no module holds {name!r}", line=self.lineno)]
        here = pathlib.Path(self.env.doc2path(self.env.docname)).parent
        self.arguments[0] = pathlib.Path(os.path.relpath(file, here)).as_posix()
        self.options |= {"pyobject": thing} if thing else {}
        self.options.setdefault("dedent")
        self.options.setdefault("language", "python")
        found = super().run()
        if any(isinstance(node, nodes.system_message) for node in found):
            return found
        lines = ModuleAnalyzer.for_file(str(file), name).find_tags().get(thing, ("", 1, 1))
        place = file.relative_to(ROOT).as_posix()
        repository = self.config.html_theme_options.get("repository_url", "")
        address = f"{repository}/blob/main/{place}#L{lines[1]}-L{lines[2]}"
        link = nodes.reference("", f"{place}, line {lines[1]}", refuri=address)
        return [*found, nodes.paragraph("", "", link, classes=["code-of"])]


def find(name):
    """(file, name inside it) of a dotted name: the longest prefix that is a module of the project."""
    parts = name.split(".")
    for k in range(len(parts), 0, -1):
        for file in (ROOT.joinpath(*parts[:k]).with_suffix(".py"), ROOT.joinpath(*parts[:k], "__init__.py")):
            if file.is_file():
                return file, ".".join(parts[k:])
    return None, ""


def setup(app):
    app.add_directive("code-of", CodeOf)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
