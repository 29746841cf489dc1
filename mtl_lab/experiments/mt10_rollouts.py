"""Success of the cloned policies of `mt10_cloning` in the simulator, on ten goals of each task that nobody has shown.

Records hold no weights. So each chosen run is trained again, from a checkpoint of its own that stays in the store, or
from the start: bit for bit the same on one machine; the record says what its test losses were. *Estimand*: the share of
(task, goal) pairs on which a procedure's policy succeeds within 150 steps, in percent; unit: the stream. *Contrasts*:
each chosen row minus equal weights, at once (Bonferroni); margin 5 points. Success decides nothing in `mt10_cloning`.

It needs `pip install metaworld packaging`: `make results EXPERIMENT=mt10_rollouts PROFILE=small`.
"""

import functools
import json
from pathlib import Path

import torch

from mtl_core.data import mt10
from mtl_lab import records
from mtl_lab.experiments import mt10_cloning
from mtl_lab.experiments.registry import register_study
from mtl_lab.protocol import stream_verdict
from mtl_lab.protocol.table import REFERENCE
from mtl_lab.runs.build import build_model, load_problem
from mtl_lab.runs.provenance import provenance
from mtl_lab.runs.store import Store
from mtl_lab.statistics.paired import PairedDifference, outcome, paired_difference
from mtl_lab.statistics.streams import at_once

NAME, MARGIN = "mt10_rollouts", 5.0
CHOSEN = ("equal", REFERENCE, mt10_cloning.CLIPPED, "cagrad", "sam_gs", mt10_cloning.VARIANT)


def policy(model, k: int) -> mt10.Policy:
    """The actions of a cloned network in task k, clipped by its tanh."""
    mean, deviation = mt10.scale()

    @torch.no_grad()
    def act(observation):
        x = torch.from_numpy((observation - mean) / deviation).float()
        return model.heads[k](model.trunk.layers(x)).numpy()

    return act


def trained(run, store: Store):
    """The network of a run, from its checkpoint or trained again; and its errors on test data by task."""
    from mtl_core.training import Schedule  # reading a record loads no training code
    from mtl_lab.runs.checkpoints import fit_from

    problem = load_problem(run)
    model = build_model(run, problem)
    more = {"method_options": run.method_options, "convention": run.convention, "seed": run.seed}
    file, schedule = store.folder / f"{run.identity}.policy.pt", Schedule(**run.schedule)
    judged = fit_from(file, run.canonical(), model, problem, run.method, schedule, **more)
    return model.eval(), {task: of["MSE"] for task, of in judged.final["test"].items()}


def complete(profile: str, root: Path = records.ROOT, rollout=mt10.rollout) -> str:
    """Roll out what is evaluated and not yet rolled out, and the scripted policies; a sentence about it."""
    file, plan = records.folder(NAME, profile, root) / "runs.jsonl", mt10_cloning.searches(profile)
    known = {record["identity"] for record in records.load(NAME, profile, root)}
    lines = stream_verdict.whole_streams(plan, root)
    runs = [(s, row, run) for s, of in lines.items() for row, run, _ in of if row in CHOSEN]

    def keep(row, identity, succeed, **more):
        found = {"success": {task: sum(succeed(k, task)) for k, task in enumerate(mt10.TASKS)}}
        made = {"row": row, "identity": identity, **found, "goals": len(mt10.UNSEEN), "provenance": provenance()}
        records.add([records.rounded(made | more)], file)

    if "scripted" not in known:
        keep("scripted", "scripted", lambda _, task: rollout(task), config={"seed": 0})
    missing = [one for one in runs if one[2].identity not in known]
    for stream, row, run in missing:
        model, errors = trained(run, Store())
        config = json.loads(run.canonical())
        succeed = functools.partial(lambda model, k, task: rollout(task, policy(model, k)), model)
        keep(row, run.identity, succeed, config=config, stream=stream, errors=errors)
    return f"{len(runs)} policies of {len(lines)} whole streams are rolled out, {len(missing)} now."


def shares(profile: str = "small", root: Path = records.ROOT) -> dict[str, dict[int, float]]:
    """Row -> stream -> percent of the episodes that succeed; of the scripted policies under stream 0."""
    found: dict[str, dict[int, float]] = {}
    for record in records.load(NAME, profile, root):
        episodes = record["goals"] * len(record["success"])
        found.setdefault(record["row"], {})[record.get("stream", 0)] = 100 * sum(record["success"].values()) / episodes
    return found


def contrasts(found: dict[str, dict[int, float]]) -> dict[str, tuple[PairedDifference, str]]:
    """Row -> its difference to equal weights in points of success, and the outcome; {} before all streams have all."""
    wanted = set(range(mt10_cloning.STREAMS))
    if any(set(found.get(row, ())) != wanted for row in CHOSEN):
        return {}
    level, first = at_once(len(CHOSEN) - 1), found[CHOSEN[0]]
    pairs = {row: paired_difference(found[row], first, level) for row in CHOSEN[1:]}
    return {row: (d, outcome(d.low, d.high, MARGIN)) for row, d in pairs.items()}


register_study(NAME, complete)
