"""One number for several metrics: the mean relative change Δm against a baseline, and mean ranks among methods."""

from collections.abc import Mapping

import numpy as np
from scipy import stats

# --- one number for several metrics


def delta_m(values, baseline, higher_is_better, groups=None) -> float:
    """Mean relative change against a baseline, in percent; positive = better than the baseline.

    Δm = 100 · mean_j ±(M_j − S_j) / S_j, with minus for a metric that is better when lower. With `groups` the
    mean is taken inside each task first, then over tasks (Recon, appendix; RotoGrad); without, over all
    metrics at once (SAM-GS, whose tables then print the opposite sign).

    values, baseline   metric -> number, with the same metrics; or two sequences in one order.
    higher_is_better   metric -> bool, a sequence in that order, or one bool for all.
    groups             metric -> task, task -> metrics, or a sequence of one task per metric.
    Errors: ValueError for missing or extra metrics, numbers that are not finite, a baseline that is not
    positive (a relative change needs one).
    """
    names = _names(values)
    M, S = _in_order(values, names, "values"), _in_order(baseline, names, "baseline")
    if bad := {name: s for name, s in zip(names, S.tolist(), strict=True) if s <= 0}:
        raise ValueError(f"a relative change needs a positive baseline, got {bad}")
    with np.errstate(over="ignore"):
        change = np.where(_directions(higher_is_better, names), 1.0, -1.0) * (M - S) / S
    _in_order(change, [*range(len(change))], "relative changes")
    tasks = _task_of(dict.fromkeys(names) if groups is None else groups, names)
    means = [change[[t == task for t in tasks]].mean() for task in dict.fromkeys(tasks)]
    return 100 * float(np.mean(means))


def mean_rank(table: Mapping, higher_is_better) -> dict:
    """Mean over metrics of the rank among methods, 1 = best; tied methods share the average of their ranks.

    table: method -> (metric -> number, or numbers in one order). ValueError as in `delta_m`.
    """
    if not table:
        raise ValueError("mean_rank needs at least one method, got an empty table")
    names = _names(next(iter(table.values())))
    M = np.array([_in_order(row, names, f"row {method!r}") for method, row in table.items()])
    ranks = stats.rankdata(np.where(_directions(higher_is_better, names), -M, M), axis=0)
    return dict(zip(table, ranks.mean(1).tolist(), strict=True))


# --- reading arguments


def _names(values):
    return list(values) if isinstance(values, Mapping) else list(range(len(values)))


def _in_order(values, names, what):
    given = _names(values)
    if set(given) != set(names):
        missing, extra = [n for n in names if n not in given], [n for n in given if n not in names]
        raise ValueError(f"{what}: expected the entries {names}, missing {missing}, extra {extra}")
    array = np.asarray([values[n] for n in names], dtype=float)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise ValueError(f"{what}: expected finite numbers, 1 or more in one dimension, got {array.tolist()}")
    return array


def _directions(higher_is_better, names):
    if isinstance(higher_is_better, bool | np.bool_):
        return np.full(len(names), bool(higher_is_better))
    return _in_order(higher_is_better, names, "higher_is_better").astype(bool)


def _task_of(groups, names):
    if isinstance(groups, Mapping) and set(groups) != set(names):  # task -> metrics
        groups = {metric: task for task, metrics in groups.items() for metric in metrics}
    if set(_names(groups)) != set(names):
        raise ValueError(f"groups: expected one task for each of {names}, got {groups}")
    return [groups[name] for name in names]
