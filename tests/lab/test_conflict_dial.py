"""The plans of the dial and of the frozen weights, their contrasts on made-up records, and a tiny training of both."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mtl_lab import completion, records
from mtl_lab.experiments import conflict_dial, frozen_weights, qm9
from mtl_lab.experiments.conflict_dial import CELLS, READOUTS, ConflictDial, cell
from mtl_lab.experiments.frozen_weights import METHODS, FrozenWeights
from mtl_lab.experiments.rate_choice import SEED, choose, contrasts
from mtl_lab.protocol import committed
from mtl_lab.protocol.verdict import deltas
from mtl_lab.runs.run import Run
from mtl_lab.runs.store import Store


def record(row, run, value=1.0, second=None, **more):
    """A record as its file has it, with one error and one loss for each task."""
    errors = {"a": {"loss": value, "MAE (D)": value}, "b": {"loss": second or value, "MAE (D)": second or value}}
    final = {"validation": errors} | ({"test": errors} if run.test else {})
    config = json.loads(run.canonical())
    return {"row": row, "identity": run.identity, "config": config, "final": final, "diverged": None, **more}


def filled(grid, value=lambda row, run: 1.0):
    """The records of a grid, planned until nothing is missing."""
    found = []
    while missing := completion.missing_of_grid(grid, found).values():
        found += [record(row, run, value(row, run)) for row, run in missing]
    return found


# --- the sign


def test_the_two_signs_differ_in_nothing_but_the_sign():
    rows = ConflictDial("small").signs()
    decisive = {row for row in rows if ", width 64, m 0.5," in row and "trained" not in row}
    assert len(rows) == len(CELLS) * len(READOUTS) * 5 and len(decisive) == 10
    assert all(len(runs) == (180 if row in decisive else 30) for row, runs in rows.items())
    assert len({run.identity for runs in rows.values() for run in runs}) == 50 * 30 + 10 * 180
    for readout in READOUTS:
        for what in ("together", "second alone"):
            plus, minus = (rows[cell(what, readout, *CELLS[0], sign)][4] for sign in (1, -1))
            assert (plus.problem_options["sign"], minus.problem_options["sign"]) == (1, -1)
            assert replace(plus, problem_options=minus.problem_options) == minus
    together, alone = (rows[cell(what, "shared")][0] for what in ("together", "second alone"))
    assert together.observe and together.tasks is None and together.seed == 0
    assert (
        alone.tasks == [1]
        and alone.model_options["domains"] == [1]
        and rows[cell("first alone", "shared")][0].tasks == [0]
    )
    assert (
        CELLS[0] == (64, 0.5) and {width for width, _ in CELLS} == {16, 64, 256} and {m for _, m in CELLS} == {0.5, 2}
    )


def signed(effect, placebo=0.0, alone=0.0, seeds=30):
    """Records of the primary cell, in which harm at s = -1 is larger by `effect` or, in the placebo, `placebo`."""
    random, found = np.random.default_rng(1), []
    for row, runs in ConflictDial("small", seeds).signs().items():
        if ", width 64, m 0.5," not in row:
            continue
        extra = {"together, shared": effect, "together, independent": placebo, "second alone, shared": alone}
        shift = next((x for name, x in extra.items() if row.startswith(name) and row.endswith("s -1")), 0.0)
        found += [record(row, run, float(np.exp(shift + 0.02 * random.standard_normal()))) for run in runs]
    return found


def test_the_interaction_decides_whether_it_is_the_sign():
    found = conflict_dial.sign_contrasts(signed(0.1, 0.02))
    assert found["shared"].mean == pytest.approx(10, abs=1.5) and found["interaction"].mean == pytest.approx(8, abs=2)
    assert found["interaction"].n == 180 and found["trained"].n == 30 and -1 < found["trained"].mean < 1
    (said,) = conflict_dial.sentences(signed(0.1, 0.02))
    assert said.endswith("it is the sign.")
    (said,) = conflict_dial.sentences(signed(0.1, 0.1))
    assert said.endswith("the sign is not shown to matter.")
    (said,) = conflict_dial.sentences(signed(0.1, 0.0, alone=0.05))
    assert said.endswith("so nothing is said.")
    assert conflict_dial.sentences([]) == [] and conflict_dial.sign_contrasts(signed(0.1), 16, 0.5) == {}


# --- the dose


def pair_records(root: Path):
    """Made-up records of `balanced_pairs`: three seeds for each of five pairs, and rows that are none."""
    lines = []
    for n, value in enumerate([0.1, -0.5, 0.3, 0.0, -0.2]):
        for seed in range(3):
            run = Run("qm9", {"profile": "tiny"}, tasks=[n, n + 1], seed=seed)
            products = [[4.0, -value - 0.01 * seed], [-value + 0.01 * seed, 0.25]]
            found = record(f"predictor {n}", run, epochs={}, conflict={"products": products})
            lines += [found, {**found, "row": f"search {n}"}]
    file = records.folder("balanced_pairs", "tiny", root) / "runs.jsonl"
    file.parent.mkdir(parents=True)
    records.write_lines(lines, file)


def test_the_dose_runs_on_the_pairs_with_the_lowest_the_median_and_the_highest_predictor(tmp_path, monkeypatch):
    pair_records(tmp_path)
    assert conflict_dial.pairs("tiny", tmp_path / "elsewhere") == {} == conflict_dial.pairs("tiny", tmp_path)
    monkeypatch.setattr(conflict_dial, "PREDICTORS", 15)
    found = conflict_dial.pairs("tiny", tmp_path)
    assert {name: run.tasks for name, run in found.items()} == {"lowest": [1, 2], "median": [3, 4], "highest": [2, 3]}
    base = qm9.table("tiny").base
    assert {json.dumps(run.problem_options) for run in found.values()} == {'{"profile": "tiny"}'}
    assert {run.schedule["epochs"] for run in found.values()} == {base.schedule["epochs"] // 2}
    monkeypatch.setattr(conflict_dial, "pairs", lambda profile: found)
    plan = ConflictDial("tiny", 20)
    assert sum(row.startswith("rate, ") for row in plan.plan()) == 6 and "lowest, sgd, κ 0" not in plan.plan()
    rows = plan.plan(filled(plan))
    assert {row.split(", ")[0] for row in rows} == {
        *("together", "first alone", "second alone", "rate", "synthetic", "eleven", *found)
    }
    sgd, adam = ([row for row in rows if row.startswith(f"highest, {name}")] for name in ("sgd", "adam"))
    assert len(sgd) == 7 + 1 + 3 and len(adam) == 2 + 1 + 1
    assert {len(rows[row]) for row in sgd + adam} == {20} and len(rows["eleven, adam, κ 0"]) == 10


def test_a_control_has_the_weights_of_another_seed_at_its_own_length():
    plan = ConflictDial("small", 20)
    rows = plan.plan(filled(plan))
    donors = rows["synthetic, sgd, donor"]
    assert [run.seed for run in donors] == [1000 + seed for seed in range(120)]
    for form in ("steps", "blocks", "arithmetic"):
        runs = rows[f"synthetic, sgd, replayed {form}"]
        assert [run.seed for run in runs] == [*range(120)]
        assert [Run.from_dict(run.method_options["donor"]).identity for run in runs] == [d.identity for d in donors]
        assert {run.method_options["form"] for run in runs} == {form}
    assert all(run.method_options["match"] and run.method_options["kappa"] == 1 for run in donors)
    one = rows["synthetic, sgd, κ 1, matched"][3]
    assert replace(one, seed=donors[3].seed) == donors[3]
    assert {run.method_options["balanced"] for run in rows["eleven, adam, κ 0"]} == {True}
    assert len(rows["synthetic, sgd, κ 0"]) == 120 and one.problem_options["sign"] == -1


def test_what_the_doses_say(monkeypatch):
    monkeypatch.setattr(conflict_dial, "pairs", lambda profile: {})  # whatever results/ holds
    values = {"κ 1, matched": 0.9, "replayed steps": 1.0, "κ 0": 1.0}

    def value(row, run):
        noise = np.random.default_rng(int(run.identity, 16)).standard_normal()
        return values.get(row.removeprefix("synthetic, sgd, "), 1.0) * float(np.exp(0.003 * noise))

    found = filled(ConflictDial("small", 20), value)
    dose = conflict_dial.dose_contrasts(found, "synthetic", "sgd")
    assert dose["answers"].mean == pytest.approx(-100 * np.log(0.9), abs=0.5) and abs(dose["weights"].mean) < 0.5
    said = conflict_dial.sentences(found)
    assert len(said) == 3 and ", better; weights" in said[1] and "equivalent." in said[1]
    assert conflict_dial.dose_contrasts(found, "lowest", "sgd") == {}


# --- the ladder


def test_rates_are_chosen_on_a_seed_of_their_own_without_test_data():
    run, rates = qm9.table("tiny").base, (0.1, 0.2, 0.3)
    rows, chosen = choose("x", run, rates, [])
    (tried,) = rows.values()
    assert chosen is None and [(r.seed, r.test, r.schedule["learning_rate"]) for r in tried] == [
        (SEED, False, rate) for rate in rates
    ]
    found = [record("x", r, value) for r, value in zip(tried, (0.3, 0.1, 0.2), strict=True)]
    assert choose("x", run, rates, found)[1] == replace(run, schedule={**run.schedule, "learning_rate": 0.2})
    found[1]["diverged"] = {"epoch": 0}
    assert choose("x", run, rates, found)[1].schedule["learning_rate"] == 0.3


def test_the_ladder_of_each_method_and_its_size(monkeypatch):
    plan = FrozenWeights("small")
    first = plan.plan()
    assert {*first} == {
        f"rate, {row}" for row in [*(f"{m}, adaptive" for m in METHODS), "plain, static", "samgs, static"]
    }
    found = filled(plan)
    rows = plan.plan(found)
    sizes = {row: len(runs) for row, runs in rows.items()}
    for method in METHODS:
        assert [sizes[f"{method}, {rung}"] for rung in frozen_weights.RUNGS[:-1]] == [10] * 5
        assert [sizes[f"rate, {method}, {rung}"] for rung in frozen_weights.RUNGS[:-1]] == [3] * 5
        assert [sizes[f"{method}, lag {lag}"] for lag in frozen_weights.LAGS] == [5] * 4
        assert [sizes[f"{method}, {rung}, length"] for rung in ("steps", "epochs", "constant")] == [5] * 3
        assert sizes[f"{method}, donor"] == 11 and sizes[f"{method}, last third"] == 5
        assert (f"{method}, arithmetic" in sizes) == (method != "mgda")
        adaptive, steps = rows[f"{method}, adaptive"][2], rows[f"{method}, steps"][2]
        assert replace(steps, method=adaptive.method, method_options=adaptive.method_options) == adaptive
        assert steps.method_options["donor"]["seed"] == 1002 and steps.convention == adaptive.convention
    assert len(found) == sum(sizes.values()) == len({r["identity"] for r in found}) == 626
    assert not any(run.test for row, runs in rows.items() for run in runs if row.startswith("rate"))
    search = committed.search_of(qm9.table("small"))["rows"]["static"]["choice"]["weights"]
    assert rows["plain, static"][0].method_options == {"weights": search}
    assert rows["samgs, static"][0].convention == "samgs" and rows["plain, static"][0].convention == "plain"
    monkeypatch.setattr(committed, "search_of", lambda *_: None)
    assert {*FrozenWeights("tiny").plan()} == {f"rate, {method}, adaptive" for method in METHODS}


def test_what_a_ladder_says():
    random, steps = np.random.default_rng(2), {"adaptive": 10.0, "steps": 5.0}
    rows = {
        f"{'plain' if r == 'static' else 'mgda'}, {r}": {
            s: steps.get(r, 0.0) + 0.3 * random.standard_normal() for s in range(10)
        }
        for r in frozen_weights.RUNGS
    }
    found = frozen_weights.ladder_contrasts(rows, "mgda")
    assert [*found] == ["feedback", "timing", "order", "spread", "place"] and found["feedback"].n == 10
    assert found["feedback"].mean == pytest.approx(5, abs=0.5) and found["timing"].mean == pytest.approx(5, abs=0.5)
    said = frozen_weights.sentence(rows, "mgda")
    assert (
        said.startswith("mgda, points of Δm: feedback +")
        and said.count("equivalent") == 3
        and said.count("better") == 2
    )
    del rows["plain, static"]
    assert frozen_weights.ladder_contrasts(rows, "mgda") == {} and frozen_weights.sentence(rows, "mgda") == ""


def test_scores_are_those_of_the_table(monkeypatch):
    """A committed row of `qm9` as if it were a rung: the Δm that the table's verdict has."""
    table = qm9.table("small")
    loaded = committed.load(table)
    monkeypatch.setattr(committed, "load", lambda *_: loaded)
    rows = [r for r in loaded if r["row"] == "log_sum"]
    expected = deltas(table, {row.name: [r for r in loaded if r["row"] == row.name] for row in table.rows})["log_sum"]
    assert frozen_weights.scores(rows)["log_sum"] == pytest.approx(expected) and len(expected) >= 10


