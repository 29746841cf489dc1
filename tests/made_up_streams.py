"""Records of searches over streams whose metrics are made up, in committed form, for tests of what reads them."""

import json

import numpy as np

from mtl_lab import experiments, records
from mtl_lab.protocol import committed, streams

# In margins: standard deviations of Δm, then row -> its true difference to static weights.
SEARCH, SEED, METHOD_SEED = 1.5, 0.7, 0.3
SHIFT = {"equal": -4.0, "log_sum": 4.0, "recon_pcgrad": 5.0, "broken_1": -1.0, "broken_3": -6.0}
SHIFT |= {"epochs × 2": 2.0, "weights × 0.6": -1.0, "weights × 0.2": -3.0, "weights × 0.05": -9.0}
SHIFT |= {"equal, width 32": -8.0, "equal, width 512": 8.0}
ONE_TASK = {"norm_equalised_clip": 6.0}  # of Δm, all from the first task


def write(name, root, count=None):
    """Write the preparation and `count` streams, or all, of the searches `name` into `root`; return their table.

    `root` holds the committed folder of the table that they extend.
    """
    table = experiments.SEARCHES[name]("small")
    unit, random = table.limits[0], np.random.default_rng(0)
    alone = committed.needed_search(table, root)["single_task_validation"]

    def record(row, run, points, **more):
        gains = dict.fromkeys(alone, unit * (SHIFT.get(row, 0.0) + points))
        gains[next(iter(alone))] += unit * ONE_TASK.get(row, 0.0) * len(set(table.groups or alone))
        values = {  # accuracies rise, errors fall
            task: {m: v * (1 + (gains[task] if m == "accuracy" else -gains[task]) / 100) for m, v in of.items()}
            for task, of in alone.items()
        }
        made = {"row": row, "identity": run.identity, "config": json.loads(run.canonical()), "diverged": None}
        final = dict.fromkeys(("validation", "test") if run.test else ("validation",), values)
        return {**made, "final": final, "provenance": {"commit": "c0ffee"}, **more}

    made, lines = [record(row, run, 0.0) for row, run in streams.preparation(table, root)], []
    fixed = streams.settings(table, made, root)
    for stream in range(table.streams if count is None else count):
        by_search, by_seed, rows = {}, {}, {}
        for row in table.searched():
            choice = {"learning_rate": 0.01, "weight_decay": 0.0}
            choice |= {"weights": [1.0] * len(table.singles())} if row.method == "static" else {}
            if row.tasks is None:
                by_search[row.name] = SEARCH * random.standard_normal() * (row.name != "log_sum")
                scores = [by_search[row.name] - one for one in random.exponential(3.0, 8)]
                tried = [{"choice": choice, "short": unit * score, "full": None} for score in scores]
                tried[0]["short"] = None if stream == 0 else tried[0]["short"]  # it diverged
                rows[row.name] = {"choice": choice, "tried": tried}
        line = records.rounded({"stream": stream, "rows": rows, **fixed, "digest": ""})
        lines.append({**line, "digest": records.key(line)})
        for row, run in streams.evaluation(table, lines[-1]):
            common = by_seed.setdefault(run.seed, SEED * random.standard_normal())
            points = by_search[table.row(row).reuses or row] + common + METHOD_SEED * random.standard_normal()
            made.append(record(row, run, points, choices=lines[-1]["digest"]))
    folder = records.folder(name, "small", root)
    folder.mkdir(parents=True)
    records.write_lines(lines, folder / "streams.jsonl")
    records.write_lines(made, folder / "runs.jsonl")
    return table
