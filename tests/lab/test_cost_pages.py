"""The pages on peers, cost and machines: without a record, and with all of them, made up."""

import ast
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import pytest
from notebook_tools import SOURCES
from test_below_the_floor import made_up as runs
from test_bench import made_up as forms

from mtl_lab import records
from mtl_lab.experiments import below_the_floor, bench

matplotlib.use("agg")


@pytest.fixture
def shown(monkeypatch):
    """Function of a page: the texts that its cells show, and how many lines its figures hold."""

    def shown(page):
        names, texts, marks, file = {}, [], 0, SOURCES / f"{page}.ipynb"
        monkeypatch.chdir(file.parent)
        for cell in [cell for cell in nbformat.read(file, 4).cells if cell.cell_type == "code"]:
            body = ast.parse("\n".join(line for line in cell.source.splitlines() if not line.startswith("%"))).body
            last = body.pop() if isinstance(body[-1], ast.Expr) else None
            exec(compile(ast.Module(body, []), page, "exec"), names)
            value = eval(compile(ast.Expression(last.value), page, "eval"), names) if last else None
            texts.append(getattr(value, "data", "") or "")
            marks += sum(len(axis.lines) for number in plt.get_fignums() for axis in plt.figure(number).axes)
            plt.close("all")
        return texts, marks

    return shown


def recorded(ours=1.0):
    """Case -> form -> record, of every case; the floor is longer with each."""
    found = {}
    for number, case in enumerate(bench.CASES):
        made = forms(ours=ours, floor=0.01 * 2**number)
        made["joint"] = forms(ours=0.5 / (1 + number / 10), floor=0.01 * 2**number)["ours: PCGrad"]
        made["ours, features: PCGrad"] = forms(ours=0.6, floor=0.01 * 2**number)["ours: PCGrad"]
        for of in made.values():
            setting = {"title": f"network {case}", "tasks": 2 + number, "parameters": 100 * 4**number}
            of.update(setting=setting, synchronisations=None, peak_bytes=2e7)
        found[case] = made | {"LibMTL: PCGrad": {"error": "AttributeError: no | data"}}
    return found


def test_peers(shown, monkeypatch):
    monkeypatch.setattr(bench, "load", lambda profile: {})
    texts, marks = shown("methods/beside_its_peers")
    assert f"0 of {len(bench.CASES)} cases" in texts[1] and "none yet" in "".join(texts)
    assert "No case with its memory is recorded yet" in "".join(texts)
    monkeypatch.setattr(bench, "load", lambda profile: recorded())
    texts, more = shown("methods/beside_its_peers")
    assert "**No: none of" in texts[1] and "In 0 it is faster" in texts[1] and more > marks
    assert f"LibMTL: PCGrad did not run in {len(bench.CASES)} of {len(bench.CASES)} cases" in "".join(texts)
    assert "AttributeError: no / data" in "".join(texts)
    assert "needs 1.0 times the memory of a step here" in "".join(texts) and "the host waits" not in "".join(texts)
    on_gpu = recorded()
    for forms_of in on_gpu.values():
        forms_of["ours: PCGrad"] |= {"synchronisations": 3, "peak_bytes": 1e7}
    monkeypatch.setattr(bench, "load", lambda profile: on_gpu)
    said = "".join(shown("methods/beside_its_peers")[0])
    assert "needs 2.0 times the memory of a step here" in said and "here: the host waits 3 times for the GPU" in said
    monkeypatch.setattr(bench, "load", lambda profile: recorded(ours=1.2))
    said = shown("methods/beside_its_peers")[0][1]
    assert (
        f"**Yes, in {len(bench.CASES)} of {len(bench.CASES)} comparisons" in said
        and "They are on (orange in the figure): network narrow8;" in said
    )
    wide = recorded(ours=1.2)
    for of in wide.values():  # rounds that differ: a median above the limit decides nothing
        of["ours: PCGrad"]["ratios"] = [x * (0.7 if k < 3 else 1) for k, x in enumerate(of["ours: PCGrad"]["ratios"])]
    monkeypatch.setattr(bench, "load", lambda profile: wide)
    said = shown("methods/beside_its_peers")[0][1]
    assert "**No:" in said and "For network narrow8" in said and "the rounds differ too much to tell" in said
    monkeypatch.setattr(bench, "load", lambda profile: recorded(ours=0.8))
    said = shown("methods/beside_its_peers")[0][1]
    assert "**No:" in said and f"In {len(bench.CASES)} it is faster" in said


def test_cost(shown, monkeypatch, tmp_path):
    found, of = {}, records.by_row
    monkeypatch.setattr(
        records, "by_row", lambda name, *more: found if name == below_the_floor.NAME else of(name, *more)
    )
    monkeypatch.setattr(bench, "load", lambda profile: {})
    texts, none = shown("methods/what_does_a_method_cost")
    assert "No step is timed yet" in texts[1] and "0 of 75 whole runs" in texts[1]
    monkeypatch.setattr(bench, "load", lambda profile: recorded())
    texts, marks = shown("methods/what_does_a_method_cost")
    assert (
        "PCGrad takes 2.0 to 4 times as long as a joint step" in texts[1]
        and "PCGrad takes at most 1.00 times as long" in texts[1]
    )
    assert "at the trunk's output alone it takes 1.2 to 2.4 joint steps" in texts[1]
    assert "0 of 75 whole runs" in texts[1] and "not known yet" in "".join(texts[2:]) and marks > none
    assert "within" in "".join(texts) and "joint steps; what the rules" in "".join(texts)
    costs = {row: 20.0 for row in below_the_floor.ROWS} | {"joint": 10.0, "pcgrad, every 16": 12.0}
    train = runs(costs, {"aligned_mtl, features": 9.0})
    for stream in range(below_the_floor.STREAMS):
        for _ in range(2):
            for name, (row, run) in below_the_floor.planned("small", stream, found).items():
                found[name] = {"of": row, "test": None, **train(row, run)}
    texts, more = shown("methods/what_does_a_method_cost")
    assert "**As good and cheap: pcgrad, every 16.** Of 12 forms that we tried on molecules" in texts[1]
    assert "worse" in "".join(texts) and more > marks


def test_machines(shown, monkeypatch):
    monkeypatch.setattr(bench, "load", lambda profile: {})
    texts, marks = shown("build_on/more_than_one_machine")
    assert "**100 jobs finish the largest table in days instead of months" in texts[1] and marks >= 3
    assert f"has timed 0 of its {len(bench.CASES)} cases" in "".join(texts)
    assert Path(SOURCES.parent, "examples", "slurm.py").read_text().splitlines()[0] in "".join(texts)
    monkeypatch.setattr(bench, "load", lambda profile: recorded())
    assert "has timed 0 of" not in "".join(shown("build_on/more_than_one_machine")[0])
