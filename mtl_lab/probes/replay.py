"""A short training of the plain sum, step by step: what other methods would have made of the very same steps."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mtl_core import methods
from mtl_core.gradients import TaskGradients
from mtl_core.seeds import torch_generator
from mtl_core.training.schedule import Schedule
from mtl_core.training.step import Step
from mtl_lab.runs import build
from mtl_lab.runs.run import Run


@dataclass(frozen=True)
class Seen:
    """One step of the training.

    losses, after  (K,) float64, the losses of one batch before and after the step.
    gradients      of that batch before the step. The next step writes over them: copy what is kept.
    """

    losses: Tensor
    after: Tensor
    gradients: TaskGradients


def replay(run: Run, steps: int) -> Iterator[Seen]:
    """Train `run`'s network with equal weights for `steps` steps and show each of them.

    Of the run count: problem, network, split, seed, and of its schedule everything but epochs and decay. The batches
    are those of `training.fit`, incomplete ones left out. Running statistics are not touched by looking again.
    """
    problem = build.load_problem(run)
    model = build.build_model(run, problem).train()
    schedule, row = Schedule(**run.schedule), methods.find("equal")
    optimizer, _ = schedule.make(model.parameters())
    convention = methods.CONVENTIONS["plain"]
    step = Step(model, problem.tasks, row, methods.make("equal"), convention, observed=True)
    for batch in _batches(len(problem.train), schedule.batch_size, run.seed, steps):
        inputs, targets = problem.train.batch(batch)
        losses = step(inputs, targets)
        optimizer.step()
        yield Seen(losses.double(), step._probe(inputs, targets, None).double(), step.gradients)


def _batches(examples: int, size: int, seed: int, steps: int):
    if examples < size:
        raise ValueError(f"a batch of {size} needs as many examples; there are {examples}")
    order = torch_generator(seed, "batch order")
    while steps > 0:
        whole = [batch for batch in torch.randperm(examples, generator=order).split(size) if len(batch) == size]
        yield from whole[:steps]
        steps -= len(whole)
