"""Executes a run, or takes its record from the store of finished runs."""

import json
from dataclasses import asdict

from mtl_core import methods, models
from mtl_core.training import Schedule
from mtl_lab.runs import conflict_log, gradient_probe, released_code, weights
from mtl_lab.runs.build import build_model, load_problem
from mtl_lab.runs.checkpoints import fit_from
from mtl_lab.runs.device import chosen_device, own_device
from mtl_lab.runs.provenance import provenance
from mtl_lab.runs.run import Run
from mtl_lab.runs.store import Store


def execute(run: Run, store: Store | None = None, fresh: bool = False, device: str | None = None) -> dict:
    """The record of `run`: from the store if it is finished, else trained, from its checkpoint if it has one.

    fresh   train it again, from the start.
    device  for `runs.device.chosen_device`.
    A method registered from outside the packages is trained again each time: the store does not see its source change.
    Where the run replays the weights of another one, that is trained first, unless it is in the store.
    """
    store, device = store or Store(), chosen_device(device)
    ours, places = run.method in weights.METHODS, ("mtl_core.", "torchjd.")
    fresh = fresh or not (ours or methods.find(run.method).make.__module__.startswith(places))
    record = None if fresh else store.get(run)
    if record is not None:
        return record
    if fresh:
        store.checkpoint(run).unlink(missing_ok=True)
    problem = load_problem(run)
    model = build_model(run, problem)
    observers = _observers(run, model, problem)
    own = weights.made(run, problem, lambda donor: execute(donor, store, device=device))
    method, more = (run.method, {"method_options": run.method_options}) if own is None else (own[0], {"spec": own[1]})
    history = fit_from(
        store.checkpoint(run),
        run.canonical(),
        model,
        problem,
        method,
        Schedule(**run.schedule),
        **more,
        convention=run.convention,
        seed=run.seed,
        observers=observers,
        test=run.test,
        device=own_device(device),
    )
    record = {
        "identity": run.identity,
        "config": json.loads(run.canonical()),
        **asdict(history),
        "parameters": {
            "trunk": sum(p.numel() for p in model.trunk.parameters()),
            "all": sum(p.numel() for p in model.parameters()),
        },
        "conflict": observers[0].summary() if observers else None,
        "source": json.loads(json.dumps(problem.source, default=str)),
        "provenance": provenance(device),
    }
    record |= getattr(method, "told", dict)() | getattr(model, "told", dict)()
    store.put(run, record)
    return record


def _observers(run: Run, model: models.MultiTaskModel, problem) -> list:
    if run.observe is None or len(model.heads) < 2:
        return []
    if "probe" in run.observe:
        return [gradient_probe.GradientProbe(model, problem, run.seed, **run.observe)]
    observe = dict(run.observe)
    made = released_code.QuarterLog if observe.pop("quarters", False) else conflict_log.ConflictLog
    return [made(len(model.heads), **observe)]
