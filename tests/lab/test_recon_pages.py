"""The pages of Recon's table, parts and ablations: without a record, with some, and with all of them, made up."""

import ast

import matplotlib
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import test_recon_ablations
import test_recon_table1
from notebook_tools import SOURCES

from mtl_lab import records
from mtl_lab.experiments.recon_ablations import ReconAblations
from mtl_lab.experiments.recon_parts import ReconParts
from mtl_lab.experiments.recon_table1 import ReconTable1

matplotlib.use("agg")
PAGES = {
    "recon_table1": "recon_table_1",
    "recon_parts": "what_the_gain_consists_of",
    "recon_ablations": "recon_ablations",
}


@pytest.fixture
def shown(monkeypatch):
    """Function of an experiment and its records: all text of its page, and the marks of each of its figures."""

    def shown(name, made):
        load, names, texts, marks = records.load, {}, [], []
        plt.close("all")  # of tests before
        monkeypatch.setattr(records, "load", lambda of, *more, **rest: made if of == name else load(of, *more, **rest))
        page = SOURCES / "recon" / f"{PAGES[name]}.ipynb"
        for cell in [cell for cell in nbformat.read(page, 4).cells if cell.cell_type == "code"]:
            source = "\n".join(line for line in cell.source.splitlines() if not line.startswith("%"))
            body = ast.parse(source).body
            last = body.pop() if isinstance(body[-1], ast.Expr) else None
            exec(compile(ast.Module(body, []), page.name, "exec"), names)
            value = eval(compile(ast.Expression(last.value), page.name, "eval"), names) if last else None
            texts.append(getattr(value, "data", "") or "")
            marks += [sum(len(axis.lines) for axis in plt.figure(number).axes) for number in plt.get_fignums()]
            plt.close("all")
        monkeypatch.setattr(records, "load", load)
        return texts, marks

    return shown


def accuracy(of):
    """A function of row and run: 85 plus what the row has, with noise that its seed has in every row, and a little."""

    def value(row, run):
        own = np.random.default_rng([run.seed, sum(map(ord, row))]).standard_normal()
        return 85 + of(row) + np.random.default_rng(run.seed).standard_normal() + 0.02 * own

    return value


def complete(name, of):
    value = accuracy(of)
    if name == "recon_ablations":
        made = test_recon_ablations.filled(value)
    else:
        made = test_recon_table1.filled({"recon_table1": ReconTable1, "recon_parts": ReconParts}[name](), value)
    sizes = {r["identity"]: 1000 + 10 * len(r["config"]["split"]) for r in made}
    return [r | {"parameters": {"all": sizes[r["identity"]]}} for r in made]


def test_the_leads_say_what_is_printed(shown):
    (table, _), (ablations, _) = (shown(name, []) for name in ("recon_table1", "recon_ablations"))
    assert table[1].startswith("**As printed, yes, but MMoE by only 0.08, less than we count. ")
    assert ablations[1].startswith("**As printed, yes: all 8 other choices do worse, by 0.3 to 15 points of accuracy. ")
    plan = ReconAblations().plan(complete("recon_ablations", lambda row: 0.0))
    assert f" 0 of {sum(map(len, plan.values()))} runs.**" in ablations[1], "as many as the whole plan has"


@pytest.mark.parametrize("name", PAGES)
def test_without_records_a_page_counts_and_claims_nothing(name, shown):
    texts, marks = shown(name, [])
    whole = "\n".join(texts)
    state = "**Not known yet: 0 of " if name == "recon_parts" else "Not checked yet: 0 of "
    assert state in texts[1] and whole.count(" 0 of ") == 1, "one count of runs"
    assert len(marks) == 1 and all(marks), "one figure; one without anything in it is left out"
    assert "0 of 5 |" not in whole and "no verdict yet" not in whole, "columns that wait for runs are left out"
    assert "no results yet" in whole and "consistent at this scale" not in whole and "better" not in whole


