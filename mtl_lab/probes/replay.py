"""A short training with the plain sum, step by step, with the losses and task gradients of every step."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mtl_core.balancer import Balancer
from mtl_core.gradients import TaskGradients, task_gradients
from mtl_core.seeds import torch_generator
from mtl_core.training.schedule import Schedule
from mtl_lab.runs import build
from mtl_lab.runs.run import Run


@dataclass(frozen=True)
class ObservedStep:
    """One step of the training.

    losses, after  (K,) float64, the losses of the step's batch before and after the step.
    features       (K, B, d), their gradients at the trunk's output.
    gradients      task gradients of that batch before the step. The next step overwrites them: copy what you keep.
    """

    losses: Tensor
    after: Tensor
    features: Tensor
    gradients: TaskGradients


def replay(run: Run, steps: int) -> Iterator[ObservedStep]:
    """Train the network of `run` with equal weights for `steps` steps and yield each of them.

    Used of the run: problem, network, split, seed, and its schedule without epochs and decay. The batches are those of
    `training.fit`, without incomplete ones. Computing the losses after a step leaves running statistics unchanged.
    ValueError: a batch is larger than the training set.
    """
    problem = build.load_problem(run)
    model = build.build_model(run, problem).train()
    schedule = Schedule(**run.schedule)
    optimizer, _ = schedule.make(model.parameters())
    balancer = Balancer("equal", model.layer_parameters())
    balancer.observers.append(lambda gradients: None)  # so that it computes them
    for batch in _batches(len(problem.train), schedule.batch_size, run.seed, steps):
        inputs, targets = problem.train.batch(batch)
        optimizer.zero_grad()
        features = model.features(inputs)
        losses = _losses(problem.tasks, model.outputs(features), targets)
        at_features = task_gradients([*losses.values()], [features]).view(len(losses), *features.shape)
        balancer.backward(losses)
        optimizer.step()
        kept = [buffer.clone() for buffer in model.buffers()]
        with torch.no_grad():
            after = torch.stack([*_losses(problem.tasks, model(inputs), targets).values()])
            for buffer, value in zip(model.buffers(), kept, strict=True):
                buffer.copy_(value)
        yield ObservedStep(balancer.losses.double(), after.double(), at_features, balancer.gradients)


def _losses(tasks, outputs, targets) -> dict[str, Tensor]:
    return {t.name: t.loss(output, y) for t, output, y in zip(tasks, outputs, targets, strict=True)}


def _batches(examples: int, size: int, seed: int, steps: int):
    """Index tensors (size,) of the first `steps` batches."""
    if examples < size:
        raise ValueError(f"a batch of {size} needs as many examples; there are {examples}")
    order = torch_generator(seed, "batch order")
    while steps > 0:
        complete = [batch for batch in torch.randperm(examples, generator=order).split(size) if len(batch) == size]
        yield from complete[:steps]
        steps -= len(complete)
