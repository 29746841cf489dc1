"""Trains the runs that committed results lack: of a table first the search, then the evaluation; of a grid its plan.

Only the evaluation reads test data, and it begins only once the present search.json is committed. Searches over streams
write their choices down by themselves (`protocol.streams`), from code that is committed.
"""

import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from mtl_lab import records
from mtl_lab.experiments.registry import GRIDS, Grid
from mtl_lab.files import damage_named
from mtl_lab.protocol import committed, streams
from mtl_lab.protocol.evaluation import evaluate
from mtl_lab.protocol.search import search
from mtl_lab.protocol.table import SEEDS, Table
from mtl_lab.runs import grid
from mtl_lab.runs.provenance import provenance
from mtl_lab.runs.run import Run


def is_committed(file: Path) -> bool:
    """Whether the file is committed and unchanged since."""
    git = ["git", "-C", str(file.parent)]
    known = subprocess.run([*git, "ls-files", "--error-unmatch", file.name], capture_output=True)
    clean = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", file.name], capture_output=True)
    return known.returncode == 0 and clean.returncode == 0


def complete_table(
    table: Table,
    seeds: int | Mapping[str, int] | None = None,
    workers: int = 1,
    root: Path = records.ROOT,
    rows: Collection[str] | None = None,
) -> str:
    """Search, then, once search.json is committed, evaluate. Returns a sentence about what was done.

    rows  names of the rows to search or to evaluate now; None: all. No row is evaluated before all are searched.
    """
    file = records.folder(table.name, table.profile, root) / "search.json"
    known = (committed.search_of(table, root) or {}).get("rows", {})
    wanted = [row.name for row in table.searched()]
    if not file.exists() or known and set(wanted) - set(known):
        entries = search(table, workers, root, rows)["rows"]
        edges = [row for row, entry in entries.items() if entry["at_edge"]]
        note = f" At the edge of the range of rates: {', '.join(edges)}." if edges else ""
        if waiting := set(wanted) - set(committed.search_of(table, root)["rows"]):
            left = [row for row in wanted if row in waiting]
            return f"search.json is written and not yet complete.{note} To be searched: {', '.join(left)}."
        return f"search.json is written.{note} Commit it, then run the same command again: it reads the test data."
    if not is_committed(file):
        return "search.json is not committed in its present state: commit it first, then test data may be read."
    with damage_named(file):
        edges = [row for row in wanted if known[row]["at_edge"]]
    if edges:
        reason = f"Nothing is evaluated: a rate lies at the edge of its range for {', '.join(edges)}."
        return f"{reason} Widen its range for all rows, remove search.json and search again."
    count = evaluate(table, seeds, workers, root, rows)
    return f"{len(committed.load(table, root))} records, {count} trained now."


def complete_searches(table: streams.Searches, workers: int = 1, root: Path = records.ROOT) -> str:
    """Train what a comparison of procedures lacks, stream by stream. Returns a sentence about it."""
    if table.profile != "tiny" and not provenance()["clean"]:
        return "nothing was trained: the code holds the rules and differs from the last commit; commit it first."
    streams.complete(table, workers, root)
    return f"{table.streams} streams are complete."


def planned_grid(name: str, profile: str, seeds: int | None = None) -> Grid:
    """The plan of a grid's reference results: with its own number of seeds, or ten where that is one, as for a page."""
    grid = GRIDS[name]
    return grid(profile=profile, seeds=seeds or (grid.seeds if grid.seeds > 1 else len(SEEDS)))


def missing_of_grid(plan: Grid, recorded: Sequence[Mapping]) -> dict[str, tuple[str, Run]]:
    """Identity -> (row, run) of the runs of the plan that the records lack."""
    done, planned = {record["identity"] for record in recorded}, plan.plan(recorded)
    return {run.identity: (row, run) for row, runs in planned.items() for run in runs if run.identity not in done}


def counted(name: str, profile: str, part: Callable[[str], str], root: Path = records.ROOT) -> dict[str, tuple]:
    """Part of a grid -> (runs with a record, runs planned so far). `part` names the part that a row belongs to.

    What a plan leaves out until earlier runs have records is not counted, and neither is a part all of which it does.
    """
    recorded, parts = records.load(name, profile, root), dict[str, tuple]()
    done = {record["identity"] for record in recorded}
    for row, runs in planned_grid(name, profile).plan(recorded).items():
        here, planned = parts.get(part(row), (0, 0))
        parts[part(row)] = here + sum(run.identity in done for run in runs), planned + len(runs)
    return parts


def complete_grid(name: str, plan: Grid, workers: int = 1, root: Path = records.ROOT) -> str:
    """Train the runs of the plan that runs.jsonl lacks, until it names no more. Returns a sentence about it."""
    file, count = records.folder(name, plan.profile, root) / "runs.jsonl", 0
    while True:
        recorded = records.load(name, plan.profile, root)
        missing = missing_of_grid(plan, recorded)
        if not missing:
            return f"{len(recorded)} records, {count} trained now."
        count += len(missing)
        waiting: list[dict] = []

        def keep(record, missing=missing, waiting=waiting):
            waiting.append(records.compact(record, missing[record["identity"]][0]))
            if len(waiting) > len(missing) // 100:  # a file of thousands of records is not written anew for each
                records.add(waiting, file)
                waiting.clear()

        # Seed by seed, so that an interrupted grid has the same seeds in every row.
        ordered = sorted((run for _, run in missing.values()), key=lambda run: run.seed)
        try:
            grid.grid(ordered, workers, finished=keep)
        finally:  # after a kill they come from the store
            records.add(waiting, file)
