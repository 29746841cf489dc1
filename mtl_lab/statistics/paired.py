"""Paired differences over seeds, their intervals and the words for them; success rates and test-set noise."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import special, stats
from scipy.optimize import brentq

from mtl_core.metrics import _in_order, _names


def _finite(values, what, least):
    if len(values) < least:
        raise ValueError(f"{what}: expected {least} or more numbers, got {len(values)}")
    return _in_order(values, [*range(len(values))], what)


# --- paired differences over seeds


@dataclass(frozen=True)
class PairedDifference:
    """Mean and sd of n paired differences, their interval [low, high], and the two-sided p value."""

    mean: float
    sd: float
    n: int
    low: float
    high: float
    p: float


def paired_difference(a, b, level: float = 0.95) -> PairedDifference:
    """Paired t interval and test of a − b: mean ± t_{n−1} · sd / √n.

    a, b: seed -> number with the same seeds, or two sequences in one order of seeds. Where all differences
    are equal the interval is that one point, and p is 1 if they are zero, else 0.
    ValueError: fewer than two pairs, unequal seeds, numbers that are not finite.
    """
    seeds = _names(a)
    return _paired_t(_in_order(a, seeds, "a") - _in_order(b, seeds, "b"), level)


def _paired_t(differences, level):
    d = _finite(differences, "differences", least=2)
    n, mean, sd = len(d), float(d.mean()), float(d.std(ddof=1))
    half = special.stdtrit(n - 1, 0.5 + _level(level) / 2) * sd / n**0.5
    p = 2 * special.stdtr(n - 1, -abs(mean) * n**0.5 / sd) if sd > 0 else float(mean == 0)
    return PairedDifference(mean, sd, n, float(mean - half), float(mean + half), float(p))


def holm_intervals(differences: Mapping, level: float = 0.95) -> dict:
    """Paired t intervals for the rows of one table, each at the level of its step in Holm's procedure.

    differences: row -> paired differences over seeds. Returned: row -> PairedDifference, whose `p` is not adjusted.
    ValueError: no rows, or differences that `paired_difference` refuses.

    With α = 1 − level and m rows sorted by p value, row i (from 0) has the interval of level 1 − α / (m − i). From the
    first interval that contains zero on, all rows keep that row's level. An interval then excludes zero exactly where
    Holm's procedure rejects (Holm, 1979): the chance that any row without a true difference is called different is at
    most α.
    The promise is about zero. If all m true differences lie exactly at a margin and their spreads differ, the chance
    that some interval passes the margin nears α/2 · (1 + 1/2 + … + 1/m) on that side: 5 % was measured with m = 8 and
    10 seeds at level 0.95. (statsmodels' multipletests has adjusted p values, no intervals.)
    """
    if not differences:
        raise ValueError("holm_intervals needs at least one row, got none")
    alpha, m = 1 - _level(level), len(differences)
    ordered = sorted(differences, key=lambda row: _paired_t(differences[row], level).p)
    intervals, step = {}, 0
    for row in ordered:
        intervals[row] = _paired_t(differences[row], 1 - alpha / (m - step))
        if not intervals[row].low <= 0 <= intervals[row].high:
            step = min(step + 1, m - 1)
    return {row: intervals[row] for row in differences}


def sign_flip_p(differences) -> float:
    """Exact two-sided sign-flip p value of n paired differences.

    It is the share of the 2ⁿ sign patterns whose |sum| is at least the observed one, and assumes only that each
    difference is symmetric around zero under the null. The smallest possible value is 2^(1−n): 0.25 with 3 seeds,
    0.0625 with 5, 0.002 with 10. ValueError for n < 2 or n > 20.
    scipy.stats.permutation_test gives the same numbers, but takes 42 s for n = 20 where this takes 0.04 s.
    """
    d = _finite(differences, "differences", least=2)
    if len(d) > 20:
        raise ValueError(f"exact up to 20 differences, got {len(d)}; use paired_difference")
    sums = d[:1]  # a pattern and its opposite have the same |sum|, so that the first sign need not flip
    for x in d[1:]:
        sums = np.concatenate([sums + x, sums - x])
    tolerance = 1e-12 * np.abs(d).sum()  # rounding must not lose patterns that tie with the observed one
    return float(np.mean(np.abs(sums) >= abs(d.sum()) - tolerance))


def outcome(low: float, high: float, margin: float) -> str:
    """What an interval of a difference (positive = better) says, given a margin that was fixed before the runs.

    `better`: above +margin. `worse`: below −margin. `equivalent`: inside ±margin. `better (amount uncertain)` and
    `worse (amount uncertain)`: excludes zero, but holds the margin. `cannot decide`: the rest. An end exactly at zero
    or at the margin counts as touching it, which gives the weaker word. ValueError: low > high, or a margin that is not
    positive.
    """
    low, high, margin = _finite([low, high, margin], "low, high and margin", least=3)
    if low > high or margin <= 0:
        raise ValueError(f"expected low <= high and a positive margin, got [{low}, {high}] and {margin}")
    if low > margin:
        return "better"
    if high < -margin:
        return "worse"
    if -margin < low and high < margin:
        return "equivalent"
    if low <= 0 <= high:
        return "cannot decide"
    return f"{'better' if low > 0 else 'worse'} (amount uncertain)"


def detectable_effect(sd: float, n: int, power: float = 0.8, level: float = 0.95) -> float:
    """Smallest true mean difference that a two-sided paired t test on n seeds finds with chance `power`.

    sd: standard deviation of the paired differences, in the unit of the result. ValueError: sd or n too small, or a
    power that no effect has. With an effect of s standard errors, t² follows a noncentral F(1, n − 1) with
    noncentrality s². (statsmodels' TTestPower takes the noncentral t, which is NaN in SciPy's far tail: at n = 2 and
    power 0.95 it returns 10 sd in place of 17.7 sd, without a warning.)
    """
    (sd,) = _finite([sd], "sd", least=1)
    if sd <= 0 or n < 2 or not 1 - _level(level) < power < 1:
        raise ValueError(f"expected sd > 0, n >= 2, power between 1 - level and 1; got {sd}, {n}, {power}")
    critical = special.stdtrit(n - 1, 0.5 + level / 2)

    def missing(s):
        return special.ncfdtr(1, n - 1, s**2, critical**2) - (1 - power)

    return float(sd * brentq(missing, 0, 10 * (critical + 1), xtol=1e-12) / n**0.5)


# --- rates and test-set noise


def spread_ratio(a, b, level: float = 0.95) -> tuple[float, float, float]:
    """(ratio, low, high) of two standard deviations over paired seeds: a[i] and b[i] share a seed.

    The interval inverts the test of Pitman and Morgan, which is exact for normal pairs whatever their correlation r:
    squared, the ratio's ends are s_a²/s_b² (K ± √(K² − 1)), K = 1 + 2 (1 − r²) t² / (n − 2).
    ValueError: fewer than three pairs, unequal numbers, or values that do not vary.
    """
    level, a, b = _level(level), _finite(a, "a", 3), _finite(b, "b", 3)
    if len(a) != len(b):
        raise ValueError(f"a and b are paired, got {len(a)} and {len(b)} values")
    if not (spread := np.array([a.std(ddof=1), b.std(ddof=1)])).all():
        raise ValueError("a ratio of spreads needs values that vary, got constant ones")
    ratio, r, n = spread[0] / spread[1], np.corrcoef(a, b)[0, 1], len(a)
    K = 1 + 2 * (1 - r**2) * stats.t.ppf((1 + level) / 2, n - 2) ** 2 / (n - 2)
    wide = (K + (K**2 - 1) ** 0.5) ** 0.5
    return float(ratio), float(ratio / wide), float(ratio * wide)


def wilson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval (low, high) of a success rate in [0, 1]. ValueError: not 0 <= successes <= n."""
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"expected 0 <= successes <= n and n >= 1, got {successes} of {n}")
    interval = stats.binomtest(successes, n).proportion_ci(_level(level), method="wilson")
    return float(interval.low), float(interval.high)


