"""A task: a name, a loss and metrics that know their direction."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Task:
    """One task of a multi-task problem.

    name     shown in every table.
    outputs  width of the head's last layer.
    loss     (predictions (B, outputs), targets (B, ...)) -> scalar mean over the batch.
    metrics  name -> function that makes a fresh torchmetrics metric; each metric states its own
             direction in `higher_is_better`.
    """

    name: str
    outputs: int
    loss: Callable[[Tensor, Tensor], Tensor]
    metrics: Mapping[str, Callable] = field(default_factory=dict)

    def higher_is_better(self) -> dict[str, bool]:
        """Direction of each metric. ValueError where a metric does not state one."""
        directions = {name: make().higher_is_better for name, make in self.metrics.items()}
        for name, direction in directions.items():
            if direction is None:
                raise ValueError(f"metric {name!r} of task {self.name!r} does not state higher_is_better")
        return directions


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

    def batch(self, index: Tensor | slice) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Examples at `index`; images kept as uint8 become float32 in [0, 1]."""
        inputs = self.inputs[index]
        if inputs.dtype == torch.uint8:
            inputs = inputs.float().div_(255)
        return inputs, tuple(t[index] for t in self.targets)


@dataclass(frozen=True)
class Problem:
    """What a run trains on.

    source  where the examples come from: name, origin, checksums, identity, `synthetic` (bool) and
            what a reader must know of how they were made. It is copied into every run record.
    """

    tasks: tuple[Task, ...]
    train: Split
    validation: Split
    test: Split
    source: Mapping

    def __post_init__(self):
        for name in ("train", "validation", "test"):
            split = getattr(self, name)
            if len(split.targets) != len(self.tasks):
                raise ValueError(f"{len(self.tasks)} tasks, but {name} has {len(split.targets)} target tensors")
        if "synthetic" not in self.source:
            raise ValueError("source must say whether the data are synthetic")


def classification(name: str, classes: int) -> Task:
    """A classification task: cross-entropy, accuracy in percent of the examples."""
    return Task(name, classes, nn.functional.cross_entropy, {"accuracy": lambda: _Percent(_accuracy(classes))})


def _accuracy(classes):
    from torchmetrics.classification import MulticlassAccuracy  # two seconds to import

    return MulticlassAccuracy(num_classes=classes, average="micro")


class _Percent:
    """A torchmetrics metric in percent."""

    def __init__(self, metric):
        self.metric, self.higher_is_better = metric, metric.higher_is_better

    def update(self, predictions, targets):
        self.metric.update(predictions, targets)

    def compute(self):
        return 100 * self.metric.compute()
