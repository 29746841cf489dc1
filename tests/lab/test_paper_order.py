"""`make paper`: the order, the limit, what goes on, and precisions; made-up grids, and a stand-in for what trains."""

import threading
from dataclasses import dataclass, replace
from math import log2

import pytest
import torch
from filelock import FileLock
from test_runs import TINY

from mtl_lab import records
from mtl_lab.experiments import paper_order, paper_step
from mtl_lab.experiments.recon import ReconExperiment
from mtl_lab.runs import device as devices
from mtl_lab.runs.store import Store

BASE = ReconExperiment("paper").base


@dataclass
class Made:
    """Three rows of three seeds behind a search; the row `dear` has a method that needs each gradient."""

    profile: str = "paper"
    seeds: int = 3

    def plan(self, recorded):
        search = BASE.seeds([9])
        if not recorded:
            return {"search": search}
        dear = [run.from_dict({**run.__dict__, "method": "pcgrad"}) for run in BASE.seeds(range(3))]
        return {"search": search, "equal": BASE.seeds(range(3)), "dear": dear}


def record(run, seconds=3600.0, hardware="made up"):
    made = {"identity": run.identity, "config": {"seed": run.seed}, "seconds": seconds, "epochs": [], "final": {}}
    return made | {"provenance": {"hardware": hardware}}


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(paper_order, "hardware", lambda device: "made up")
    paper_step.write(dict.fromkeys(paper_step.KINDS, [1.0, 1.0, 1.0]), tmp_path)
    return tmp_path


def trained(seen, seconds):
    """In the place of `grid.grid`: notes what comes, at what cost."""

    def train(runs, workers, device, finished):
        for run in runs:
            seen.append((run.method, run.seed, workers))
            finished(record(run, seconds(run)))

    return train


def test_what_tells_most_for_an_hour_comes_first_and_measured_hours_take_the_place_of_computed_ones(root):
    seen, plans = [], {"made": Made()}
    (first,) = paper_order.candidates(plans, "cpu", root)
    assert (first.row, first.measured) == ("search", False) and first.bits == 0.5 and first.hours > 0
    cost = {"equal": 3600.0, "pcgrad": 36_000.0}
    count = paper_order.work(plans, "cpu", 1, root, trained(seen, lambda run: cost[run.method]))
    assert count == 7 and sorted(seen[1:]) == [(m, s, 1) for m in cost for s in range(3)]
    assert [m for m, _, _ in seen[1:5]] == ["equal"] * 3 + ["pcgrad"], "a reference row serves every comparison"
    assert paper_order.candidates(plans, "cpu", root) == []
    assert {r["row"] for r in records.load("made", "paper", root)} == {"search", "equal", "dear"}


def test_bits_fall_with_each_seed_and_a_record_of_another_device_does_not_measure(root):
    search = Made().plan([])["search"][0]
    rows = Made().plan([1])
    made = [records.compact(record(run, 7200.0), row) for row, run in (("search", search), ("dear", rows["dear"][0]))]
    other = records.compact(record(rows["equal"][0], 60.0, "another"), "equal")
    records.add([*made, other], root / "made" / "paper" / "runs.jsonl")
    left = {(one.row, one.run.seed): one for one in paper_order.candidates({"made": Made()}, "cpu", root)}
    assert [left["dear", s].bits for s in (1, 2)] == pytest.approx([0.5 * log2(3 / 2), 0.5 * log2(4 / 3)])
    assert left["equal", 1].bits == pytest.approx(2 * left["dear", 1].bits), "two other rows need it"
    assert left["dear", 1].hours == 2.0 and left["dear", 1].measured and not left["equal", 1].measured


def test_several_small_runs_are_trained_together(root):
    seen, plans = [], {"made": Made()}
    paper_order.work(plans, "cuda", 4, root, trained(seen, lambda run: 60.0))
    assert seen[0][2] == 4 and len(seen) == 7


def test_the_order_says_where_the_limit_lies(root):
    found = paper_order.candidates({"made": Made()}, "cpu", root)
    twice = paper_order.lines([*found, *found], 1.5 * found[0].hours)
    assert twice[2].startswith("---") and twice[-1].startswith("*") and len(twice) == 5
    assert not any(line.startswith("---") for line in paper_order.lines(found, None))


def test_every_grid_with_a_paper_profile_is_in_the_order():
    """Grids whose runs have no cost are left out; a later run of another kind costs what reads each gradient."""
    found = paper_order.plans()
    assert "recon_multi_fashion_mnist" in found and all(plan.profile == "paper" for plan in found.values())
    assert "task_pairs" not in found
    assert paper_order.candidates(found, "cpu")


def test_a_run_of_another_kind_costs_what_reads_each_gradient(root):
    @dataclass
    class Replays(Made):
        def plan(self, recorded):
            return {"replay": [replace(BASE, method="replayed")], "dear": [replace(BASE, method="pcgrad")]}

    one, other = paper_order.candidates({"made": Replays()}, "cpu", root)
    assert one.hours == other.hours > 0


def test_at_the_time_limit_the_process_ends(tmp_path, monkeypatch, capsys):
    """As a kill would end it, whatever is being trained."""
    ended = threading.Event()
    monkeypatch.setattr(records, "ROOT", tmp_path)
    monkeypatch.setattr(paper_order, "plans", lambda seeds: {})
    monkeypatch.setattr(paper_order, "candidates", lambda *given: [])
    monkeypatch.setattr(paper_order.os, "_exit", lambda status: ended.set())
    monkeypatch.setattr(paper_order, "work", lambda *given: int(ended.wait(20)))
    paper_order.paper(hours=0.05 / 3600)
    assert ended.is_set() and "goes on from here" in capsys.readouterr().out


def test_what_another_command_writes_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "ROOT", tmp_path)
    monkeypatch.setattr(paper_order, "plans", lambda seeds: {"made": Made()})
    monkeypatch.setattr(paper_order, "candidates", lambda *given: [])
    (tmp_path / ".locks").mkdir()
    with FileLock(tmp_path / ".locks" / "made paper.lock"), pytest.raises(OSError, match="another command"):
        paper_order.paper()


def test_longest_first_fills_the_processes():
    assert paper_order.makespan([3600.0] * 4, 2) == 2.0
    assert paper_order.makespan([3600.0, 7200.0, 3600.0], 2) == 2.0
    assert paper_order.makespan([7200.0, 60.0], 400) == 2.0, "no machine is faster than the longest run"


def test_a_precision_has_a_name_and_a_store_of_its_own(tmp_path, monkeypatch):
    try:
        for name, word in (("tf32", "high"), ("bfloat16", "medium"), ("", "highest")):
            monkeypatch.setenv("MTL_PRECISION", name)
            devices.chosen_device()
            assert torch.get_float32_matmul_precision() == word
            assert Store(tmp_path).path(TINY).parent.name.endswith(name)
        monkeypatch.setenv("MTL_PRECISION", "float16")
        with pytest.raises(ValueError, match="tf32, bfloat16 or not set, got 'float16'"):
            devices.chosen_device()
    finally:
        torch.set_float32_matmul_precision("highest")