def test_the_table_with_all_records(shown):
    gain = {"released": 2.0, "ours": 1.0}
    made = complete("recon_table1", lambda row: next((x for n, x in gain.items() if row.endswith(n)), 0.0))
    texts, marks = shown("recon_table1", made)
    whole = "\n".join(texts)
    assert "released layers improves every method; the weakest case is" in texts[1] and "| 0 of" not in whole
    line = next(line for line in whole.splitlines() if line.startswith("| PCGrad + Recon |"))
    mean = np.mean([r["final"]["test"]["digit"]["accuracy"] for r in made if r["row"] == "pcgrad + released"])
    assert f"| {mean:.2f} [" in line and "n 5" in line and "better, +2." in line
    assert whole.count("n 10") > 8 and "| Recon also improves the network that a branched" in whole
    assert len([line for line in whole.splitlines() if "consistent at this scale" in line]) >= 3
    assert marks[0] > shown("recon_table1", [])[1][0] + 20
    part = [r for r in made if r["row"] != "mgda + released"]
    texts, _ = shown("recon_table1", part)
    assert "Preliminary: 135 of 140" in texts[1] and "needs runs: 75 of 80" in "\n".join(texts)
    assert "| 0 of 5 |" in next(line for line in "\n".join(texts).splitlines() if line.startswith("| MGDA + Recon |"))
    made = complete("recon_table1", lambda row: 2.0 if row.endswith("released") and "mgda" not in row else 0.0)
    assert "is not shown to improve every method; the weakest case is MGDA" in shown("recon_table1", made)[0][1]


def test_the_parts_with_all_records(shown):
    truth = {"norm and conv, λ 0": 2.0, "worst five": 1.0, "PCGrad on 25": 1.0}
    texts, _ = shown("recon_parts", complete("recon_parts", lambda row: truth.get(row, 0.0)))
    assert texts[1].startswith("**Answer.** What survives is conflict") and "consistent at this scale" in texts[4]
    assert "| separation | +2." in texts[5] and "It is the conflict." in texts[6]
    truth["worst five"] = 0.0
    texts, marks = shown("recon_parts", complete("recon_parts", lambda row: truth.get(row, 0.0)))
    assert "separating the tasks, not shown to matter more where" in texts[1] and len(marks) == 2 and min(marks) > 10


def test_the_drawing_of_the_design_has_what_the_runs_have(shown, monkeypatch):
    """Its dots are filled by the networks that are planned: all but one part of Recon's in the network of its size."""
    figures = []
    monkeypatch.setattr(plt, "show", lambda: figures.append(plt.gcf()))
    shown("recon_parts", [])
    dots = [line for line in figures[0].axes[0].lines if line.get_marker() == "o"]
    filled = [line.get_markerfacecolor() != "white" for line in dots]
    rows = ["".join("x" if one else "." for one in filled[start : start + 4]) for start in range(0, len(filled), 4)]
    assert rows == ["xxxx", "xxx.", "....", "x.xx", "x.x.", ".xxx", ".xx."], "norms, convolutions, passes, apart"


def test_the_ablations_with_all_records(shown):
    lost = {"RSL 0": 2.0, "RSP 2": 2.0, "RSL 0, released skip": 5.0}
    made = complete("recon_ablations", lambda row: -lost.get(row, 0.0))
    texts, _ = shown("recon_ablations", made)
    whole = "\n".join(texts)
    assert "Of the paper's 6 random sets, **2** are worse" in texts[1]
    (line,) = (line for line in whole.splitlines() if line.startswith("| random, equal count, 1, released skip |"))
    assert "+5." in line and ": better" in line
    assert (
        "| MGDA | 7.80 | 20.0 | 79.62 | 80.0 | 60.0 |" in whole
        and "| 14 | MGDA – GradDrop | 1.56 | 0.05, one run |" in whole
    )
    assert "3000 ms, 1.00 times Joint" in whole and "needs runs" not in whole
