"""Train what committed results lack: for a table first the search, then the evaluation; for a grid its plan.

Test data are read in the evaluation alone, and that begins only where git holds search.json as it is.
"""

import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path

from mtl_lab import records
from mtl_lab.experiments.registry import Grid
from mtl_lab.protocol import committed
from mtl_lab.protocol.evaluation import evaluate
from mtl_lab.protocol.search import search
from mtl_lab.protocol.table import Table
from mtl_lab.runs import grid


def is_committed(file: Path) -> bool:
    """Whether git holds the file as it is."""
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
    """Search, then, once search.json is committed, evaluate; a sentence that says what was done.

    rows  names of the rows to search and to evaluate now, None for all. Nothing is evaluated before all are searched.
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
            return f"search.json is written, not yet whole.{note} To be searched: {', '.join(left)}."
        return f"search.json is written.{note} Commit it, then run the same command again: it reads the test data."
    if not is_committed(file):
        return "search.json is not committed as it is: commit it first; test data are read after that alone."
    if edges := [row for row, entry in known.items() if entry["at_edge"]]:
        said = f"Nothing is evaluated: a rate lies at the edge of its range for {', '.join(edges)}."
        return f"{said} Widen its range for all rows, remove search.json and search again."
    count = evaluate(table, seeds, workers, root, rows)
    return f"{len(committed.load(table, root))} records, {count} trained now."


def complete_grid(name: str, plan: Grid, workers: int = 1, root: Path = records.ROOT) -> str:
    """Train what the plan names and runs.jsonl lacks, until it asks for no more; a sentence that says what was done."""
    file, count = records.folder(name, plan.profile, root) / "runs.jsonl", 0
    while True:
        recorded = records.load(name, plan.profile, root)
        done = {record["identity"] for record in recorded}
        missing = {
            run.identity: (row, run)
            for row, runs in plan.plan(recorded).items()
            for run in runs
            if run.identity not in done
        }
        if not missing:
            return f"{len(recorded)} records, {count} trained now."
        count += len(missing)

        def keep(record, missing=missing):
            records.add(records.compact(record, missing[record["identity"]][0]), file)

        # Seed by seed: what is cut off has whole seeds.
        ordered = sorted((run for _, run in missing.values()), key=lambda run: run.seed)
        grid.grid(ordered, workers, finished=keep)
