"""Regression over pairs: against statsmodels and direct computation, and the committed simulation of its interval."""

import sys
from itertools import combinations

import numpy as np
import pytest
from scipy import stats
from statsmodels.regression.linear_model import OLS
from statsmodels.regression.mixed_linear_model import MixedLM, VCSpec

from mtl_lab import ROOT, records
from mtl_lab.statistics import dyadic

PAIRS = np.array(list(combinations(range(7), 2)))


def pairs_at_random(seed, of_nodes=0.0, slope=0.0, pairs=PAIRS):
    """x, y and a covariate that acts on both; y has node effects of SD `of_nodes` and noise of SD 1."""
    random, (i, j) = np.random.default_rng(seed), pairs.T
    nodes, ratio = of_nodes * random.normal(size=pairs.max() + 1), random.normal(size=len(pairs)) ** 2
    x = random.normal(size=len(pairs)) + ratio
    return x, slope * x + 2 * ratio + nodes[i] + nodes[j] + random.normal(size=len(pairs)), ratio


def simulation(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    import balanced_pairs_simulation

    return balanced_pairs_simulation


def test_a_pair_is_a_member_of_both_its_nodes():
    assert dyadic.membership([[0, 2], [1, 0]], 3).tolist() == [[1, 0, 1], [1, 1, 0]]
    assert dyadic.spread(np.arange(11.0)) == pytest.approx(8)


def test_a_mixed_model_is_that_of_statsmodels():
    x, y, ratio = pairs_at_random(0, of_nodes=5, slope=1)
    nodes = dyadic.membership(PAIRS, 7)
    spec = VCSpec(["node"], [[[str(k) for k in range(7)]]], [[nodes]])
    design = np.column_stack([x, ratio, np.ones(21)])
    known = MixedLM(y, design, groups=np.zeros(21), exog_vc=spec).fit(reml=True)
    assert known.vcomp[0] > 0.5, "node effects are seen"
    covariance = known.scale * np.eye(21) + known.vcomp[0] * nodes @ nodes.T  # its own errors are those of the Hessian
    errors = np.sqrt(np.diag(np.linalg.inv(design.T @ np.linalg.inv(covariance) @ design)))
    found = dyadic.mixed(y, {"x": x, "ratio": ratio}, {"node": nodes}, freedom=12)
    for k, (name, column) in enumerate({"x": x, "ratio": ratio}.items()):
        e, scale = found[name], dyadic.spread(column)
        half = stats.t.ppf(0.975, 12) * errors[k] * scale
        known_as = [known.params[k] * scale, half, half]
        assert [e.value, e.high - e.value, e.value - e.low] == pytest.approx(known_as, rel=1e-3)
        assert e.p == pytest.approx(2 * stats.t.sf(abs(known.params[k] / errors[k]), 12), rel=2e-2)
        assert errors[k] == pytest.approx(known.bse_fe[k], rel=0.1)
    assert dyadic.of_pairs(x, y, PAIRS, {"ratio": ratio}) == found["x"], "21 pairs less 2 columns and 7 nodes"


def test_effects_without_node_effects_are_those_of_least_squares():
    x, y, ratio = pairs_at_random(4)
    everything = np.column_stack([x, ratio, dyadic.membership(PAIRS, 7)])
    y = 1.5 * x + ratio + y - everything @ np.linalg.lstsq(everything, y, rcond=None)[0]  # nodes explain no residual
    known = OLS(y, np.column_stack([x, ratio, np.ones(21)])).fit()
    e, scale = dyadic.of_pairs(x, y, PAIRS, {"ratio": ratio}), dyadic.spread(x)
    assert [e.value, e.high] == pytest.approx(
        [1.5 * scale, (1.5 + stats.t.ppf(0.975, 12) * known.bse[0]) * scale], rel=1e-3
    )


def test_the_permutation_test_compares_t_statistics():
    pairs, count = PAIRS[(PAIRS < 5).all(1)], 60
    x, y, ratio = pairs_at_random(1, of_nodes=1, slope=0.7, pairs=pairs)
    fixed = np.column_stack([ratio, np.ones(10)])
    left = x - fixed @ OLS(x, fixed).fit().params
    square = np.zeros((5, 5))
    square[tuple(pairs.T)] = square[tuple(pairs.T[::-1])] = left
    orders = np.random.default_rng(3).permuted(np.tile(np.arange(5), (count, 1)), axis=1)
    t = [abs(OLS(y, np.column_stack([square[o[pairs[:, 0]], o[pairs[:, 1]]], fixed])).fit().tvalues[0]) for o in orders]
    found = abs(OLS(y, np.column_stack([x, fixed])).fit().tvalues[0])
    expected = (1 + np.sum(np.array(t) >= found * (1 - 1e-9))) / (1 + count)
    assert dyadic.mrqap(x, y, pairs, {"ratio": ratio}, permutations=count, seed=3) == pytest.approx(expected)
    assert 1 / 61 < expected < 1


def test_the_permutation_test_under_the_null_and_an_effect():
    def p(seed, slope):
        x, y, ratio = pairs_at_random(seed, of_nodes=1, slope=slope)
        return dyadic.mrqap(x, y, PAIRS, {"ratio": ratio}, permutations=199)

    null = np.array([p(seed, 0.0) for seed in range(200)])
    assert stats.kstest(null, "uniform").pvalue > 0.01, null.mean()
    assert np.mean([p(seed, 2.0) for seed in range(20)]) < 0.02
    x, y, ratio = pairs_at_random(0)
    alone, shifted = (dyadic.mrqap(v, y, PAIRS, {"ratio": ratio}, permutations=199) for v in (x, x + 5 * ratio))
    assert alone == pytest.approx(shifted), "what the covariate explains of x plays no part"


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (1.01, 3, "predicts"),
        (1, 3, "these pairs cannot tell"),
        (-3, -1.01, "predicts the opposite"),
        (-3, -1, "these pairs cannot tell"),
        (-0.99, 0.99, "does not, to within 1 %"),
        (-1, 0.5, "these pairs cannot tell"),
        (-0.5, 1, "these pairs cannot tell"),
        (0.2, 0.8, "does not, to within 1 %"),
        (0.2, 1.4, "these pairs cannot tell"),
    ],
)
def test_answers_at_their_borders(low, high, words):
    assert dyadic.answer(low, high, 1.0) == words


