"""What a choice of seeds, or of trials, does to a table: over all possible choices, so exact, nothing drawn."""

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
    """What a table says of one row: mean Δm, rank (1 = best), and its difference to the reference.

    rank is None for a control, which does not compete; low, high and outcome are None for the reference itself.
    """

    mean: float
    rank: float | None
    low: float | None
    high: float | None
    outcome: str | None


def read_table(table: Table, delta: Mapping, chosen: Sequence[int] | None = None) -> dict[str, Reading]:
    """row -> Reading from the seeds at the places `chosen` (all, where None), as if no others had been run.

    delta: row -> seed -> Δm (`tables.deltas`); the i-th seeds of all rows are paired. Intervals and outcomes are
    those of `tables.compare`. ValueError: fewer than two seeds, no reference row, a place that a row does not have.
    """
    if REFERENCE not in delta:
        raise ValueError(f"the reference row {REFERENCE!r} is not among {', '.join(delta)}")
    if chosen is not None:
        delta = {row: _at(values, chosen, row) for row, values in delta.items()}
    differences, outcomes = verdict.compare(table, delta)
    means = {row: float(np.mean(list(values.values()))) for row, values in delta.items()}
    competing = [row for row in delta if not table.row(row).control]
    ranks = dict(zip(competing, stats.rankdata([-means[row] for row in competing]).tolist(), strict=True))
    found = {}
    for row, mean in means.items():
        low, high = (differences[row].low, differences[row].high) if row in differences else (None, None)
        found[row] = Reading(mean, ranks.get(row), low, high, outcomes.get(row))
    return found


def _at(values: Mapping, places, row):
    seeds = list(values)
    if not all(0 <= place < len(seeds) for place in places):
        raise ValueError(f"row {row!r} has {len(seeds)} seeds, got the places {list(places)}")
    return {seeds[place]: values[seeds[place]] for place in places}


def all_choices(table: Table, delta: Mapping, size: int) -> dict[tuple[int, ...], dict[str, Reading]]:
    """places of the seeds -> `read_table` of them, for each choice of `size` of the seeds that all rows have."""
    seeds = min(map(len, delta.values()))
    if not 2 <= size <= seeds:
        raise ValueError(f"expected between 2 and {seeds} seeds, got {size}")
    return {chosen: read_table(table, delta, chosen) for chosen in itertools.combinations(range(seeds), size)}


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


def seed_dice(table: Table, delta: Mapping) -> str:
    """The seed dice as HTML: a place for `book/_static/seed_dice.js`, its data as JSON, a sentence without scripts."""
    places = range(min(map(len, delta.values())))
    whole = read_table(table, delta, places)
    rows = [
        {"name": row, "title": table.row(row).title, "control": table.row(row).control}
        | {"delta": list(_at(values, places, row).values()), "all": asdict(whole[row])}
        for row, values in delta.items()
    ]
    data = {
        "seeds": [list(delta[REFERENCE])[place] for place in places],
        "reference": REFERENCE,
        "margin": table.margin,
        "level": 0.95,
        "family": len(table.shared()) - 1,  # Holm's, with the rows that are not here
        "rows": rows,
    }
    text = json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    return (
        '<div id="dice-of-seeds">'
        "<p>The dice need JavaScript. Without it, the table of all choices on this page says the same.</p>"
        f'<script type="application/json">{text}</script></div>'
    )
