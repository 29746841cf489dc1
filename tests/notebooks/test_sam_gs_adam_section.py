"""The section on Adam of SAM-GS's page: before its records and after, with made-up ones in committed form."""

from functools import partial
from types import SimpleNamespace

import made_up_streams
import nbformat
import pytest
from notebook_tools import SOURCES

from mtl_lab import records
from mtl_lab.experiments import five_streams, sam_gs_adam
from mtl_lab.figures import plots
from mtl_lab.protocol import stream_verdict


@pytest.mark.parametrize(("count", "said", "tables"), [(2, "12 of 30 runs", 0), (None, "helps at γ = 0 (", 1)])
def test_it_counts_runs_then_says_its_finding(tmp_path, monkeypatch, count, said, tables):
    (tmp_path / "multi_fashion_mnist").symlink_to(records.CHECKOUT / "results" / "multi_fashion_mnist")
    for name, value in (("SHIFT", {"gamma 0": 8.0}), ("ONE_TASK", {}), ("SEARCH", 0.2), ("SEED", 0.1)):
        monkeypatch.setattr(made_up_streams, name, value)
    made_up_streams.write("sam_gs_adam", tmp_path, count)
    shown = []
    names = {
        "display": lambda value: shown.append(value.data),
        "Markdown": lambda text: SimpleNamespace(data=text),
        "plots": plots,
        "sam_gs_adam": SimpleNamespace(**vars(sam_gs_adam) | {"finding": partial(sam_gs_adam.finding, root=tmp_path)}),
        "five_streams": SimpleNamespace(unfinished=partial(five_streams.unfinished, root=tmp_path)),
        "stream_verdict": SimpleNamespace(compare=partial(stream_verdict.compare, root=tmp_path)),
    }
    (cell,) = [
        cell for cell in nbformat.read(SOURCES / "sam_gs" / "sam_gs.ipynb", 4).cells if cell.id == "samgs-adam-1"
    ]
    exec(cell.source, names)
    assert said in shown[0] and len(shown) == 1 + tables
    assert not tables or "| momentum, γ = 0 | +2" in shown[1] and "| better |" in shown[1]
