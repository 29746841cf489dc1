"""Builds the data and the network of a run."""

import functools
import json
from dataclasses import replace

from mtl_core import data, models, recon
from mtl_core.data.problem import Problem, higher_is_better
from mtl_core.seeds import torch_generator
from mtl_lab.runs.run import Run


@functools.cache
def directions(problem: str) -> dict[str, dict[str, bool]]:
    """Task -> metric -> whether higher is better; from the embedded tiny problem, so no data are needed."""
    tasks = load_problem(Run(problem, {"profile": "tiny"})).tasks
    return {task.name: higher_is_better(task) for task in tasks}


@functools.lru_cache(maxsize=2)
def _problem(name: str, options: str, seed: int) -> Problem:
    return data.load(name, seed=seed, **json.loads(options))


def load_problem(run) -> Problem:
    """The problem of a run, reduced to the tasks that it trains. ValueError for the index of a task that is unknown."""
    problem = _problem(run.problem, json.dumps(dict(run.problem_options), sort_keys=True), run.seed)
    if run.tasks is None:
        return problem
    for k in run.tasks:
        if not 0 <= k < len(problem.tasks):
            raise ValueError(f"task {k} of {run.problem} does not exist; there are {len(problem.tasks)}, from 0")

    splits = {name: getattr(problem, name).only(run.tasks) for name in ("train", "validation", "test")}
    return replace(problem, tasks=tuple(problem.tasks[k] for k in run.tasks), **splits)


def build_model(run, problem: Problem) -> models.MultiTaskModel:
    """The network of a run, initialised by its seed. Copies of split layers have a separate random stream.

    A model option `weights` is a file in the folder of data sets, so that a run is the same on every machine.
    """
    options = {k: str(data.data_root() / v) if k == "weights" else v for k, v in run.model_options.items()}
    model = models.build(run.model, problem.tasks, seed=run.seed, **options)
    if not run.split:
        return model
    return recon.split(model, run.split, len(problem.tasks), run.split_init, torch_generator(run.seed, "split"))