@pytest.mark.parametrize(("seeds", "rows"), [(10, 5), (20, 2), (30, 1)])
def test_coverage_and_power_of_the_contrasts(seeds, rows):
    """Simulated: a family without any effect names one in 5 % of the cases; a large one is found."""
    random, tables, false, found = np.random.default_rng(seeds), 400, 0, 0
    for _ in range(tables):
        values = {f"{n}": dict(enumerate(random.standard_normal(seeds))) for n in range(rows + 1)}
        pairs = {f"{n}": (f"{n}", f"{n + 1}") for n in range(rows)}  # neighbours on a ladder share a rung
        false += any(d.low > 0 or d.high < 0 for d in contrasts(values, pairs).values())
        shifted = values | {"0": {s: x + 2.8 * (2 / seeds) ** 0.5 * 2 for s, x in values["0"].items()}}
        found += contrasts(shifted, pairs)["0"].low > 0
    assert false / tables <= 0.05 + 3 * (0.05 * 0.95 / tables) ** 0.5 and found / tables > 0.8


def test_differences_of_differences():
    rows = {
        name: dict(enumerate(values))
        for name, values in zip("abcd", np.random.default_rng(0).random((4, 6)), strict=True)
    }
    expected = np.mean([(rows["a"][s] - rows["b"][s]) - (rows["c"][s] - rows["d"][s]) for s in range(6)])
    assert contrasts(rows, {"x": "abcd"})["x"].mean == pytest.approx(expected)
    assert contrasts(rows, {"x": "ab", "y": "ae"}) == {}


