"""The grids behind `does_conflict_predict_harm`: what they contain, and that they train."""

import json
from dataclasses import asdict, replace

import pytest

from mtl_lab import completion, experiments, records
from mtl_lab.experiments.conflict_dose import DOSES, ConflictDose
from mtl_lab.experiments.recon_exchange import ReconExchange
from mtl_lab.experiments.task_pairs import TaskPairs
from mtl_lab.protocol import committed
from mtl_lab.runs import execute, store


def test_pairs_of_targets_differ_in_nothing_but_their_tasks():
    rows = TaskPairs("tiny", seeds=2).plan()
    alone = [name for name in rows if name.startswith("alone")]
    assert len(alone) == 11 and len(rows) == 11 + 55
    assert all([run.seed for run in runs] == [0, 1] for runs in rows.values())
    assert {tuple(runs[0].tasks) for runs in rows.values()} == {(i,) for i in range(11)} | {
        (i, j) for i in range(11) for j in range(i + 1, 11)
    }
    (same,) = {replace(runs[0], tasks=None, observe=None).identity for runs in rows.values()}
    assert rows["alone mu"][0].observe is None and rows["mu + alpha"][0].observe["every"] == 5
    assert same == replace(rows["alone mu"][0], tasks=None).identity


def test_doses_change_overlap_or_network_and_train_each_task_alone(monkeypatch):
    monkeypatch.setattr("mtl_lab.protocol.committed.search_of", lambda *_: None)
    rows = ConflictDose("tiny", seeds=1).plan()
    assert len(rows) == 3 * len(DOSES) == 36
    narrow = {label: rows[f"{label}, offset 0, width 4"][0] for label in ("together", "digit", "garment")}
    assert [runs.tasks for runs in narrow.values()] == [None, [0], [1]]
    assert {runs.problem_options["offset"] for runs in narrow.values()} == {0}
    assert {runs.model_options["width"] for runs in narrow.values()} == {4}
    assert rows["digit, LeNet"][0].model == "lenet" and rows["together, GroupNorm"][0].model_options["norm"] == "group"
    assert len({runs[0].identity for runs in rows.values()}) == 36


def test_doses_take_the_rates_that_the_table_searched(monkeypatch):
    choices = {"equal": 0.031, "single digit": 0.032, "single garment": 0.033}
    search = {
        "rows": {name: {"choice": {"learning_rate": rate, "weight_decay": 1e-4}} for name, rate in choices.items()}
    }
    monkeypatch.setattr("mtl_lab.protocol.committed.search_of", lambda *_: search)
    rows = ConflictDose("tiny", seeds=1).plan()
    schedules = [rows[f"{label}, LeNet"][0].schedule for label in ("together", "digit", "garment")]
    assert [schedule["learning_rate"] for schedule in schedules] == [0.031, 0.032, 0.033]
    assert {schedule["weight_decay"] for schedule in schedules} == {1e-4}
    del search["rows"]["equal"]  # the single-task networks are searched first
    rows = ConflictDose("tiny", seeds=1).plan()
    rates = {rows[f"{label}, LeNet"][0].schedule["learning_rate"] for label in ("together", "digit")}
    assert len(rates) == 1, "all from the search or none"


def test_an_exchange_takes_the_method_of_one_row_and_all_else_of_the_other(monkeypatch):
    rows = ReconExchange("small", seeds=2).plan()
    table = experiments.TABLES["multi_fashion_mnist"]("small")
    search = committed.search_of(table)
    searched = table.expected({name: entry["choice"] for name, entry in search["rows"].items()}, 2)
    assert searched["recon_equal"][0].split != searched["recon_pcgrad"][0].split, (
        "the search chose differently for the two"
    )
    for name, method in (("recon_equal", "equal"), ("recon_pcgrad", "pcgrad")):
        (other,) = {"recon_equal", "recon_pcgrad"} - {name}
        runs = rows[f"{name} as {other}"]
        assert [run.method for run in runs] == [method] * 2 and [run.seed for run in runs] == list(
            table.seeds(table.row(name), 2)
        )
        assert [replace(run, method=searched[other][0].method) for run in runs] == searched[other]
    moved = ReconExchange("small", 1, ("recon_equal", "recon_sam_gs")).plan()["recon_sam_gs as recon_equal"][0]
    of = {key: getattr(searched["recon_sam_gs"][0], key) for key in ("method", "method_options", "convention")}
    assert of["convention"] == "samgs" and of["method_options"]
    assert moved == replace(searched["recon_equal"][0], **of), "options and convention go with the method"
    part = {**search, "rows": {name: entry for name, entry in search["rows"].items() if name != "mgda"}}
    for before in (None, part):
        monkeypatch.setattr("mtl_lab.protocol.committed.search_of", lambda *_, search=before: search)
        assert ReconExchange("small").plan() == {}


