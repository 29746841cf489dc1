"""The search and the single-task networks of the table `mt10`, made up, for tests of the comparison that extends it."""

import json

from mtl_core.data import mt10
from mtl_lab import records
from mtl_lab.experiments import mt10_cloning

ZERO = {task: {"loss": 0.02, "MSE": 0.02} for task in mt10.TASKS}


def with_the_table(root):
    """The search and the single-task networks of the table `mt10`, made up."""
    table, folder = mt10_cloning.table(), records.folder("mt10", "small", root)
    choice = {"learning_rate": 1e-3, "weight_decay": 0.0}
    choices = {row.name: choice | ({"weights": [1.0] * 10} if row.tasks is None else {}) for row in table.searched()}
    folder.mkdir(parents=True)
    search = {"rows": {name: {"choice": c} for name, c in choices.items()}, "single_task_validation": ZERO}
    (folder / "search.json").write_text(json.dumps(search))
    lines = [
        {"row": row, "identity": run.identity, "config": json.loads(run.canonical()), "diverged": None,
         "final": {"test": {t: ZERO[t] for t in [row.removeprefix("single ")]}}}
        for row, runs in table.expected(choices).items() if row.startswith("single ") for run in runs
    ]  # fmt: skip
    records.write_lines(lines, folder / "runs.jsonl")
    return root
