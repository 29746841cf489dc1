"""Rank correlation between two measurements of pairs of tasks, with intervals that allow for shared tasks.

K tasks form K(K-1)/2 pairs, but only K of the things measured are independent: a task that is hard to learn beside
others affects K-1 pairs at once. Textbook intervals and p values treat the pairs as independent and are too narrow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy import special, stats


@dataclass(frozen=True)
class Association:
    """Spearman's rank correlation with its interval and permutation p value.

    rho        correlation over all pairs, in [-1, 1].
    low, high  its interval, from leaving out one task at a time, on Fisher's z scale.
    p          two-sided: how often relabelling the tasks of one measurement gives a correlation at least as large;
               None where a third measurement is held fixed.
    pairs      number of pairs; tasks: number of tasks.
    """

    rho: float
    low: float
    high: float
    p: float | None
    pairs: int
    tasks: int


def rank_correlation(x: Sequence[float], y: Sequence[float], given: Sequence[float] | None = None) -> float:
    """Spearman's ρ, or the partial ρ with a third measurement held fixed; NaN if one of them does not vary."""
    a, b = (stats.rankdata(values) for values in (x, y))
    a, b = a - a.mean(), b - b.mean()
    if given is not None:
        c = stats.rankdata(given)
        c = c - c.mean()
        if not c @ c > 0:
            return float("nan")
        squares = [a @ a, b @ b]
        a, b = (values - c * (values @ c) / (c @ c) for values in (a, b))
        if a @ a < 1e-12 * squares[0] or b @ b < 1e-12 * squares[1]:  # only rounding remains
            return float("nan")
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else float("nan")


def between_pairs(x, y, pairs, given=None, permutations: int = 2000, seed: int = 0, level: float = 0.95) -> Association:
    """Association of two measurements of the same pairs of tasks; with `given`, a third one is held fixed.

    x, y, given  one number per pair.
    pairs        (i, j) of each number, i ≠ j; every pair of the tasks occurs once.

    The interval is the jackknife over tasks (leaving out a task leaves out its K-1 pairs), t with K-1 degrees of
    freedom. The p value is Mantel's test with `permutations` relabellings of the tasks of x (Mantel, Cancer Research
    27, 1967). ValueError: lengths that differ, NaN, pairs that are missing or double, fewer than four tasks.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    third = None if given is None else np.asarray(given, dtype=float)
    pairs = [tuple(sorted(pair)) for pair in pairs]
    tasks = sorted({task for pair in pairs for task in pair})
    expected = list(combinations(tasks, 2))
    if not len(x) == len(y) == len(pairs) or sorted(pairs) != expected:
        raise ValueError(
            f"expected each pair of {len(tasks)} tasks once, {len(expected)} numbers in x and y; "
            f"got {len(set(pairs))} pairs, {len(x)} and {len(y)} numbers"
        )
    if third is not None and (len(third) != len(x) or not np.isfinite(third).all()):
        raise ValueError(f"expected {len(x)} finite numbers to hold fixed, got {third}")
    if len(tasks) < 4 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError(f"expected four tasks or more and finite numbers, got {len(tasks)} tasks")
    rho = rank_correlation(x, y, third)
    without = []
    for task in tasks:
        kept = [n for n, pair in enumerate(pairs) if task not in pair]
        without.append(_z(rank_correlation(x[kept], y[kept], None if third is None else third[kept])))
    K = len(tasks)
    spread = np.sqrt((K - 1) / K * np.sum((np.array(without) - np.mean(without)) ** 2))
    half = special.stdtrit(K - 1, 0.5 + level / 2) * spread
    low, high = float(np.tanh(_z(rho) - half)), float(np.tanh(_z(rho) + half))
    if third is not None:
        return Association(rho, low, high, None, len(pairs), K)
    a, b = (stats.rankdata(values) - (len(pairs) + 1) / 2 for values in (x, y))
    matrix, (i, j) = np.zeros((K, K)), np.array([[tasks.index(task) for task in pair] for pair in pairs]).T
    matrix[i, j] = matrix[j, i] = a
    random = np.random.default_rng(seed)
    orders = np.array([random.permutation(K) for _ in range(permutations)])
    products = np.abs(matrix[orders[:, i], orders[:, j]] @ b)  # relabelling changes no length: ρ is this, rescaled
    p = (1 + np.sum(products >= abs(a @ b) - 1e-9)) / (1 + permutations) if np.isfinite(rho) else np.nan
    return Association(rho, low, high, float(p), len(pairs), K)


def over_items(x, y, draws: int = 2000, seed: int = 0, level: float = 0.95) -> tuple[float, float, float]:
    """(ρ, low, high): rank correlation of two measurements (N,) of independent items, with its bootstrap interval.

    The interval is the percentile bootstrap over the items; resamples in which a measurement does not vary are left
    out. ValueError: lengths that differ, fewer than four items.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if len(x) != len(y) or len(x) < 4:
        raise ValueError(f"expected two lists of one length, four or more, got {len(x)} and {len(y)}")
    random = np.random.default_rng(seed)
    chosen = random.integers(len(x), size=(draws, len(x)))
    a, b = (stats.rankdata(values[chosen], axis=1) - (len(x) + 1) / 2 for values in (x, y))
    with np.errstate(invalid="ignore"):  # 0 / 0 where a measurement does not vary
        rhos = (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))
    low, high = np.quantile(rhos[np.isfinite(rhos)], [0.5 - level / 2, 0.5 + level / 2])
    return rank_correlation(x, y), float(low), float(high)


def _z(rho):
    return np.arctanh(np.clip(rho, -0.999999, 0.999999))
