"""How the choice of seeds or of trials changes a table: exact results over all subsets, without sampling."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy import stats

from mtl_lab.protocol import verdict
from mtl_lab.protocol.table import REFERENCE, Table


@dataclass(frozen=True)
class Reading:
    """One row's mean Δm, its rank (1 = best) and its difference to the reference.

    rank is None for a control, which is not ranked; low, high and outcome are None for the reference itself.
    """

    mean: float
    rank: float | None
    low: float | None
    high: float | None
    outcome: str | None


def read_table(table: Table, delta: Mapping, chosen: Sequence[int] | None = None) -> dict[str, Reading]:
    """Row -> its Reading from some of the seeds alone.

    delta   row -> seed -> Δm, as `verdict.deltas` computes it; the i-th seeds of all rows are paired.
    chosen  indices of the seeds; None: all.
    Intervals and outcomes are those of `verdict.compare`. ValueError: fewer than two seeds, no reference row, or an
    index beyond a row's seeds.
    """
    if REFERENCE not in delta:
        raise ValueError(f"the reference row {REFERENCE!r} is not among {', '.join(delta)}")
    if chosen is not None:
        delta = {row: _at(values, chosen, row) for row, values in delta.items()}
    differences, outcomes = verdict.compare(table, delta)
    means = {row: float(np.mean(list(values.values()))) for row, values in delta.items()}
    competing = [row for row in delta if not table.row(row).control]
    ranks = dict(zip(competing, stats.rankdata([-means[row] for row in competing]).tolist(), strict=True))
    readings = {}
    for row, mean in means.items():
        low, high = (differences[row].low, differences[row].high) if row in differences else (None, None)
        readings[row] = Reading(mean, ranks.get(row), low, high, outcomes.get(row))
    return readings


def _at(values: Mapping, indices, row):
    seeds = list(values)
    if not all(0 <= i < len(seeds) for i in indices):
        raise ValueError(f"row {row!r} has {len(seeds)} seeds, got the indices {list(indices)}")
    return {seeds[i]: values[seeds[i]] for i in indices}


def all_choices(table: Table, delta: Mapping, size: int) -> dict[tuple[int, ...], dict[str, Reading]]:
    """Indices of seeds -> `read_table` of these seeds, for every subset of `size` of the seeds that all rows have."""
    seeds = min(map(len, delta.values()))
    if not 2 <= size <= seeds:
        raise ValueError(f"expected between 2 and {seeds} seeds, got {size}")
    return {chosen: read_table(table, delta, chosen) for chosen in itertools.combinations(range(seeds), size)}


def expected_best(scores: Sequence[float | None]) -> list[float | None]:
    """Expected best score of k of the n tried configurations, k = 1 … n, over all subsets of size k.

    E_k = Σ_i C(i − 1, k − 1) / C(n, k) · s_(i) with the scores in ascending order: s_(i) is the best of every subset
    of itself and k − 1 smaller ones. A score of None is a trial that diverged; E_k is None for every k for which a
    subset can consist of diverged trials. (Without replacement; Dodge et al., EMNLP 2019, sample with replacement.)
    """
    n, finished = len(scores), sorted(score for score in scores if score is not None)
    failed, expected = n - len(finished), []
    for k in range(1, n + 1):
        shares = [math.comb(failed + i, k - 1) / math.comb(n, k) for i in range(len(finished))]
        expected.append(None if k <= failed else float(np.dot(shares, finished)))
    return expected


def seed_dice(table: Table, delta: Mapping) -> str:
    """The seed dice as HTML: an element for `book/_static/seed_dice.js`, its data, a sentence without scripts."""
    common = range(min(map(len, delta.values())))
    readings = read_table(table, delta, common)
    rows = [
        {"name": row, "title": table.row(row).title, "control": table.row(row).control}
        | {"delta": list(_at(values, common, row).values()), "all": asdict(readings[row])}
        for row, values in delta.items()
    ]
    data = {
        "seeds": [list(delta[REFERENCE])[i] for i in common],
        "reference": REFERENCE,
        "margin": table.margin,
        "level": 0.95,
        "family": len(table.shared()) - 1,  # Holm's: all shared rows but the reference, shown or not
        "rows": rows,
    }
    text = json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    return (
        '<div id="dice-of-seeds">'
        "<p>Rolling needs JavaScript. Without it, this page shows all seeds.</p>"
        f'<script type="application/json">{text}</script></div>'
    )
