"""Statistics of procedures that are compared over independent streams, each with a search and a seed of its own."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import special

LEVEL = 0.95


def at_once(contrasts: int) -> float:
    """Bonferroni's level for each of several named contrasts whose intervals hold together with a chance of 95 %."""
    return 1 - (1 - LEVEL) / contrasts


def components(first: Mapping, second: Mapping) -> dict[str, float]:
    """{"sd", "seed", "search"}: standard deviations of a Δm, or of a paired difference, and of its two parts.

    first   stream -> value with the stream's evaluation seed.
    second  the same with another seed, for some of the streams.
    Half of the squared difference between two seeds is on average the variance by seed. The variance over streams less
    that is the variance by search, at least 0.
    """
    total = float(np.var(list(first.values()), ddof=1))
    seed = float(np.mean([(first[stream] - value) ** 2 / 2 for stream, value in second.items()]))
    return {"sd": total**0.5, "seed": seed**0.5, "search": max(total - seed, 0.0) ** 0.5}


def single_searches(differences: Sequence[float], seed_sd: float, seeds: int = 3, tables: int = 4000) -> dict:
    """What tables of one search and a few seeds would have claimed about a difference, as shares of such tables.

    differences  one per stream, each with one evaluation seed.
    seed_sd      the standard deviation of a difference by seed (`components`).
    claims       the 95 % t interval over the table's seeds excludes zero.
    wrong        it does so on the other side than the mean over streams.
    misses       it does not hold the mean over streams.
    A table draws a stream. The distance of its difference from the mean is shrunk by the part that is the seed's, then
    each seed adds normal noise of `seed_sd`.
    """
    random, d = np.random.default_rng(0), np.asarray(differences, dtype=float)
    shrunk = max(1 - seed_sd**2 / d.var(ddof=1), 0.0) ** 0.5
    search = d.mean() + shrunk * (random.choice(d, (tables, 1)) - d.mean())
    runs = search + seed_sd * random.standard_normal((tables, seeds))
    centre, half = runs.mean(1), special.stdtrit(seeds - 1, 0.5 + LEVEL / 2) * runs.std(1, ddof=1) / seeds**0.5
    claims, misses = np.abs(centre) > half, np.abs(centre - d.mean()) > half
    wrong = claims & (centre * d.mean() < 0)
    return {"claims": float(claims.mean()), "wrong": float(wrong.mean()), "misses": float(misses.mean())}


def share_worse(differences: Sequence[float], margin: float, streams: int, level: float, tables: int = 2000) -> dict:
    """How often tables of some of these streams, chosen at random without repetition, call a row worse, as shares.

    differences  one per stream.
    streams      of each table, at least 2.
    level        of the t interval (`at_once`).
    worse        it lies below zero; "beyond the margin": below −margin.
    """
    rows = np.random.default_rng(0).permuted(np.tile(differences, (tables, 1)), axis=1)[:, :streams]
    high = rows.mean(1) + special.stdtrit(streams - 1, 0.5 + level / 2) * rows.std(1, ddof=1) / streams**0.5
    return {"worse": float((high < 0).mean()), "beyond the margin": float((high < -margin).mean())}


def streams_needed(search: float, seed: float, margin: float, seeds: int = 1, contrasts: int = 1) -> int:
    """The fewest streams, up to 10,000, with which the half-width of an interval is at most `margin`.

    search, seed  standard deviations of the difference by search and by seed (`components`).
    seeds         evaluation seeds of each stream; a stream costs 4 + `seeds` full runs of a row.
    """
    sd, level = (search**2 + seed**2 / seeds) ** 0.5, 0.5 + at_once(contrasts) / 2
    return next((n for n in range(2, 10_000) if special.stdtrit(n - 1, level) * sd / n**0.5 <= margin), 10_000)
