"""Conflict and harm of networks that share, beside the networks that do not: what `does_conflict_predict_harm` reads.

Harm is -Δm: by how many percent the tasks together are worse than each alone, averaged over tasks. Conflict is read off
the log of the shared network's task gradients over its training (`conflict.ConflictLog`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mtl_core.conflict import ConflictLog
from mtl_core.metrics import delta_m
from mtl_lab.runs.build import directions
from mtl_lab.statistics import association
from mtl_lab.statistics.paired import PairedDifference, paired_difference

TAIL = 0.1  # cosines beyond ± this count for the excess
MEASURES = {
    "negative": "share of steps with a negative cosine",
    "excess": f"share below −{TAIL} minus share above {TAIL}",
    "dissimilarity": "1 − magnitude similarity",
}


# Two doses that differ in one thing: the garment over all of the digit instead of part; a trunk four times as wide.
CONTRASTS = {
    "overlap": ("offset 8, width 8", "offset 0, width 8"),
    "width": ("offset 8, width 4", "offset 8, width 16"),
}


@dataclass(frozen=True)
class Shared:
    """One network that tasks share, over seeds: harm in percent and the measures of conflict, one number per seed."""

    name: str
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    harm: np.ndarray
    negative: np.ndarray
    excess: np.ndarray
    dissimilarity: np.ndarray


def conflict_measures(log: Mapping) -> dict[str, float]:
    """The measures of `MEASURES` from the `conflict` field of a record."""
    counts = {int(place): count for place, count in log["all"]["histogram"].items()}
    total = sum(counts.values())
    centre, reach = ConflictLog.BINS // 2, round(TAIL * ConflictLog.BINS / 2)
    low = sum(count for place, count in counts.items() if place < centre - reach)
    high = sum(count for place, count in counts.items() if place >= centre + reach)
    return {
        "negative": log["all"]["negative_share"],
        "excess": (low - high) / total,
        "dissimilarity": 1 - log["magnitude_similarity"],
    }


def read(records: Sequence[Mapping], alone, paired: bool = False) -> list[Shared]:
    """Every shared network among the records, in the order of the file.

    alone   function of a shared row's name and a task's name: the row of that task's own network.
    paired  each seed against the single-task networks of the same seed; otherwise against their mean over seeds.
    Rows whose single-task networks are not all there are left out, as are seeds that one of them lacks.
    """
    rows = {}
    for record in records:
        rows.setdefault(record["row"], {})[record["config"]["seed"]] = record
    up = directions(records[0]["config"]["problem"]) if records else {}
    found = []
    for name, together in rows.items():
        if any(record["conflict"] is None for record in together.values()):
            continue
        tasks = tuple(next(iter(together.values()))["final"]["test"])
        own = {task: rows.get(alone(name, task), {}) for task in tasks}
        seeds = sorted(set(together).intersection(*own.values()))
        if not seeds:
            continue
        zero = {task: _mean([own[task][seed] for seed in seeds], task) for task in tasks}
        harm, measured = [], []
        for seed in seeds:
            against = {task: own[task][seed]["final"]["test"][task] for task in tasks} if paired else zero
            harm.append(-_delta(together[seed]["final"]["test"], against, {task: up[task] for task in tasks}))
            measured.append(conflict_measures(together[seed]["conflict"]))
        columns = {key: np.array([m[key] for m in measured]) for key in MEASURES}
        found.append(Shared(name, tasks, tuple(seeds), np.array(harm), **columns))
    return found


def pairs(records) -> list[Shared]:
    """The pairs of targets of `experiments.TaskPairs`."""
    return read(records, lambda name, task: f"alone {task}")


def doses(records) -> list[Shared]:
    """The doses of `experiments.ConflictDose`, each seed against the single-task networks of that seed."""
    found = read(records, lambda name, task: f"{task}, {name.partition(', ')[2]}", paired=True)
    return [replace(dose, name=dose.name.removeprefix("together, ")) for dose in found]


def change(before: Shared, after: Shared, measure: str) -> PairedDifference:
    """Paired difference after − before of `measure` ("harm" or a key of `MEASURES`) over the seeds that both have.

    ValueError where they have fewer than two seeds in common.
    """
    old, new = (dict(zip(dose.seeds, getattr(dose, measure), strict=True)) for dose in (before, after))
    both = sorted(old.keys() & new.keys())
    return paired_difference([new[seed] for seed in both], [old[seed] for seed in both])


def rank_by_seed(found: Sequence[Shared], measure: str) -> dict[int, float]:
    """seed -> rank correlation of `measure` with harm over the networks, for every seed that all of them have."""
    common = sorted(set.intersection(*(set(shared.seeds) for shared in found))) if found else []

    def at(seed, name):
        return [getattr(shared, name)[shared.seeds.index(seed)] for shared in found]

    return {seed: association.rank_correlation(at(seed, measure), at(seed, "harm")) for seed in common}


def in_words(conflict: PairedDifference, harm: PairedDifference) -> str:
    """In words, whether conflict and harm moved the same way; where an interval holds zero the change is not seen."""
    more, worse = (None if found.low <= 0 <= found.high else "more" if found.mean > 0 else "less"
                   for found in (conflict, harm))  # fmt: skip
    if more and worse:
        return f"{more} conflict, {'*and*' if more == worse else '*but*'} {worse} harm"
    if worse:
        return f"{worse} harm, with no change of conflict that these seeds can see"
    return f"{more or 'no more or less'} conflict, with no change of harm that these seeds can see"


def _mean(records, task):
    tests = [record["final"]["test"][task] for record in records]
    return {metric: float(np.mean([test[metric] for test in tests])) for metric in tests[0]}


def _delta(values, baseline, up):
    names = [(task, metric) for task, metrics in up.items() for metric in metrics]
    return delta_m([values[t][m] for t, m in names], [baseline[t][m] for t, m in names],
                              [up[t][m] for t, m in names], [t for t, _ in names])  # fmt: skip
