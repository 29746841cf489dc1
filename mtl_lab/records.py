"""Records of finished runs, committed as text under `results/EXPERIMENT/PROFILE/`.

runs.jsonl      one finished run per line, sorted by the name of its table row and by seed
search.json     the configurations tried and chosen for each row of a table; committed before test data are read
attempts.jsonl  how each run of search and evaluation ended, in order, append-only

`python -m mtl_lab results` writes them, verdicts read them, `make run` never touches them. A record is never edited: a
correction appends a record whose `supersedes` is the `key` of the one that it replaces. A test compares each record
with its content in the commit that added it.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mtl_lab import ROOT as CHECKOUT
from mtl_lab.files import damaged, read_json_lines, write_atomically
from mtl_lab.files import read_json as read_file

ROOT = CHECKOUT / "results"
DIGITS = 6  # significant digits of the numbers in a committed record
# The types of fields that are there; studies have fields of their own.
SHAPE = {"row": str, "identity": str, "config": dict, "seconds": float}
SHAPE |= dict.fromkeys(("final", "epochs", "provenance"), dict)


def folder(experiment: str, profile: str, root: Path = ROOT) -> Path:
    return root / experiment / profile


def load(experiment: str, profile: str, root: Path = ROOT) -> list[dict]:
    """The valid records of an experiment, in the file's order; [] while there are none.

    `files.Damaged`, with the line, where a line is no record.
    """
    file = folder(experiment, profile, root) / "runs.jsonl"
    records = read_lines(file)
    for line, record in enumerate(records, 1):
        wrong = [name for name, kind in SHAPE.items() if not isinstance(record.get(name, kind()), kind)]
        if wrong or "row" not in record:
            raise damaged(file, f"no record: {', '.join(wrong) or 'row'} missing or of another type", line)
    return valid(records)


def valid(records: Iterable[dict]) -> list[dict]:
    """The records without those that a later one supersedes."""
    records = list(records)
    superseded = {record["supersedes"] for record in records if "supersedes" in record}
    return [record for record in records if key(record) not in superseded] if superseded else records


def key(record: Mapping) -> str:
    """16 hexadecimal digits of the SHA-256 of the record's line."""
    return hashlib.sha256(as_line(record).encode()).hexdigest()[:16]


def by_row(experiment: str, profile: str, root: Path = ROOT) -> dict[str, dict]:
    """Row name -> its record, for studies that have one record per row."""
    return {record["row"]: record for record in load(experiment, profile, root)}


def attempts(experiment: str, profile: str, root: Path = ROOT) -> list[dict]:
    """How each run of search and evaluation ended, in order."""
    return read_lines(folder(experiment, profile, root) / "attempts.jsonl")


def read_json(file: Path) -> dict | None:
    """A JSON file's content; None where there is no file."""
    return read_file(file) if file.exists() else None


def read_lines(file: Path) -> list[dict]:
    """The records of a file, one a line; [] where there is no file."""
    return read_json_lines(file) if file.exists() else []


def as_line(record: Mapping) -> str:
    return json.dumps(record, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def compact(record: dict, row: str) -> dict:
    """A record in the form of runs.jsonl: its row, numbers with six digits, per-epoch values as one list per metric."""
    epochs = record["epochs"]
    tasks = list(epochs[0]["train_loss"]) if epochs else []
    columns = {
        "train_loss": {task: [e["train_loss"][task] for e in epochs] for task in tasks},
        "validation": {
            task: {metric: [e["validation"][task][metric] for e in epochs] for metric in epochs[0]["validation"][task]}
            for task in tasks
        },
    }
    kept = {name: value for name, value in record.items() if name != "trace"}  # the store of runs has it
    return rounded({**kept, "epochs": columns, "row": row})


def rounded(value):
    """The value with its numbers at six significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list) else value


def add(new: Sequence[dict], file: Path) -> None:
    """Add compact records to a sorted file of records.

    ValueError where the file has a valid record of the same row and configuration and the new record does not name its
    key in `supersedes`.
    """
    records = read_lines(file)
    known = {(r["row"], r["identity"]): r for r in valid(records)}
    for record in new:
        same = known.get((record["row"], record["identity"]))
        if same is not None and key(same) != record.get("supersedes"):
            run = f"{record['row']!r}, seed {record['config']['seed']}"
            raise ValueError(
                f"{file.name} has a record of {run}, already; a correction names that record's key in `supersedes`"
            )
    write_lines(sorted([*records, *new], key=lambda r: (r["row"], r["config"]["seed"], r["identity"])), file)


def write_lines(records: Iterable[Mapping], file: Path) -> None:
    """The records as a file, one a line."""
    write_atomically(file, "".join(as_line(record) + "\n" for record in records))
