"""What is planned on many tasks and on RotoGrad's options, and the statistics of the tables on brought sets."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up_data import celeba_root

from mtl_core.data import CHECKS
from mtl_core.data.attributes import names
from mtl_core.data.held import check
from mtl_lab.experiments import celeba, forty_tasks, rotograd_objects, rotograd_options, two_digits
from mtl_lab.experiments.forty_tasks import COUNTS, METHODS, RATES, FortyTasks
from mtl_lab.runs.build import load_problem
from mtl_lab.runs.run import Run


def record(row, run, F1, diverged=None):
    of = {task: {"loss": 0.1, "F1": F1} for task in names(run.problem_options["tasks"])}
    config = {"seed": run.seed}
    return {
        "row": row,
        "config": config,
        "diverged": diverged,
        "final": {"validation": of, "test": of if run.test else {}},
    }


def test_each_row_takes_the_better_rate_and_rows_of_one_count_share_their_images():
    plan = FortyTasks("small")
    tries = plan.plan()
    assert len(tries) == len(COUNTS) * len(METHODS) * len(RATES)
    assert all(name.startswith("rate ") and not run.test for name, (run,) in tries.items())
    found = [
        record(name, run, 60.0 if f"rate {RATES[0]:g}" in name else 50.0, {"epoch": 0} if ", sam_gs, 5" in name and
               f"rate {RATES[0]:g}" in name else None)
        for name, (run,) in tries.items()
    ]  # fmt: skip
    rows = {name: runs for name, runs in plan.plan(found).items() if name not in tries}
    assert set(rows) == {f"{method}, {tasks}" for method in METHODS for tasks in COUNTS}
    assert rows["equal, 40"][0].schedule["learning_rate"] == RATES[0]
    assert rows["sam_gs, 5"][0].schedule["learning_rate"] == RATES[1], "one that diverged comes last"
    data = {name: dict(runs[0].problem_options) for name, runs in rows.items()}
    assert {d.pop("tasks") for d in data.values()} == set(COUNTS) and all(d == data["equal, 5"] for d in data.values())
    assert {run.seed for runs in rows.values() for run in runs} == {50, 51, 52}
    scored = forty_tasks.scores([record("equal, 40", run, 70.0) for run in rows["equal, 40"]])
    assert scored == {"equal, 40": {50: 70.0, 51: 70.0, 52: 70.0}}


def test_options_of_rotograd_change_one_thing_each():
    rows = rotograd_options.RotoGradOptions("small", seeds=2).plan()
    base = rows["rotograd"][0]
    assert base.method == "rotograd" and [run.seed for run in rows["rotograd"]] == [50, 51]
    for name, changed in rotograd_options.OPTIONS.items():
        run = rows[name][0]
        assert replace(run, method_options=base.method_options) == base
        assert run.method_options == base.method_options | changed
    assert len({runs[0].identity for runs in rows.values()}) == len(rotograd_options.OPTIONS) == 7
    seeds = set(two_digits.table("small").seeds(two_digits.table("small").row("rotograd"), 20))
    assert not seeds & {50, 51, 52, 53, 54}, "fresh seeds"


def test_the_rows_of_a_paper_are_those_that_it_prints():
    from mtl_lab.claims import printed_tables

    for paper, (source, number) in {
        "recon": ("recon", 2),
        "rotograd": ("rotograd", 4),
        "rotograd-resnet18": ("rotograd", 4),
        "sam_gs": ("sam_gs", 3),
    }.items():
        printed = {line["method"] for line in printed_tables.table(source, number)} - {"Single-task"}
        assert set(celeba.ROWS[paper]) == printed
    plan = rotograd_objects.Objects(stand_in=True, single=False)
    titles = [(line["method"], line["variant"]) for line in printed_tables.table("rotograd", 1)]
    assert set(plan.rows()) == {f"{m}: {v}" if v else m for m, v in titles}
    assert plan.sizes == {"RotoGrad: m=64": 8, "RotoGrad: m=128": 16, "RotoGrad: m=256": 32, "RotoGrad: m=512": 64}
    assert plan.rows()["RotoGrad: m=512"][0].method_options == {"rotation_size": 64}
    svhn = {line["method"] for line in printed_tables.table("rotograd", 2) if line["dataset"] == "SVHN"}
    assert set(rotograd_objects.Objects(data="svhn", stand_in=True).rows()) == svhn - {"Single-task"} | {"single-task"}


def test_rows_of_recon_have_a_split_one_each_and_unknown_methods_are_refused():
    rows = celeba.Celeba(seeds=1, papers=("recon",), stand_in=True).rows("recon")
    assert len(rows["Joint + Recon"][0].split) == 25 and not rows["Joint"][0].split
    assert [run.tasks for run in rows["single-task"]] == [[k] for k in range(40)]
    with pytest.raises(ValueError, match="none of magic is a row of sam_gs, which has equal"):
        celeba.Celeba(methods=("magic",), stand_in=True).rows("sam_gs")
    with pytest.raises(ValueError, match="none of magic is a row"):
        rotograd_objects.Objects(methods=("magic",), stand_in=True).rows()
    paper = celeba.Celeba().base("recon")
    assert paper == Run("celeba", {"profile": "paper", "logits": 2}, schedule=paper.schedule, **celeba.RESNET)


def test_statistics_over_tasks_by_hand():
    of = {"a": np.array([10.0, 20.0]), "b": np.array([30.0, 30.0]), "c": np.array([60.0, 60.0])}
    single = {"a": np.array([20.0]), "b": np.array([20.0]), "c": np.array([80.0])}
    found = celeba.summary(of, single)
    assert [found[k] for k in ("min", "median", "mean")] == [15.0, 30.0, 35.0]
    assert found["sd"] == pytest.approx(np.std([15, 30, 60]))
    assert found["delta_m"] == pytest.approx((25 - 50 + 25) / 3), "positive: errors that fell"
    assert "delta_m" not in celeba.summary(of, single | {"b": np.array([0.0])})
    test = {"x": {"loss": 0.2, "accuracy": 91.0}, "y": {"loss": 0.2, "F1": 40.0}}
    assert {k: v.tolist() for k, v in celeba.scores([{"final": {"test": test}}]).items()} == {"x": [9.0], "y": [40.0]}
    test = {"left digit": {"loss": 1.0, "accuracy": 90.0}, "sum": {"loss": 1.0, "RMSE": 2.0}}
    test["active pixels"] = {"loss": 0.5, "RMSE (pixels)": 9.0}
    mine = rotograd_objects.values([{"final": {"test": test}}])
    assert mine["active pixels"].tolist() == [0.5]
    base = {"left digit": np.array([80.0]), "sum": np.array([4.0]), "active pixels": np.array([1.0])}
    assert rotograd_objects.changes(mine, base) == {"left digit": 12.5, "sum": 50.0}


def test_one_task_of_examples_on_disk_reads_the_inputs_and_its_own_target(tmp_path):
    celeba_root(tmp_path)
    check("celeba", CHECKS["celeba"], tmp_path, partial=True)
    options = {"profile": "paper", "root": str(tmp_path)}
    whole = load_problem(Run("celeba", options))
    some = load_problem(Run("celeba", options, tasks=[7, 3]))
    assert [task.name for task in some.tasks] == ["Attribute_7", "Attribute_3"]
    differ = 0
    for part in ("train", "validation", "test"):
        for (inputs, mine), (same, targets) in zip(
            *(getattr(of, part).batches(2) for of in (some, whole)), strict=True
        ):
            assert len(mine) == 2 and torch.equal(inputs, same)
            assert torch.equal(mine[0], targets[7]) and torch.equal(mine[1], targets[3])
            differ += not torch.equal(*mine)
    assert differ
