"""What a choice of seeds, or of trials, does to a table: over all possible choices, so exact, nothing drawn."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy import stats

from mtl_core import evaluation


@dataclass(frozen=True)
class Reading:
    """What a table says of one row: mean Δm, rank (1 = best), and its difference to the reference.

    rank is None for a row that does not compete; low, high and outcome are None for the reference itself.
    """

    mean: float
    rank: float | None
    low: float | None
    high: float | None
    outcome: str | None


def read_table(deltas: Mapping, reference: str, margin: float, chosen=None, controls=(), level=0.95) -> dict:
    """row -> Reading from the seeds at the places `chosen` (all, where None), as if no others had been run.

    deltas    row -> Δm of each seed, in one order of seeds; its i-th values are paired across rows.
    controls  rows that are judged like all others and take no part in the ranking.
    Intervals are paired t by Holm's procedure over all rows but the reference (`evaluation.holm_intervals`), the
    outcome follows from interval and margin. ValueError: no such reference, rows of unequal length, fewer than
    two seeds.
    """
    if reference not in deltas:
        raise ValueError(f"the reference row {reference!r} is not among {', '.join(deltas)}")
    table = {row: np.asarray(values, dtype=float) for row, values in deltas.items()}
    if len({len(values) for values in table.values()}) > 1:
        raise ValueError(f"rows need the same seeds, got { {row: len(values) for row, values in table.items()} }")
    if chosen is not None:
        table = {row: values[list(chosen)] for row, values in table.items()}
    against = {row: values - table[reference] for row, values in table.items() if row != reference}
    intervals = evaluation.holm_intervals(against, level)
    means = {row: float(values.mean()) for row, values in table.items()}
    competing = [row for row in table if row not in controls]
    ranks = dict(zip(competing, stats.rankdata([-means[row] for row in competing]).tolist(), strict=True))
    found = {}
    for row, mean in means.items():
        low, high = (None, None) if row == reference else (intervals[row].low, intervals[row].high)
        word = None if low is None else evaluation.outcome(low, high, margin)
        found[row] = Reading(mean, ranks.get(row), low, high, word)
    return found


def all_choices(deltas: Mapping, reference: str, margin: float, size: int, controls=(), level=0.95) -> dict:
    """(places of the seeds) -> `read_table` of them, for each of the choices of `size` seeds."""
    seeds = len(next(iter(deltas.values())))
    if not 2 <= size <= seeds:
        raise ValueError(f"expected between 2 and {seeds} seeds, got {size}")
    places = itertools.combinations(range(seeds), size)
    return {chosen: read_table(deltas, reference, margin, chosen, controls, level) for chosen in places}


def expected_best(scores: Sequence[float | None]) -> list[float | None]:
    """Expected best score of k of the n tried configurations, k = 1 … n, over all subsets of size k.

    E_k = Σ_i C(i − 1, k − 1) / C(n, k) · s_(i) with the scores sorted upwards: s_(i) is the best of a subset that
    holds it and k − 1 smaller ones. A score of None is a trial that diverged; E_k is None as long as a subset can
    hold diverged trials only. (Without replacement; Dodge et al., EMNLP 2019, estimate it with replacement.)
    """
    n, finished = len(scores), sorted(score for score in scores if score is not None)
    failed, found = n - len(finished), []
    for k in range(1, n + 1):
        shares = [math.comb(failed + i, k - 1) / math.comb(n, k) for i in range(len(finished))]
        found.append(None if k <= failed else float(np.dot(shares, finished)))
    return found


def seed_dice(deltas, seeds, titles, reference, margin, controls=(), level=0.95) -> str:
    """The seed dice as HTML: a place for `book/_static/seed_dice.js`, its data as JSON, a sentence without scripts.

    seeds: the label of each place; titles: row -> words. The other arguments are those of `read_table`.
    """
    everything = read_table(deltas, reference, margin, None, controls, level)
    rows = [
        {"name": row, "title": titles[row], "control": row in controls, "delta": [float(v) for v in values]}
        | {"all": asdict(everything[row])}
        for row, values in deltas.items()
    ]
    data = {"seeds": list(seeds), "reference": reference, "margin": margin, "level": level, "rows": rows}
    text = json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    return (
        '<div id="seed-dice">'
        "<p>The dice need JavaScript. Without it, the table of all choices on this page says the same.</p>"
        f'<script type="application/json">{text}</script></div>'
    )
