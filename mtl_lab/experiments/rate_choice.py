"""For grids whose rows choose a rate each: the runs that try rates, the best of them, and what rows are compared by."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from mtl_lab.protocol import committed
from mtl_lab.protocol.verdict import deltas
from mtl_lab.runs.run import Run
from mtl_lab.statistics.paired import PairedDifference, holm_intervals, outcome

SEED, DONORS = 100, 1000  # of the runs that try rates; what is added to a run's seed for the donor of its weights
Numbers = Mapping[str, Mapping[int, float]]  # row -> seed -> number


def choose(name: str, run: Run, rates, records: Iterable[Mapping], sign=1, share=1.0) -> tuple[dict, Run | None]:
    """The rows that try `rates` with `run` on a seed of its own, without test data; and `run` at the best of them.

    The best has the smallest error on validation data; one that diverged comes last. None until all have a record.
    sign   -1 where the tasks' metric is an accuracy, and the best has the largest.
    share  of the run's epochs that are trained to try a rate.
    """
    runs = [replace(run, schedule={**run.schedule, "learning_rate": rate}, test=False, seed=SEED) for rate in rates]
    runs = [replace(r, schedule={**r.schedule, "epochs": max(int(share * r.schedule["epochs"]), 1)}) for r in runs]
    found, rows = {record["identity"]: record for record in records}, {f"rate, {name}": runs}
    if any(tried.identity not in found for tried in runs):
        return rows, None
    tried = [found[r.identity] for r in runs]
    errors = [(record["diverged"] is not None, sign * log_error(record, "validation")) for record in tried]
    return rows, replace(run, schedule={**run.schedule, "learning_rate": rates[errors.index(min(errors))]})


def log_error(record: Mapping, split: str = "test", loss: bool = False, only: str | None = None) -> float:
    """100 times the mean over tasks of the log of the error, or of the loss: a difference of 1 is about one percent.

    only  name of the task to take; None: all. A task has one metric beside its loss.
    """
    metrics = [of for task, of in record["final"][split].items() if only in (None, task)]
    values = [next(x for name, x in of.items() if (name == "loss") == loss) for of in metrics]
    return 100 * sum(map(math.log, values)) / len(values)


def by_row(records: Iterable[Mapping], value: Callable[[Mapping], float]) -> dict[str, dict[int, float]]:
    """Row -> seed -> value of the record, for those with test data."""
    rows: dict[str, dict[int, float]] = {}
    for record in records:
        if record["final"].get("test"):
            rows.setdefault(record["row"], {})[record["config"]["seed"]] = value(record)
    return rows


def delta_scores(found: Iterable[Mapping], table, root) -> dict[str, dict[int, float]]:
    """Row -> seed -> Δm on test data, against the single-task networks of a committed table; {} without its records."""
    recorded = committed.load(table, root)
    known = {row.name: [r for r in recorded if r["row"] == row.name] for row in table.singles()}
    if not all(known.values()):
        return {}
    return by_row(found, lambda r: deltas(table, known | {"equal": [r]})["equal"][r["config"]["seed"]])


def contrasts(rows: Numbers, pairs: Mapping[str, Sequence[str]], level=0.95) -> dict[str, PairedDifference]:
    """Holm intervals, each over the seeds that all of its rows have; {} where one has not two such seeds.

    pairs  name -> rows a, b for a minus b; or a, b, c, d for (a minus b) minus (c minus d), and so on.
    """
    taken, signs = {}, (1, -1, -1, 1, -1, 1)
    for name, pair in pairs.items():
        each = [rows.get(row, {}) for row in pair]
        seeds = sorted(set.intersection(*map(set, each)))
        taken[name] = [sum(x * v[s] for x, v in zip(signs, each, strict=False)) for s in seeds]
    return holm_intervals(taken, level) if all(len(values) > 1 for values in taken.values()) else {}


def in_words(found: Mapping[str, PairedDifference], margin: float | None = None) -> str:
    """Each contrast with its interval and, where positive is better and there is a margin, the word for it."""
    texts = {name: f"{name} {d.mean:+.1f} [{d.low:+.1f}, {d.high:+.1f}]" for name, d in found.items()}
    return "; ".join(
        t + (f", {outcome(found[n].low, found[n].high, margin)}" if margin else "") for n, t in texts.items()
    )
