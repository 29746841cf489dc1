"""Golden values: numbers that moving or tidying the code must not change. They are computed in float64.

    python tests/golden_values.py                              what differs from tests/golden/
    python tests/golden_values.py --write [updates] [training] [tables]     renew them, all where none is named

A changed value is a changed method: renew it on purpose, and say in the commit why it changed.
"""

import argparse
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from golden_steps import STEPS, drawn_in_float64, in_float64, in_short, trained, updates
from torch import nn

from mtl_core import methods, training
from mtl_core.data.problem import Problem
from mtl_core.methods import METHODS
from mtl_lab import experiments
from mtl_lab.protocol import committed
from mtl_lab.protocol.table import Row, Table
from mtl_lab.runs.build import build_model, load_problem
from mtl_lab.runs.run import Run

FOLDER = Path(__file__).parent / "golden"
TOLERANCE = 1e-6  # relative: another processor's rounding moves a value by 1e-9 at most
ZERO = 1e-12  # absolute: the made-up gradients are of length 1

# --- tables: the first steps of each row's chosen run, and the measure


class Updates:
    """Observer: per step, the cosine of the shared update with each task's gradient, and its relative length."""

    def __init__(self, model):
        self.parameters, self.steps = dict(model.trunk.named_parameters()), []

    def update(self, gradients) -> None:
        update = torch.cat([self.parameters[name].grad.flatten() for name in gradients.names])
        lengths, length = gradients.matrix.norm(dim=1), update.norm()
        cosines = gradients.matrix @ update / (lengths * length).clamp_min(1e-30)
        self.steps.append([*cosines.tolist(), (length / lengths.mean().clamp_min(1e-30)).item()])


def network(run: Run, problem: Problem) -> nn.Module:
    """The run's network in float64. The uniform draws of LeNet and MLP are the same in float32 on every processor."""
    return drawn_in_float64(run, problem) if run.model == "resnet18" else build_model(run, problem).double()


def first_run(table: Table, row: Row, choice: Mapping) -> Run:
    """The row's chosen run with seed 0, cut down to three steps on the same few examples of the embedded tiny problem.

    The learning rate is the lowest of the table's range. Half as many examples for the network that is slow.
    """
    run = table.run(row, choice, seed=0)
    examples = 16 if run.model == "resnet18" else 32
    schedule = {"epochs": STEPS, "batch_size": examples, "learning_rate": table.rate[0]}
    options = {"profile": "tiny", "train": examples}
    return replace(run, problem_options={**run.problem_options, **options}, schedule={**run.schedule, **schedule})


def fingerprint(run: Run) -> list:
    """Per step: the K losses, the K cosines between the shared update and the tasks' gradients, the update's length
    over the mean length of those.

    Losses alone would not do, but for a single task: on these data PCGrad's differ from the plain sum's by 5e-5. Steps
    after a divergence are missing. Of SAM-GS three steps see one side of its gate and hardly its averages:
    `made_up_steps` follow.
    """
    problem = load_problem(run)
    model = network(run, problem)
    seen = Updates(model)
    history = training.fit(
        model,
        in_short(problem, 2),
        run.method,
        training.Schedule(**run.schedule),
        seed=run.seed,
        method_options=run.method_options,
        convention=run.convention,
        observers=[seen],
    )
    losses = [list(epoch["train_loss"].values()) for epoch in history.epochs]
    if len(problem.tasks) == 1:  # plain training: there is no J to observe
        return losses
    found = [step + after for step, after in zip(losses, seen.steps, strict=False)]
    return found + ([made_up_steps(run.method_options)] if run.method == "sam_gs" else [])


def made_up_steps(options: Mapping, steps: int = 25) -> list[float]:
    """SAM-GS on made-up gradients of three tasks, from equally long to e^6 apart and back: per step the cosines of its
    update with them and the update's length over their mean length."""
    random, method, found = np.random.default_rng(0), methods.make("sam_gs", **options), []
    for step in range(steps):
        apart = 3 * (1 - abs(2 * step / (steps - 1) - 1))
        J = torch.nn.functional.normalize(torch.from_numpy(random.normal(size=(3, 12))))
        J = J * torch.exp(apart * torch.tensor([[-1.0], [0.0], [1.0]], dtype=J.dtype))
        update, lengths = method(J), J.norm(dim=1)
        found += [*(J @ update / (lengths * update.norm())).tolist(), (update.norm() / lengths.mean()).item()]
    return found


def measure(table: Table) -> list:
    """How the table judges a network: per task, the loss and the metrics of one whose outputs are made up.

    The examples are the test split of the embedded tiny problem. The outputs are those of the table's network with
    seed 0, untrained, brought to mean 0 and deviation 1: an F1 of a network that says "no" to all is 0 whatever the
    metric counts.
    """
    run = replace(table.base, seed=0, problem_options={**table.base.problem_options, "profile": "tiny"})
    problem = load_problem(run)
    found = training.evaluate(Standardised(network(run, problem)), problem.tasks, in_float64(problem.test))
    return [list(found[task.name].values()) for task in problem.tasks]


