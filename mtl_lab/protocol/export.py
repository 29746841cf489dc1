"""A judged table as per-seed results for a spreadsheet."""

import csv
import io

from mtl_lab.runs.build import directions

COLUMNS = ("experiment", "profile", "row", "title", "state", "seed", "task", "metric", "value", "higher_is_better")
COLUMNS += ("diverged", "identity", "commit")


def to_csv(verdict) -> str:
    """A `TableVerdict` as per-seed results, one number a line; results/data_dictionary.md explains the columns."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(COLUMNS)
    up = directions(verdict.table.base.problem)
    for record in verdict.records:
        row = verdict.rows.get(record["row"])
        seed, (title, state) = record["config"]["seed"], (row.title, row.state) if row else ("", "void")
        end = [record["diverged"] is not None, record["identity"], record["provenance"]["commit"]]
        start = [verdict.table.name, verdict.profile, record["row"], title, state, seed]
        for task, metrics in record["final"].get("test", {}).items():
            for metric, value in metrics.items():
                lines.writerow([*start, task, metric, value, up.get(task, {}).get(metric, False), *end])
        if row and seed in row.delta:
            lines.writerow([*start, "", "delta_m", f"{row.delta[seed]:.6g}", True, *end])
    return out.getvalue()
