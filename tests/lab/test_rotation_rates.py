"""The rates of RotoGrad's rotations: errors from records, and what they say of the claim."""

import pytest

from mtl_lab import experiments, records
from mtl_lab.checks import Check
from mtl_lab.claims import verdicts
from mtl_lab.experiments import rotation_rates
from mtl_lab.experiments.rotation_rates import RotationRates

RULE = {"of": "0.5", "against": ["no rotation", "8"], "seeds": 4}


def write(root, errors, **other):
    """Records with these squared errors, row -> one a seed."""
    made = [
        {
            "row": row,
            "config": {"seed": seed},
            "diverged": None,
            "final": {"test": {"sum": {"RMSE": value**0.5, "loss": 9.0}}},
        }
        | other
        for row, values in errors.items()
        for seed, value in enumerate(values)
    ]
    records.write_lines(made, records.folder("rotation_rates", "small", root) / "runs.jsonl")


def test_each_rate_changes_the_rotations_rate_and_nothing_else():
    plan = RotationRates("tiny", seeds=2).plan()
    assert list(plan) == ["no rotation", "0.125", "0.5", "1", "2", "8"]
    for row, (first, second) in plan.items():
        assert (first.seed, second.seed) == (0, 1) and first.schedule["learning_rate"] == 1e-3
        assert first.schedule == plan["no rotation"][0].schedule
        if row != "no rotation":
            assert first.method == "rotate_only" and first.method_options["rotation_rate"] == float(row)
            assert first.method_options["rotation_size"] == 50


def test_the_claim_needs_all_seeds_and_an_error_beyond_chance(tmp_path):
    assert rotation_rates.checks(**RULE, root=tmp_path) is None and rotation_rates.errors(root=tmp_path) == {}
    half = [1.0, 1.1, 0.9, 1.0]
    write(
        tmp_path,
        {
            "0.5": half,
            "no rotation": [x + 1 + y / 9 for x, y in zip(half, (0, 1, 2, 3), strict=True)],
            "8": [x + y for x, y in zip(half, (1, -1, 1, -1), strict=True)],
            "2": half,
        },
    )
    checks = rotation_rates.checks(**RULE, root=tmp_path)
    assert [(check.holds, check.text.split(":")[0]) for check in checks] == [
        (True, "no rotation against 0.5"),
        (None, "8 against 0.5"),
    ]
    assert "+1.167" in checks[0].text and "4 seeds" in checks[0].text
    assert rotation_rates.checks(**(RULE | {"seeds": 5}), root=tmp_path) is None, "a seed is missing"
    assert rotation_rates.checks(**(RULE | {"against": ["4"]}), root=tmp_path) is None, "a row is missing"
    write(tmp_path, {"0.5": [2.0, 2.1, 2.2], "no rotation": [1.0, 1.2, 1.1], "8": [3.0, 3.2]})
    assert {row: list(v) for row, v in rotation_rates.errors(root=tmp_path).items()} == {
        row: [0, 1] for row in ("0.5", "no rotation", "8")
    }, "only the seeds that all rows have"


def test_a_smaller_error_elsewhere_speaks_against_the_claim(tmp_path):
    write(tmp_path, {"0.5": [2.0, 2.1, 2.2, 2.1], "no rotation": [1.0, 1.2, 1.1, 1.2]})
    (check,) = rotation_rates.checks("0.5", ["no rotation"], 4, root=tmp_path)
    assert check.holds is False


def test_a_run_that_diverged_is_refused(tmp_path):
    write(tmp_path, {"0.5": [1.0, 1.1], "8": [2.0, 2.1]}, diverged="epoch 2")
    with pytest.raises(ValueError, match="finite"):
        rotation_rates.checks("0.5", ["8"], 2, root=tmp_path)


def test_the_ledger_judges_the_claim_by_these_checks(monkeypatch):
    monkeypatch.setitem(experiments.RULES, "rotation rate", lambda **rule: [Check(str(rule), True)])
    (verdict,) = [one for one in verdicts.verdicts("rotograd") if one.claim["id"] == "rotograd-rotation-rate"]
    assert verdict.outcome == "holds on this problem"
    assert "'seeds': 20" in verdict.checks[0].text and "'0.5'" in verdict.checks[0].text