class Standardised(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, inputs):
        return [(output - output.mean(0)) / output.std(0) for output in self.network(inputs)]


def tables(name: str) -> dict:
    """ "measure" and row -> values of the rows that are the table's own."""
    table = experiments.TABLES[name]("small")
    entries = committed.search_of(table)["rows"]
    first = {
        row.name: first_run(table, row, entries[row.reuses or row.name]["choice"])
        for row in table.rows
        if not table.takes_over(row.name)
    }
    computed = {run.identity: fingerprint(run) for run in {run.identity: run for run in first.values()}.values()}
    return {"measure": measure(table)} | {row: computed[run.identity] for row, run in sorted(first.items())}


# --- stored values

GOLDEN = {
    "updates": (updates, [*METHODS]),
    "training": (trained, [*METHODS, "recon"]),
    "tables": (tables, [name for name, table in experiments.TABLES.items() if committed.search_of(table("small"))]),
}  # kind -> (what computes the values of a name: case -> list of vectors; the names)


def stored(kind: str) -> dict:
    """name -> case -> vectors."""
    if kind != "tables":
        file = FOLDER / f"{kind}.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    found = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in (FOLDER / kind).glob("*.json")}
    return {name: {"measure": of["measure"], **of["rows"]} for name, of in found.items()}


def store(kind: str, values: Mapping) -> None:
    """Write the values, a case a line."""
    for name, cases in values.items() if kind == "tables" else ():
        rows = {case: vectors for case, vectors in cases.items() if case != "measure"}
        text = f'{{\n "measure": {json.dumps(cases["measure"])},\n "rows": {lines(rows)}\n}}\n'
        (FOLDER / kind / f"{name}.json").write_text(text, encoding="utf-8")
    if kind != "tables":
        text = ",\n".join(f" {json.dumps(name)}: {lines(cases)}" for name, cases in values.items())
        (FOLDER / f"{kind}.json").write_text(f"{{\n{text}\n}}\n", encoding="utf-8")


def lines(cases: Mapping) -> str:
    return "{\n" + ",\n".join(f"  {json.dumps(case)}: {json.dumps(of)}" for case, of in cases.items()) + "\n }"


def rounded(vectors: list) -> list:
    """The vectors with eight significant digits."""
    return [[float(f"{x:.8g}") for x in vector] for vector in vectors]


def same(kind: str, name: str, one: list, other: list) -> bool:
    """Whether two lists of vectors have one shape and agree.

    Tables: in each number, relative to TOLERANCE, near 0 a tenth of it. Else relative to the vector's largest entry;
    ZERO is for vectors that are zero but for rounding.
    """
    if [len(vector) for vector in one] != [len(vector) for vector in other]:
        return False
    for a, b in zip(one, other, strict=True):
        largest = max(map(abs, a), default=0.0)
        if kind == "tables":
            near = [math.isclose(x, y, rel_tol=TOLERANCE, abs_tol=TOLERANCE / 10) for x, y in zip(a, b, strict=True)]
        else:
            tolerance = TOLERANCE * largest + ZERO
            near = [abs(x - y) <= tolerance for x, y in zip(a, b, strict=True)]
        if not all(near):
            return False
    return True


def changes(kind: str, name: str, before: Mapping, now: Mapping) -> list[str]:
    """A sentence for each case of a name that is not as stored."""
    found = [f"{kind}, {name}: {case!r} is stored and no longer computed" for case in before if case not in now]
    found += [f"{kind}, {name}: {case!r} is computed and not stored" for case in now if case not in before]
    for case in before:
        if case in now and not same(kind, name, before[case], now[case]):
            pairs = [(x, y) for a, b in zip(before[case], now[case], strict=False) for x, y in zip(a, b, strict=False)]
            x, y = max(pairs, key=lambda pair: abs(pair[0] - pair[1]))
            found.append(f"{kind}, {name}: {case!r} has changed, most in one number from {x:.8g} to {y:.8g}")
    return found


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(prog="python tests/golden_values.py", description="golden values: what differs")
    parser.add_argument(
        "--write", nargs="*", choices=[*GOLDEN], metavar="KIND", help="renew these; all if none is named"
    )
    given = parser.parse_args(arguments)
    for kind in given.write or GOLDEN:
        compute, names = GOLDEN[kind]
        before, now = stored(kind), {name: compute(name) for name in names}
        for name in {**before, **now}:
            for line in changes(kind, name, before.get(name, {}), now.get(name, {})):
                print(line)
        if given.write is not None:
            kept = {
                name: {
                    case: before[name][case]
                    if case in before.get(name, {}) and same(kind, name, before[name][case], vectors)
                    else rounded(vectors)
                    for case, vectors in cases.items()
                }
                for name, cases in now.items()
            }
            store(kind, kept)
    return 0


if __name__ == "__main__":
    sys.exit(main())
