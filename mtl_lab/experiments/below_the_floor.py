"""Cheaper than one backward pass for each task: what does it cost, and what does it do to results?

*Forms* of two rules whose weights follow from the Gram matrix, PCGrad and Aligned-MTL. "full": the gradient of every
task with respect to the whole trunk, in every step, as the registry's method takes it. "every n": weights in every n-th
step, the last ones in between, when a step walks the trunk once. "last layer" and "features": the Gram matrix of
gradients at the last layer of the trunk, or at its output, batch and features flattened. "features, every n": both.
"bfloat16": as full, the trunk under autocast. In all of them heads keep the gradients of their own tasks.

*Problem*: QM9, eleven targets, the table's network and schedule. *Streams*: five; in each one all rows try the same
four rates, log-uniform over the table's two decades, at a quarter of the length on validation data; the best is trained
at full length with the stream's seed, and then test data are read once. *Estimand*: 100 times the mean log error on
test data, a percent of error, full form of the rule minus form, over searches and seeds; unit: the stream. *Rule*:
Holm's intervals over the forms of both rules at once; margin 2 percent, as in the table; positive = better. *Cost*:
core-seconds of the full-length run over those of joint training in the same stream, reading and validation included.

*Planned cost*: 15 rows, five streams, four quarters and one whole run each: 150 whole runs, of which the dearest, the
full form, takes about 39 core-seconds by the table's search of CAGrad: 1.6 core-hours at most.
"""

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchjd.aggregation import AlignedMTLWeighting

from mtl_core.linalg import gram
from mtl_core.methods import find
from mtl_core.methods.pcgrad import without_conflicts
from mtl_core.methods.registry import WEIGHTING, Method
from mtl_core.seeds import numpy_generator
from mtl_lab import records
from mtl_lab.experiments import qm9
from mtl_lab.experiments.rate_choice import log_error
from mtl_lab.experiments.registry import register_study
from mtl_lab.files import append_line, mend_last_line
from mtl_lab.protocol import search_space
from mtl_lab.runs import provenance
from mtl_lab.runs.build import build_model, load_problem
from mtl_lab.runs.run import Run
from mtl_lab.statistics.paired import PairedDifference, holm_intervals, outcome

NAME, MARGIN, STREAMS, RATES, SHORT = "below_the_floor", 2.0, 5, 4, 0.25
RULES: dict[str, Callable[[Tensor], Tensor]] = {  # method of the registry -> (K, K) float64 -> (K,), as a sum
    "pcgrad": without_conflicts,
    "aligned_mtl": lambda gramian: len(gramian) * AlignedMTLWeighting()(gramian),
}
FULL = "full"
FORMS = {  # form -> (every, where, whether in bfloat16)
    FULL: (1, "parameters", False),
    "every 4": (4, "parameters", False),
    "every 16": (16, "parameters", False),
    "last layer": (1, "last layer", False),
    "features": (1, "features", False),
    "features, every 16": (16, "features", False),
    "bfloat16": (1, "parameters", True),
}
JOINT = "joint"
ROWS = (JOINT, *(f"{rule}, {form}" for rule in RULES for form in FORMS))


class _Scaled(torch.autograd.Function):
    """The identity, whose gradient is multiplied by the weight of task k that `of` has when it comes back."""

    @staticmethod
    def forward(ctx, features, of, k):
        ctx.of, ctx.k = of, k
        return features.view_as(features)

    @staticmethod
    def backward(ctx, gradient):
        return ctx.of.weights[ctx.k] * gradient, None, None


class Cheaper(nn.Module):
    """A trunk whose features reach each head through a weight of its own on the way back, and the rule for the weights.

    It takes the place of the trunk; `Rule(it)` is the method.
    """

    def __init__(self, trunk: nn.Module, tasks: int, rule, every: int = 1, where: str = "parameters", half=False):
        super().__init__()
        self.trunk, self.tasks, self.rule, self.every, self.where, self.half = trunk, tasks, rule, every, where, half
        self.register_buffer("weights", torch.ones(tasks))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs: Tensor) -> list[Tensor]:
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.half):
            features = self.trunk(inputs)
        self.__dict__["features"] = features = features.float()
        self.__dict__["copies"] = [_Scaled.apply(features, self, k) for k in range(self.tasks)]
        return self.copies

    def renew(self, losses: Tensor) -> None:
        """New weights, where this step has some: K pulls at the features, then as far back as `where` says."""
        if int(self.step) % self.every == 0:
            pulls = [torch.autograd.grad(x, z, retain_graph=True)[0] for x, z in zip(losses, self.copies, strict=True)]
            if self.where != "features":
                parameters = list(self.trunk.parameters())
                if self.where == "last layer":
                    parameters = list([m for m in self.trunk if any(True for _ in m.parameters())][-1].parameters())
                of = [torch.autograd.grad(self.features, parameters, pull, retain_graph=True) for pull in pulls]
                pulls = [torch.cat([g.flatten() for g in gradients]) for gradients in of]
            matrix = torch.stack([pull.flatten() for pull in pulls])
            self.weights.copy_(self.rule(gram(matrix).double().cpu()).to(self.weights))
        self.step += 1


