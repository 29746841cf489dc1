"""Δm and mean ranks against hand values, and what they refuse."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtl_core import metrics


def test_delta_m_by_hand():
    # +10 % on a metric that is better when higher, +20 % of an error: (10 - 20) / 2
    assert metrics.delta_m([55.0, 1.2], [50.0, 1.0], [True, False]) == pytest.approx(-5)
    # Recon, Table 1, joint training
    values, baseline = {"T1": 97.42, "T2": 88.82}, {"T2": 89.63, "T1": 98.37}
    assert metrics.delta_m(values, baseline, True) == pytest.approx(-0.9347, abs=1e-4)


def test_groups_average_inside_a_task_first():
    values, baseline, up = dict(a=110.0, b=110.0, c=80.0), dict(a=100.0, b=100.0, c=100.0), True
    assert metrics.delta_m(values, baseline, up) == pytest.approx(0)
    for groups in (dict(a="s", b="s", c="d"), dict(s=["a", "b"], d=["c"])):
        assert metrics.delta_m(values, baseline, up, groups) == pytest.approx(-5)
    assert metrics.delta_m([110, 110, 80], [100] * 3, [True] * 3, ["s", "s", "d"]) == pytest.approx(-5)


@given(st.lists(st.tuples(st.floats(0.1, 1e3), st.floats(0.1, 1e3), st.booleans()), min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_delta_m_has_a_sign_and_no_unit(rows):
    values, baseline, up = zip(*rows, strict=True)
    change = metrics.delta_m(values, baseline, up)
    scaled = metrics.delta_m([7 * v for v in values], [7 * b for b in baseline], up)
    flipped = metrics.delta_m(values, baseline, [not u for u in up])
    assert scaled == pytest.approx(change) and flipped == pytest.approx(-change)
    assert metrics.delta_m(baseline, baseline, up) == 0
    better = [v * (1.1 if u else 0.9) for v, u in zip(values, up, strict=True)]
    assert metrics.delta_m(better, baseline, up) > change


@pytest.mark.parametrize(
    ("values", "baseline", "up", "groups", "message"),
    [
        ({"a": 1.0}, {"a": 0.0}, True, None, "positive baseline.*'a': 0.0"),
        ({"a": 1.0}, {"a": -2.0}, True, None, "positive baseline"),
        ({"a": 1.0}, {"a": 1.0, "b": 1.0}, True, None, "baseline.*extra.*'b'"),
        ({"a": 1.0, "b": 1.0}, {"a": 1.0}, True, None, "baseline.*missing.*'b'"),
        ({"a": 1.0}, {"a": 1.0}, {"b": True}, None, "higher_is_better"),
        ({"a": float("nan")}, {"a": 1.0}, True, None, "values.*finite"),
        ({"a": 1.0}, {"a": float("inf")}, True, None, "baseline.*finite"),
        (
            {"a": 1e308},
            {"a": 1e-10},
            True,
            None,
            "relative changes: .*got .inf",
        ),
        ({"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 1.0}, True, {"s": ["a"]}, "groups"),
        ([], [], True, None, "1 or more"),
    ],
)
def test_delta_m_refuses(values, baseline, up, groups, message):
    with pytest.raises(ValueError, match=message):
        metrics.delta_m(values, baseline, up, groups)


def test_mean_rank_averages_ties():
    table = {"x": {"up": 3.0, "down": 1.0}, "y": {"up": 3.0, "down": 2.0}, "z": {"down": 3.0, "up": 1.0}}
    up = {"up": True, "down": False}
    assert metrics.mean_rank(table, up) == {"x": 1.25, "y": 1.75, "z": 3.0}
    assert metrics.mean_rank({"x": [1.0, 1.0], "y": [1.0, 1.0]}, True) == {"x": 1.5, "y": 1.5}
    with pytest.raises(ValueError, match="row 'z'"):
        metrics.mean_rank(table | {"z": {"up": 1.0}}, up)
    with pytest.raises(ValueError, match="at least one method"):
        metrics.mean_rank({}, True)
