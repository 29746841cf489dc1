"""The grid of balanced pairs: what it plans as records arrive, that it trains, and what it reads from records."""

import functools
import math
import re

import numpy as np
import pytest

from mtl_lab.experiments import balanced_pairs
from mtl_lab.experiments.balanced_pairs import NETWORKS, PAIRS, TARGETS, WEIGHTINGS, BalancedPairs, effects, measured
from mtl_lab.experiments.qm9 import table
from mtl_lab.experiments.rate_choice import log_error
from mtl_lab.runs import execute, store

GRID = BalancedPairs("tiny", seeds=2)


def record(row, run, error=1.0, loss=0.5, **more):
    """A record of the run in which each of its tasks has this error."""
    values = {TARGETS[k]: {"MAE": error, "loss": loss} for k in run.tasks}
    splits = {"validation": values} | ({"test": values} if run.test else {})
    return {"row": row, "identity": run.identity, "final": splits, "diverged": None, **more}


@functools.cache
def searched(**best):
    """Records of all searches; the error of a network, by name, is least at the exponent `best`, else at 0."""
    records, known = [], set()
    while True:
        plan = GRID.plan(records)
        new = [(row, run) for row, runs in plan.items() if row not in known for run in runs if not run.test]
        if not new:
            return records
        for row, run in new:
            known.add(row)
            n = round(math.log2(run.schedule["learning_rate"] / 0.0056))
            network = row.removeprefix("search ").partition(",")[0]
            loss = 0.25 if run.tasks == [0] else 0.5
            records.append(record(row, run, 1 + abs(n - best.get(network, 0)), loss))


def test_the_first_stage_reads_no_test_data():
    rows = GRID.plan()
    runs = [run for of_row in rows.values() for run in of_row]
    assert {run.test for run in runs} == {False} and {run.seed for run in runs} == {100, 300, 301, 302}
    assert len(runs) == len({run.identity for run in runs}) == 55 * 3 + 3 * (11 + 2 * 55)
    data = {"profile": "tiny", "fresh": True, "targets": TARGETS}
    assert all(run.problem_options == data and run.model_options == table("tiny").base.model_options for run in runs)
    assert {run.schedule["learning_rate"] for run in runs} == {0.0028, 0.0056, 0.0112}
    predictor = rows["predictor R2 + log C"][0]
    assert predictor.method == "norm_equalised" and predictor.tasks == [4, 10] and predictor.seed == 300
    assert predictor.schedule["epochs"] == 3 and predictor.schedule["decay"] == "constant"
    assert BalancedPairs().plan()["predictor mu + alpha"][0].observe == {"probe": 2048, "every": 6}
    assert rows["search alone mu, 0.0056"][0].method == "equal" and rows["search alone mu, 0.0056"][0].tasks == [0]


def test_rates_inside_the_grid_are_evaluated_at_once():
    records = searched()
    rows = GRID.plan(records)
    evaluated = {row: runs for row, runs in rows.items() if runs[0].test}
    assert len(evaluated) == len(NETWORKS) and not any("common" in row for row in evaluated)
    assert all([run.seed for run in runs] == [0, 1] for runs in evaluated.values())
    static = evaluated["static mu + log A"][0]
    assert static.method == "static" and static.method_options == {"weights": [4.0, 2.0]}, "1 / loss"
    assert GRID.plan(records[:-1]).keys() < rows.keys(), "nothing is evaluated before all are searched"


def test_a_winner_at_the_edge_widens_the_grid_for_all_and_five_rates_are_the_most():
    rows = GRID.plan(searched(**{"alone HOMO": -1, "alone LUMO": 0.4}))
    rates = {run.schedule["learning_rate"] for row, runs in rows.items() for run in runs if row.startswith("search")}
    assert sorted(rates) == [0.0014, 0.0028, 0.0056, 0.0112], "one more, on the side where one won"
    rows = GRID.plan(searched(**{"log_sum mu + alpha": 9, "alone LUMO": -1}))
    rates = {run.schedule["learning_rate"] for row, runs in rows.items() for run in runs if row.startswith("search")}
    assert sorted(rates) == [0.0014, 0.0028, 0.0056, 0.0112, 0.0224]
    assert sum(row.startswith("search") for row in rows) == 5 * (11 + 2 * 55)
    of_pair = {
        rows[f"{weighting} mu + alpha"][0].schedule["learning_rate"] for weighting in ("log_sum", "equal", "static")
    }
    assert of_pair == {0.0224} and rows["norm_equalised mu + alpha"][0].schedule["learning_rate"] == 0.0056
    assert rows["alone LUMO"][0].schedule["learning_rate"] == 0.0028
    common = {row: runs for row, runs in rows.items() if row.endswith("common rate")}
    assert set(common) == {"log_sum mu + alpha, common rate", "alone LUMO, common rate"}
    assert {run.schedule["learning_rate"] for runs in common.values() for run in runs} == {0.0056}
    runs = [run.identity for of_row in rows.values() for run in of_row]
    assert len(runs) == len(set(runs)), "a run has one row"