class Rule(nn.Module):
    """The losses' sum, after the trunk's weights have been renewed: (K,) -> scalar."""

    def __init__(self, trunk: Cheaper):
        super().__init__()
        self.__dict__["trunk"] = trunk  # the model holds it already

    def forward(self, losses: Tensor) -> Tensor:
        self.trunk.renew(losses)
        return losses.sum()


def method_of(row: str, model) -> tuple[object, Method]:
    """The method of a row, an instance or a name, with its entry; cheaper forms change the model's trunk."""
    rule, _, form = row.partition(", ")
    if row == JOINT or form == FULL:
        return ("equal" if row == JOINT else rule), find("equal" if row == JOINT else rule)
    model.trunk = Cheaper(model.trunk, len(model.heads), RULES[rule], *FORMS[form])
    return Rule(model.trunk), Method(rule, row, WEIGHTING, Rule, "sum", find(rule).paper, random=find(rule).random)


def rates(profile: str, stream: int) -> list[float]:
    """The learning rates that all rows of a stream try."""
    ends = {"learning_rate": ("log", *qm9.table(profile).rates())}
    drawn = search_space.sample(ends, RATES, numpy_generator(0, "search", f"{NAME}, stream {stream}"))
    return [records.rounded(one["learning_rate"]) for one in drawn]


def planned(profile: str, stream: int, found: Mapping[str, Mapping]) -> dict[str, tuple[str, Run]]:
    """Name -> (row, run): four short runs of each row and, once these have records, the best at full length."""
    base, runs = qm9.table(profile).base, {}
    for row in ROWS:
        names = []
        for number, rate in enumerate(rates(profile, stream)):
            epochs = max(1, round(SHORT * base.schedule["epochs"]))
            schedule = {**base.schedule, "learning_rate": rate, "epochs": epochs}
            names.append(f"{row}; stream {stream}, rate {number}")
            runs[names[-1]] = row, replace(base, schedule=schedule, seed=1000 + stream, test=False)
        if all(name in found for name in names):
            best = min(names, key=lambda name: (found[name]["diverged"], found[name]["validation"]))
            schedule = {**base.schedule, "learning_rate": runs[best][1].schedule["learning_rate"]}
            runs[f"{row}; stream {stream}"] = row, replace(base, schedule=schedule, seed=2000 + stream)
    return runs


def train(row: str, run: Run) -> dict:
    """Train a run of a row; what its record holds beside its name."""
    from mtl_core.training import Schedule  # reading a record loads no training code
    from mtl_lab.runs.checkpoints import fit_from

    problem, start = load_problem(run), time.process_time()
    model = build_model(run, problem)
    method, spec = method_of(row, model)
    trained = fit_from(
        None, row, model, problem, method, Schedule(**run.schedule), spec=spec, seed=run.seed, test=run.test
    )
    errors = {split: log_error({"final": trained.final}, split) for split in trained.final}
    made = {"core_seconds": time.process_time() - start, "diverged": trained.diverged is not None, **errors}
    return made | {"rate": run.schedule["learning_rate"], "epochs_trained": run.schedule["epochs"], "seed": run.seed}


def complete(profile: str, root: Path = records.ROOT, train=train) -> str:
    """Train what is missing, stream by stream; each run has its record as soon as it is finished."""
    file, count = records.folder(NAME, profile, root) / "runs.jsonl", 0
    mend_last_line(file)
    for stream in range(STREAMS):
        while True:
            found = records.by_row(NAME, profile, root)
            missing = {name: of for name, of in planned(profile, stream, found).items() if name not in found}
            if not missing:
                break
            for name, (row, run) in missing.items():
                made = {"row": name, "of": row, "stream": stream, "test": None, **train(row, run)}
                line = records.rounded({**made, "provenance": provenance.provenance()})
                append_line(file, records.as_line(line))
                count += 1
    return f"{len(records.by_row(NAME, profile, root))} records, {count} trained now."


def counted(found: Mapping[str, Mapping]) -> tuple[int, int]:
    """(whole runs that have a record, whole runs in all)."""
    return sum(record["test"] is not None for record in found.values()), len(ROWS) * STREAMS


def judged(found: Mapping[str, Mapping]) -> dict[str, tuple[PairedDifference, str, float]]:
    """Row of a cheaper form -> its gain over the full form, the outcome, and its cost over joint training.

    {} before all streams are whole.
    """
    if len(set(counted(found))) > 1:
        return {}
    error = {row: np.array([found[f"{row}; stream {s}"]["test"] for s in range(STREAMS)]) for row in ROWS}
    gains = {
        f"{rule}, {form}": error[f"{rule}, {FULL}"] - error[f"{rule}, {form}"]
        for rule, form in itertools.product(RULES, FORMS)
        if form != FULL
    }
    return {row: (d, outcome(d.low, d.high, MARGIN), cost(found, row)) for row, d in holm_intervals(gains).items()}


def cost(found: Mapping[str, Mapping], row: str) -> float:
    """Median over streams of a row's core-seconds over those of joint training."""
    pairs = [[found[f"{name}; stream {s}"]["core_seconds"] for s in range(STREAMS)] for name in (row, JOINT)]
    return float(np.median(np.divide(*pairs)))


register_study(NAME, complete)
