"""Train what committed results lack: for a table of the protocol first the search, then the evaluation.

Test data are read in the evaluation alone, and that begins only where git holds search.json as it is.
"""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

from mtl_core import protocol, records, results, runs, tables
from mtl_core.results import ROOT, folder, load, search_of


def search(table: protocol.Table, profile: str, workers: int = 1, root: Path = ROOT, only=None) -> dict:
    """Search the rows that search.json lacks, all where there is none: two stages, the single-task networks first.

    only  names of the shared rows to search now; the others wait for another call.
    """
    place = folder(table.name, profile, root)
    before = search_of(table.name, profile, root) or {}
    borrowed = results.lent(table.name, profile, "search.json", root)
    entries, baseline = borrowed | before.get("rows", {}), before.get("single_task_validation", {})
    if lender := protocol.LENDERS.get(table.name):
        if not borrowed:
            raise ValueError(f"{table.name} takes rows of {lender}, which has no search.json yet: search it first")
        baseline = baseline or search_of(lender, profile, root)["single_task_validation"]
    ranking = before.get("ranking") or table.ranking_run()
    if isinstance(ranking, runs.Run):
        ranking = _train([ranking], "search, layers", place, workers)[ranking.identity]["conflict"]
    for rows in (table.singles(), table.shared()):  # the fixed values and static weights come from the first
        rows = [row for row in rows if row.follows is None and row.name not in entries
                and (only is None or row.tasks is not None or row.name in only)]  # fmt: skip
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
                "choice": draws[row.name][best], "at_edge": table.at_edge(row, draws[row.name][best]), "tried": tried,
                "core_seconds": sum(r["core_seconds"] for r in spent),
                "trunk_backward_passes": sum(r["trunk_backward_passes"] for r in spent),
                "diverged": sum(r["diverged"] is not None for r in spent),
            }  # fmt: skip
            if row.tasks is not None:
                baseline |= second[full[row.name][kept[row.name].index(best)].identity]["final"]["validation"]
        baseline = results.rounded(baseline)  # as search.json has it: rows that are searched later find the same
    found = {
        "table": table.name,
        "profile": profile,
        "margin": table.margin,
        "rate": list(table.rates()),
        "single_task_validation": baseline,
        "rows": {name: entry for name, entry in entries.items() if name not in borrowed},
        "ranking": ranking,
        "provenance": before.get("provenance", runs.provenance()),  # of rows searched later: attempts.jsonl
    }
    text = json.dumps(_finite(results.rounded(found)), sort_keys=True, indent=1, ensure_ascii=False)
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


def evaluate(table: protocol.Table, profile: str, seeds=None, workers=1, root: Path = ROOT, rows=None) -> int:
    """Train the evaluation runs that runs.jsonl lacks, of all rows or of those named; how many were trained.

    seeds  how many; None: ten, and of the rows in extended.json as many as it says.
    """
    place = folder(table.name, profile, root)
    seeds = tables.seeds_of(table.name, profile, root) if seeds is None else seeds
    expected = records.expected_runs(table, search_of(table.name, profile, root), seeds)
    here = {(r["row"], r["identity"]) for r in load(table.name, profile, root)}
    own = [row for row in expected if not protocol.is_lent(table.name, row) and (rows is None or row in rows)]
    missing = {run.identity: (row, run) for row in own for run in expected[row] if (row, run.identity) not in here}

    def keep(record):
        results.add(results.compact(record, missing[record["identity"]][0]), place / "runs.jsonl")

    # Seed by seed: a table that is cut off has the same seeds in every row.
    ordered = sorted((run for _, run in missing.values()), key=lambda run: run.seed % protocol.OTHER_SEEDS)
    _train(ordered, "evaluation", place, workers, keep)
    return len(missing)


def _train(wanted, stage, place, workers, keep=None) -> dict[str, dict]:
    """identity -> record of the runs; each new ending goes into the append-only log."""
    logged = {(a["identity"], a["stage"]) for a in results.lines(place / "attempts.jsonl")}
    found = {}

    def finished(record):
        found[record["identity"]] = record
        if (record["identity"], stage) not in logged:
            line = {"identity": record["identity"], "stage": stage, "seed": record["config"]["seed"],
                    "method": record["config"]["method"], "finished": record["provenance"]["finished"],
                    "diverged": record["diverged"] is not None, "core_seconds": round(record["core_seconds"], 2),
                    "commit": record["provenance"]["commit"]}  # fmt: skip
            place.mkdir(parents=True, exist_ok=True)
            with open(place / "attempts.jsonl", "a", encoding="utf-8") as log:
                log.write(json.dumps(line, sort_keys=True) + "\n")
        if keep is not None:  # after the log: a run that is kept is never asked for again
            keep(record)

    runs.grid(wanted, workers, finished=finished)
    return found


def is_committed(file: Path) -> bool:
    """Whether git holds the file as it is."""
    git = ["git", "-C", str(file.parent)]
    known = subprocess.run([*git, "ls-files", "--error-unmatch", file.name], capture_output=True)
    clean = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", file.name], capture_output=True)
    return known.returncode == 0 and clean.returncode == 0


def complete_table(name, profile, seeds, workers, root: Path = ROOT, rows=None) -> str:
    """Search, then, once search.json is committed, evaluate; a sentence that says what was done.

    rows  names of the rows to search and to evaluate now, None for all. Nothing is evaluated before all are searched.
    """
    table, file = protocol.TABLES[name](profile), folder(name, profile, root) / "search.json"
    known = (search_of(name, profile, root) or {}).get("rows", {})
    wanted = [row.name for row in table.searched()]
    if not file.exists() or known and set(wanted) - set(known):
        found = search(table, profile, workers, root, rows)
        edges = [row for row, entry in found["rows"].items() if entry["at_edge"]]
        note = f" At the edge of the range of rates: {', '.join(edges)}." if edges else ""
        if waiting := set(wanted) - set(search_of(name, profile, root)["rows"]):
            left = [row for row in wanted if row in waiting]
            return f"search.json is written, not yet whole.{note} To be searched: {', '.join(left)}."
        return f"search.json is written.{note} Commit it, then run the same command again: it reads the test data."
    if not is_committed(file):
        return "search.json is not committed as it is: commit it first; test data are read after that alone."
    if edges := [row for row, entry in known.items() if entry["at_edge"]]:
        said = f"Nothing is evaluated: a rate lies at the edge of its range for {', '.join(edges)}."
        return f"{said} Widen its range for all rows, remove search.json and search again."
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
            results.add(results.compact(record, rows[record["identity"]][0]), file)

        # Seed by seed: what is cut off has whole seeds.
        ordered = sorted((run for _, run in missing.values()), key=lambda run: run.seed)
        runs.grid(ordered, workers, finished=keep)
