"""Reference results: records of runs that are committed, as text, under `results/EXPERIMENT/PROFILE/`.

    python -m mtl_core.results EXPERIMENT --profile small [--seeds N] [--workers 2] [--row NAME]

trains what is missing and nothing else, and writes each record as soon as it is finished:

runs.jsonl      one finished run a line, sorted by row and seed
search.json     what was tried for each row of a table, and what was chosen; committed before test data are read
attempts.jsonl  every run of search and evaluation as it ended, in order, append-only

Verdicts read these files alone; `make run` never writes them.
"""

import argparse
import difflib
import hashlib
import json
import os
import sys
from pathlib import Path

from filelock import FileLock, Timeout

from mtl_core import processes, protocol, runs

ROOT = runs.ROOT / "results"
DIGITS = 6  # significant digits of the numbers in a committed record


def folder(experiment: str, profile: str, root: Path = ROOT) -> Path:
    return root / experiment / profile


def load(experiment: str, profile: str, root: Path = ROOT) -> list[dict]:
    """The committed records, in the file's order, then what a lender has of its rows; [] where there are none yet."""
    found, lender = lines(folder(experiment, profile, root) / "runs.jsonl"), protocol.LENDERS.get(experiment)
    if not found or lender is None:
        return found
    seeds = {seed + more for seed in protocol.SEEDS for more in (0, protocol.OTHER_SEEDS)}
    return found + [record for record in load(lender, profile, root)
                    if protocol.is_lent(experiment, record["row"]) and record["config"]["seed"] in seeds]  # fmt: skip


def attempts(experiment: str, profile: str, root: Path = ROOT) -> list[dict]:
    """How every run of search and evaluation ended, in order."""
    return lines(folder(experiment, profile, root) / "attempts.jsonl")


def search_of(experiment: str, profile: str, root: Path = ROOT) -> dict | None:
    """search.json with the lender's rows, if there is one; None before the search is done."""
    found = parsed(folder(experiment, profile, root) / "search.json")
    if found is None:
        return None
    return {**found, "rows": lent(experiment, profile, "search.json", root) | found.get("rows", {})}


def lent(experiment: str, profile: str, file: str, root: Path = ROOT) -> dict:
    """The entries of rows in the lender's search.json, or fingerprints.json, that it lends; {} without a lender."""
    lender = protocol.LENDERS.get(experiment)
    found = parsed(folder(lender, profile, root) / file) if lender else None
    rows = {} if found is None else found["rows"]
    return {row: entry for row, entry in rows.items() if protocol.is_lent(experiment, row)}


def parsed(file: Path) -> dict | None:
    """A JSON file's content; None where there is no file."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def lines(file: Path) -> list[dict]:
    """The records of a file, one a line; [] where there is no file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []


def compact(record: dict, row: str) -> dict:
    """A record as it is committed: per-epoch numbers as columns, six significant digits, its row, its seal."""
    epochs = record["epochs"]
    tasks = list(epochs[0]["train_loss"]) if epochs else []
    columns = {
        "train_loss": {task: [e["train_loss"][task] for e in epochs] for task in tasks},
        "validation": {task: {metric: [e["validation"][task][metric] for e in epochs]
                              for metric in epochs[0]["validation"][task]} for task in tasks},
    }  # fmt: skip
    return seal(rounded({**record, "epochs": columns, "row": row}))


def seal(record: dict) -> dict:
    """The record with `content`: the first 16 hex digits of the SHA-256 of all else in it.

    It shows that a number was changed by hand or by accident, not by someone who seals again; the history of
    the file shows that.
    """
    plain = {key: value for key, value in record.items() if key != "content"}
    text = json.dumps(json.loads(json.dumps(plain)), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return {**plain, "content": hashlib.sha256(text.encode()).hexdigest()[:16]}


def intact(record: dict) -> bool:
    """Does its content match its seal? False also where it has none."""
    return seal(record)["content"] == record.get("content")


def refuse_edited(records, named) -> None:
    """ValueError with the name, `named(record)`, of the first record that is not intact."""
    for record in records:
        if not intact(record):
            raise ValueError(f"{named(record)}: the record was edited, its content does not match its seal")


def by_row(experiment: str, profile: str, root: Path = ROOT) -> dict[str, dict]:
    """row -> its one record, of a study; ValueError names one that was edited."""
    found = load(experiment, profile, root)
    refuse_edited(found, lambda record: f"{experiment}, {record['row']}")
    return {record["row"]: record for record in found}


def rounded(value):
    """The value with its numbers at six significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list) else value


def add(record: dict, file: Path) -> None:
    """Put one compact record into a file of them, in place of one with the same config; sorted, one line each."""
    records = {(r["row"], r["identity"]): r for r in lines(file)} | {(record["row"], record["identity"]): record}
    write_lines(sorted(records.values(), key=lambda r: (r["row"], r["config"]["seed"], r["identity"])), file)


def write_lines(records, file: Path) -> None:
    """The records as a file, one a line."""
    texts = [json.dumps(r, sort_keys=True, ensure_ascii=False, separators=(",", ":")) for r in records]
    runs.write_atomically(file, "\n".join(texts) + "\n")


def main(arguments=None) -> int:
    from mtl_core import completion, illustration_study, landscape_study
    from mtl_core.experiments import EXPERIMENTS, RECON

    parser = argparse.ArgumentParser(prog="make results", description="train and record reference results")
    parser.add_argument("experiment")
    parser.add_argument("--profile", default="small")
    parser.add_argument("--seeds", type=int, help="how many; left out: as the table or the grid says, or ten")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--row", action="append", help="search and evaluate this row of a table now (may be given several times)"
    )
    given = parser.parse_args(arguments)
    try:
        processes.chosen_device()
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    studies = {study.NAME: study.complete for study in (landscape_study, illustration_study)}
    known = [*protocol.TABLES, *EXPERIMENTS, *studies]
    asked = [("experiment", given.experiment, known), ("profile", given.profile, RECON)]
    if given.experiment in protocol.TABLES and given.profile in RECON:
        rows = [row.name for row in protocol.TABLES[given.experiment](given.profile).rows]
        asked += [("row", row, rows) for row in given.row or ()]
    for what, value, names in asked:
        if value not in names:
            near = difflib.get_close_matches(value, names, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            print(f"there is no {what} {value!r}.{hint} There are: {', '.join(names)}", file=sys.stderr)
            return 2
    where, name = f"results/{given.experiment}/{given.profile}", f"{given.experiment} {given.profile}.lock"
    lock = runs.Store().root / "locks" / name  # two that write one folder would each lose what the other has added
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=0):
            if given.experiment in protocol.TABLES:
                what = given.experiment, given.profile, given.seeds, given.workers
                said = completion.complete_table(*what, rows=given.row)
            elif given.experiment in studies:
                said = studies[given.experiment](given.profile)
            else:
                planned = EXPERIMENTS[given.experiment].seeds  # one: the page's, not that of reference results
                seeds = given.seeds or (planned if planned > 1 else len(protocol.SEEDS))
                said = completion.complete_experiment(given.experiment, given.profile, seeds, given.workers)
    except Timeout:
        print(f"{where}: another `make results` is writing it; wait for that one, or stop it", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(f"{where}: {said}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
