"""What a run trains on: examples in memory, three splits of them, and the two usual kinds of task."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mtl_core._extras import require  # torchmetrics takes two seconds to import
from mtl_core.seeds import wobbled
from mtl_core.tasks import Task

IGNORED = -100  # the label that cross-entropy leaves out


@dataclass(frozen=True)
class Split:
    """Examples in memory: inputs (N, ...) and one target tensor (N, ...) per task."""

    inputs: Tensor
    targets: tuple[Tensor, ...]

    def __post_init__(self):
        lengths = [len(self.inputs), *map(len, self.targets)]
        if len(set(lengths)) != 1:
            raise ValueError(f"inputs and targets must have one length, got {lengths}")

    def __len__(self):
        return len(self.inputs)

    def to(self, device) -> "Split":
        """The same examples on `device`."""
        return Split(self.inputs.to(device), tuple(t.to(device) for t in self.targets))

    def only(self, tasks: Sequence[int]) -> "Split":
        """The same examples with the targets of these tasks alone."""
        return Split(self.inputs, tuple(self.targets[k] for k in tasks))

    def batch(self, index: Tensor | slice) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Examples at `index`; images kept as uint8 become float32 in [0, 1]."""
        inputs = self.inputs[index]
        if inputs.dtype == torch.uint8:
            inputs = inputs.float().div_(255)
        return wobbled(inputs), tuple(wobbled(t[index]) for t in self.targets)


@dataclass(frozen=True)
class Problem:
    """What a run trains on.

    train, validation, test  a `Split`; or an iterable of batches, or one for each task (see `data.batches`).
    source  where the examples come from: name, origin, checksums, identity, `synthetic` (bool) and
            what a reader must know of how they were made. It is copied into every run record.
    """

    tasks: tuple[Task, ...]
    train: Any
    validation: Any
    test: Any
    source: Mapping

    def __post_init__(self):
        for name in ("train", "validation", "test"):
            split = getattr(self, name)
            if isinstance(split, Split) and len(split.targets) != len(self.tasks):
                found = f"{name} has {len(split.targets)} target tensors"
                raise ValueError(f"{len(self.tasks)} tasks, but {found}")
            if isinstance(split, Split) and not len(split):
                raise ValueError(f"{name} has no examples, of which there is no metric: give it one or more")
            for task, labels in zip(self.tasks, split.targets if isinstance(split, Split) else (), strict=False):
                for loss, ignored in CLASS_LOSSES.items():  # by identity: a loss of somebody's may not be hashable
                    if task.loss is loss and not labels.is_floating_point():
                        _in_range(labels[labels != ignored], task, name)
        if len({task.name for task in self.tasks}) < len(self.tasks):
            raise ValueError(f"tasks need different names, got {', '.join(task.name for task in self.tasks)}")
        if without := [task.name for task in self.tasks if not task.metrics]:
            raise ValueError(f"a task is judged by its metrics, {', '.join(without)} has none: Task(…, metrics={{…}})")
        if "synthetic" not in self.source:
            raise ValueError("source must say whether the data are synthetic")


def _in_range(labels: Tensor, task: Task, split: str) -> None:
    """ValueError where a label is no class: on a GPU, torch would only say that an assertion failed."""
    if len(labels) and not 0 <= labels.min() <= labels.max() < task.outputs:
        found = f"{split} has labels from {labels.min()} to {labels.max()}"
        raise ValueError(f"{task.name}: expected classes 0 to {task.outputs - 1}, {found}")


def higher_is_better(task: Task) -> dict[str, bool]:
    """Direction of each metric of a task. ValueError where a metric does not state one."""
    directions = {name: make().higher_is_better for name, make in task.metrics.items()}
    for name, direction in directions.items():
        if direction is None:
            raise ValueError(f"metric {name!r} of task {task.name!r} does not state higher_is_better")
    return directions


def classification(name: str, classes: int) -> Task:
    """A classification task: cross-entropy, accuracy in percent of the examples."""
    accuracy = {"accuracy": lambda: _Scaled(_accuracy(classes), 100)}  # in percent
    return Task(name, classes, cross_entropy, accuracy)


def cross_entropy(predictions, targets):
    """The mean over the batch, and over the last dimension of predictions (B, classes, S), several of each example."""
    several = targets if predictions.dim() == 2 else targets[:, None].expand(-1, predictions.shape[2])
    return nn.functional.cross_entropy(predictions, several)


# losses of classes -> the label that each leaves out; a Problem holds the other labels to 0 … outputs - 1
CLASS_LOSSES: dict[Callable, int] = {cross_entropy: IGNORED, nn.functional.cross_entropy: IGNORED}


def _accuracy(classes):
    return require("torchmetrics.classification", extra="metrics").MulticlassAccuracy(
        num_classes=classes, average="micro"
    )


def regression(name: str, unit: str, scale: float = 1.0) -> Task:
    """A regression task on z-scored targets (B,): mean squared error, mean absolute error in `unit`.

    `scale` is the standard deviation, in `unit`, that the targets were divided by. The loss is in units of
    variances, as in Nash-MTL's code for QM9. Predictions are (B, 1).
    """
    return Task(name, 1, _squared_error, {f"MAE ({unit})": lambda: _Scaled(_absolute_error(), scale)})


def _squared_error(predictions, targets):
    return nn.functional.mse_loss(predictions.squeeze(1), targets)


def _absolute_error():
    return require("torchmetrics", extra="metrics").MeanAbsoluteError()


class _Scaled:
    """A torchmetrics metric times a number: percent, or an error in its unit."""

    def __init__(self, metric, factor):
        self.metric, self.factor, self.higher_is_better = metric, factor, metric.higher_is_better

    def update(self, predictions, targets):
        # a regression head gives (B, 1) for targets (B,), which torchmetrics refuses
        self.metric.update(predictions.squeeze(1) if predictions.shape[1] == 1 else predictions, targets)

    def compute(self):
        return self.factor * self.metric.compute()
