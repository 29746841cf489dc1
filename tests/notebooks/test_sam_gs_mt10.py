"""The page on MT10 with made-up records in committed form: its tables of the comparison and of success."""

from functools import partial
from types import SimpleNamespace

import made_up_streams
import nbformat
import numpy as np
from made_up_mt10 import with_the_table
from notebook_tools import SOURCES

from mtl_lab.experiments import five_streams, mt10_cloning, mt10_rollouts
from mtl_lab.figures import plots
from mtl_lab.protocol import stream_verdict
from mtl_lab.statistics import paired


def test_it_shows_streams_contrasts_and_success(tmp_path, monkeypatch):
    for name, value in (("SHIFT", {"equal": -6.0}), ("ONE_TASK", {}), ("SEARCH", 0.05), ("SEED", 0.05)):
        monkeypatch.setattr(made_up_streams, name, value)
    made_up_streams.write("mt10_cloning", with_the_table(tmp_path))
    success = {row: {0: 80.0, 1: 82.0, 2: 84.0} for row in mt10_rollouts.CHOSEN} | {"scripted": {0: 98.0}}
    del success["cagrad"][2]
    shown = []
    names = {
        "profile": "small",
        "display": lambda value: shown.append(value.data),
        "Markdown": lambda text: SimpleNamespace(data=text),
        "np": np,
        "paired": paired,
        "plots": plots,
        "mt10_cloning": mt10_cloning,
        "mt10_rollouts": SimpleNamespace(**vars(mt10_rollouts) | {"shares": lambda _: success}),
        "five_streams": SimpleNamespace(unfinished=partial(five_streams.unfinished, root=tmp_path)),
        "stream_verdict": SimpleNamespace(compare=partial(stream_verdict.compare, root=tmp_path)),
    }
    cells = {cell.id: cell for cell in nbformat.read(SOURCES / "sam_gs" / "sam_gs_mt10.ipynb", 4).cells}
    for name in ("mt10-10", "mt10-12"):
        exec(cells[name].source, names)
    streams, contrasts, rates = shown
    assert streams.count("\n| ") == 8 and "| SAM-GS, reinforcement variant | " in streams
    assert "| equal lengths | +" in contrasts and contrasts.count("| better |") == 2
    for line in ("| Scripted policies | 98 |", "| SAM-GS | 82 [77, 87] |", "| CAGrad | 2 of 3 runs |"):
        assert line in rates
