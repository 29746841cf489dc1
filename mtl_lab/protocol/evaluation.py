"""Evaluates a table: trains each row's chosen configuration with every evaluation seed and reads the test data."""

from collections.abc import Collection, Mapping
from pathlib import Path

from mtl_lab import records
from mtl_lab.protocol import committed, completeness
from mtl_lab.protocol.attempts import train
from mtl_lab.protocol.table import OTHER_SEEDS, Table
from mtl_lab.runs.run import Run


def evaluate(
    table: Table,
    seeds: int | Mapping[str, int] | None = None,
    workers: int = 1,
    root: Path = records.ROOT,
    rows: Collection[str] | None = None,
) -> int:
    """Train the evaluation runs that runs.jsonl lacks; the number of runs trained.

    seeds  number of seeds, or row -> number; None: ten, and for the rows in extended.json the number given there.
    rows   names of the rows to evaluate; None: all.
    """
    missing_runs = missing(table, seeds, root, rows)
    folder = records.folder(table.name, table.profile, root)

    def keep(record):
        records.add([records.compact(record, missing_runs[record["identity"]][0])], folder / "runs.jsonl")

    # Seed by seed: a table that is cut off has the same seeds in every row.
    ordered = sorted((run for _, run in missing_runs.values()), key=lambda run: run.seed % OTHER_SEEDS)
    train(ordered, "evaluation", folder, workers, keep)
    return len(missing_runs)


def missing(
    table: Table,
    seeds: int | Mapping[str, int] | None = None,
    root: Path = records.ROOT,
    rows: Collection[str] | None = None,
) -> dict[str, tuple[str, Run]]:
    """Identity -> (row, run) of the evaluation runs that runs.jsonl lacks; arguments as for `evaluate`."""
    seeds = committed.seeds_of(table, root) if seeds is None else seeds
    expected = completeness.expected_runs(table, committed.search_of(table, root), seeds)
    recorded = {(r["row"], r["identity"]) for r in committed.load(table, root)}
    names = [row for row in expected if not table.takes_over(row) and (rows is None or row in rows)]
    return {run.identity: (row, run) for row in names for run in expected[row] if (row, run.identity) not in recorded}
