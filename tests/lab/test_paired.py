"""Statistics of paired seeds, rates and test sets against hand values, SciPy, statsmodels and simulation."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from mtl_lab.statistics import paired

rng = np.random.default_rng


# --- paired differences


def test_paired_difference_by_hand():
    # differences 1, 2, 3: mean 2, sd 1, t(2, 0.975) = 4.3027, so 2 ± 4.3027 / √3
    d = paired.paired_difference([2, 4, 6], [1, 2, 3])
    assert (d.mean, d.sd, d.n) == (2, 1, 3)
    assert (d.low, d.high) == pytest.approx((2 - 2.4841, 2 + 2.4841), abs=1e-4)
    assert d.p == pytest.approx(0.0742, abs=1e-4)  # t = 3.4641 with 2 degrees of freedom


@pytest.mark.parametrize(("n", "half"), [(3, 2.48), (5, 1.24), (10, 0.72), (20, 0.47)])
def test_half_width_in_paired_standard_deviations(n, half):
    d = paired.paired_difference(rng(n).standard_normal(n), np.zeros(n))
    assert (d.high - d.low) / 2 / d.sd == pytest.approx(half, abs=0.005)


@given(
    st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=2, max_size=15),
    st.floats(0.5, 0.999),
)
@settings(max_examples=60, deadline=None)
def test_paired_difference_agrees_with_scipy(pairs, level):
    a, b = zip(*pairs, strict=True)
    d = paired.paired_difference(a, b, level)
    if d.sd == 0:
        assert d.low == d.mean == d.high and d.p == (d.mean == 0)
        return
    reference = stats.ttest_rel(a, b)
    interval = reference.confidence_interval(level)
    assert (d.low, d.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
    assert d.p == pytest.approx(reference.pvalue, abs=1e-12)


def test_seeds_are_paired_by_name():
    d = paired.paired_difference({0: 1.0, 1: 5.0, 2: 2.0}, {2: 1.5, 1: 4.0, 0: 0.0})
    assert (d.mean, d.n) == (pytest.approx(2.5 / 3), 3)
    with pytest.raises(ValueError, match=r"missing \[1\], extra \[7\]"):
        paired.paired_difference({0: 1.0, 1: 5.0}, {0: 1.0, 7: 5.0})


@pytest.mark.parametrize("wrong", [[1.0], [1.0, float("nan")], [[1.0, 2.0], [3.0, 4.0]]])
def test_too_few_or_broken_differences_are_refused(wrong):
    zeros = np.zeros(np.shape(wrong))
    with pytest.raises(ValueError, match="expected"):
        paired.paired_difference(wrong, zeros)
    with pytest.raises(ValueError, match="expected"):
        paired.sign_flip_p(wrong)
    with pytest.raises(ValueError, match="expected"):
        paired.holm_intervals({"a": wrong})


@pytest.mark.parametrize(("n", "p"), [(3, 0.25), (5, 0.0625), (10, 0.001953125)])
def test_sign_flip_of_one_sign_is_the_smallest_p(n, p):
    d = rng(n).random(n) + 0.1
    assert paired.sign_flip_p(d) == paired.sign_flip_p(-d) == p


def test_sign_flip_against_enumeration_and_scipy():
    d = np.array([0.3, -0.1, 0.7, 0.2, 0.2, -0.4, 0.1])  # with ties between patterns
    sums = [abs(np.dot(signs, d)) for signs in product([1, -1], repeat=len(d))]
    expected = np.mean([s >= abs(d.sum()) - 1e-12 for s in sums])
    assert paired.sign_flip_p(d) == expected
    reference = stats.permutation_test(
        (d,), np.sum, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    )
    assert paired.sign_flip_p(d) == pytest.approx(reference.pvalue)
    assert paired.sign_flip_p(np.zeros(4)) == 1
    assert paired.sign_flip_p(rng(0).standard_normal(20)) > 0
    with pytest.raises(ValueError, match="up to 20"):
        paired.sign_flip_p(np.ones(21))


# --- several rows at once


def test_holm_intervals_by_hand():
    """The first row is rejected at level 1 - α/3, the second fails at 1 - α/2, the third stays there."""
    noise = np.array([-1.0, 0.0, 1.0, -0.5, 0.5])
    rows = {"none": noise, "small": 1.02 + noise, "large": 5 + noise}
    intervals = paired.holm_intervals(rows)
    for row, level in {"large": 1 - 0.05 / 3, "small": 1 - 0.05 / 2, "none": 1 - 0.05 / 2}.items():
        expected = stats.ttest_1samp(rows[row], 0).confidence_interval(level)
        assert (intervals[row].low, intervals[row].high) == pytest.approx((expected.low, expected.high))
    assert list(intervals) == list(rows) and 0.025 < intervals["small"].p < 0.05  # unadjusted, it would be different


def test_holm_intervals_exclude_zero_exactly_where_holm_rejects():
    for m in range(1, 9):
        random = rng(m)
        rows = {k: random.standard_normal(6) + random.choice([0, 1, 2]) for k in range(m)}
        intervals = paired.holm_intervals(rows).values()
        rejected = multipletests([d.p for d in intervals], 0.05, method="holm")[0]
        assert [d.low > 0 or d.high < 0 for d in intervals] == rejected.tolist()


def test_false_verdicts_on_simulated_null_tables():
    """600 tables, 8 rows that differ from the reference by seeds alone, 10 seeds, one shared reference row.

    The share of tables with any row called different stays under 5 % plus three standard errors; with
    unadjusted intervals it is several times that, so the simulation can tell the two apart.
    """
    random, tables = rng(2023), 600
    false = unadjusted = 0
    for _ in range(tables):
        runs = random.standard_normal((9, 10))
        rows = {k: runs[k] - runs[8] for k in range(8)}
        outcomes = [paired.outcome(d.low, d.high, 0.3) for d in paired.holm_intervals(rows).values()]
        false += any(word not in ("equivalent", "cannot decide") for word in outcomes)
        t = (runs[:8] - runs[8]).mean(1) / (runs[:8] - runs[8]).std(1, ddof=1) * 10**0.5
        unadjusted += (np.abs(t) > stats.t.ppf(0.975, 9)).any()
    assert 0.01 < false / tables <= 0.05 + 3 * (0.05 * 0.95 / tables) ** 0.5
    assert unadjusted / tables > 0.15


EDGES = {  # with a margin of 0.3
    "better": [(0.31, 0.9)],
    "worse": [(-0.9, -0.31)],
    "equivalent": [(-0.29, 0.29), (0.01, 0.29), (0.0, 0.0)],
    "better (amount uncertain)": [(0.01, 0.31), (0.3, 0.9), (0.1, 0.3)],
    "worse (amount uncertain)": [(-0.31, -0.01), (-0.9, -0.3)],
    "cannot decide": [(-0.29, 0.31), (-0.9, 0.9), (-0.3, 0.3), (0.0, 0.3), (-0.3, 0.0)],
}


@pytest.mark.parametrize("word", EDGES)
def test_outcome_at_its_edges(word):
    for low, high in EDGES[word]:
        assert paired.outcome(low, high, 0.3) == word, (low, high)


@pytest.mark.parametrize("wrong", [(1, 0, 0.3), (0, 1, 0), (0, 1, -1), (0, float("nan"), 0.3)])
def test_outcome_refuses(wrong):
    with pytest.raises(ValueError, match="expected"):
        paired.outcome(*wrong)


@pytest.mark.parametrize(("n", "power"), [(2, 0.06), (2, 0.8), (2, 0.95), (5, 0.3), (10, 0.8), (34, 0.81)])
def test_detectable_effect_has_its_power(n, power):
    """Against an integral over the chi distribution of the standard deviation."""
    shift, critical = paired.detectable_effect(1.0, n, power) * n**0.5, stats.t.ppf(0.975, n - 1)
    sd = np.linspace(0, 12, 200_001)
    tails = stats.norm.cdf(shift - critical * sd) + stats.norm.cdf(-shift - critical * sd)
    density = stats.chi.pdf(sd * (n - 1) ** 0.5, n - 1) * (n - 1) ** 0.5
    assert np.trapezoid(density * tails, sd) == pytest.approx(power, abs=1e-6)


def test_detectable_effect_by_simulation():
    assert paired.detectable_effect(1.0, 34) == pytest.approx(0.5, abs=0.01)  # textbook value
    effect = paired.detectable_effect(2.0, 10)
    hits = stats.ttest_1samp(effect + 2 * rng(1).standard_normal((20000, 10)), 0, axis=1).pvalue < 0.05
    assert hits.mean() == pytest.approx(0.8, abs=0.01)
    assert paired.detectable_effect(2.0, 3) > 3 * effect
    for wrong in ((0, 10, 0.8), (1, 1, 0.8), (1, 10, 0.04), (1, 10, 1)):
        with pytest.raises(ValueError, match="expected sd"):
            paired.detectable_effect(*wrong)


# --- rates and test-set noise


def test_wilson_by_hand():
    # 8 of 10: (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n), z = 1.96
    assert paired.wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert paired.wilson(0, 10)[0] == 0 and paired.wilson(10, 10)[1] == 1
    for wrong in ((11, 10), (-1, 10), (0, 0)):
        with pytest.raises(ValueError, match="successes"):
            paired.wilson(*wrong)
    with pytest.raises(ValueError, match="level"):
        paired.wilson(1, 2, 95)


def binomial_interval(p, n):
    return stats.binom.ppf([0.025, 0.975], n, p) / n


def test_copies_of_a_source_add_no_information():
    for sources, copies, near in ((400, 1, 0.005), (100, 9, 0.011)):  # 100 sources, not 900
        correct, ids = (np.repeat(x, copies) for x in (np.arange(sources) % 10 != 0, np.arange(sources) + 5))
        interval = paired.bootstrap_over_sources(correct, ids, draws=4000)
        assert interval == pytest.approx(binomial_interval(0.9, sources), abs=near)


def test_composites_of_two_sources_count_as_the_product():
    """Each digit with each garment, right by one of the two alone: the accuracy is a binomial share of that one."""
    digit, garment = (x.ravel() for x in np.meshgrid(np.arange(50), np.arange(40), indexing="ij"))
    for ids, count, near in ((digit, 50, 0.021), (garment, 40, 0.026)):
        interval = paired.bootstrap_over_sources(ids % 5 != 0, (digit, garment), draws=4000)
        assert interval == pytest.approx(binomial_interval(0.8, count), abs=near)


def test_bootstrap_repeats_by_seed_and_refuses():
    correct, ids = rng(0).random(60), np.arange(60) // 2
    first = paired.bootstrap_over_sources(correct, ids, draws=200, seed=3)
    assert first == paired.bootstrap_over_sources(correct, ids, draws=200, seed=3)
    assert first != paired.bootstrap_over_sources(correct, ids, draws=200, seed=4)
    for wrong in (ids[:59], np.zeros(60), (ids, ids[:59])):
        with pytest.raises(ValueError, match="one source id per example"):
            paired.bootstrap_over_sources(correct, wrong)
    with pytest.raises(ValueError, match="finite"):
        paired.bootstrap_over_sources([1.0, float("nan")], [0, 1])


def test_ratio_of_spreads_of_pairs():
    random = np.random.default_rng(0)
    common = random.normal(size=(500, 12))
    a, b = 1.5 * (common + random.normal(size=common.shape)), common + random.normal(size=common.shape)
    ratio, low, high = np.array([paired.spread_ratio(x, y) for x, y in zip(a, b, strict=True)]).T
    inside = (low <= 1.5) & (high >= 1.5)
    assert abs(inside.mean() - 0.95) < 0.03, "exact for normal pairs, correlated by a half here"
    assert (1 / ratio[0], 1 / high[0], 1 / low[0]) == pytest.approx(paired.spread_ratio(b[0], a[0]))
    # the interval excludes one exactly where Pitman and Morgan's test, the correlation of sum and difference, does
    p = [stats.pearsonr(x + y, x - y).pvalue for x, y in zip(a, b, strict=True)]
    assert (((low > 1) | (high < 1)) == (np.array(p) < 0.05)).all()
    for bad in (([1.0, 2.0, 3.0], [1.0, 2.0]), ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]), ([1.0, 2.0], [1.0, 2.0])):
        with pytest.raises(ValueError):
            paired.spread_ratio(*bad)
