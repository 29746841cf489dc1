"""`{support}`: what works with what, a table made from marks on the tests that show it.

    @pytest.mark.supports("GradScaler", "yes")
    @pytest.mark.supports("sparse gradients", "refused", "make them dense")  # the third word: a remedy, or a remark
    @pytest.mark.supports("a GPU (CUDA)", "yes", device="cuda")  # the test runs where there is such a device

The lines of the directive are the features, in order. One without a mark is "not tested here"; a mark whose feature no
directive of the page lists stops the build (`-W`). Tests are read, not imported.
"""

import ast
import pathlib
import re
from typing import NamedTuple

from docutils import nodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

ROOT = pathlib.Path(__file__).resolve().parents[2]
CODE = re.compile(r"([\w.]+\([\w=, ]*\)|\w+(?:\.\w+)+(?: = \w+)?|\w+=(?:\[[\w.]+\]|\w*)|\w+_\w+)")
log = logging.getLogger(__name__)


class Mark(NamedTuple):
    feature: str
    outcome: str
    remark: str
    device: str
    test: str
    place: str  # file, and the line of the test


def marks(folder=ROOT / "tests" / "core"):
    """The marks on the tests of a folder."""
    found = []
    for file in sorted(folder.glob("test_*.py")):
        for test in ast.parse(file.read_text(encoding="utf-8")).body:
            for call in getattr(test, "decorator_list", []):
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.supports":
                    given = [ast.literal_eval(value) for value in call.args]
                    more = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
                    place = f"{file.relative_to(folder.parents[1]).as_posix()}#L{test.lineno}"
                    found.append(Mark(*given, *[""] * (3 - len(given)), more.get("device", ""), test.name, place))
    return found


def named(mark):
    """The test's name in words, without the number of the promise that it belongs to."""
    return re.sub(r"^test_(\d+\w?_)?", "", mark.test).replace("_", " ")


def there(device):
    """Whether the machine that builds the page has this device, so that the tests on it run."""
    import torch

    return {"": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[device]


TINTED = ("refused", "not-tested-here")  # words of an answer -> class of its cell (site.css)


def answer(found):
    """The words for the marks of one feature."""
    if not found:
        return "not tested here"
    if len({mark[:3] for mark in found}) > 1:
        raise ValueError(f"the marks of {found[0].feature!r} do not agree: {[mark.test for mark in found]}")
    mark = found[0]
    if not there(mark.device):
        return "has a test; not run on the machine that made this page"
    return f"{mark.outcome}; {mark.remark}" if mark.remark else mark.outcome


def marked(text):
    """Nodes of a cell: what is code looks like it, and a narrow column breaks it after its marks alone."""
    for place, part in enumerate(CODE.split(text)):
        if place % 2 == 0:
            yield nodes.Text(part)
            continue
        code = nodes.literal(classes=["breaks"])
        for k, piece in enumerate(re.findall(r"[^.(=_]*[.(=_]?", part)[:-1]):
            code += [nodes.raw("", "<wbr>", format="html")] * (k > 0)
            code += nodes.Text(piece)
        yield code


class Support(SphinxDirective):
    has_content = True

    def run(self):
        if not hasattr(self.env, "support_listed"):
            self.env.support_listed = {}
        listed = self.env.support_listed.setdefault(self.env.docname, set())
        listed |= {*self.content}
        every, body = marks(), nodes.tbody()
        for file in (ROOT / "tests" / "core").glob("test_*.py"):
            self.env.note_dependency(str(file))
        repository = self.config.html_theme_options.get("repository_url", "")
        for feature in self.content:
            found = [mark for mark in every if mark.feature == feature]
            shown = nodes.paragraph()
            for mark in found:
                shown += [nodes.Text(", ")] if len(shown) else []
                words = named(mark)
                shown += nodes.reference("", words, refuri=f"{repository}/blob/main/{mark.place}")
            cells = *(nodes.paragraph("", "", *marked(text)) for text in (feature, answer(found))), shown
            entries = [nodes.entry("", cell) for cell in cells]
            entries[1]["classes"] += [word for word in TINTED if answer(found).startswith(word.replace("-", " "))]
            body += nodes.row("", *entries)
        group, head = nodes.tgroup(cols=3), nodes.thead()
        titles = ("with", "works?", "the test that shows it")
        head += nodes.row("", *(nodes.entry("", nodes.paragraph(text=title)) for title in titles))
        group += [*(nodes.colspec(colwidth=width) for width in (35, 35, 30)), head, body]
        return [nodes.table("", group, classes=["support"])]


def unlisted(app, env):
    """Marks that no page shows."""
    shown = set().union(*getattr(env, "support_listed", {}).values())
    for mark in marks() if shown else ():
        if mark.feature not in shown:
            log.warning("support: %s has a mark for %r, which no page lists", mark.place, mark.feature)


def setup(app):
    app.add_directive("support", Support)
    app.connect("env-check-consistency", unlisted)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