def test_one_pair_of_each_kind_trains(tmp_path):
    rows = GRID.plan(searched())
    kinds = [f"{weighting} Cv + log B" for weighting in WEIGHTINGS] + ["alone Cv", "search alone log B, 0.0056"]
    for row in [*kinds, "predictor Cv + log B"]:
        found = execute.execute(rows[row][0], store.Store(tmp_path))
        assert found["diverged"] is None and ("test" in found["final"]) == rows[row][0].test
        assert math.isfinite(log_error(found, "validation"))
        assert found["source"]["fresh"] and list(found["final"]["validation"]) == [
            TARGETS[k] for k in rows[row][0].tasks
        ]


def spin(i, j):
    return math.sin(3 * i + 5 * j) / 2


def evaluated(harm):
    """Records of an evaluation: `harm(weighting, k, other)` in percent, 5 more at the common rate."""
    before, records = searched(**{"log_sum mu + alpha": 1}), []
    for row, runs in GRID.plan(before).items():
        for run in runs:
            if row.startswith("predictor"):
                c = spin(*run.tasks)
                log = {"products": [[1, c], [c, 1]], "negative_share": 0.4 - c / 2, "labels": [[1, -0.2], [-0.2, 1]]}
                records.append(record(row, run, conflict=log))
            elif run.test:
                found, pair = record(row, run, loss=math.exp(-run.tasks[0])), run.tasks
                for k, other in zip(pair, pair[::-1], strict=True):
                    percent = harm(row.split()[0], k, other) + 5 * ("common" in row) if len(pair) == 2 else 0
                    error = (2 + k) * math.exp(percent / 100) * (0.9 if run.seed else 1)
                    found["final"]["test"] = found["final"]["test"] | {TARGETS[k]: {"MAE": error, "loss": 9.0}}
                records.append(found)
    return sorted(records, key=lambda r: r["row"])


def test_measurements_are_read_from_records():
    records = evaluated(lambda w, k, other: k + 10 * other + 100 * WEIGHTINGS.index(w))
    m = measured(records)
    at = PAIRS.index((2, 7))
    assert m["equal"][at] == pytest.approx([2 + 70 + 300, 7 + 20 + 300])
    assert m["log_sum"][at] == pytest.approx([72, 27]) == m["log_sum, common rate"][at]
    assert m["log_sum, common rate"][0] == pytest.approx([10 + 5, 1 + 5]), "the one pair with another rate"
    assert m["predictor"] == pytest.approx([-spin(i, j) for i, j in PAIRS])
    assert m["negative"][at] == pytest.approx(0.4 - spin(2, 7) / 2) and m["labels"][at] == -0.2
    assert m["ratio"][at] == pytest.approx(7 - 2), "losses are exp(-k)"
    assert measured([r for r in records if r["row"] != "equal HOMO + Cv"]) is None and measured([]) is None


def made_up(slope, noise, equal_norms=1, shift=0.0, of_ratio=0.0):
    """Measurements in which the predictor has this slope, in percent, and the signed log ratio another."""
    random = np.random.default_rng(0)
    predictor, level = random.normal(size=55) - shift, random.normal(size=11)
    ratio = np.array([level[i] - level[j] for i, j in PAIRS])
    m = {"predictor": predictor, "negative": 0.5 + predictor / 9, "labels": random.normal(size=55), "ratio": ratio}
    for name in [*WEIGHTINGS, "log_sum, common rate"]:
        sign = equal_norms if name == "norm_equalised" else 1
        m[name] = sign * slope * predictor[:, None] + of_ratio * np.stack([ratio, -ratio], 1)
        m[name] = m[name] + noise * random.normal(size=(55, 2))
    return m


@pytest.mark.parametrize(
    ("measurements", "words"),
    [
        (made_up(2, 1), r"^Does conflict predict harm at balanced scales\? Predicts: \+\d"),
        (made_up(0, 0.3), r"Does conflict .* Does not, to within 1 %: "),
        (made_up(0, 9), r"Does conflict .* These pairs cannot tell: "),
        (made_up(-2, 1), r"Predicts the opposite: -\d"),
        (made_up(2, 1, equal_norms=-1), r"These pairs cannot tell: \+"),
        (made_up(2, 1, shift=3), r"^Does less alignment predict harm .* Predicts: "),
    ],
)
def test_the_answer_in_words(measurements, words):
    said = balanced_pairs.sentence(measurements)
    assert re.search(words, said) and "permutations p = 0." in said, said


def test_sensitivities_and_directions():
    m = made_up(2, 0.2, of_ratio=1.5)
    found, spread = effects(m), np.subtract(*np.quantile(m["predictor"], [0.9, 0.1]))
    assert list(found)[:4] == list(WEIGHTINGS) and {f"without {name}" for name in TARGETS} <= set(found)
    for name in ("log_sum", "log_sum, common rate", "labels held fixed", "negative share"):
        assert found[name].value == pytest.approx(2 * spread, rel=0.05), name
    twice = np.subtract(*np.quantile(np.tile(m["predictor"], 2), [0.9, 0.1]))
    assert found["directed, predictor"].value == pytest.approx(2 * twice, rel=0.05)
    kept = [n for n, pair in enumerate(PAIRS) if 10 not in pair]
    without = 2 * np.subtract(*np.quantile(m["predictor"][kept], [0.9, 0.1]))
    assert found["without log C"].value == pytest.approx(without, rel=0.05)
    assert found["ranks"].rho > 0.9
    signed = np.subtract(*np.quantile(np.concatenate([m["ratio"], -m["ratio"]]), [0.9, 0.1]))
    assert found["directed, log ratio"].value == pytest.approx(1.5 * signed, rel=0.05)
