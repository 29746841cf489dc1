"""Searches a table: trains 8 configurations of each row at a quarter of the length, the best two at full length."""

import json
from dataclasses import replace
from pathlib import Path

from mtl_core.data.problem import higher_is_better
from mtl_lab import records
from mtl_lab.files import write_atomically
from mtl_lab.protocol import committed
from mtl_lab.protocol.attempts import train
from mtl_lab.protocol.table import KEPT, Table
from mtl_lab.runs import build, provenance


def search(table: Table, workers: int = 1, root: Path = records.ROOT, only=None) -> dict:
    """Search the rows that search.json lacks and write them to it; its content.

    The single-task networks come first, since static weights and Δm rest on their validation values.
    only  names of the shared rows to search now; None: all.

    `files.Damaged` where the table extends one that has no search.json yet.
    """
    folder = records.folder(table.name, table.profile, root)
    before = committed.search_of(table, root) or {}
    taken_over = committed.base_entries(table, root)
    entries, baseline = taken_over | before.get("rows", {}), before.get("single_task_validation", {})
    if table.extends is not None:
        baseline = baseline or committed.needed_search(table, root)["single_task_validation"]
    ranking = before.get("ranking") or rank_layers(table, folder, workers)
    for row_group in (table.singles(), table.shared()):
        rows = [row for row in row_group if row.reuses is None and row.name not in entries]
        if only is not None:
            rows = [row for row in rows if row.tasks is not None or row.name in only]
        validation = search_rows(table, rows, ranking, baseline, entries, folder, workers)
        baseline = records.rounded(baseline | validation)  # as in search.json: rows searched later read that
    content = {
        "table": table.name,
        "profile": table.profile,
        "margin": table.margin,
        "rate": list(table.rates()),
        "single_task_validation": baseline,
        "rows": {name: entry for name, entry in entries.items() if name not in taken_over},
        "ranking": ranking,
        "provenance": before.get("provenance", provenance.provenance()),  # of rows searched later: attempts.jsonl
    }
    text = json.dumps(finite(records.rounded(content)), sort_keys=True, indent=1, ensure_ascii=False)
    write_atomically(folder / "search.json", text + "\n")
    return json.loads(text)


def rank_layers(table: Table, folder: Path, workers: int) -> dict | None:
    """The conflict log of the table's ranking run, with the seed of the short runs; None where no row splits layers."""
    if table.ranking is None:
        return None
    run = replace(table.ranking, seed=table.search_seeds()[0])
    return train([run], "search, layers", folder, workers)[run.identity]["conflict"]


def search_rows(table, rows, ranking, baseline, entries, folder, workers) -> dict:
    """Search `rows`, add their entries to `entries`; task -> validation values of the chosen single-task networks."""
    short_seed, full_seed = table.search_seeds()
    choices = {row.name: [table.resolve(row, c, ranking, baseline) for c in table.configurations(row)] for row in rows}
    short = {row.name: [table.run(row, c, short_seed, 0.25) for c in choices[row.name]] for row in rows}
    short_records = train([run for runs in short.values() for run in runs], "search, short", folder, workers)
    scores, full = {}, {}  # row name -> score of each short run; row name -> index of a configuration -> full run
    for row in rows:
        scores[row.name] = [_score(table, row, short_records[run.identity], baseline) for run in short[row.name]]
        order = sorted(range(len(scores[row.name])), key=lambda i: -scores[row.name][i])
        full[row.name] = {i: table.run(row, choices[row.name][i], full_seed) for i in order[:KEPT]}
    full_records = train([run for runs in full.values() for run in runs.values()], "search, full", folder, workers)
    validation = {}
    for row in rows:
        ends = {i: full_records[run.identity] for i, run in full[row.name].items()}
        full_scores = {i: _score(table, row, record, baseline) for i, record in ends.items()}
        best = max(full_scores, key=full_scores.get)
        spent = [*(short_records[run.identity] for run in short[row.name]), *ends.values()]
        entries[row.name] = {
            "choice": choices[row.name][best],
            "at_edge": table.at_edge(row, choices[row.name][best]),
            "tried": [
                {"choice": choice, "short": scores[row.name][i], "full": full_scores.get(i)}
                for i, choice in enumerate(choices[row.name])
            ],
            "core_seconds": sum(record["core_seconds"] for record in spent),
            "trunk_backward_passes": sum(record["trunk_backward_passes"] for record in spent),
            "diverged": sum(record["diverged"] is not None for record in spent),
        }
        if row.tasks is not None:
            validation |= ends[best]["final"]["validation"]
    return validation


def _score(table, row, record, baseline):
    """Validation Δm; for a single-task network its metric, negated where lower is better; -inf if it diverged."""
    if row.tasks is None:
        return table.validation_delta(record, baseline)
    if record["diverged"] is not None:
        return -float("inf")
    (values,) = record["final"]["validation"].values()
    (task,) = build.load_problem(replace(table.base, tasks=row.tasks)).tasks
    ((metric, higher),) = higher_is_better(task).items()
    return values[metric] if higher else -values[metric]


def finite(value):
    """JSON has no infinity: a diverged configuration's score is null."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [finite(inner) for inner in value]
    return None if value == -float("inf") else value
