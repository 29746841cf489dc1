"""Reference results: records of runs that are committed, as text, under `results/EXPERIMENT/PROFILE/`.

    python -m mtl_core.results EXPERIMENT --profile small [--seeds 10] [--workers 2] [--row NAME]

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
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from mtl_core import protocol, runs

ROOT = runs.ROOT / "results"
DIGITS = 6  # significant digits of the numbers in a committed record


def folder(experiment: str, profile: str, root: Path = ROOT) -> Path:
    return root / experiment / profile


def load(experiment: str, profile: str, root: Path = ROOT) -> list[dict]:
    """The committed records, in the file's order; [] where there are none yet."""
    return _lines(folder(experiment, profile, root) / "runs.jsonl")


def attempts(experiment: str, profile: str, root: Path = ROOT) -> list[dict]:
    """How every run of search and evaluation ended, in order."""
    return _lines(folder(experiment, profile, root) / "attempts.jsonl")


def search_of(experiment: str, profile: str, root: Path = ROOT) -> dict | None:
    """search.json, or None before the search is done."""
    file = folder(experiment, profile, root) / "search.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def _lines(file: Path) -> list[dict]:
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
    return seal(_rounded({**record, "epochs": columns, "row": row}))


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


def _rounded(value):
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list) else value


def add(record: dict, file: Path) -> None:
    """Put one compact record into a file of them, in place of one with the same config; sorted, one line each."""
    records = {(r["row"], r["identity"]): r for r in _lines(file)} | {(record["row"], record["identity"]): record}
    write_lines(sorted(records.values(), key=lambda r: (r["row"], r["config"]["seed"], r["identity"])), file)


def write_lines(records, file: Path) -> None:
    """The records as a file, one a line."""
    lines = [json.dumps(r, sort_keys=True, ensure_ascii=False, separators=(",", ":")) for r in records]
    runs.write_atomically(file, "\n".join(lines) + "\n")


# --- a table by the protocol: search, then evaluation


def search(table: protocol.Table, profile: str, workers: int = 1, root: Path = ROOT) -> dict:
    """Search the rows that search.json lacks, all where there is none: two stages, the single-task networks first."""
    place = folder(table.name, profile, root)
    before = search_of(table.name, profile, root) or {}
    entries, baseline = before.get("rows", {}), before.get("single_task_validation", {})
    ranking = before.get("ranking") or table.ranking_run()
    if isinstance(ranking, runs.Run):
        ranking = _train([ranking], "search, layers", place, workers)[ranking.identity]["conflict"]
    for rows in (table.singles(), table.shared()):  # the fixed values and static weights come from the first
        rows = [row for row in rows if row.follows is None and row.name not in entries]
        draws = {r.name: [table.resolve(r, choice, ranking, baseline) for choice in table.draws(r)] for r in rows}
        short = {row.name: [table.run(row, choice, protocol.SHORT_SEED, 0.25) for choice in draws[row.name]]
                 for row in rows}  # fmt: skip
        first = _train([run for found in short.values() for run in found], "search, short", place, workers)
        kept, full = {}, {}
        for row in rows:
            scores = [_score(table, row, first[run.identity], baseline) for run in short[row.name]]
            order = sorted(range(len(scores)), key=lambda place: -scores[place])
            kept[row.name] = order[: protocol.KEPT]
            full[row.name] = [table.run(row, draws[row.name][i], protocol.FULL_SEED) for i in kept[row.name]]
        second = _train([run for found in full.values() for run in found], "search, full", place, workers)
        for row in rows:
            tried = [{"choice": choice, "short": _score(table, row, first[run.identity], baseline), "full": None}
                     for choice, run in zip(draws[row.name], short[row.name], strict=True)]  # fmt: skip
            for i, run in zip(kept[row.name], full[row.name], strict=True):
                tried[i]["full"] = _score(table, row, second[run.identity], baseline)
            best = max(kept[row.name], key=lambda i: tried[i]["full"])
            spent = [first[r.identity] for r in short[row.name]] + [second[r.identity] for r in full[row.name]]
            entries[row.name] = {
                "choice": draws[row.name][best], "at_edge": table.at_edge(draws[row.name][best]), "tried": tried,
                "core_seconds": sum(r["core_seconds"] for r in spent),
                "trunk_backward_passes": sum(r["trunk_backward_passes"] for r in spent),
                "diverged": sum(r["diverged"] is not None for r in spent),
            }  # fmt: skip
            if row.tasks is not None:
                baseline |= second[full[row.name][kept[row.name].index(best)].identity]["final"]["validation"]
    found = {
        "table": table.name,
        "profile": profile,
        "margin": table.margin,
        "rate": list(table.rates()),
        "single_task_validation": baseline,
        "rows": entries,
        "ranking": ranking,
        "provenance": before.get("provenance", runs.provenance()),  # of rows searched later: attempts.jsonl
    }
    text = json.dumps(_finite(_rounded(found)), sort_keys=True, indent=1, ensure_ascii=False)
    runs.write_atomically(place / "search.json", text + "\n")
    return json.loads(text)


def _score(table, row, record, baseline):
    """Validation Δm; for a single-task network minus its own error or its accuracy, whatever its metric says."""
    if row.tasks is None:
        return table.validation_delta(record, baseline)
    if record["diverged"] is not None:
        return -float("inf")
    (values,) = record["final"]["validation"].values()
    (task,) = runs.load_problem(replace(table.base, tasks=row.tasks)).tasks
    ((metric, higher),) = task.higher_is_better().items()
    return values[metric] if higher else -values[metric]


