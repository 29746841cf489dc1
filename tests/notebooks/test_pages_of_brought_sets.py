"""The pages of faces, objects and house numbers on made-up roots in the true formats, at the paper's scale, one epoch.

Here one quick run a loader; every table and row runs with MTL_NIGHTLY=1, as `make nightly` sets it.
"""

import ast
import os

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from made_up_data import ROOTS
from notebook_tools import SOURCES

from mtl_core.data import CHECKS
from mtl_core.data.held import check

matplotlib.use("agg")
FACES, OBJECTS = "several/forty_attributes", "rotograd/rotograd_objects"
QUICK = [
    ("celeba", FACES, {"paper": "sam_gs", "methods": ["equal"]}),
    ("cifar10", OBJECTS, {"methods": ["equal"], "single": False}),
    ("svhn", OBJECTS, {"data": "svhn", "methods": ["equal", "rotograd"]}),
]
NIGHTLY = [
    ("celeba", FACES, {"paper": "recon", "methods": ["equal"], "single": True}),
    ("celeba", FACES, {"paper": "rotograd", "methods": ["equal", "gradnorm", "imtl_g_features", "rotograd"]}),
    ("celeba", FACES, {"paper": "rotograd-resnet18", "methods": ["equal", "graddrop"]}),
    ("celeba", FACES, {"paper": "sam_gs", "methods": ["log_sum", "famo", "aligned_mtl", "sam_gs"], "single": True}),
    ("cifar10", OBJECTS, {"methods": ["graddrop", "pcgrad", "imtl_g", "rotograd"]}),
    ("svhn", OBJECTS, {"data": "svhn", "methods": ["mgda", "gradnorm", "imtl_g_features"]}),
]


def shown(page, **given):
    """All text that the page shows where its parameters are these."""
    texts = []
    names = {"display": lambda thing: texts.append(getattr(thing, "data", ""))}
    cells = [cell for cell in nbformat.read(SOURCES / f"{page}.ipynb", 4).cells if cell.cell_type == "code"]
    for cell in [cell for cell in cells if "def step_seconds" not in cell.source]:  # times steps, and takes its time
        body = ast.parse("\n".join(line for line in cell.source.splitlines() if not line.startswith("%"))).body
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), page, "exec"), names)
        if "parameters" in cell.metadata.get("tags", []):
            assert set(given) <= set(names)
            names |= given
        if last:
            value = eval(compile(ast.Expression(last.value), page, "eval"), names)
            texts.append(getattr(value, "data", "") or "")
        plt.close("all")
    return "\n".join(texts), names


@pytest.mark.parametrize("name, page, given", QUICK + (NIGHTLY if os.environ.get("MTL_NIGHTLY") else []))
def test_a_page_runs_at_the_papers_scale(name, page, given, tmp_path, monkeypatch):
    monkeypatch.setenv("MTL_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("MTL_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setenv("TQDM_DISABLE", "1")
    ROOTS[name](tmp_path)
    check(name, CHECKS[name], tmp_path, partial=True)
    text, names = shown(page, profile="paper", epochs=1, data_root=str(tmp_path), **given)
    assert not names["stand_in"] and "substitute" not in text
    assert all(len(record["epochs"]) == 1 for row in names["live"].values() for record in row)
    problems = {record["config"]["problem"] for row in names["live"].values() for record in row}
    assert problems == {name}
    if name == "celeba":
        assert all(np.isfinite([*of.values()]).all() for of in names["here"].values()) and names["here"]
        assert ("single-task" in names["live"]) == given.get("single", False)
    else:
        assert all(np.isfinite(of).all() for row in names["here"].values() for of in row.values()) and names["here"]


def test_without_a_root_the_papers_scale_is_refused_and_nothing_stands_in(tmp_path, monkeypatch):
    monkeypatch.setenv("MTL_DATA", str(tmp_path))
    for page in (FACES, OBJECTS):
        with pytest.raises(Exception, match="no such folder"):
            shown(page, profile="paper", epochs=1)
