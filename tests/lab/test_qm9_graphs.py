"""The experiment on graphs, on made-up records: what it plans, and what it says of ranks and of RotoGrad."""

from dataclasses import replace

import pytest

from mtl_core.data.qm9 import TARGETS
from mtl_lab import experiments
from mtl_lab.experiments import qm9_graphs
from mtl_lab.experiments.qm9_graphs import METHODS, NETWORKS, RATES, Qm9Graphs, kendall
from mtl_lab.runs import execute, store

GOOD = {"log_sum": 60.0, "sam_gs": 58.0, "norm_equalised": 55.0, "cagrad": 52.0, "static": 50.0, "equal": 40.0}
GOOD |= {"rotograd": 30.0}  # gains, the more the better


def record(row, seed, error, rate=RATES[1], loss=0.1, diverged=None):
    metrics = {target: {"MAE": 2.718281828459045 ** (error / 100), "loss": loss} for target in TARGETS}
    final = {} if diverged else {"test": metrics, "validation": metrics}
    config = {"seed": seed, "schedule": {"learning_rate": rate}}
    return {"row": row, "config": config, "diverged": diverged, "final": final, "identity": f"{row} {seed} {rate}"}


def made(change=lambda network, method, seed: 0.0):
    wobble = (0.0, 0.3, -0.2, 0.1, -0.4)
    return [
        record(f"{n}, {m}", s, 100 - GOOD[m] + (s + 1) * 0.7 + wobble[(s + k) % 5] + change(n, m, s))
        for n in NETWORKS
        for k, m in enumerate(METHODS)
        for s in range(5)
    ]


def test_each_method_tries_four_rates_on_both_networks_and_then_takes_the_best():
    assert experiments.GRIDS["qm9_graphs"] is Qm9Graphs
    plan = Qm9Graphs("small").plan()
    assert len(plan) == 14 and all(row.startswith("rate, ") and len(runs) == 4 for row, runs in plan.items())
    assert not any(run.test for runs in plan.values() for run in runs), "rates are chosen without test data"
    found = []
    for row, runs in plan.items():
        for k, run in enumerate(runs):
            found.append(record(row, 100, 10 + abs(k - 2)) | {"identity": run.identity})
    chosen = Qm9Graphs("small").plan(found)
    assert len(chosen) == 28
    for network in NETWORKS:
        for method in METHODS:
            runs = chosen[f"{network}, {method}"]
            assert [run.seed for run in runs] == [0, 1, 2, 3, 4]
            assert {run.schedule["learning_rate"] for run in runs} == {RATES[2]} and all(run.test for run in runs)
    graph, plain = (chosen[f"{network}, static"][0] for network in NETWORKS)
    assert graph.method_options == plain.method_options and len(graph.method_options["weights"]) == 11
    same = ("train", "validation", "test")
    assert {k: plain.problem_options[k] for k in same} == qm9_graphs.COUNTS["small"]


def test_paper_is_the_published_schedule_on_all_molecules():
    plan = Qm9Graphs("paper", 3).plan()
    assert len(plan) == 7 + 11 and all(len(runs) == 3 and runs[0].schedule["epochs"] == 300 for runs in plan.values())
    (equal, *_), (single, *_) = plan["graph, equal"], plan["graph, single Cv"]
    assert equal.problem_options == {"profile": "paper"} and equal.schedule["batch_size"] == 120
    assert single.tasks == [10] and equal.model_options["width"] == 64
    assert qm9_graphs.steps("paper") == 110_831 // 120 * 300
    cost = qm9_graphs.cost(0.5, 1.0, seeds=3)
    assert cost["cagrad"] / cost["equal"] == pytest.approx(11.5 / 1.5) and len(cost) == 18
    assert cost["equal"] == pytest.approx(3 * 276_900 * 1.5 / 3600)


def test_a_run_of_each_network_trains(tmp_path):
    few = {"train": 64, "validation": 8, "test": 8}
    for name in ("graph, equal", "graph, rotograd", "descriptors, rotograd"):
        run = Qm9Graphs("tiny", 1).plan()[f"rate, {name}"][0]
        run = replace(run, problem_options={**run.problem_options, **few})
        result = execute.execute(run, store.Store(tmp_path))
        assert result["diverged"] is None and len(result["epochs"]) == 2, name


def test_kendall():
    order = {"a": 1.0, "b": 2.0, "c": 3.0}
    assert kendall(order, order) == 1 and kendall(order, {k: -v for k, v in order.items()}) == -1
    assert kendall(order, {"a": 1.0, "b": 3.0, "c": 2.0}) == pytest.approx(1 / 3)
    assert kendall(order, {"a": 1.0, "b": 1.0, "c": 2.0}) == pytest.approx(2 / 3)


def test_the_same_order_survives():
    rows = qm9_graphs.scores(made())
    gains = qm9_graphs.gains(rows, "graph")
    assert gains["log_sum"].mean == pytest.approx(10, abs=0.5) and gains["equal"].mean == pytest.approx(-10, abs=0.5)
    assert all(abs(d.mean) < 1e-9 for d in qm9_graphs.changes(rows).values())
    survive, tau = qm9_graphs.ranks_survive(rows)
    assert survive is True and tau.mean == 1
    assert set(qm9_graphs.orders(rows)) == {"between networks", "between seeds, graph", "between seeds, descriptors"}


def test_an_order_that_turns_round_does_not():
    reverse = qm9_graphs.scores(made(lambda n, m, s: 2 * (GOOD[m] - 50) if n == "graph" else 0))
    survive, tau = qm9_graphs.ranks_survive(reverse)
    assert survive is False and tau.mean < -0.9
    one = qm9_graphs.scores(made(lambda n, m, s: 30.0 if (n, m) == ("graph", "log_sum") else 0))
    assert qm9_graphs.crossed(one) == ["log_sum"]
    survive, tau = qm9_graphs.ranks_survive(one)
    assert survive is False and tau.mean > 0, "one method that crosses is enough"
    assert qm9_graphs.changes(one)["log_sum"].mean == pytest.approx(-30)


def test_orders_by_chance_leave_it_open_and_so_do_missing_rows():
    turned = made(lambda n, m, s: 2 * (GOOD[m] - 50) if n == "graph" and s % 2 else 0)
    survive, tau = qm9_graphs.ranks_survive(qm9_graphs.scores(turned))
    assert survive is None and tau.low < 0 < tau.high
    part = qm9_graphs.scores([r for r in made() if r["row"] != "graph, cagrad"])
    assert qm9_graphs.ranks_survive(part) == (None, None) and qm9_graphs.gains(part, "graph") == {}
    assert qm9_graphs.orders({}) == {} and qm9_graphs.crossed({}) == []


def test_rotograd_converged_in_n_of_n_runs():
    good, bad = record("graph, rotograd", 0, 50.0), record("graph, rotograd", 1, 50.0, loss=1.2)
    ended = record("graph, rotograd", 2, 50.0, diverged={"epoch": 1})
    assert qm9_graphs.converged([good, bad, ended, record("graph, equal", 0, 50.0)]) == (1, 3)
    assert qm9_graphs.scores([ended]) == {} and qm9_graphs.converged([]) == (0, 0)


def test_rates_at_an_edge_are_named():
    found = [
        record("graph, equal", 0, 1.0, rate=RATES[0]),
        record("graph, static", 0, 1.0),
        record("rate, x", 100, 1.0),
    ]
    assert qm9_graphs.at_an_edge(found) == ["graph, equal"]
