"""How much of a difference is due to the choice of test examples? A bootstrap over their sources.

    python -m mtl_lab bootstrap EXPERIMENT --profile small

trains two rows of a committed table again with the first evaluation seed, compares their test metrics with the
committed records, and resamples the sources of the test examples: molecules, or the two images of a composite. The
record is results/EXPERIMENT/PROFILE/sampling_noise.json. All seeds share one test set, so an interval over seeds does
not include this uncertainty; the bootstrap interval includes nothing else.
"""

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import torch

from mtl_core.data.problem import Problem, higher_is_better
from mtl_lab import records
from mtl_lab.files import write_atomically
from mtl_lab.protocol import committed, completeness
from mtl_lab.protocol.table import REFERENCE, SEEDS, Table
from mtl_lab.runs import build, provenance
from mtl_lab.statistics import paired

ROWS = (REFERENCE, "equal")  # every table has both
AGREE = 1e-3  # largest relative difference between a metric of the new run and the committed one


def measure(table: Table, draws: int = 1000, root: Path = records.ROOT) -> dict:
    """The record: difference of Δm, second row minus reference, at one seed, and its percentile interval.

    ValueError for a metric that is no mean over examples, for missing records, or if a run trained again has other
    test metrics than its record.
    """
    tasks = build.load_problem(table.base).tasks
    if others := [task.name for task in tasks if not all(map(_is_a_mean, *zip(*task.metrics.items(), strict=True)))]:
        raise ValueError(
            f"expected metrics that are means over examples (accuracy, absolute error); {table.name} has others for "
            f"{', '.join(others)}, which cannot be resampled example by example"
        )
    search = committed.search_of(table, root) or {"rows": {}}
    recorded = {(r["row"], r["identity"]): r for r in committed.load(table, root)}
    if missing := sorted({row.name for row in table.singles()}.union(ROWS) - {row for row, _ in recorded}):
        raise ValueError(f"results/{table.name}/{table.profile} has no records of {', '.join(missing)} yet")
    expected = completeness.expected_runs(table, search)
    zero = [recorded.get((row.name, run.identity)) for row in table.singles() for run in expected[row.name]]
    zero = [record for record in zero if record is not None]
    scores, problem = [], None
    for name in ROWS:
        run = next(run for run in expected[name] if run.seed == SEEDS[0])
        problem = build.load_problem(run)
        scores.append(per_example(table, problem, _train(run, problem, recorded[name, run.identity]), zero))
    gap = scores[1] - scores[0]
    sources = sources_of(table, problem)
    low, high = paired.bootstrap_over_sources(gap.numpy(), sources, draws)
    return {
        "table": table.name,
        "profile": table.profile,
        "rows": list(ROWS),
        "seed": SEEDS[0],
        "draws": draws,
        "difference": float(gap.mean()),
        "low": low,
        "high": high,
        "examples": len(gap),
        "sources": [len(np.unique(ids)) for ids in (sources if isinstance(sources, tuple) else (sources,))],
        "provenance": provenance.provenance(),
    }


def per_example(table: Table, problem: Problem, model, zero) -> torch.Tensor:
    """(N,) contributions of the test examples to Δm; their mean is the model's Δm against the records `zero`.

    Δm is linear in each metric, and accuracy and absolute error are means over examples.
    """
    model.eval()
    with torch.no_grad():
        batches = [model(problem.test.batch(slice(i, i + 1000))[0]) for i in range(0, len(problem.test), 1000)]
    outputs = [torch.cat(parts) for parts in zip(*batches, strict=True)]
    groups = table.groups or [task.name for task in problem.tasks]
    total = torch.zeros(len(problem.test), dtype=torch.float64)
    for k, task in enumerate(problem.tasks):
        ((metric, higher),) = higher_is_better(task).items()
        base = np.mean([r["final"]["test"][task.name][metric] for r in zero if task.name in r["final"]["test"]])
        share = 100 / base / len(set(groups)) / groups.count(groups[k]) * (1 if higher else -1)
        total += share * (errors(task, outputs[k], problem.test.targets[k]).double() - base)
    return total


def _is_a_mean(name: str, make) -> bool:
    return name == "accuracy" or hasattr(make(), "factor")  # the absolute error in a unit


def errors(task, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(N,) values whose mean is the task's metric: 0 or 100 for accuracy, else absolute errors in its unit."""
    (make,) = task.metrics.values()
    if targets.is_floating_point():
        return make().factor * (outputs.squeeze(1) - targets).abs()
    return 100.0 * (outputs.argmax(1) == targets)


def sources_of(table: Table, problem: Problem):
    """The source of each test example: itself, or the two images of a composite if the data set has `pairs`."""
    data_set = import_module(f"mtl_core.data.{table.base.problem}")
    if not hasattr(data_set, "pairs"):
        return np.arange(len(problem.test))
    pairs = data_set.pairs(profile=table.profile, seed=SEEDS[0], test=len(problem.test))["test"]
    return pairs[:, 0], pairs[:, 1]


def _train(run, problem, record):
    from mtl_core.training import Schedule, evaluate, fit  # reading a record loads no training code

    model = build.build_model(run, problem)
    method = {"method_options": run.method_options, "convention": run.convention}
    fit(model, problem, run.method, Schedule(**run.schedule), seed=run.seed, **method)
    for task, metrics in evaluate(model, problem.tasks, problem.test).items():
        for metric, value in metrics.items():
            recorded = record["final"]["test"][task][metric]
            if abs(value - recorded) > AGREE * abs(recorded):
                raise ValueError(
                    f"{record['row']}, seed {run.seed}: {task}, {metric} is {value:.6g}, the committed record has "
                    f"{recorded:.6g}"
                )
    return model


def load(experiment: str, profile: str, root: Path = records.ROOT) -> dict | None:
    """The committed record, or None."""
    return records.read_json(records.folder(experiment, profile, root) / "sampling_noise.json")


def complete(table: Table, root: Path = records.ROOT) -> str:
    """Write the record; returns its result as a sentence."""
    record = measure(table, root=root)
    file = records.folder(table.name, table.profile, root) / "sampling_noise.json"
    write_atomically(file, json.dumps(record, sort_keys=True, indent=1) + "\n")
    return f"{record['difference']:.2f} [{record['low']:.2f}, {record['high']:.2f}] points of Δm, one seed"
