"""Conflict and harm of shared networks, for the page `does_conflict_predict_harm`.

Harm is -Δm: by how many percent the tasks together are worse than each alone, averaged over tasks. Conflict comes from
the log of the shared network's task gradients over its training (`runs.conflict_log`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mtl_lab.protocol.table import delta_m
from mtl_lab.protocol.verdict import mean_values
from mtl_lab.runs.build import directions
from mtl_lab.runs.conflict_log import ConflictLog
from mtl_lab.statistics.paired import PairedDifference, paired_difference

TAIL = 0.1  # cosines beyond ± this count for the excess
MEASURES = {
    "negative": "share of steps with a negative cosine",
    "excess": f"share below −{TAIL} minus share above {TAIL}",
    "dissimilarity": "1 − magnitude similarity",
}

# Pairs of doses that differ in one thing: how much of the digit the garment covers; the width of the trunk.
CONTRASTS = {
    "overlap": ("offset 8, width 8", "offset 0, width 8"),
    "width": ("offset 8, width 4", "offset 8, width 16"),
}


@dataclass(frozen=True)
class Shared:
    """A network that tasks share: harm in percent and the measures of conflict, one number per seed."""

    name: str
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    harm: np.ndarray
    negative: np.ndarray
    excess: np.ndarray
    dissimilarity: np.ndarray


def conflict_measures(log: Mapping) -> dict[str, float]:
    """The measures of `MEASURES` from the `conflict` field of a record."""
    counts = {int(index): count for index, count in log["all"]["histogram"].items()}
    total = sum(counts.values())
    centre, reach = ConflictLog.BINS // 2, round(TAIL * ConflictLog.BINS / 2)
    low = sum(count for index, count in counts.items() if index < centre - reach)
    high = sum(count for index, count in counts.items() if index >= centre + reach)
    return {
        "negative": log["all"]["negative_share"],
        "excess": (low - high) / total,
        "dissimilarity": 1 - log["magnitude_similarity"],
    }


def read(records: Sequence[Mapping], alone, paired: bool = False) -> list[Shared]:
    """The shared networks among the records, in the order of the file.

    alone   function of a shared row's name and a task's name: the row of that task's single-task network.
    paired  compare each seed with the single-task networks of the same seed; otherwise with their mean over seeds.
    Left out are rows without all of their single-task networks, and seeds that one of these lacks.
    """
    rows = {}
    for record in records:
        rows.setdefault(record["row"], {})[record["config"]["seed"]] = record
    up = directions(records[0]["config"]["problem"]) if records else {}
    networks = []
    for name, together in rows.items():
        if any(record["conflict"] is None for record in together.values()):
            continue
        tasks = tuple(next(iter(together.values()))["final"]["test"])
        singles = {task: rows.get(alone(name, task), {}) for task in tasks}
        seeds = sorted(set(together).intersection(*singles.values()))
        if not seeds:
            continue
        higher, harm, measured = {task: up[task] for task in tasks}, [], []
        for seed in seeds:
            compared = [seed] if paired else seeds
            baseline = {t: mean_values([singles[t][s] for s in compared])[t] for t in tasks}
            harm.append(-delta_m(together[seed]["final"]["test"], baseline, higher))
            measured.append(conflict_measures(together[seed]["conflict"]))
        columns = {key: np.array([m[key] for m in measured]) for key in MEASURES}
        networks.append(Shared(name, tasks, tuple(seeds), np.array(harm), **columns))
    return networks


def pairs(records) -> list[Shared]:
    """The pairs of targets of `task_pairs.TaskPairs`."""
    return read(records, lambda name, task: f"alone {task}")


def doses(records) -> list[Shared]:
    """The doses of `conflict_dose.ConflictDose`, each seed against the single-task networks of that seed."""
    networks = read(records, lambda name, task: f"{task}, {name.partition(', ')[2]}", paired=True)
    return [replace(dose, name=dose.name.removeprefix("together, ")) for dose in networks]


def change(before: Shared, after: Shared, measure: str) -> PairedDifference:
    """Paired difference after − before of `measure` ("harm" or a key of `MEASURES`) over the seeds that both have.

    ValueError where they have fewer than two seeds in common.
    """
    old, new = (dict(zip(dose.seeds, getattr(dose, measure), strict=True)) for dose in (before, after))
    both = sorted(old.keys() & new.keys())
    return paired_difference([new[seed] for seed in both], [old[seed] for seed in both])


def directed(records: Sequence[Mapping], networks: Sequence[Shared]) -> tuple[np.ndarray, np.ndarray]:
    r"""Of N pairs of `pairs`: $\log(L_i / L_j)$ of the losses alone, (N,), and harm to either task in percent, (N, 2).

    Losses are those of the single-task networks on validation data, as in `balanced_pairs`; all seeds count.
    """
    rows: dict[str, list] = {}
    for record in records:
        rows.setdefault(record["row"], []).append(record["final"])

    def mean(row, split, task, of=np.asarray, loss=False):
        values = [next(x for n, x in final[split][task].items() if (n == "loss") == loss) for final in rows[row]]
        return float(np.mean(of(values)))

    ratios, harms = [], []
    for pair in networks:
        alone = [(f"alone {task}", task) for task in pair.tasks]
        ratios.append(np.subtract(*(mean(row, "validation", task, np.log, True) for row, task in alone)))
        harms.append([100 * (mean(pair.name, "test", t) / mean(row, "test", t) - 1) for row, t in alone])
    return np.array(ratios), np.array(harms)


def in_words(conflict: PairedDifference, harm: PairedDifference) -> str:
    """Whether conflict and harm changed the same way, as a clause; no change is claimed if its interval holds zero."""
    more, worse = (None if d.low <= 0 <= d.high else "more" if d.mean > 0 else "less" for d in (conflict, harm))
    if more and worse:
        return f"{more} conflict, {'*and*' if more == worse else '*but*'} {worse} harm"
    if more or worse:
        still, said = ("harm", f"{more} conflict") if more else ("conflict", f"{worse} harm")
        return f"{said}, while {still} did not change detectably"
    return "neither conflict nor harm changed detectably"
