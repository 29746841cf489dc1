"""The bootstrap over the test set's sources: its shares add up to Δm, its records are those of the tables."""

import numpy as np
import pytest
import torch

from mtl_core import models
from mtl_core.data.problem import higher_is_better
from mtl_core.metrics import delta_m
from mtl_lab import experiments
from mtl_lab.experiments import test_set_bootstrap
from mtl_lab.protocol import committed, completeness, verdict
from mtl_lab.runs import build

TABLES = ("qm9", "multi_fashion_mnist")


@pytest.mark.parametrize("name", TABLES)
def test_shares_of_the_examples_add_up_to_delta_m(name):
    table = experiments.TABLES[name]("tiny")
    problem = build.load_problem(table.base)
    model = models.build(table.base.model, problem.tasks, seed=1, **table.base.model_options).eval()
    values, zero = [], {}
    with torch.no_grad():
        outputs = model(problem.test.batch(slice(None))[0])
    for task, output, target in zip(problem.tasks, outputs, problem.test.targets, strict=True):
        ((metric, make),) = task.metrics.items()
        measured = make()
        measured.update(output, target)
        values.append(float(measured.compute()))
        zero[task.name] = {metric: 1.7 * values[-1] + 3}
    made_up = [{"final": {"test": {task: metrics}}} for task, metrics in zero.items()]
    up = [next(iter(higher_is_better(task).values())) for task in problem.tasks]
    against = [next(iter(metrics.values())) for metrics in zero.values()]
    groups = table.groups or [task.name for task in problem.tasks]
    expected = delta_m(values, against, up, groups)
    assert test_set_bootstrap.per_example(table, problem, model, made_up).mean().item() == pytest.approx(
        expected, rel=1e-5
    )


@pytest.mark.parametrize("name", ["multi_fashion_mnist", "multi_fashion_mnist_sam_gs"])
def test_a_composite_has_two_sources(name):
    table = experiments.TABLES[name]("tiny")
    problem = build.load_problem(table.base)
    digits, garments = test_set_bootstrap.sources_of(table, problem)
    assert digits.shape == garments.shape == (len(problem.test),)
    assert 2 < len(np.unique(digits)) < len(problem.test), "composites share their digits"


def test_without_records_it_says_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match="no records of equal, single .*static yet"):
        test_set_bootstrap.measure(experiments.TABLES["qm9"]("tiny"), "tiny", root=tmp_path)


def test_metrics_that_are_no_means_are_refused_before_anything_is_trained():
    with pytest.raises(ValueError, match="two_digits has others for odd product, sum, .*example by example"):
        test_set_bootstrap.measure(experiments.TABLES["two_digits"]("tiny"))


SIZES = {"qm9": (10_000, [10_000]), "multi_fashion_mnist": (20_000, [10_000, 10_000])}
SPREAD = {"qm9": 0.37640, "multi_fashion_mnist": 0.26839}  # of the bootstrap, in points: nothing here can redo it


@pytest.mark.parametrize("name", TABLES)
def test_the_committed_interval_belongs_to_the_committed_runs(name):
    record = test_set_bootstrap.load(name, "small")
    if record is None:
        pytest.skip(f"results/{name}/small/sampling_noise.json is not here yet")
    table = experiments.TABLES[name]("small")
    search = committed.search_of(table)
    expected = completeness.expected_runs(table, search)
    grouped = {row: [r for r in committed.load(table) if r["row"] == row] for row in expected}
    delta = verdict.deltas(table, grouped)
    second, first = (delta[row][record["seed"]] for row in reversed(record["rows"]))
    assert record["difference"] == pytest.approx(second - first, abs=0.02)
    assert record["low"] < record["difference"] < record["high"]
    assert (record["draws"], record["examples"], record["sources"]) == (1000, *SIZES[name])
    assert (record["high"] - record["low"]) / 3.92 == pytest.approx(SPREAD[name], rel=1e-3), "as it was computed"
