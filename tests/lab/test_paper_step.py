"""Multi-Fashion+MNIST at the paper's scale: what the two commands plan, and what they cost by a measured step."""

import json
from dataclasses import replace

import pytest

from mtl_lab import completion, experiments, records
from mtl_lab.experiments import paper_step
from mtl_lab.experiments.recon import RECON, ROWS, ReconExperiment
from mtl_lab.protocol.table import SHORT_SEED

LAYERS = [f"layer{n}" for n in range(30)]
ONE = {kind: [1.0, 9.0, 1.0] for kind in paper_step.KINDS}  # core-seconds of a step; the median counts


@pytest.fixture
def dry(monkeypatch):
    """The plan of `make results EXPERIMENT=recon_multi_fashion_mnist PROFILE=paper SEEDS=3`, without its data."""
    monkeypatch.setattr(ReconExperiment, "all_layers", lambda self: LAYERS)
    plan = completion.planned_grid("recon_multi_fashion_mnist", "paper", 3)
    first = plan.plan([])
    assert list(first) == ["search"]
    (search,) = first["search"]
    log = {"layers": LAYERS, "scores": {"-0.1": list(range(30))}}
    return plan.plan([{"row": "search", "identity": search.identity, "conflict": log}])


def test_the_rerun_has_the_papers_network_schedule_and_methods(dry):
    assert set(dry) == {"search", "single-task"} | {name + end for name in ROWS for end in ("", " + Recon")}
    runs = [run for of in dry.values() for run in of]
    assert {run.model_options["width"] for run in runs} == {64}
    assert {json.dumps(run.problem_options) for run in runs} == {'{"profile": "paper"}'}
    assert {run.schedule["epochs"] for row, of in dry.items() for run in of if row != "search"} == {120}
    assert {(*run.schedule["decay"], run.schedule["learning_rate"]) for run in runs} == {(60, 90, 0.1)}
    assert [run.seed for run in dry["pcgrad + Recon"]] == [0, 1, 2] and len(dry["single-task"]) == 6
    assert dry["cagrad + Recon"][0].split == LAYERS[:4:-1], "the worst 25 of 30"


def test_joint_pcgrad_and_cagrad_come_first(dry):
    ordered = [row for row in dry if row not in ("search", "single-task")]
    assert ordered[:6] == [name + end for name in paper_step.FIRST for end in ("", " + Recon")]


def test_the_cost_counts_what_the_plan_trains(dry):
    planned = [run for of in dry.values() for run in of]
    estimated = paper_step.of_recon()
    assert len(estimated) == len(planned)
    steps = {kind: 1.0 + place for place, kind in enumerate(paper_step.KINDS)}
    seconds = [sum(paper_step.core_seconds(run, steps) for run in runs) for runs in (planned, estimated)]
    assert seconds[0] == pytest.approx(seconds[1])


def test_a_run_costs_its_steps_and_the_forward_passes_between():
    run = ReconExperiment("paper").base
    steps = dict.fromkeys(paper_step.KINDS, 0.0) | {"one gradient": 2.0}
    assert paper_step.core_seconds(run, steps) == 120 * (108_000 // 256) * 2.0
    looked_at = (120 * 12_000 + 20_000) / 256
    assert paper_step.core_seconds(run, dict.fromkeys(steps, 0.0) | {"forward": 3.0}) == pytest.approx(3 * looked_at)
    kinds = {
        "single": replace(run, tasks=[0]),
        "one gradient": run,
        "each gradient": replace(run, observe={}),
        "one gradient, split": replace(run, split=["a"]),
        "each gradient, split": replace(run, split=["a"], method="cagrad"),
    }
    assert {kind: paper_step.kind_of(one) for kind, one in kinds.items()} == {kind: kind for kind in kinds}


def test_the_table_takes_the_papers_settings_and_scales_the_falls_of_the_rate():
    table, small = (experiments.TABLES["multi_fashion_mnist"](profile) for profile in ("paper", "small"))
    assert table.base.schedule == RECON["paper"]["schedule"] and table.base.model_options == {"width": 64}
    choice = {"learning_rate": 0.2, "weight_decay": 0.0}
    short, full = (table.run(table.row("equal"), choice, 0, length).schedule for length in (0.25, 1.0))
    assert (short["epochs"], short["decay"]) == (30, [15, 22]) and (full["epochs"], full["decay"]) == (120, [60, 90])
    twice = table.run(table.row("equal_twice"), choice, 0).schedule
    assert (twice["epochs"], twice["decay"]) == (240, [120, 180])
    assert small.base.model_options == {"width": 8}, "other profiles stay"
    assert small.run(small.row("equal"), choice, 0, 0.25).schedule["decay"] == "cosine"
    assert table.ranking.schedule["epochs"] == 120 and table.ranking.seed == SHORT_SEED
    runs = paper_step.of_the_table()
    assert sum(run.schedule["epochs"] == 30 for run in runs) == 10 * (len(table.searched()) - 1)  # one trains twice
    assert sum(run.test for run in runs) == 10 * len(table.rows)


def test_without_a_measured_step_nothing_is_said(tmp_path):
    assert paper_step.costs(tmp_path) == []
    paper_step.write(ONE, tmp_path)
    assert paper_step.load(tmp_path) == dict.fromkeys(ONE, 1.0)
    first, recon, table = paper_step.costs(tmp_path)
    assert (first[2], recon[2]) == (1 + 2 + 6, 1 + 6 + 36) and first[3] < recon[3] < table[3]
    assert "recon_multi_fashion_mnist SEEDS=3" in recon[1] and table[1].endswith("EXPERIMENT=multi_fashion_mnist")


def test_the_committed_step_was_measured_for_every_kind():
    by_row = records.by_row(paper_step.NAME, paper_step.PROFILE)
    assert set(by_row) == set(paper_step.KINDS) and all(len(one["core_seconds"]) >= 3 for one in by_row.values())
    assert all(one["provenance"]["clean"] and one["setting"]["width"] == 64 for one in by_row.values())
