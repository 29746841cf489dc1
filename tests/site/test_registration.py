"""A method that is registered stands in every table that compares methods; the parity table asks for its reference."""

import nbformat
import parity_table
import pytest
import torch
from IPython.display import Markdown
from notebook_tools import ROOT, SOURCES, load
from torch import nn

from mtl_core import models
from mtl_core.data.problem import classification
from mtl_core.methods import METHODS, Method
from mtl_lab.figures import plots

TITLE = "Two thirds and a third"


class Thirds(nn.Module):
    """Weights 2/3, 1/3, 1/3, …"""

    def forward(self, matrix):
        weights = matrix.new_full((len(matrix),), 1 / 3)
        weights[0] = 2 / 3
        return weights @ matrix


@pytest.fixture
def registered(monkeypatch):
    spec = Method("thirds", TITLE, "gradient aggregation", Thirds, "mean", "this test")
    monkeypatch.setitem(METHODS, spec.name, spec)


@pytest.fixture
def page(monkeypatch):
    """Execute a notebook's code cells with other parameters; its tables, the texts of each figure, its names."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    def run(name, **parameters):
        tables, drawn = [], []

        def show():
            drawn.append({text.get_text() for text in pyplot.gcf().findobj(matplotlib.text.Text)})
            pyplot.close("all")

        path = next(SOURCES.glob(f"*/{name}.ipynb"))
        monkeypatch.chdir(path.parent)
        monkeypatch.setattr(pyplot, "show", show)
        keep = lambda head, rows, align="": tables.append((head, rows)) or Markdown("")  # noqa: E731
        monkeypatch.setattr(plots, "markdown_table", keep)
        scope = {}
        for cell in nbformat.read(path, 4).cells:
            if cell.cell_type == "code":
                lines = [line for line in cell.source.splitlines() if not line.startswith("%")]
                exec("\n".join(lines), scope)
                if "parameters" in cell.metadata.get("tags", []):
                    assert set(parameters) < set(scope)
                    scope |= parameters
        return tables, drawn, scope

    return run


def holding(tables):
    return [head[0] for head, rows in tables if any(TITLE in str(cell) for row in rows for cell in row)]


def test_the_map(registered, page):
    tables, drawn, scope = page("map_of_methods", steps=30)
    assert holding(tables) == ["method"] * 2  # needs, rules
    assert any(TITLE in " ".join(text.split()) for text in drawn[0])  # one pair of gradients
    assert f"{TITLE}</label>" in scope["picture"] and 'id="path-thirds"' in scope["picture"]
    assert len(scope["known"]) == len(METHODS)


def test_what_do_they_do_differently(registered, page, capsys):
    tables, drawn, scope = page("what_do_they_do_differently", steps=2, path_steps=2, batch_size=4)
    assert holding(tables) == []
    assert [TITLE in texts for texts in drawn] == [True] * 5 + [False] + [True] * 2  # dots, trees; a few paths; ends
    assert f"two tasks: methods {len(METHODS)}, left out 0" in capsys.readouterr().out
    thirds = [one.names.index("thirds") for one in scope["found"].values()]
    lengths = [one.lengths()[0, at].item() for one, at in zip(scope["found"].values(), thirds, strict=True)]
    assert all(0.5 < length < 3 for length in lengths)


def test_the_parity_table_asks_for_a_reference(registered):
    assert parity_table.METHODS is METHODS  # which its rows go through
    with pytest.raises(KeyError, match="thirds has no reference: restate it"):
        parity_table.difference("thirds", 2)


def test_the_benchmark_of_a_step(registered):
    benchmark = load(ROOT / "benchmarks" / "step_time.py", "step_time")
    tasks = [classification("a", 3), classification("b", 3)]
    model, inputs = models.build("lenet", tasks, size=20, features=8), torch.rand(4, 1, 20, 20)
    steps = benchmark.all_steps(model, tasks, inputs)
    assert set(steps) == {*METHODS, "equal, observed", "sam_gs, clipped"} and "thirds" in steps
    steps["thirds"](inputs, (torch.tensor([0, 1, 2, 0]),) * 2)
    assert all(p.grad is not None for p in model.parameters())
