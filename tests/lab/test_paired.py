"""Statistics against hand values, scipy and simulation; Δm and reductions against Recon's printed tables."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mtl_core import metrics
from mtl_lab.claims import printed_rules, printed_tables
from mtl_lab.statistics import paired

rng = np.random.default_rng


# --- Δm


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
    own = metrics.delta_m(values, baseline, up)
    scaled = metrics.delta_m([7 * v for v in values], [7 * b for b in baseline], up)
    flipped = metrics.delta_m(values, baseline, [not u for u in up])
    assert scaled == pytest.approx(own) and flipped == pytest.approx(-own)
    assert metrics.delta_m(baseline, baseline, up) == 0
    better = [v * (1.1 if u else 0.9) for v, u in zip(values, up, strict=True)]
    assert metrics.delta_m(better, baseline, up) > own


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
        ({"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 1.0}, True, {"s": ["a"]}, "groups"),
        ([], [], True, None, "1 or more"),
    ],
)
def test_delta_m_refuses(values, baseline, up, groups, message):
    with pytest.raises(ValueError, match=message):
        metrics.delta_m(values, baseline, up, groups)


# --- Recon's printed tables

MISPRINT = {(15, "CAGrad", "")}  # its printed mIoU 38.87 would have to be about 39.57


@pytest.mark.parametrize(("number", "rows"), [(1, 14), (3, 12), (4, 12), (13, 5), (15, 15), (16, 15)])
def test_printed_delta_m_follows_from_the_printed_metrics(number, rows):
    """Interval arithmetic: every printed number lay within half of its last digit, no other tolerance."""
    table, compared = printed_rules.lines(printed_tables.table("recon", number)), 0
    for name, line in table.items():
        if printed := line.get(("", "delta_m")):
            low, _, high = printed_rules.delta_m_from_digits(line, table["Single-task", ""])
            assert printed_rules.overlap(printed, low, high) == ((number, *name) not in MISPRINT), name
            wide = line.get(("depth", "absolute error"), {}).get("printed") == "0.02"  # one digit: says little
            assert high - low < (21 if wide else 0.9), name
            compared += 1
    assert compared == rows


def test_the_misprint_is_one_cell():
    table = printed_rules.lines(printed_tables.table("recon", 15))
    line = table["CAGrad", ""]
    line["segmentation", "mIoU"]["value"] = 39.57
    low, _, high = printed_rules.delta_m_from_digits(line, table["Single-task", ""])
    assert printed_rules.overlap(line["", "delta_m"], low, high)


def test_table_5_gives_the_recomputed_column():
    table = printed_rules.lines(printed_tables.table("recon", 5))
    recomputed = {
        ("Cross-Stitch", ""): 4.54, ("Joint", ""): 1.18, ("Joint", "Recon"): 4.56, ("MGDA", ""): -1.73,
        ("MGDA", "Recon"): 1.01, ("GradDrop", ""): 0.94, ("GradDrop", "Recon"): 5.09, ("PCGrad", ""): 2.60,
        ("PCGrad", "Recon"): 4.29, ("CAGrad", ""): 4.18, ("CAGrad", "Recon"): 6.21,
    }  # fmt: skip
    found, shift = {}, []
    for name, line in table.items():
        if ("", "delta_m") in line:
            _, found[name], _ = printed_rules.delta_m_from_digits(line, table["Single-task", ""])
            shift.append(found[name] - line["", "delta_m"]["value"])
    assert found == pytest.approx(recomputed, abs=0.005)
    assert 0.37 < min(shift) < max(shift) < 0.60  # a near-constant shift, the order is unaffected


@pytest.mark.parametrize(("number", "threshold"), [(6, -0.01), (8, -0.02), (9, -0.04), (10, -0.02)])
def test_printed_reductions_follow_from_the_printed_bins(number, threshold):
    compared = 0
    table = printed_rules.lines(printed_tables.table("recon", number))

    def below(line):
        lower_edges = {m: float(m.split("(")[1].split(",")[0]) for _, m in line if m.startswith("share in (")}
        return sum(line["", m]["value"] for m, edge in lower_edges.items() if edge <= threshold)

    for line in table.values():
        if printed := line.get(("", f"reduction below {threshold}")):
            reduction = paired.histogram_reduction(below(line), below(table["Joint", ""]))
            assert reduction == pytest.approx(printed["value"], abs=0.05)
            compared += 1
    assert compared == 11


def test_histogram_reduction_refuses_an_empty_reference():
    with pytest.raises(ValueError, match="below the threshold"):
        paired.histogram_reduction(1.0, 0.0)


# --- ranks


def test_rank_distance():
    assert paired.rank_distance("abcd", "abcd") == 0
    assert paired.rank_distance("abcd", "abdc") == 0.5
    assert paired.rank_distance("abcd", "dcba") == 2
    random = rng(0)
    found = [paired.rank_distance(range(41), random.permutation(41).tolist()) for _ in range(4000)]
    assert np.mean(found) == pytest.approx(13.66, abs=0.1)  # (41² − 1) / (3 · 41)
    for wrong in ("abce", "abc", "abcc", "abcdd"):
        with pytest.raises(ValueError, match="same items"):
            paired.rank_distance("abcd", wrong)
        with pytest.raises(ValueError, match="same items"):
            paired.rank_distance(wrong, "abcd")


def test_mean_rank_averages_ties():
    table = {"x": {"up": 3.0, "down": 1.0}, "y": {"up": 3.0, "down": 2.0}, "z": {"down": 3.0, "up": 1.0}}
    up = {"up": True, "down": False}
    assert metrics.mean_rank(table, up) == {"x": 1.25, "y": 1.75, "z": 3.0}
    assert metrics.mean_rank({"x": [1.0, 1.0], "y": [1.0, 1.0]}, True) == {"x": 1.5, "y": 1.5}
    with pytest.raises(ValueError, match="row 'z'"):
        metrics.mean_rank(table | {"z": {"up": 1.0}}, up)
    with pytest.raises(ValueError, match="at least one method"):
        metrics.mean_rank({}, True)


# --- paired differences


def test_paired_difference_by_hand():
    # differences 1, 2, 3: mean 2, sd 1, t(2, 0.975) = 4.3027, so 2 ± 4.3027 / √3
    found = paired.paired_difference([2, 4, 6], [1, 2, 3])
    assert (found.mean, found.sd, found.n) == (2, 1, 3)
    assert (found.low, found.high) == pytest.approx((2 - 2.4841, 2 + 2.4841), abs=1e-4)
    assert found.p == pytest.approx(0.0742, abs=1e-4)  # t = 3.4641 with 2 degrees of freedom


@pytest.mark.parametrize(("n", "half"), [(3, 2.48), (5, 1.24), (10, 0.72), (20, 0.47)])
def test_half_width_in_paired_standard_deviations(n, half):
    found = paired.paired_difference(rng(n).standard_normal(n), np.zeros(n))
    assert (found.high - found.low) / 2 / found.sd == pytest.approx(half, abs=0.005)


@given(
    st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=2, max_size=15),
    st.floats(0.5, 0.999),
)
@settings(max_examples=60, deadline=None)
def test_paired_difference_agrees_with_scipy(pairs, level):
    a, b = zip(*pairs, strict=True)
    found = paired.paired_difference(a, b, level)
    if found.sd == 0:
        assert found.low == found.mean == found.high and found.p == (found.mean == 0)
        return
    reference = stats.ttest_rel(a, b)
    interval = reference.confidence_interval(level)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
    assert found.p == pytest.approx(reference.pvalue, abs=1e-12)


def test_seeds_are_paired_by_name():
    found = paired.paired_difference({0: 1.0, 1: 5.0, 2: 2.0}, {2: 1.5, 1: 4.0, 0: 0.0})
    assert (found.mean, found.n) == (pytest.approx(2.5 / 3), 3)
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


def test_holm_by_hand():
    # sorted .005 .01 .03 .04 times 4 3 2 1 = .02 .03 .06 .04, made monotone
    assert paired.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert paired.holm({"x": 0.6, "y": 0.9}) == {"x": 1.0, "y": 1.0}
    with pytest.raises(ValueError, match="p values lie in"):
        paired.holm([0.5, 1.5])


def test_holm_intervals_by_hand():
    """The first row is rejected at level 1 - α/3, the second fails at 1 - α/2, the third stays there."""
    noise = np.array([-1.0, 0.0, 1.0, -0.5, 0.5])
    rows = {"none": noise, "small": 1.02 + noise, "large": 5 + noise}
    found = paired.holm_intervals(rows)
    for row, level in {"large": 1 - 0.05 / 3, "small": 1 - 0.05 / 2, "none": 1 - 0.05 / 2}.items():
        expected = stats.ttest_1samp(rows[row], 0).confidence_interval(level)
        assert (found[row].low, found[row].high) == pytest.approx((expected.low, expected.high))
    assert list(found) == list(rows) and 0.025 < found["small"].p < 0.05  # unadjusted, it would be called different


@given(st.integers(0, 10**6), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_holm_intervals_exclude_zero_exactly_where_holm_rejects(seed, m):
    random = rng(seed)
    rows = {k: random.standard_normal(6) + random.choice([0, 1, 2]) for k in range(m)}
    found = paired.holm_intervals(rows)
    adjusted = paired.holm({k: found[k].p for k in rows})
    for k in rows:
        assert (found[k].low > 0 or found[k].high < 0) == (adjusted[k] <= 0.05)


def test_false_verdicts_on_simulated_null_tables():
    """2000 tables, 8 rows that differ from the reference by seeds alone, 10 seeds, one shared reference row.

    The share of tables with any row called different stays under 5 % plus three standard errors; with
    unadjusted intervals it is several times that, so the simulation can tell the two apart.
    """
    random, tables = rng(2023), 2000
    false = unadjusted = 0
    for _ in range(tables):
        runs = random.standard_normal((9, 10))
        rows = {k: runs[k] - runs[8] for k in range(8)}
        outcomes = [paired.outcome(d.low, d.high, 0.3) for d in paired.holm_intervals(rows).values()]
        false += any(word in ("better", "worse", "small difference") for word in outcomes)
        t = (runs[:8] - runs[8]).mean(1) / (runs[:8] - runs[8]).std(1, ddof=1) * 10**0.5
        unadjusted += (np.abs(t) > stats.t.ppf(0.975, 9)).any()
    assert 0.01 < false / tables <= 0.05 + 3 * (0.05 * 0.95 / tables) ** 0.5
    assert unadjusted / tables > 0.15


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.31, 0.9, "better"), (-0.9, -0.31, "worse"),
        (-0.29, 0.29, "equivalent"), (0.01, 0.29, "equivalent"),
        (0.01, 0.31, "small difference"), (-0.31, -0.01, "small difference"), (-0.29, 0.31, "undecided"),
        (-0.9, 0.9, "undecided"), (0.3, 0.9, "small difference"), (-0.9, -0.3, "small difference"),
        (-0.3, 0.3, "undecided"), (0.0, 0.3, "undecided"), (-0.3, 0.0, "undecided"), (0.0, 0.0, "equivalent"),
        (0.1, 0.3, "small difference"),
    ],
)  # fmt: skip
def test_outcome_at_its_edges(low, high, word):
    assert paired.outcome(low, high, 0.3) == word


@pytest.mark.parametrize("wrong", [(1, 0, 0.3), (0, 1, 0), (0, 1, -1), (0, float("nan"), 0.3)])
def test_outcome_refuses(wrong):
    with pytest.raises(ValueError, match="expected"):
        paired.outcome(*wrong)


def test_detectable_effect():
    for n, power in ((2, 0.06), (5, 0.3), (34, 0.81)):  # the square of a noncentral t is a noncentral F
        effect, critical = paired.detectable_effect(1.0, n, power), stats.t.ppf(0.975, n - 1)
        assert stats.ncf.sf(critical**2, 1, n - 1, n * effect**2) == pytest.approx(power, abs=1e-6)
    assert paired.detectable_effect(1.0, 34) == pytest.approx(0.5, abs=0.01)  # textbook value
    pairs = rng(0).normal(size=(200_000, 2)) + paired.detectable_effect(1.0, 2)
    found = abs(pairs.mean(1)) > stats.t.ppf(0.975, 1) * pairs.std(1, ddof=1) / 2**0.5
    assert found.mean() == pytest.approx(0.8, abs=0.004), "two seeds, where scipy's noncentral t is NaN"
    effect = paired.detectable_effect(2.0, 10)
    x = effect + 2 * rng(1).standard_normal((20000, 10))
    hits = stats.ttest_1samp(x, 0, axis=1).pvalue < 0.05
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


def test_bootstrap_of_independent_examples_is_binomial():
    correct = np.arange(400) % 10 != 0
    found = paired.bootstrap_over_sources(correct, np.arange(400), draws=4000)
    assert found == pytest.approx(binomial_interval(0.9, 400), abs=0.005)


def test_copies_of_a_source_add_no_information():
    correct = np.repeat(np.arange(100) % 10 != 0, 9)
    found = paired.bootstrap_over_sources(correct, np.repeat(np.arange(100) + 5, 9), draws=4000)
    assert found == pytest.approx(binomial_interval(0.9, 100), abs=0.011)  # not 900


def test_composites_of_two_sources_count_as_the_product():
    """Each digit with each garment, right by the digit alone: the accuracy is a binomial share of digits."""
    digit, garment = (x.ravel() for x in np.meshgrid(np.arange(50), np.arange(40), indexing="ij"))
    found = paired.bootstrap_over_sources(digit % 5 != 0, (digit, garment), draws=4000)
    assert found == pytest.approx(binomial_interval(0.8, 50), abs=0.021)
    other = paired.bootstrap_over_sources(garment % 5 != 0, (digit, garment), draws=4000)
    assert other == pytest.approx(binomial_interval(0.8, 40), abs=0.026)


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
    common = random.normal(size=(2000, 12))
    a, b = 1.5 * (common + random.normal(size=common.shape)), common + random.normal(size=common.shape)
    found = np.array([paired.spread_ratio(x, y) for x, y in zip(a, b, strict=True)])
    inside = (found[:, 1] <= 1.5) & (found[:, 2] >= 1.5)
    assert abs(inside.mean() - 0.95) < 0.015, "exact for normal pairs, correlated by a half here"
    assert found[0] == pytest.approx([1 / x for x in np.array(paired.spread_ratio(b[0], a[0]))[[0, 2, 1]]])
    # the interval excludes one exactly where Pitman and Morgan's test, the correlation of sum and difference, does
    p = [stats.pearsonr(x + y, x - y).pvalue for x, y in zip(a, b, strict=True)]
    assert (((found[:, 1] > 1) | (found[:, 2] < 1)) == (np.array(p) < 0.05)).all()
    for bad in (([1.0, 2.0, 3.0], [1.0, 2.0]), ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]), ([1.0, 2.0], [1.0, 2.0])):
        with pytest.raises(ValueError):
            paired.spread_ratio(*bad)
