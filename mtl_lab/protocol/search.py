"""The search of a table: eight configurations of each row at a quarter of the length, the best two at full length."""

import json
from dataclasses import replace
from pathlib import Path

from mtl_lab import records
from mtl_lab.files import write_atomically
from mtl_lab.protocol import committed
from mtl_lab.protocol.attempts import train
from mtl_lab.protocol.table import FULL_SEED, KEPT, SHORT_SEED, Table
from mtl_lab.runs import build, provenance


def search(table: Table, workers: int = 1, root: Path = records.ROOT, only=None) -> dict:
    """Search the rows that search.json lacks, all where there is none: two stages, the single-task networks first.

    only  names of the shared rows to search now; the others wait for another call.
    """
    folder = records.folder(table.name, table.profile, root)
    before = committed.search_of(table, root) or {}
    taken_over = committed.base_entries(table, root)
    entries, baseline = taken_over | before.get("rows", {}), before.get("single_task_validation", {})
    if table.extends is not None:
        if not taken_over:
            raise ValueError(
                f"{table.name} takes rows of {table.extends}, which has no search.json yet: search it first"
            )
        baseline = baseline or committed.base_search(table, root)["single_task_validation"]
    ranking = before.get("ranking")
    if ranking is None and table.ranking is not None:
        ranking = train([table.ranking], "search, layers", folder, workers)[table.ranking.identity]["conflict"]
    for rows in (table.singles(), table.shared()):  # the fixed values and static weights come from the first
        rows = [row for row in rows if row.follows is None and row.name not in entries
                and (only is None or row.tasks is not None or row.name in only)]  # fmt: skip
        draws = {r.name: [table.resolve(r, choice, ranking, baseline) for choice in table.draws(r)] for r in rows}
        short = {row.name: [table.run(row, choice, SHORT_SEED, 0.25) for choice in draws[row.name]]
                 for row in rows}  # fmt: skip
        first = train([run for found in short.values() for run in found], "search, short", folder, workers)
        kept, full = {}, {}
        for row in rows:
            scores = [_score(table, row, first[run.identity], baseline) for run in short[row.name]]
            order = sorted(range(len(scores)), key=lambda place: -scores[place])
            kept[row.name] = order[:KEPT]
            full[row.name] = [table.run(row, draws[row.name][i], FULL_SEED) for i in kept[row.name]]
        second = train([run for found in full.values() for run in found], "search, full", folder, workers)
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
        baseline = records.rounded(baseline)  # as search.json has it: rows that are searched later find the same
    found = {
        "table": table.name,
        "profile": table.profile,
        "margin": table.margin,
        "rate": list(table.rates()),
        "single_task_validation": baseline,
        "rows": {name: entry for name, entry in entries.items() if name not in taken_over},
        "ranking": ranking,
        "provenance": before.get("provenance", provenance.provenance()),  # of rows searched later: attempts.jsonl
    }
    text = json.dumps(_finite(records.rounded(found)), sort_keys=True, indent=1, ensure_ascii=False)
    write_atomically(folder / "search.json", text + "\n")
    return json.loads(text)


def _score(table, row, record, baseline):
    """Validation Δm; for a single-task network minus its own error or its accuracy, whatever its metric says."""
    if row.tasks is None:
        return table.validation_delta(record, baseline)
    if record["diverged"] is not None:
        return -float("inf")
    (values,) = record["final"]["validation"].values()
    (task,) = build.load_problem(replace(table.base, tasks=row.tasks)).tasks
    ((metric, higher),) = task.higher_is_better().items()
    return values[metric] if higher else -values[metric]


def _finite(value):
    """JSON has no infinity: a diverged configuration's score is null."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if value == -float("inf") else value
