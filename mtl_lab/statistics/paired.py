"""Numbers about results: Δm, ranks, and intervals that say how far seeds and test images move them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special, stats
from scipy.optimize import brentq

from mtl_core.metrics import _finite, _in_order, _names


def rank_distance(first: Sequence, second: Sequence) -> float:
    """Mean over items of |place in `first` − place in `second|` (Recon, Tables 12 and 14).

    Two random orders of n items differ by (n² − 1) / 3n on average, 13.66 for n = 41.
    ValueError unless both are orders of the same items.
    """
    place = {item: k for k, item in enumerate(second)}
    if set(first) != set(place) or len(first) != len(place) or len(second) != len(place) or not place:
        raise ValueError(f"expected two orders of the same items, got {len(first)} and {len(second)} items")
    return float(np.mean([abs(k - place[item]) for k, item in enumerate(first)]))


def histogram_reduction(below: float, below_reference: float) -> float:
    """Mass below a threshold: by how many percent less than the reference (Recon, Tables 6 and 8-10)."""
    below, below_reference = _finite([below, below_reference], "masses", least=2)
    if below_reference <= 0:
        raise ValueError(f"the reference must have mass below the threshold, got {below_reference}")
    return 100 * float(1 - below / below_reference)


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


def holm(p_values):
    """Holm's step-down adjusted p values, in the form given (mapping or sequence).

    Reject where the adjusted value is at most α: the chance of any false rejection is then at most α, however
    the tests depend on each other (Holm, 1979).
    """
    names = _names(p_values)
    p = _in_order(p_values, names, "p values")
    if ((p < 0) | (p > 1)).any():
        raise ValueError(f"p values lie in [0, 1], got {p.tolist()}")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    adjusted = adjusted.tolist()
    return dict(zip(names, adjusted, strict=True)) if isinstance(p_values, Mapping) else adjusted


def holm_intervals(differences: Mapping, level: float = 0.95) -> dict:
    """Paired t intervals for the rows of one table, each at the level of its step in Holm's procedure.

    differences: row -> paired differences over seeds. With α = 1 − level and m rows sorted by p value, row i
    (from 0) has the interval of level 1 − α / (m − i); from the first interval that holds zero on, all rows
    keep that row's level. An interval then excludes zero exactly where Holm rejects: the chance that any row
    without a true difference is called different is at most α.
    The promise is about zero. If all m true differences sit exactly at a margin and their spreads differ,
    the chance that some interval passes it nears α/2 · (1 + 1/2 + … + 1/m) on that side: 5 % was measured
    with m = 8 and 10 seeds at level 0.95. The returned `p` is not adjusted.
    """
    if not differences:
        raise ValueError("holm_intervals needs at least one row, got none")
    alpha, m = 1 - _level(level), len(differences)
    ordered = sorted(differences, key=lambda row: _paired_t(differences[row], level).p)
    found, step = {}, 0
    for row in ordered:
        found[row] = _paired_t(differences[row], 1 - alpha / (m - step))
        if not found[row].low <= 0 <= found[row].high:
            step = min(step + 1, m - 1)
    return {row: found[row] for row in differences}


def sign_flip_p(differences) -> float:
    """Exact two-sided sign-flip p value of paired differences: share of the 2ⁿ sign patterns whose |sum| is
    at least the observed one.

    Assumes only that each difference is symmetric around zero under the null. The smallest possible value is
    2^(1−n): 0.25 with 3 seeds, 0.0625 with 5, 0.002 with 10. ValueError for n < 2 or n > 20.
    """
    d = _finite(differences, "differences", least=2)
    if len(d) > 20:
        raise ValueError(f"exact up to 20 differences, got {len(d)}; use paired_difference")
    sums = d[:1]  # the mirror of a pattern has the same |sum|, so the first sign can stay
    for x in d[1:]:
        sums = np.concatenate([sums + x, sums - x])
    tolerance = 1e-12 * np.abs(d).sum()  # patterns that tie exactly must not be lost to rounding
    return float(np.mean(np.abs(sums) >= abs(d.sum()) - tolerance))


def outcome(low: float, high: float, margin: float) -> str:
    """What an interval of a difference (positive = better) says, given a margin fixed before the runs.

    `better`: above +margin. `worse`: below −margin. `equivalent`: inside ±margin. `small difference`:
    excludes zero, but none of those. `undecided`: the rest. An end exactly on zero or on the margin counts
    as touching it, which gives the weaker word.
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
    return "small difference" if low > 0 or high < 0 else "undecided"


def detectable_effect(sd: float, n: int, power: float = 0.8, level: float = 0.95) -> float:
    """Smallest true mean difference that a two-sided paired t test on n seeds finds with chance `power`.

    sd: standard deviation of the paired differences. Solved with the noncentral t distribution.
    """
    (sd,) = _finite([sd], "sd", least=1)
    if sd <= 0 or n < 2 or not 1 - _level(level) < power < 1:
        raise ValueError(f"expected sd > 0, n >= 2, power between 1 - level and 1; got {sd}, {n}, {power}")
    critical, df = special.stdtrit(n - 1, 0.5 + level / 2), n - 1
    nodes, weights = special.roots_legendre(400)  # over quantiles of S = √(χ²/df); scipy's own power is NaN at df = 1
    S = np.sqrt(special.chdtri(df, (1 - nodes) / 2) / df)

    def missing(shift):
        return weights @ (special.ndtr(shift - critical * S) + special.ndtr(-shift - critical * S)) / 2 - power

    high = 1.0
    while missing(high) < 0:
        high *= 2
    return float(sd * brentq(missing, 0, high) / n**0.5)


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
    """Wilson's score interval (low, high) of a success rate."""
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
        if total := weight.sum():  # tiny sets can draw sources that share no composite
            means.append(weight @ score / total)
    low, high = np.quantile(means, [0.5 - _level(level) / 2, 0.5 + level / 2])
    return float(low), float(high)


def _level(level):
    if not 0 < level < 1:
        raise ValueError(f"a level lies between 0 and 1, got {level}")
    return level
