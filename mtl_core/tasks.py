"""A task: a name, a loss and metrics that know their direction."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Task:
    """One task of a multi-task problem.

    name     shown in every table.
    outputs  width of the head's last layer.
    loss     (predictions (B, outputs), targets (B, ...)) -> scalar mean over the batch.
    labels   how many labels a batch of targets has, over which `loss` is a mean; by default its length. With 0 the
             task is absent from a step.
    metrics  name -> function that makes a fresh torchmetrics metric; each metric states its own
             direction in `higher_is_better`.
    """

    name: str
    outputs: int
    loss: Callable[[Tensor, Tensor], Tensor]
    metrics: Mapping[str, Callable] = field(default_factory=dict)
    labels: Callable[[Tensor], int | Tensor] = len
