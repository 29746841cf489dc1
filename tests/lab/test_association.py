"""Rank correlation between measurements of pairs of tasks: against SciPy, and where pairs share tasks."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from mtl_lab.statistics.association import between_pairs, over_items, rank_correlation

PAIRS = list(combinations(range(9), 2))


def test_rank_correlation_is_spearmans():
    random = np.random.default_rng(0)
    for _ in range(5):
        x, y = random.integers(0, 6, 20), random.standard_normal(20)  # x with ties
        assert rank_correlation(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert np.isnan(rank_correlation([1, 1, 1], [1, 2, 3]))


def test_a_monotone_relation_is_seen_in_both_directions():
    random = np.random.default_rng(1)
    x = random.standard_normal(len(PAIRS))
    for sign in (1, -1):
        result = between_pairs(x, sign * np.exp(x), PAIRS, permutations=200)
        assert result.rho == pytest.approx(sign) and result.p == pytest.approx(1 / 201)
        assert result.pairs == 36 and result.tasks == 9


def test_order_of_pairs_and_of_their_ends_does_not_matter():
    random = np.random.default_rng(2)
    x, y = random.standard_normal((2, len(PAIRS)))
    order = random.permutation(len(PAIRS))
    turned = [PAIRS[n][::-1] for n in order]
    first, second = between_pairs(x, y, PAIRS), between_pairs(x[order], y[order], turned)
    assert (first.rho, first.low, first.high) == pytest.approx((second.rho, second.low, second.high))
    assert first.p == pytest.approx(second.p, abs=0.05)


def test_effects_of_single_tasks_do_not_pass_for_evidence():
    """Both measurements are sums of unrelated effects of the two tasks, so that pairs are far from independent.

    The p value for independent pairs is below 0.05 in about a third of such tables; ours should be in a twentieth.
    """
    random, ours, naive, covered, draws = np.random.default_rng(3), 0, 0, 0, 150
    for _ in range(draws):
        a, b = random.standard_normal((2, 9))
        x, y = (np.array([effect[i] + effect[j] for i, j in PAIRS]) for effect in (a, b))
        result = between_pairs(x, y, PAIRS, permutations=99, seed=int(random.integers(1 << 30)))
        ours, naive = ours + (result.p <= 0.05), naive + (stats.spearmanr(x, y).pvalue <= 0.05)
        covered += result.low <= 0 <= result.high
    assert naive > 0.2 * draws, "the textbook p value is wrong for such pairs"
    assert ours < 0.12 * draws and covered > 0.85 * draws


@pytest.mark.parametrize(
    ("x", "pairs", "message"),
    [
        (np.zeros(35), PAIRS, "36 numbers in x and y"),
        (np.zeros(36), PAIRS[:-1] + PAIRS[:1], "each pair of 9 tasks once"),
        (np.full(36, np.nan), PAIRS, "finite"),
        (np.zeros(3), list(combinations(range(3), 2)), "four tasks or more"),
    ],
)
def test_wrong_input_is_named(x, pairs, message):
    with pytest.raises(ValueError, match=message):
        between_pairs(x, np.zeros(len(x)), pairs)


def test_partial_correlation_takes_out_what_a_third_measurement_explains():
    random = np.random.default_rng(5)
    third = random.standard_normal(len(PAIRS))
    x, y = (third + 0.3 * random.standard_normal(len(PAIRS)) for _ in range(2))
    plain, partial = between_pairs(x, y, PAIRS), between_pairs(x, y, PAIRS, given=third)
    assert plain.rho > 0.7 and abs(partial.rho) < 0.4 and partial.p is None
    assert partial.low <= 0 <= partial.high and plain.low > 0
    a, b, c = (np.argsort(np.argsort(v)).astype(float) for v in (x, y, third))
    rests = [v - np.polyval(np.polyfit(c, v, 1), c) for v in (a, b)]
    assert partial.rho == pytest.approx(np.corrcoef(*rests)[0, 1], abs=1e-12), "residuals of ranks, by least squares"
    assert np.isnan(rank_correlation(x, third, third)) and np.isnan(rank_correlation(x, y, np.ones(len(x))))
    with pytest.raises(ValueError, match="to hold fixed"):
        between_pairs(x, y, PAIRS, given=third[:-1])


def test_interval_over_items_covers_and_narrows():
    random, covered, widths = np.random.default_rng(4), 0, {}
    for n in (20, 80):
        wide = []
        for draw in range(60):
            x, y = random.standard_normal((2, n))
            rho, low, high = over_items(x, y, draws=200, seed=draw)
            assert low <= rho <= high
            covered += low <= 0 <= high
            wide.append(high - low)
        widths[n] = np.mean(wide)
    assert covered >= 0.88 * 120 and widths[80] < 0.6 * widths[20]
    assert over_items([1, 2, 3, 4, 5], [1, 2, 3, 4, 5])[:2] == (pytest.approx(1), pytest.approx(1))
    with pytest.raises(ValueError, match="four or more, got 3 and 3"):
        over_items([1, 2, 3], [1, 2, 3])


def test_a_measurement_that_does_not_vary_has_no_p():
    pairs = list(combinations("abcde", 2))
    result = between_pairs(np.ones(10), np.arange(10.0), pairs)
    assert np.isnan([result.rho, result.p]).all()
