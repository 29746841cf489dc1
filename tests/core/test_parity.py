"""Every method agrees with a restatement that shares nothing with it, or the table gives a reason; official numbers."""

import functools
import inspect
import json

import parity_table
import pytest
import references
import torch
import trace_table
from parity_table import LIMIT, OPTIONS, TASKS, difference, ours, steps_of

from mtl_core import methods
from mtl_core.methods import METHODS

MATRIX = [name for name, spec in METHODS.items() if spec.kind != "feature rotation"]
SAME_RULE = [{"mgda", "mgda_ub"}, {"imtl_g", "imtl_g_features"}, {"aligned_mtl", "aligned_mtl_ub"}]  # of another matrix
NAMES = MATRIX


def test_every_method_has_a_reference_that_shares_nothing_with_it():
    assert set(references.REFERENCES) == set(MATRIX)
    source = inspect.getsource(references)
    assert not any(f"{word} {name}" in source for word in ("import", "from") for name in ("torch", "mtl_core"))


@pytest.mark.parametrize("K", TASKS)
@pytest.mark.parametrize("name", NAMES)
def test_parity(name, K):
    assert difference(name, K) < LIMIT
    other = NAMES[NAMES.index(name) - 1]  # so that agreement means something
    assert {name, other} in SAME_RULE or difference(name, K, reference=other) > 1e-3


@pytest.mark.parametrize("rho", [0.0, 0.7])
def test_moco_with_a_ridge(rho):
    steps = [(J / 3, L, after) for J, L, after in steps_of(3)]
    expected = references.moco(steps, None, 0.9, 0.3, rho)
    for found, other in zip(ours("moco", steps, beta=0.9, gamma=0.3, rho=rho), expected, strict=True):
        assert abs(found - other).max() < 1e-12
    assert abs(expected[-1] - references.moco(steps, None, 0.9, 0.3, 0.7 - rho)[-1]).max() > 1e-3


def test_what_is_above_the_limit_needs_its_reason():
    for name, options, reason in OPTIONS:
        assert LIMIT < max(difference(name, K, **options) for K in TASKS) < 0.6 and reason


def unexplained(rows):
    """Methods above the limit, or without a finite difference, for which the table gives no reason."""
    return [row["method"] for row in rows if not row["difference"] < LIMIT and not row["reason"]]


def test_every_method_has_a_row_below_the_limit_or_with_its_reason():
    rows = parity_table.rows()
    assert [row["method"] for row in rows] == [*METHODS, *(name for name, *_ in OPTIONS)]
    assert unexplained(rows) == []
    above = [(row["method"], row["options"]) for row in rows if not row["below"]]
    assert above == [("mgda", {"solver": "frank-wolfe"})] and all(not row["reason"] for row in rows if row["below"])
    json.dumps(rows, allow_nan=False)


def test_a_new_method_without_reference_a_difference_without_reason(monkeypatch):
    monkeypatch.setattr(parity_table, "METHODS", {"new": METHODS["equal"]})
    with pytest.raises(KeyError, match="new has no reference"):
        parity_table.rows()
    monkeypatch.setattr(parity_table, "METHODS", {name: METHODS[name] for name in ("mgda", "pcgrad")})
    assert unexplained(parity_table.rows()) == []
    monkeypatch.setattr(parity_table, "OPTIONS", [("mgda", {"solver": "frank-wolfe"}, "")])
    assert unexplained(parity_table.rows()) == ["mgda"]
    monkeypatch.setattr(parity_table, "difference", lambda *a, **more: float("nan"))
    assert unexplained(parity_table.rows()) == ["mgda", "pcgrad", "mgda"]


def test_an_entry_of_the_table(monkeypatch):
    few = {name: METHODS[name] for name in ("famo", "mgda", "db_mtl", "scale_only")}
    monkeypatch.setattr(parity_table, "METHODS", few)
    famo, mgda, db_mtl, scale_only, early = parity_table.rows()
    assert famo["supplier"] == "torchjd" and famo["below"] and famo["difference"] < 1e-12 and not famo["reason"]
    assert mgda["below"] and not mgda["reason"] and mgda["supplier"] == db_mtl["supplier"] == "mtl_core"
    assert 0 < scale_only["difference"] < 1e-12 and "sample by sample" in scale_only["reference"]
    assert early["options"] == {"solver": "frank-wolfe"} and early["supplier"] == "torchjd"
    assert early["below"] is False and "Frank-Wolfe" in early["reason"]


def test_recorded_traces_are_followed_as_far_as_they_are_printed():
    rows = trace_table.rows()
    followed = {row["method"] for row in rows if row["trace"] != "one step"}
    assert len(rows) == 39 and followed == {"sam_gs", "rotate_only", "rotograd", "rotograd_norm"}
    assert [row["trace"] for row in rows if not row["difference"] < row["limit"] or not row["vectors"]] == []
    assert sum(row["vectors"] for row in rows) > 200


def test_a_trace_of_other_settings_is_not_followed(monkeypatch):
    wrong = functools.partial(methods.SAMGS, epsilon=1e-7)
    monkeypatch.setattr(trace_table, "SAMGS", lambda gamma, beta1, beta2, *rest: wrong(gamma, beta1, beta2))
    found = [row for row in trace_table.rows() if row["method"] == "sam_gs" and row["vectors"] > 1]
    assert sum(row["difference"] > row["limit"] for row in found) == len(found)


# --- numbers of official classes


@pytest.mark.parametrize("name", [*trace_table.OFFICIAL, *trace_table.CLIPPED])
def test_one_step_of_official_classes(name):
    shared, expected, tolerance = trace_table.one_step(name)
    torch.testing.assert_close(shared, expected, rtol=0, atol=tolerance)
