"""`make paper`: all `paper` runs of the grids, by information per hour of the device, until a time limit.

A run is worth the bits that it adds to what is known of its row: with a prior as wide as the noise of one run, the n-th
run of a row adds ½ log₂((n + 1) / n). What every comparison of a grid needs, its search and its reference rows, counts
once for each other row. Its cost is the median of its row's recorded hours on this device; before there is one, the
cost by a measured step (`paper_step`), in core-hours. Runs that a plan leaves out until others have records come in as
soon as these are there, since the order is made anew after each run.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log2
from pathlib import Path
from statistics import median
from typing import Annotated

import typer
from filelock import FileLock, Timeout

from mtl_core.data.errors import DataError
from mtl_core.methods import METHODS
from mtl_lab import records
from mtl_lab.experiments import paper_step
from mtl_lab.experiments.registry import GRIDS
from mtl_lab.runs import provenance
from mtl_lab.runs.device import chosen_device
from mtl_lab.runs.run import Run

PROFILE, SEEDS = "paper", 3
SHARED = ("search", "single-task", "equal")  # rows that every comparison of a grid rests on


@dataclass(frozen=True)
class Candidate:
    """A run without a record. bits: of information; hours: of one process on the device; measured: not computed."""

    experiment: str
    row: str
    run: Run
    bits: float
    hours: float
    measured: bool


def plans(seeds: int = SEEDS) -> dict:
    """Experiment -> its plan, of the grids that begin with runs at the paper's scale: others have no cost yet."""
    found = {}
    for name, make in GRIDS.items():
        try:
            plan = make(profile=PROFILE, seeds=seeds)
            runs = [run for of in plan.plan([]).values() for run in of]
        except (KeyError, ValueError, DataError):  # it has no such profile, or its plan needs data that are not here
            continue
        if runs and all(map(of_that_size, runs)):
            found[name] = plan
    return found


def of_that_size(run: Run) -> bool:
    """Whether the step that was measured is of this run: the paper's network on its data, a method of the registry."""
    wide = run.model == "resnet18" and run.model_options.get("width") == 64
    return wide and run.problem == "multi_fashion_mnist" and run.method in METHODS


def hardware(device: str) -> str:
    """The name of the device, as records have it."""
    return provenance.provenance(device)["hardware"]


def candidates(plans: Mapping, device: str, root: Path = records.ROOT) -> list[Candidate]:
    """What has no record yet, the most bits per hour first; ties in the order of the plans."""
    steps, found, here = paper_step.load(root), [], hardware(device)
    for name, plan in plans.items():
        recorded = records.load(name, PROFILE, root)
        done, planned = {record["identity"] for record in recorded}, plan.plan(recorded)
        for row, runs in planned.items():
            left = [run for run in runs if run.identity not in done]
            times = [r["seconds"] for r in recorded if r["row"] == row and r["provenance"]["hardware"] == here]
            for n, run in enumerate(left, 1 + len(runs) - len(left)):
                bits = 0.5 * log2((n + 1) / n) * (max(1, len(planned) - 1) if row in SHARED else 1)
                known = run if of_that_size(run) else replace(run, method="pcgrad")  # at most each gradient is read
                seconds = median(times) if times else paper_step.core_seconds(known, steps)
                found.append(Candidate(name, row, run, bits, seconds / 3600, bool(times)))
    return sorted(found, key=lambda one: -one.bits / one.hours)


def work(plans: Mapping, device: str, together: int = 1, root: Path = records.ROOT, train=None) -> int:
    """Train until nothing is missing; how many runs. Each has its record in results/ as soon as it is finished.

    together  runs at a time, each in a process of its own; on one GPU they share it.
    train     None: `grid.grid`.
    """
    from mtl_lab.runs import grid  # it brings training code, which reading a record does without

    count = 0
    while chosen := candidates(plans, device, root)[:together]:
        of = {one.run.identity: one for one in chosen}

        def keep(record, of=of):
            one = of[record["identity"]]
            records.add(
                [records.compact(record, one.row)], records.folder(one.experiment, PROFILE, root) / "runs.jsonl"
            )

        (train or grid.grid)([one.run for one in chosen], together, device=device, finished=keep)
        count += len(chosen)
    return count


def lines(found: Sequence[Candidate], hours: float | None) -> list[str]:
    """The order, with what is summed up; a mark where the limit lies."""
    said, total = [f"{'experiment, row, seed':58}{'bits':>7}{'hours':>9}{'in all':>9}"], 0.0
    for one in found:
        if hours and total < hours <= total + one.hours:
            said.append(f"--- {hours:g} hours")
        total += one.hours
        name = f"{one.experiment}, {one.row}, {one.run.seed}"
        said.append(f"{name:58}{one.bits:7.2f}{one.hours:8.1f}{' ' if one.measured else '*'}{total:9.1f}")
    return [*said, "* by a step measured on a CPU, in core-hours"] if any(not one.measured for one in found) else said


def makespan(seconds: Iterable[float], processes: int) -> float:
    """Hours until the last of these runs ends, the longest first and each on the process that is free first."""
    free = [0.0] * processes
    for run in sorted(seconds, reverse=True):
        free[min(range(processes), key=free.__getitem__)] += run
    return max(free) / 3600


def paper(
    hours: Annotated[float | None, typer.Option(min=0.0, help="stop after that many; the same command goes on")] = None,
    together: Annotated[int, typer.Option(min=1, help="runs at a time; small ones share a GPU")] = 1,
    seeds: Annotated[int, typer.Option(min=1, help="of each row")] = SEEDS,
    show: Annotated[bool, typer.Option("--show", help="print the order and train nothing")] = False,
) -> None:
    """Train the runs of the profile `paper`, those first that tell most for an hour of the device."""
    device, planned = chosen_device(), plans(seeds)
    print("\n".join(lines(candidates(planned, device), hours)), flush=True)
    if show:
        return
    if hours:
        timer = threading.Timer(3600 * hours, stop, [hours])
        timer.daemon = True
        timer.start()
    with contextlib.ExitStack() as held:
        for name in planned:
            lock = records.ROOT / ".locks" / f"{name} {PROFILE}.lock"
            lock.parent.mkdir(parents=True, exist_ok=True)
            try:
                held.enter_context(FileLock(lock, timeout=0))
            except Timeout:
                raise OSError(f"results/{name}/{PROFILE} is being written by another command: wait for it") from None
        count = work(planned, device, together)
    print(f"nothing is missing any more: {count} runs trained now.")


def stop(hours: float) -> None:
    """End this process and, with it, its workers, as a kill would: finished runs are kept, others go on from here."""
    print(f"\n{hours:g} hours are over: the same command goes on from here.", flush=True)
    sys.stderr.flush()
    os._exit(0)