# --- a tiny training


def test_both_grids_train_from_the_first_rate_to_the_last_replay(tmp_path, monkeypatch):
    monkeypatch.setenv("MTL_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(conflict_dial, "CELLS", ((8, 0.5),))
    monkeypatch.setattr(frozen_weights, "METHODS", {"mgda": {}})
    monkeypatch.setattr(frozen_weights, "RATES", (0.01,))
    monkeypatch.setattr(frozen_weights, "LAGS", (2,))
    table = qm9.table("tiny")
    short = replace(
        table.base, model_options={**table.base.model_options, "width": 8}, schedule=table.base.schedule | {"epochs": 1}
    )
    monkeypatch.setattr(qm9, "table", lambda profile="tiny": replace(table, base=short))
    monkeypatch.setattr(conflict_dial, "RATES", {"sgd": ()})
    for name, plan in (("conflict_dial", ConflictDial("tiny", 1)), ("frozen_weights", FrozenWeights("tiny", 2))):
        completion.complete_grid(name, plan, 1, tmp_path)
        found = records.load(name, "tiny", tmp_path)
        assert {r["identity"] for r in found} == {run.identity for runs in plan.plan(found).values() for run in runs}
        assert not any("trace" in r for r in found) and {r["diverged"] for r in found} == {None}
        assert completion.complete_grid(name, plan, 1, tmp_path).endswith("0 trained now.")
    assert Store().folder.exists()
