"""The reference has every public name of `mtl_core`, each with a docstring, and shows docstrings as they are meant."""

import importlib
import inspect
import re

import pytest
from notebook_tools import ROOT, load
from site_pages import SITE, pages  # noqa: F401 (a fixture)

import mtl_core

docstrings = load(ROOT / "book" / "_ext" / "docstrings.py", "docstrings_for_sphinx")
PAGE = (ROOT / "book" / "api.md").read_text(encoding="utf-8")
ENTRIES = re.findall(r"^\.\. (?:auto(?:class|function|exception)|py:data):: (\S+)$", PAGE, re.MULTILINE)
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
    for name, members in re.findall(r":: (\S+)\n    :members: (.+)", PAGE):
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


def test_the_built_page_has_them(pages):  # noqa: F811
    page = pages[SITE / "api.html"]
    assert {*ENTRIES} <= page.ids
    assert not [text for text in page.text if "`" in text or ":math:" in text]