def bootstrap_over_sources(correct, source_ids, draws: int = 1000, seed: int = 0, level: float = 0.95):
    """Percentile interval (low, high) of the mean of `correct`, by resampling source images, not composites.

    correct     (N,) 0/1 or any score of an example; the difference of two methods gives a paired interval.
    source_ids  (N,) the source of each example; or a tuple of two such arrays (digit, garment) for composites
                of two images. Both lists are resampled, and a composite counts as often as the product of the
                counts of its two sources (pigeonhole bootstrap, Owen 2007: on average somewhat too wide).
    Returned in the units of `correct`. ValueError: unequal lengths, NaN, fewer than two sources in a list.
    """
    score = _finite(correct, "correct", least=2)
    lists = source_ids if isinstance(source_ids, tuple) else (source_ids,)
    codes = [np.unique(np.asarray(ids), return_inverse=True)[1] for ids in lists]
    sizes = [int(code.max()) + 1 if code.size else 0 for code in codes]
    if any(code.shape != score.shape for code in codes) or min(sizes) < 2 or draws < 1:
        shapes = [code.shape for code in codes]
        raise ValueError(
            "expected one source id per example, at least two sources and one draw; "
            f"got {len(score)} examples, ids of shapes {shapes}, {sizes} sources, {draws} draws"
        )
    random = np.random.default_rng(seed)
    means = []
    while len(means) < draws:
        weight = np.ones_like(score)
        for code, size in zip(codes, sizes, strict=True):
            weight *= np.bincount(random.integers(size, size=size), minlength=size)[code]
        if total := weight.sum():  # tiny sets can select sources that share no composite
            means.append(weight @ score / total)
    low, high = np.quantile(means, [0.5 - _level(level) / 2, 0.5 + level / 2])
    return float(low), float(high)


def _level(level):
    if not 0 < level < 1:
        raise ValueError(f"a level lies between 0 and 1, got {level}")
    return level
