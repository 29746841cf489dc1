"""What the tests of notebooks share: modules of notebooks/ (it is no package) and a small notebook."""

import importlib.util
import pathlib
import sys

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = pathlib.Path(__file__).resolve().parents[1]
SOURCES = ROOT / "notebooks"


def load(path, name):
    """A module from a file that is in no package; its siblings can be imported by name."""
    sys.path.insert(0, str(path.parent))
    try:
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(path.parent))


comparison = load(SOURCES / "conftest.py", "nbval_comparison")
parameters = load(SOURCES / "parameters.py", "notebook_parameters")
page = load(SOURCES / "page.py", "notebook_page")
refresh = load(ROOT / "tests" / "refresh_notebooks.py", "refresh_notebooks")

CELL = """methods: list[str] = ["equal", "mgda"]  # methods to compare
seeds: int = 1  # how many
rate: float = 0.1  # "=" and # inside
title: str = "a = b # c"  # shown above
fresh: bool = False  # train again
limit: int | None = None
epochs: int = None"""


def notebook(path, cell=CELL, work="print(3 * seeds)"):
    cells = [
        new_markdown_cell("# A page\n\nSee [rerun](../../book/rerun.md).", id="top"),
        new_code_cell(cell, id="parameters", metadata={"tags": ["parameters"]}),
        new_code_cell(work, id="work"),
    ]
    nbformat.write(new_notebook(cells=cells, metadata=refresh.METADATA), path)
    return path
