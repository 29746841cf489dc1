"""Forty tasks on real pixels: what methods cost and do as tasks are added, K = 5, 10, 20 and 40.

*Data*: the attributes of a garment and a digit in one image (`mtl_core.data.attributes`), which are correlated by
construction. That is no substitute for faces; it is the only set here with forty tasks. *Rows*: six methods at each K;
the images are the same for all. *Rates*: of two, each row takes the best validation F1 (mean log) at half of the epochs
on a seed of its own. *Seeds*: 3, from 50 on. *Measure*: the mean F1 on test data over the five tasks that all K share,
and core-seconds a step; paired differences to equal weights with Holm intervals inside each K. Three seeds describe.

Planned and not trained. Cost: 1,120 steps a row, the tried rates included. On one core a step took 0.07 s where the
trunk has one backward pass, else 0.11 s for 5 tasks and 0.62 s for 40, and in between what lies between: 1.4
core-hours, 1.7 with the evaluation. If time is short K = 20 goes first, then PCGrad.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mtl_core.data.attributes import names
from mtl_lab.experiments.rate_choice import SEED, by_row
from mtl_lab.experiments.registry import register_grid
from mtl_lab.runs.run import Run

COUNTS = (5, 10, 20, 40)
METHODS = {  # -> options; rotations of all 32 features
    "equal": {},
    "log_sum": {},
    "rotograd": {"rotation_size": 32},
    "imtl_g": {},
    "pcgrad": {},
    "sam_gs": {"gamma": 0.7, "beta2": 0.99},
}
RATES, FIRST, SHARED = (1e-3, 4e-3), 50, names(COUNTS[0])
STEPS = 70  # of an epoch


@dataclass(frozen=True)
class FortyTasks:
    """Rows "rate RATE, METHOD, K", then, once these have records, "METHOD, K"."""

    profile: str = "small"
    seeds: int = 3

    def base(self, tasks: int) -> Run:
        """Equal weights on K tasks: LeNet with 32 features, Adam, 8,960 images, four epochs."""
        size, test = (STEPS * 128, 5_000) if self.profile != "tiny" else (256, 400)
        schedule = {"epochs": 4, "batch_size": 128, "optimizer": "adam", "learning_rate": 4e-3, "decay": "cosine"}
        data = {"profile": self.profile, "tasks": tasks, "train": size, "test": test}
        return Run("attributes", data, model="lenet", model_options={"features": 32}, schedule=schedule)

    def plan(self, records: Sequence[Mapping] = ()) -> dict[str, list[Run]]:
        """Row -> runs; tried rates first."""
        known = {record["row"]: record for record in records}
        rows: dict[str, list[Run]] = {}
        for tasks in COUNTS:
            for method, options in METHODS.items():
                convention = "samgs" if method == "sam_gs" else "plain"
                run = replace(self.base(tasks), method=method, method_options=options, convention=convention)
                tries = {f"rate {rate:g}, {method}, {tasks}": _tried(run, rate) for rate in RATES}
                rows |= {name: [one] for name, one in tries.items()}
                if set(tries) <= set(known):
                    best = max(tries, key=lambda name: validation(known[name]))
                    chosen = {**run.schedule, "learning_rate": tries[best].schedule["learning_rate"]}
                    seeds = range(FIRST, FIRST + self.seeds)
                    rows[f"{method}, {tasks}"] = replace(run, schedule=chosen).seeds(seeds)
        return rows


def _tried(run: Run, rate: float) -> Run:
    schedule = {**run.schedule, "learning_rate": rate, "epochs": max(1, run.schedule["epochs"] // 2)}
    return replace(run, schedule=schedule, seed=SEED, test=False)


def validation(record: Mapping) -> float:
    """Mean F1 of all tasks of the record on validation data; minus infinity for a run that diverged."""
    if record["diverged"] is not None:
        return -np.inf
    return float(np.mean([of["F1"] for of in record["final"]["validation"].values()]))


def scores(records: Sequence[Mapping]) -> dict[str, dict[int, float]]:
    """Row -> seed -> mean F1 on test data over the tasks that all K share."""
    return by_row(records, lambda r: float(np.mean([r["final"]["test"][task]["F1"] for task in SHARED])))


register_grid("forty_tasks", FortyTasks)
