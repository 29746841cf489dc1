"""For grids whose rows choose a rate each: the runs that try rates, the best of them, and what rows are compared by."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from mtl_lab.runs.run import Run
from mtl_lab.statistics.paired import PairedDifference, holm_intervals, outcome

SEED, DONORS = 100, 1000  # of the runs that try rates; what is added to a run's seed for the donor of its weights
Numbers = Mapping[str, Mapping[int, float]]  # row -> seed -> number


def choose(name: str, run: Run, rates: Sequence[float], records: Iterable[Mapping]) -> tuple[dict, Run | None]:
    """The rows that try `rates` with `run` on a seed of its own, without test data; and `run` at the best of them.

    The best has the smallest error on validation data; one that diverged comes last. None until all have a record.
    """
    runs = [replace(run, schedule={**run.schedule, "learning_rate": rate}, test=False, seed=SEED) for rate in rates]
    found, rows = {record["identity"]: record for record in records}, {f"rate, {name}": runs}
    if any(tried.identity not in found for tried in runs):
        return rows, None
    errors = [(found[r.identity]["diverged"] is not None, log_error(found[r.identity], "validation")) for r in runs]
    return rows, replace(run, schedule=runs[errors.index(min(errors))].schedule)


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


def contrasts(rows: Numbers, pairs: Mapping[str, Sequence[str]]) -> dict[str, PairedDifference]:
    """Holm intervals over the seeds that all rows have; {} without two such seeds.

    pairs  name -> rows a, b for a minus b; or a, b, c, d for (a minus b) minus (c minus d).
    """
    of = {name: [rows.get(row, {}) for row in pair] for name, pair in pairs.items()}
    seeds = sorted(set.intersection(*(set(numbers) for each in of.values() for numbers in each)))
    signs = (1, -1, -1, 1)
    taken = {n: [sum(x * v[s] for x, v in zip(signs, each, strict=False)) for s in seeds] for n, each in of.items()}
    return holm_intervals(taken) if len(seeds) > 1 else {}


def in_words(found: Mapping[str, PairedDifference], margin: float | None = None) -> str:
    """Each contrast with its interval and, where positive is better and there is a margin, the word for it."""
    texts = {name: f"{name} {d.mean:+.1f} [{d.low:+.1f}, {d.high:+.1f}]" for name, d in found.items()}
    return "; ".join(
        t + (f", {outcome(found[n].low, found[n].high, margin)}" if margin else "") for n, t in texts.items()
    )
