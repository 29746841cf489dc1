"""The switch that moves where trainings begin, and the script that lists what then prints something else."""

import sys

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook, new_output
from notebook_tools import SOURCES, comparison, load, refresh

from mtl_core import models
from mtl_core.data.problem import Split, classification
from mtl_core.seeds import wobbled
from mtl_lab.landscapes import descent, rotograd_example
from mtl_lab.landscapes.problems import LANDSCAPES
from mtl_lab.runs.store import Store

TASKS = [classification("digit", 3), classification("garment", 4)]
SPLIT = Split(torch.linspace(-2, 2, 40).view(10, 4), (torch.arange(10), torch.linspace(1, 3, 10)))


def _weights(name, **options):
    return torch.cat([p.detach().flatten() for p in models.build(name, TASKS, **options).parameters()])


BEGINNINGS = {
    "weights": lambda: _weights("mlp", inputs=4, width=8),
    "weights of a ResNet": lambda: _weights("resnet18", width=4),
    "starts on a landscape": lambda: (
        descent.trajectories(LANDSCAPES["bowls"], [[1.0, 3.0], [-2.0, 0.5]], "equal", steps=0).points
    ),
    "inputs": lambda: SPLIT.batch(slice(0, 5))[0],
    "targets": lambda: SPLIT.batch(slice(0, 5))[1][1],
    "images": lambda: Split(torch.arange(1, 201, dtype=torch.uint8).view(2, 100), ()).batch(slice(None))[0],
}


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    monkeypatch.delenv("MTL_WOBBLE", raising=False)


@pytest.mark.parametrize("begin", BEGINNINGS.values(), ids=BEGINNINGS)
def test_beginnings_move_by_one_to_four_units_in_the_last_place(begin, monkeypatch):
    before = begin()
    assert torch.equal(begin(), before)
    monkeypatch.setenv("MTL_WOBBLE", "1")
    after = begin()
    unit = torch.nextafter(before.abs(), torch.tensor(torch.inf, dtype=before.dtype)) - before.abs()
    moved = ((after - before) / unit).abs()
    assert after.dtype == before.dtype and torch.equal(after[before == 0], before[before == 0])
    assert 1 <= moved[before != 0].min() < moved.max() <= 4
    monkeypatch.setenv("MTL_WOBBLE", "2")
    assert not torch.equal(begin(), after)


def test_the_illustration_moves_and_integers_stay(monkeypatch):
    def begin():
        pair = rotograd_example.PAIRS["convex"]
        found = rotograd_example.study(pair, "rotograd", seeds=[0, 1], starts=["haar"], steps=0)
        return found.z, found.rotations

    before, labels = begin(), SPLIT.batch(slice(0, 5))[1][0]
    monkeypatch.setenv("MTL_WOBBLE", "1")
    for one, other in zip(before, begin(), strict=True):
        assert not torch.equal(one, other)
        torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-13)
    assert torch.equal(SPLIT.batch(slice(0, 5))[1][0], labels)
    assert wobbled(labels) is labels


def test_moved_runs_are_kept_apart(monkeypatch, tmp_path):
    plain = Store(tmp_path).folder
    monkeypatch.setenv("MTL_WOBBLE", "1")
    assert Store(tmp_path).folder != plain


# --- the script

IMPORTS = "import torch\nfrom mtl_core.seeds import wobbled\nstart = wobbled(torch.ones(4))[0].item()\n"
ROUNDING = IMPORTS + 'print("gap")\nprint(f"{1e7 * (start - 1):.1f} of 100")'
ROBUST = IMPORTS + 'print("start")\nprint(f"{start:.3f} of 100")'


@pytest.fixture
def wobble(monkeypatch):
    monkeypatch.setitem(sys.modules, "conftest", comparison)  # the file beside the script, not that of the tests
    found = load(SOURCES / "wobble.py", "wobble_script")
    monkeypatch.setattr(found, "EXECUTIONS", {"draw 1": {"MTL_WOBBLE": "1"}})
    return found


def _notebook(path, **cells):
    """A notebook of checked cells: id -> (source, text that it printed)."""
    made = [
        new_code_cell(
            source,
            id=name,
            metadata={"tags": ["nbval-check-output"]},
            outputs=[new_output("stream", name="stdout", text=text)],
        )
        for name, (source, text) in cells.items()
    ]
    nbformat.write(new_notebook(cells=made, metadata=refresh.METADATA), path)
    return str(path)


def test_the_script_lists_what_depends_on_rounding_and_nothing_else(wobble, tmp_path, capsys):
    robust, rounding = (ROBUST, "start\n1.000 of 100\n"), (ROUNDING, "gap\n0.0 of 100\n")
    stops = ("print(1 / 0)", "1\n")
    fragile = _notebook(tmp_path / "fragile.ipynb", robust=robust, rounding=rounding, stops=stops)
    assert wobble.main([fragile]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "fragile, draw 1, rounding" and said[1] == "  - 0.0 of 100"
    assert said[2].startswith("  + ") and said[2].endswith(" of 100") and float(said[2].split()[1]) != 0
    assert said[3:5] == ["fragile, draw 1, stops", "  ! ZeroDivisionError: division by zero"]
    assert said[5:] == ["notebooks 1, executions of each 1: a cell left its tolerance 2 times"]


def test_one_line_where_every_cell_keeps_its_text(wobble, tmp_path, capsys):
    assert wobble.main([_notebook(tmp_path / "firm.ipynb", three=("print(3)", "3\n"))]) == 0
    assert capsys.readouterr().out == "notebooks 1, executions of each 1: every checked cell keeps its text\n"


def test_an_unknown_notebook(wobble, capsys):
    with pytest.raises(SystemExit):
        wobble.main(["no_such_page"])
    assert "no_such_page" in capsys.readouterr().err
