"""A committed run once more: found by name, compared number by number, and red where it is not the record."""

import copy
import functools

import pytest
from command_line import run

from mtl_lab import experiments, records, rerun
from mtl_lab.runs import execute, store


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A store with one run of QM9's tiny table, one epoch long, as `make results` commits it."""
    results = tmp_path_factory.mktemp("results")
    table = experiments.TABLES["qm9"]("tiny")
    config = table.run(table.row("equal"), {"learning_rate": 0.003, "weight_decay": 0.0}, 0, 0.0, test=True)
    trained = execute.execute(config, store.Store(tmp_path_factory.mktemp("runs")))
    records.add([records.compact(trained, "equal")], records.folder("qm9", "tiny", results) / "runs.jsonl")
    return results


@pytest.fixture
def record(root, monkeypatch):
    monkeypatch.setattr(rerun, "recorded", functools.partial(rerun.recorded, root=root))
    return records.load("qm9", "tiny", root)[0]


def asked(*more):
    return run("again", "qm9", "--profile", "tiny", "--row", "equal", *more)


def test_the_same_run_returns_its_record(record, capsys):
    assert asked() == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 13 and said[-1] == "largest relative difference 0.0e+00, tolerance 0.05"
    assert said[-2] == "code: that of the record"
    assert not any("loss" in line for line in said)


@pytest.mark.parametrize(
    ("task", "factor", "code"),
    [(0, 1.04, 0), (0, 1.06, 1), (0, 0.96, 0), (0, 0.94, 1), (0, float("nan"), 1), (-1, float("nan"), 1)],
)
def test_a_metric_beyond_the_tolerance_is_red(record, monkeypatch, capsys, task, factor, code):
    changed = copy.deepcopy(record)
    metrics = list(changed["final"]["test"].values())[task]
    metrics[next(name for name in metrics if name != "loss")] /= factor
    monkeypatch.setattr(rerun, "recorded", lambda *_: changed)
    assert asked() == code
    assert ("largest relative difference nan" in capsys.readouterr().out) == (factor != factor)


def test_code_of_another_day_is_named(record, monkeypatch, capsys):
    old = record["provenance"] | {"source_digest": "0" * 16, "commit": "c0ffee" * 6}
    monkeypatch.setattr(rerun, "recorded", lambda *_: record | {"provenance": old})
    assert asked() == 0 and "code: changed since the record, c0ffeec0ffee\n" in capsys.readouterr().out


def test_what_is_not_there_is_named(record, root, capsys):
    assert run("again", "qm8", "--row", "equal") == 2
    assert "no experiment 'qm8' of runs; there are: " in capsys.readouterr().err
    assert run("again", "qm9", "--profile", "tiny", "--row", "equals") == 2
    assert "no row 'equals'; there are: equal" in capsys.readouterr().err
    assert asked("--seed", "3") == 2 and "no seed 3; there are: 0" in capsys.readouterr().err


@pytest.mark.parametrize(("before", "now", "code"), [("loss", "loss", 0), (None, "loss", 1), ("loss", None, 1)])
def test_divergence_is_compared_too(record, monkeypatch, capsys, before, now, code):
    diverged = {"loss": {"step": 3}, None: None}
    monkeypatch.setattr(rerun, "recorded", lambda *_: record | {"diverged": diverged[before]})
    monkeypatch.setattr(rerun, "execute", lambda *_: record | {"diverged": diverged[now]})
    assert asked() == code and "diverged: the record " in capsys.readouterr().out
