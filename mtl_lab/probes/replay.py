"""A short training with the plain sum, step by step, with the losses and task gradients of every step."""

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
class ObservedStep:
    """One step of the training.

    losses, after  (K,) float64, the losses of the step's batch before and after the step.
    gradients      task gradients of that batch before the step. The next step overwrites them: copy what you keep.
    """

    losses: Tensor
    after: Tensor
    gradients: TaskGradients


def replay(run: Run, steps: int) -> Iterator[ObservedStep]:
    """Train the network of `run` with equal weights for `steps` steps and yield each of them.

    Used of the run: problem, network, split, seed, and its schedule without epochs and decay. The batches are those of
    `training.fit`, without incomplete ones. Computing the losses after a step leaves running statistics unchanged.
    ValueError: a batch is larger than the training set.
    """
    problem = build.load_problem(run)
    model = build.build_model(run, problem).train()
    schedule, spec = Schedule(**run.schedule), methods.find("equal")
    optimizer, _ = schedule.make(model.parameters())
    convention = methods.CONVENTIONS["plain"]
    step = Step(model, problem.tasks, spec, methods.make("equal"), convention, observed=True)
    for batch in _batches(len(problem.train), schedule.batch_size, run.seed, steps):
        inputs, targets = problem.train.batch(batch)
        losses = step(inputs, targets)
        optimizer.step()
        yield ObservedStep(losses.double(), step._probe(inputs, targets, None).double(), step.gradients)


def _batches(examples: int, size: int, seed: int, steps: int):
    """Index tensors (size,) of the first `steps` batches."""
    if examples < size:
        raise ValueError(f"a batch of {size} needs as many examples; there are {examples}")
    order = torch_generator(seed, "batch order")
    while steps > 0:
        complete = [batch for batch in torch.randperm(examples, generator=order).split(size) if len(batch) == size]
        yield from complete[:steps]
        steps -= len(complete)
