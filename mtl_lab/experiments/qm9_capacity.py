"""Do the ranks of methods on QM9 survive another width of the network?

*Hypothesis*: a wide network has room for all tasks, so that there methods differ less and in another order. *Rows*:
searched static weights, equal weights, the sum of logs, the clipped norm-equalised sum and CAGrad, each at widths 32
and 512 (the table's is 128), on 20,000 molecules, tested on molecules that no earlier table has used. Zero is the
table's single-task networks, on its own molecules: a unit for each target, the same for all rows.

*Seeds*: five streams (`protocol.streams`), each with a search of all ten rows, which share rates and decays, so that
the widths are paired. *Estimands*, over searches and seeds; unit: the stream. *Contrasts*: how much a method's
difference to static weights at width 512 exceeds that at width 32, at once (Bonferroni over four), margin the table's
2 points. *Ranks*: Spearman's correlation of the five methods' Δm in two different streams, the mean over pairs of
streams of different widths minus that over pairs of one width. It is 0 where ranks survive the width as well as they
survive another search, negative where they do not; interval by the jackknife over streams, t(4); margin 0.2.

*Rule*: ranks survive if the interval lies above −0.2, else change if it lies below 0, else the streams cannot tell.
Beside that the methods whose contrast is called, or that all are equivalent. Simulated before any run, 3,000 times,
five methods with true means 0, 3, −15, 6 and 2: with an SD of 1.5 points over streams the jackknife's interval covers
in 94 to 95 % of comparisons, and ranks are found to survive in 87 % where they do and to change in 90 % where
neighbours swap; with an SD of 3 it covers in 95 to 99 %, at 49 and 29 %. A contrast with an SD of 2 points over
streams has a half-width of 3.9 and finds a change of 5 with power 0.8; equivalence needs an SD of about a point.

*Cost*: an epoch at width 512 took 1.4 core-seconds for weighted losses and 7.3 for the two methods that need each
gradient, at width 32 0.2 and 0.5; a search and an evaluation are 100 epochs of a row: 2.8 core-hours in all. The
table's thirty epochs would cost 4.2: so twenty.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import special, stats

from mtl_lab import records
from mtl_lab.experiments import five_streams, qm9
from mtl_lab.experiments.registry import SEARCHES
from mtl_lab.protocol import stream_verdict
from mtl_lab.protocol.streams import Searches
from mtl_lab.protocol.table import REFERENCE
from mtl_lab.statistics.paired import PairedDifference, outcome, paired_difference
from mtl_lab.statistics.streams import LEVEL, at_once

NAME, EPOCHS, WIDTHS, RANKS = "qm9_capacity", 20, (32, 512), 0.2  # RANKS: margin of a rank correlation
METHODS = (REFERENCE, "equal", "log_sum", "norm_equalised_clip", "cagrad")


def searches(profile: str = "small") -> Searches:
    """The comparison; its rows are "METHOD, width W"."""
    main = qm9.table(profile)
    rows = [
        replace(row, name=f"{row.name}, width {w}", title=f"{row.title}, width {w}", model={"width": w})
        for w in WIDTHS
        for row in map(main.row, METHODS)
    ]
    schedule = {**main.base.schedule, "epochs": min(EPOCHS, main.base.schedule["epochs"])}
    options = {**main.base.problem_options, "fresh": True}
    return five_streams.searches(main, NAME, rows, replace(main.base, schedule=schedule, problem_options=options))


def scores(found: stream_verdict.Comparison) -> np.ndarray:
    """Δm, (widths, streams, methods)."""
    return np.array(
        [np.transpose([[*found.of(f"{method}, width {w}").values()] for method in METHODS]) for w in WIDTHS]
    )


def contrasts(delta: np.ndarray, margin: float) -> dict[str, tuple[PairedDifference, str]]:
    """Method -> by how much its difference to static weights grows with the width, and the outcome of that."""
    gains, level = delta - delta[..., :1], at_once(len(METHODS) - 1)
    pairs = {m: paired_difference(*gains[::-1, :, k], level) for k, m in enumerate(METHODS) if m != REFERENCE}
    return {method: (d, outcome(d.low, d.high, margin)) for method, d in pairs.items()}


def rank_agreement(delta: np.ndarray) -> tuple[float, float]:
    """Mean rank correlation of methods over pairs of different streams: of different widths, and of one width."""
    n, rows = delta.shape[1], delta.reshape(-1, delta.shape[2])
    rho, other = np.corrcoef(stats.rankdata(rows, axis=1)), ~np.eye(n, dtype=bool)
    within = [rho[:n, :n][other], rho[n:, n:][other]]
    return float(rho[:n, n:][other].mean()), float(np.mean(within))


def rank_change(delta: np.ndarray) -> tuple[float, float, float]:
    """Agreement across widths minus that within a width, and the ends of its jackknife interval over streams."""

    def gap(some):
        across, within = rank_agreement(some)
        return across - within

    n = delta.shape[1]
    without = np.array([gap(np.delete(delta, s, axis=1)) for s in range(n)])
    half = special.stdtrit(n - 1, 0.5 + LEVEL / 2) * (n - 1) ** 0.5 * without.std()
    whole = gap(delta)
    return whole, float(whole - half), float(whole + half)


def finding(profile: str = "small", root: Path = records.ROOT) -> str:
    """The finding by the rule above, in one sentence; before the last run how many there are."""
    table = searches(profile)
    if (waiting := five_streams.unfinished(table, root)) or (found := stream_verdict.compare(table, root)) is None:
        return waiting
    delta = scores(found)
    (across, within), (gap, low, high) = rank_agreement(delta), rank_change(delta)
    ranks = "survive" if low > -RANKS else "change" if high < 0 else "may or may not survive"
    judged = contrasts(delta, found.margin)
    called = [f"{m} {d.mean:+.1f}" for m, (d, word) in judged.items() if word.startswith(("better", "worse"))]
    if all(word == "equivalent" for _, word in judged.values()):
        differences = f"all differences to static weights are equivalent, to within {found.margin:g} points"
    else:
        differences = f"differences to static weights grow or fall for {', '.join(called) or 'no method detectably'}"
    return (
        f"From width {WIDTHS[0]} to {WIDTHS[1]} the ranks of {len(METHODS)} methods **{ranks}**: two streams agree by "
        f"{across:.2f} across widths and {within:.2f} within one, {gap:+.2f} [{low:+.2f}, {high:+.2f}]; {differences}."
    )


SEARCHES[NAME] = searches