@pytest.mark.parametrize(("name", "few"), [("conflict_dose", 3), ("rotation_rates", 3)])
def test_more_seeds_leave_the_runs_of_fewer_as_they_are(name, few):
    """Five seeds of the doses, twenty of the rates: the queue trains what is missing, and old records stay valid."""
    grid, kept = completion.planned_grid(name, "small"), experiments.GRIDS[name]("small", few).plan()
    assert grid.seeds == {"conflict_dose": 5, "rotation_rates": 20}[name]
    recorded = [{"row": row, "identity": run.identity} for row, runs in kept.items() for run in runs]
    missing = completion.missing_of_grid(grid, recorded).values()
    assert {(row, run.seed) for row, run in missing} == {(row, s) for row in kept for s in range(few, grid.seeds)}
    assert {one["identity"] for one in recorded} < {run.identity for runs in grid.plan().values() for run in runs}


@pytest.mark.parametrize(("experiment", "row"), [(TaskPairs, "mu + alpha"), (ConflictDose, "together, LeNet")])
def test_a_logged_run_of_each_grid_trains(experiment, row, tmp_path):
    run = experiment("tiny", seeds=1).plan()[row][0]
    record = execute.execute(replace(run, schedule={**run.schedule, "epochs": 1}), store.Store(tmp_path))
    log = record["conflict"]
    every = run.observe["every"]
    assert record["diverged"] is None and log["iterations"] == -(-record["steps"] // every) > 0
    assert 0 <= log["all"]["negative_share"] <= 1 and 0 < log["magnitude_similarity"] <= 1


def committed_grids():
    return [f.parent for f in sorted(records.ROOT.glob("*/*/runs.jsonl")) if f.parent.parent.name in experiments.GRIDS]


@pytest.mark.parametrize("folder", committed_grids(), ids=lambda folder: folder.parent.name)
def test_committed_records_are_runs_of_their_grid(folder):
    """Whole seeds, each run once, of the configuration that the grid names; a missing seed is said on the page."""
    committed_runs = records.load(folder.parent.name, folder.name)
    grid = experiments.GRIDS[folder.parent.name]
    plan = grid(profile=folder.name, seeds=max(20, grid.seeds)).plan(committed_runs)
    known = {run.identity: (row, run) for row, listed in plan.items() for run in listed}
    assert [r["row"] for r in committed_runs] == [known.get(r["identity"], "?")[0] for r in committed_runs], (
        "each record, not one a row"
    )
    assert len({record["identity"] for record in committed_runs}) == len(committed_runs)
    for record in committed_runs:  # its numbers are rounded, such as weights that follow from losses
        assert json.loads(json.dumps(records.rounded(asdict(known[record["identity"]][1])))) == record["config"]
    seeds = {row: sorted(r["config"]["seed"] for r in committed_runs if r["row"] == row) for row in plan}
    planned = {row: tuple(run.seed for run in runs) for row, runs in plan.items()}
    assert all(tuple(s) == planned[row][: len(s)] for row, s in seeds.items())
    assert len({(planned[row], len(s)) for row, s in seeds.items()}) == len(set(planned.values())), "whole seeds"


def test_every_folder_of_results_is_registered_and_every_study_has_one():
    """A new table or grid is registered before its first run; a renamed one leaves a folder that nothing names."""
    folders = {file.parents[1].name for file in records.ROOT.glob("*/*/runs.jsonl")}
    assert folders <= {name for kind in experiments.KINDS for name in kind}
    assert set(experiments.STUDIES) - folders <= {"below_the_floor", "mt10_rollouts"}, "these are planned, not trained"
