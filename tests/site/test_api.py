"""The reference has every public name of `mtl_core`, each with a docstring, and shows docstrings as they are meant."""

import importlib
import inspect
import re

import pytest
from notebook_tools import ROOT, load
from site_pages import SITE, pages  # noqa: F401 (a fixture)

import mtl_core

docstrings = load(ROOT / "book" / "_ext" / "docstrings.py", "docstrings_for_sphinx")
PAGES = {page: page.read_text(encoding="utf-8") for page in sorted((ROOT / "book" / "api").glob("*.md"))}
TEXT = "".join(PAGES.values())
ENTRIES = re.findall(r"^\.\. (?:auto(?:class|function|exception)|py:data):: (\S+)$", TEXT, re.MULTILINE)
# What the examples at the tops of the pages find there.
BEFORE = """
import torch
from mtl_core import Balancer, METHODS, RotoGrad, data, fit, methods, metrics, models, recon
from mtl_core.training import Schedule
net, J, trunk = torch.nn.Linear(3, 2), torch.eye(2, 3), torch.nn.Linear(5, 64)
losses = list(net(torch.ones(1, 3))[0])
heads = [torch.nn.Linear(64, 1) for _ in range(3)]
values, baseline, higher_is_better = {"a": 1.0}, {"a": 2.0}, {"a": False}
problem = data.load("qm9", train=300, validation=50, test=50, targets=("mu", "alpha", "HOMO"))
model = models.build("mlp", problem.tasks, inputs=74)
layers = recon.candidate_layers(model)[:1]
"""
MODULES = ("methods", "recon", "conflict", "metrics", "tasks", "training", "data", "models")
OF_IMPORTS = {"import_module", "FILES"}  # of `methods`, whose public names are what it imports


def public(name):
    """Name -> object of a module's public names: those in `__all__`, else all that it defines."""
    module = importlib.import_module(f"mtl_core.{name}")
    names = getattr(module, "__all__", None)
    if names is None:
        found = {n: thing for n, thing in vars(module).items() if not n.startswith("_") and not inspect.ismodule(thing)}
        here = {n for n, thing in found.items() if getattr(thing, "__module__", "") == module.__name__}
        names = {*found} - OF_IMPORTS if name == "methods" else here
    return {f"{module.__name__}.{n}": getattr(module, n) for n in sorted(names)}


def resolved(name):
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module(module), last)


PUBLIC = {f"mtl_core.{name}": getattr(mtl_core, name) for name in mtl_core.PUBLIC}
for _module in MODULES:
    PUBLIC |= public(_module)


def test_a_signature_is_short_and_shows_its_defaults():
    from mtl_core.tasks import Task

    shown = "(loss: ~a.b.Callable[[~torch.Tensor], int], metrics: ~a.Map = <factory>, labels=<built-in function len>)"
    assert docstrings.short(Task, shown) == "(loss: Callable[[Tensor], int], metrics: Map = {}, labels=len)"


def test_every_public_name_has_an_entry():
    listed = [resolved(name) for name in ENTRIES]
    assert len(PUBLIC) > 40
    assert [name for name, thing in PUBLIC.items() if not any(thing is other for other in listed)] == []
    assert len(set(ENTRIES)) == len(ENTRIES)


@pytest.mark.parametrize("name", [name for name, thing in PUBLIC.items() if callable(thing)])
def test_every_public_name_has_a_docstring(name):
    thing = PUBLIC[name]
    assert thing.__doc__ and not thing.__doc__.startswith(f"{thing.__name__}("), "a dataclass's own is its signature"


def test_members_that_the_page_lists_have_docstrings():
    for name, members in re.findall(r":: (\S+)\n    :members: (.+)", TEXT):
        for member in members.split(", "):
            assert inspect.getdoc(getattr(resolved(name), member)), f"{name}.{member}"


def test_marks_and_aligned_blocks():
    lines = [
        "Takes $x_1$ of `a_b` *at once*, f(*x) | y_.",
        "",
        "one, two  what it is,",
        "          and more.",
        "last  b",
    ]
    assert docstrings.restructured(lines) == [
        "Takes \\ :math:`x_1`\\  of \\ ``a_b``\\  *at once*, f(\\*x) \\| y\\_.",
        "",
        "``one, two``",
        "    what it is,",
        "    and more.",
        "",
        "``last``",
        "    b",
        "",
    ]
    shown = docstrings.restructured(["Before", "", "$$a", "= b$$", "", "after  no entry here", "as it goes on."])
    assert shown[:7] == ["Before", "", "", ".. math::", "", "    a", "    = b"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_two_lines_at_the_top_of_a_page_run(page):
    block = re.search(r"(?ms)^```python\n(.*?)^```", PAGES[page])[1]
    assert len(block.splitlines()) == 2
    names = {}
    exec(BEFORE, names)
    exec(block, names)
    for line in re.findall(r"# (from mtl_core.*)", block):
        exec(line, names)
    if page.stem == "methods":
        assert names["update"].shape == (3,)
    if page.stem == "training":
        assert names["gain"] == 50 and len(names["history"].epochs) == 10


def test_a_sentence_of_a_docstring():
    said = docstrings.sentence("Takes `x` and\n  $y$: the sum. More.\n\nrest")
    assert said == "Takes `x` and $y$."
    assert docstrings.sentence("One.\n\nx  what it is: y") == docstrings.sentence("One\nx  what it is") == "One."
    assert [type(node).__name__ for node in docstrings.marked(said)] == ["Text", "literal", "Text", "math", "Text"]


def test_the_built_pages_have_them(pages):  # noqa: F811
    ids = set()
    for page in PAGES:
        found = pages[SITE / "api" / f"{page.stem}.html"]
        assert not [text for text in found.text if "`" in text or ":math:" in text]
        ids |= found.ids
    assert {*ENTRIES} <= ids


def test_the_entrance_leads_to_each_name_and_keeps_its_old_address(pages):  # noqa: F811
    entrance = pages[SITE / "api.html"]
    for page in PAGES:
        own = [name for name in pages[SITE / "api" / f"{page.stem}.html"].ids if name.startswith("mtl_core.")]
        assert own and {*own} <= entrance.ids, "members too"
        for name in {*own} & {*ENTRIES}:
            assert f"api/{page.stem}.html#{name}" in entrance.links
    assert {"mtl-core-methods", "mtl-core-data", "mtl-core"} <= entrance.ids
    assert not [text for text in entrance.text if "`" in text or "$" in text]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_built_signatures_have_no_object_in_angle_brackets(page, pages):  # noqa: F811
    text = (SITE / "api" / f"{page.stem}.html").read_text(encoding="utf-8")
    signatures = re.findall(r'<dt class="sig.*?</dt>', text, re.DOTALL)
    assert signatures and [one for one in signatures if "~" in one or "&lt;" in one] == []
