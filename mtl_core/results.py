"""Reference results: records of runs that are committed, one text file per experiment and profile.

    python -m mtl_core.results EXPERIMENT --profile small [--seeds 10] [--workers 2]

trains what is missing and nothing else, and writes each record as soon as it is finished. Verdicts read
these files alone; `make run` never writes them.
"""

import argparse
import difflib
import json
import os
import sys
from pathlib import Path

from mtl_core import runs

ROOT = runs.ROOT / "results"


def path(experiment: str, profile: str, root: Path = ROOT) -> Path:
    return root / experiment / f"{profile}.jsonl"


def load(experiment: str, profile: str, root: Path = ROOT) -> list[dict]:
    """The committed records, in the file's order; [] where there are none yet."""
    file = path(experiment, profile, root)
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def add(record: dict, experiment: str, profile: str, root: Path = ROOT) -> None:
    """Put one record into its file, in place of one with the same config; sorted, one line each."""
    records = {r["identity"]: r for r in load(experiment, profile, root)} | {record["identity"]: record}
    lines = sorted(json.dumps(r, sort_keys=True, ensure_ascii=False) for r in records.values())
    runs.write_atomically(path(experiment, profile, root), "\n".join(lines) + "\n")


def complete(experiment: str, profile: str, seeds: int, workers: int = 1, device: str = "cpu", root: Path = ROOT):
    """Train the runs of the experiment's grid that the file lacks; add each as it finishes. How many were trained."""
    from mtl_core.experiments import EXPERIMENTS

    grid = EXPERIMENTS[experiment](profile=profile, seeds=seeds)

    def trained(wanted):
        here = {r["identity"]: r for r in load(experiment, profile, root)}
        missing = [run for run in wanted if run.identity not in here]
        runs.grid(missing, workers, device=device, finished=lambda r: add(r, experiment, profile, root))
        return len(missing)

    count = trained([grid.search()])
    (search,) = [r for r in load(experiment, profile, root) if r["identity"] == grid.search().identity]
    rows = [grid.single_task(), *grid.rows(grid.split(search)).values()]
    return count + trained([run for row in rows for run in row])


def main(arguments=None) -> int:
    from mtl_core.experiments import EXPERIMENTS, RECON

    parser = argparse.ArgumentParser(prog="make results", description="train and record reference results")
    parser.add_argument("experiment")
    parser.add_argument("--profile", default="small")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args(arguments)
    for what, value, known in (
        ("experiment", given.experiment, EXPERIMENTS),
        ("profile", given.profile, RECON),
    ):
        if value not in known:
            near = difflib.get_close_matches(value, known, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            print(f"there is no {what} {value!r}.{hint} There are: {', '.join(known)}", file=sys.stderr)
            return 2
    try:
        count = complete(given.experiment, given.profile, given.seeds, given.workers, given.device)
    except KeyboardInterrupt:
        return 130
    where = path(given.experiment, given.profile).relative_to(runs.ROOT)
    print(f"{where}: {len(load(given.experiment, given.profile))} records, {count} trained now")
    return 0


if __name__ == "__main__":
    sys.exit(main())
