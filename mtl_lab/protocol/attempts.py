"""Trains the runs of search and evaluation and logs how each ended, one line per run, in an append-only file."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from mtl_lab import records
from mtl_lab.files import append_line, damage_named, mend_last_line
from mtl_lab.runs.run import Run


def train(
    runs: Sequence[Run], stage: str, folder: Path, workers: int, keep: Callable[[dict], None] | None = None
) -> dict[str, dict]:
    """Identity -> record of the runs; appends how each ended to `folder`/attempts.jsonl under `stage`.

    keep  called with each record after its line is in the log, so that no kept run lacks its line.
    """
    from mtl_lab.runs import grid  # a plan of runs is read without training code

    mend_last_line(folder / "attempts.jsonl")
    with damage_named(folder / "attempts.jsonl"):
        logged = {(a["identity"], a["stage"]) for a in records.read_lines(folder / "attempts.jsonl")}
    trained = {}

    def finished(record):
        trained[record["identity"]] = record
        if (record["identity"], stage) not in logged:
            line = {
                "identity": record["identity"],
                "stage": stage,
                "seed": record["config"]["seed"],
                "method": record["config"]["method"],
                "finished": record["provenance"]["finished"],
                "diverged": record["diverged"] is not None,
                "core_seconds": round(record["core_seconds"], 2),
                "commit": record["provenance"]["commit"],
            }
            append_line(folder / "attempts.jsonl", json.dumps(line, sort_keys=True))
        if keep is not None:
            keep(record)

    grid.grid(runs, workers, finished=finished)
    return trained
