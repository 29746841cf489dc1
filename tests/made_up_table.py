"""A small table of the protocol whose metrics are made up, in committed form, for tests of what judges it."""

import copy
import functools
import json
from dataclasses import replace

import numpy as np
import torch

from mtl_lab import experiments
from mtl_lab.protocol import completeness, verdict

torch.set_num_threads(1)  # two threads on a busy core are many times slower
NAMES = ("single digit", "single garment", "static", "equal", "sam_gs", "mgda", "a_a", "broken")
SHIFT = {"equal": -1.0, "sam_gs": 1.0, "mgda": 0.0, "broken": -9.0}  # true Δm against the reference, in points


@functools.cache
def parts():
    """(table, search, records): a small table whose metrics are made up, in committed form."""
    table = experiments.TABLES["multi_fashion_mnist"]("tiny")
    table = replace(table, rows=[row for row in table.rows if row.name in NAMES])
    entries = {}
    for row in table.searched():
        tried = [{"choice": choice, "short": 0.0, "full": None} for choice in table.configurations(row)]
        tried[3]["full"], tried[5]["full"] = 1.0, 2.0
        entries[row.name] = {"choice": tried[5]["choice"], "tried": tried, "at_edge": False, "core_seconds": 1.0}
    search = {"table": table.name, "margin": table.margin, "rate": list(table.rates()), "rows": entries}
    random, common, made = np.random.default_rng(0), np.random.default_rng(1).standard_normal(10), []
    for name, wanted in completeness.expected_runs(table, search).items():
        for i, run in enumerate(wanted):
            accuracy = 90.0 + common[i] * (name != "a_a") + 0.1 * random.standard_normal() + SHIFT.get(name, 0.0)
            tasks = ["digit", "garment"] if run.tasks is None else [["digit", "garment"][run.tasks[0]]]
            test = {task: {"loss": 0.3, "accuracy": round(accuracy, 4)} for task in tasks}
            record = {"row": name, "identity": run.identity, "config": json.loads(run.canonical()), "diverged": None}
            made.append({**record, "final": {"test": test}, "provenance": {"commit": "c0ffee"}})
    return table, search, made


def judge(change=None, search_change=None, **options):
    """The verdict after `change(records)`, `search_change(search)`."""
    table, search, records = parts()
    records, search = copy.deepcopy(records), copy.deepcopy(search)
    if change is not None:
        records = change(records) or records
    if search_change is not None:
        search_change(search)
    return verdict.judge(table, records, search, **options)


def of(records, row, seed=0):
    return next(r for r in records if r["row"] == row and r["config"]["seed"] == seed)
