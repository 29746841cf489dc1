"""The script that recomputes the headline numbers without our code agrees with our code, and notices what changes."""

import ast
import importlib.util
import shutil
import sys

import numpy as np
import pytest

from mtl_lab import experiments, records
from mtl_lab.experiments import balanced_pairs, conflict_and_harm, conflict_dial
from mtl_lab.statistics import association, dyadic
from mtl_lab.statistics.paired import paired_difference

FILE = records.ROOT.parent / "benchmarks" / "recompute_headlines.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("recompute_headlines", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def found(script):
    return script.headlines(records.ROOT)


def same(theirs, *ours, rel=1e-9):
    assert theirs == pytest.approx(ours, rel=rel, abs=1e-11)


def test_it_imports_nothing_of_ours():
    nodes = list(ast.walk(ast.parse(FILE.read_text(encoding="utf-8"))))
    used = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    used |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in used} <= set(sys.stdlib_module_names) | {"numpy", "scipy"}


@pytest.mark.parametrize("name", ["qm9", "multi_fashion_mnist", "two_digits"])
def test_main_tables(found, name):
    verdict = experiments.committed(name, "small")
    judged = {f"{name}: {row.name} minus static": row.difference for row in verdict.rows.values() if row.difference}
    assert {key for key in found if key.startswith(f"{name}: ") and "minus" in key} == set(judged)
    for key, d in judged.items():
        same(found[key], d.mean, d.low, d.high, d.n)
    same(found[f"{name}: Δm of static"][:1], np.mean([*verdict.rows["static"].delta.values()]))


def test_conflict_and_the_ratio_of_losses(found):
    recorded = records.load("task_pairs", "small")
    pairs = conflict_and_harm.pairs(recorded)
    ratio, harm = conflict_and_harm.directed(recorded, pairs)
    measures = {"ratio": np.abs(ratio), "conflict": [pair.negative.mean() for pair in pairs]}
    measures["unlike lengths"] = [pair.dissimilarity.mean() for pair in pairs]
    for name, x in measures.items():
        fixed = "conflict" if name == "ratio" else "ratio"
        for ending, given in (("", None), (f", {fixed} fixed", measures[fixed])):
            e = association.between_pairs(x, harm.mean(1), [p.tasks for p in pairs], given)
            same(found[f"task_pairs: ρ({name}, harm){ending}"], e.rho, e.low, e.high, e.pairs)


def test_a_conflict_set_by_hand_and_removed(found):
    recorded = records.load("conflict_dial", "small")
    compared = 0
    for name, d in conflict_dial.sign_contrasts(recorded).items():
        if (key := f"conflict_dial: sign, {name}") in found:
            same(found[key], d.mean, d.low, d.high, d.n)
            compared += 1
    for data, optimizer in conflict_dial.DATA.items():
        for name, d in conflict_dial.dose_contrasts(recorded, data, optimizer).items():
            same(found[f"conflict_dial: removal on {data}, {optimizer}, {name}"], d.mean, d.low, d.high, d.n)
            compared += 1
    there = [key for key, (value, *_) in found.items() if key.startswith("conflict_dial") and value is not None]
    assert compared == len(there) >= 2


def test_pairs_at_balanced_losses_as_far_as_they_are_there(found):
    recorded = records.load("balanced_pairs", "small")
    logs = [r for r in recorded if r["row"].startswith("predictor ")]
    value, *_, n = found["balanced_pairs: mean predictor"]
    assert n == f"{len(logs)} of 165"
    if len(logs) == 165:
        same((value,), np.mean([-balanced_pairs.cross_fitted_cosine(r["conflict"]["products"]) for r in logs]))
    m = balanced_pairs.measured(recorded)
    value, *_, n = effect = found["balanced_pairs: effect at balanced losses"]
    if m is None or value is None:
        assert value is None
        assert n.endswith(" of 275")
        return
    e = balanced_pairs.effects(m)["log_sum"]
    same(effect, e.value, e.low, e.high, 55, rel=1e-3)  # both search for a variance, ours less finely


@pytest.mark.parametrize("shared", [0.0, 3.0])
def test_the_effect_over_pairs_on_made_up_numbers(script, shared):
    """Two searches for the variance of nodes, which agree to what the coarser one leaves."""
    random, names = np.random.default_rng(1), balanced_pairs.TARGETS
    pairs = np.array(balanced_pairs.PAIRS)
    x, given = random.standard_normal((2, len(pairs)))
    y = 2 * x + given + random.standard_normal(len(pairs)) + shared * random.standard_normal(11)[pairs].sum(1)
    e = dyadic.of_pairs(x, y, pairs, {"ratio": given})
    theirs = script.node_effect([(names[i], names[j]) for i, j in pairs], x, y, given)
    assert theirs == pytest.approx((e.value, e.low, e.high, 55), rel=1e-3)


def test_holm_and_t_agree_on_made_up_numbers(script):
    d = np.random.default_rng(0).standard_normal(12) + 0.3
    e = paired_difference(d, np.zeros(12))
    same(script.t_interval(d), e.mean, e.low, e.high)


def test_a_record_that_changes_moves_a_number(script, found, tmp_path):
    """All ten records of one row scaled: what the row's interval says follows."""
    folder = tmp_path / "multi_fashion_mnist" / "small"
    shutil.copytree(records.ROOT / "multi_fashion_mnist" / "small", folder)
    recorded = records.read_lines(folder / "runs.jsonl")
    for record in recorded:
        if record["row"] == "mgda":
            record["final"]["test"]["digit"]["accuracy"] *= 0.93
    records.write_lines(recorded, folder / "runs.jsonl")
    key = "multi_fashion_mnist: mgda minus static"
    moved = script.table(tmp_path, "multi_fashion_mnist")
    assert moved[key][0] == pytest.approx(found[key][0] - 3.5, abs=0.3)


def test_superseded_records_do_not_count(script, tmp_path):
    folder = tmp_path / "some" / "small"
    folder.mkdir(parents=True)
    first = {"row": "a", "identity": "1"}
    second = {"row": "a", "identity": "2", "supersedes": records.key(first)}
    records.write_lines([first, second], folder / "runs.jsonl")
    assert [r["identity"] for r in script.read(tmp_path, "some")] == ["2"]