def _finite(value):
    """JSON has no infinity: a diverged configuration's score is null."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if value == -float("inf") else value


def evaluate(table: protocol.Table, profile: str, seeds=10, workers=1, root: Path = ROOT, rows=None) -> int:
    """Train the evaluation runs that runs.jsonl lacks, of all rows or of those named; how many were trained."""
    place = folder(table.name, profile, root)
    chosen = {name: entry["choice"] for name, entry in search_of(table.name, profile, root)["rows"].items()}
    expected = table.expected(chosen, seeds)
    here = {(r["row"], r["identity"]) for r in load(table.name, profile, root)}
    missing = {run.identity: (row, run) for row, found in expected.items() if rows is None or row in rows
               for run in found if (row, run.identity) not in here}  # fmt: skip

    def keep(record):
        add(compact(record, missing[record["identity"]][0]), place / "runs.jsonl")

    # Seed by seed: a table that is cut off has the same seeds in every row.
    ordered = sorted((run for _, run in missing.values()), key=lambda run: run.seed % protocol.OTHER_SEEDS)
    _train(ordered, "evaluation", place, workers, keep)
    return len(missing)


def _train(wanted, stage, place, workers, keep=None) -> dict[str, dict]:
    """identity -> record of the runs; each new ending goes into the append-only log."""
    logged = {(a["identity"], a["stage"]) for a in _lines(place / "attempts.jsonl")}
    found = {}

    def finished(record):
        found[record["identity"]] = record
        if keep is not None:
            keep(record)
        if (record["identity"], stage) not in logged:
            line = {"identity": record["identity"], "stage": stage, "seed": record["config"]["seed"],
                    "method": record["config"]["method"], "finished": record["provenance"]["finished"],
                    "diverged": record["diverged"] is not None, "core_seconds": round(record["core_seconds"], 2),
                    "commit": record["provenance"]["commit"]}  # fmt: skip
            place.mkdir(parents=True, exist_ok=True)
            with open(place / "attempts.jsonl", "a", encoding="utf-8") as log:
                log.write(json.dumps(line, sort_keys=True) + "\n")

    runs.grid(wanted, workers, finished=finished)
    return found


def is_committed(file: Path) -> bool:
    """Whether git holds the file as it is."""
    git = ["git", "-C", str(file.parent)]
    known = subprocess.run([*git, "ls-files", "--error-unmatch", file.name], capture_output=True)
    clean = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", file.name], capture_output=True)
    return known.returncode == 0 and clean.returncode == 0


def complete_table(name, profile, seeds, workers, root: Path = ROOT, rows=None) -> str:
    """Search, then, once search.json is committed, evaluate; a sentence that says what was done."""
    table, file = protocol.TABLES[name](profile), folder(name, profile, root) / "search.json"
    known = (search_of(name, profile, root) or {}).get("rows", {})
    if not file.exists() or known and {row.name for row in table.searched()} - set(known):
        found = search(table, profile, workers, root)
        edges = [row for row, entry in found["rows"].items() if entry["at_edge"]]
        note = f" At the edge of the range of rates: {', '.join(edges)}." if edges else ""
        return f"search.json is written.{note} Commit it, then run the same command again: it reads the test data."
    if not is_committed(file):
        return "search.json is not committed as it is: commit it first; test data are read after that alone."
    if edges := [row for row, entry in known.items() if entry["at_edge"]]:
        said = f"Nothing is evaluated: the rate lies at the edge of its range for {', '.join(edges)}."
        return f"{said} Widen the table's `rate` for all rows, remove search.json and search again."
    count = evaluate(table, profile, seeds, workers, root, rows)
    return f"{len(load(name, profile, root))} records, {count} trained now."


def complete_experiment(name, profile, seeds, workers, root: Path = ROOT) -> str:
    """An experiment's own grid: train what its plan names and runs.jsonl lacks, until the plan asks for no more."""
    from mtl_core.experiments import EXPERIMENTS

    experiment, file = EXPERIMENTS[name](profile=profile, seeds=seeds), folder(name, profile, root) / "runs.jsonl"
    count = 0
    while True:
        here = load(name, profile, root)
        done = {record["identity"] for record in here}
        missing = {run.identity: (row, run) for row, found in experiment.plan(here).items() for run in found
                   if run.identity not in done}  # fmt: skip
        if not missing:
            return f"{len(here)} records, {count} trained now."
        count += len(missing)

        def keep(record, rows=missing):
            add(compact(record, rows[record["identity"]][0]), file)

        # Seed by seed: what is cut off has whole seeds.
        ordered = sorted((run for _, run in missing.values()), key=lambda run: run.seed)
        runs.grid(ordered, workers, finished=keep)


def main(arguments=None) -> int:
    from mtl_core import landscape_study
    from mtl_core.experiments import EXPERIMENTS, RECON

    parser = argparse.ArgumentParser(prog="make results", description="train and record reference results")
    parser.add_argument("experiment")
    parser.add_argument("--profile", default="small")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--row", action="append", help="only this row of a table (may be given several times)")
    given = parser.parse_args(arguments)
    known = [*protocol.TABLES, *EXPERIMENTS, landscape_study.NAME]
    for what, value, names in (("experiment", given.experiment, known), ("profile", given.profile, RECON)):
        if value not in names:
            near = difflib.get_close_matches(value, names, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            print(f"there is no {what} {value!r}.{hint} There are: {', '.join(names)}", file=sys.stderr)
            return 2
    try:
        if given.experiment in protocol.TABLES:
            said = complete_table(given.experiment, given.profile, given.seeds, given.workers, rows=given.row)
        elif given.experiment == landscape_study.NAME:
            said = landscape_study.complete(given.profile)
        else:
            said = complete_experiment(given.experiment, given.profile, given.seeds, given.workers)
    except KeyboardInterrupt:
        return 130
    print(f"results/{given.experiment}/{given.profile}: {said}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