def test_the_jackknife_leaves_out_one_node_at_a_time(monkeypatch):
    x, y, ratio = pairs_at_random(2, of_nodes=1, slope=1)
    scale = dyadic.spread(x)

    def slope(kept):
        return scale * OLS(y[kept], np.column_stack([x, ratio, np.ones(21)])[kept]).fit().params[0]

    without = np.array([slope([n for n, pair in enumerate(PAIRS) if k not in pair]) for k in range(7)])
    error = np.sqrt(6 / 7 * np.sum((without - without.mean()) ** 2))
    e, value = simulation(monkeypatch).jackknife(x, y, PAIRS, ratio), slope(np.arange(21))
    half = stats.t.ppf(0.975, 6) * error
    assert [e.value, e.low, e.high] == pytest.approx([value, value - half, value + half])
    assert e.p == pytest.approx(2 * stats.t.sf(abs(value) / error, 6))


def test_the_simulation_counts_what_it_says(monkeypatch):
    found = simulation(monkeypatch).simulate(3.0, 0.5, "normal", trials=12)
    assert found["predicts"] + found["predicts the opposite"] + found["does not"] + found[
        "cannot tell"
    ] == pytest.approx(1)
    assert found["power"] > 0.7 and found["does not"] == 0 and 0.5 < found["half_width"] < 1.5


def test_the_committed_simulation_covers():
    rows = records.by_row("balanced_pairs_simulation", "small")
    assert len(rows) == 18
    for row, record in rows.items():
        shares = record["shares"]
        assert 0.93 <= shares["coverage"] <= 0.97, row
        assert shares["half_width"] < shares["half_width of the jackknife"], row
        assert record["provenance"]["clean"], row
