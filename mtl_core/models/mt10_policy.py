"""A perceptron for the ten tasks of `data.mt10`: one trunk that all observations pass, a head for each task."""

from collections.abc import Sequence

from torch import Tensor, nn

from mtl_core.models.mlp import mlp
from mtl_core.models.multi_task import MultiTaskModel


class OfTasks(nn.Module):
    """The same layers on the observation of each task: (B, K, d), or K tensors (B, d) -> (B, width) for each task.

    Task by task: the backward pass of one task's loss then walks its own observations alone.
    """

    def __init__(self, layers: nn.Module, tasks: Sequence[int]):
        super().__init__()
        self.layers, self.tasks = layers, list(tasks)

    def forward(self, inputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
        observations = inputs.unbind(1) if isinstance(inputs, Tensor) else inputs
        return tuple(self.layers(observations[k]) for k in self.tasks)


def mt10_policy(
    outputs: Sequence[int],
    inputs: int = 39,
    width: int = 400,
    depth: int = 3,
    reads: Sequence[int] | None = None,
    squash: bool = True,
    one_head: bool = False,
) -> MultiTaskModel:
    """(B, K, inputs), of each example an observation of each task -> for each task (B, outputs).

    width, depth  of the trunk; 400 and 3 are those of the published actor and critic: 336,800 parameters, and 1,604
                  in each head of four outputs.
    reads     which of the K observations the heads read, in order; None: the first, one for each head.
    squash    a tanh behind each head, which keeps actions in (-1, 1).
    one_head  all tasks share one head, as in the released code of SAM-GS, where no parameter belongs to a task and the
              network is not told which task it acts in; else each has its own, as in the row "MH SAC" of its Table 4.

    ValueError where `reads` has another length than `outputs`.
    """
    reads = range(len(outputs)) if reads is None else reads
    if len(reads) != len(outputs):
        raise ValueError(f"expected one observation for each of {len(outputs)} heads, got reads={list(reads)}")
    trunk = OfTasks(mlp([], inputs, width, depth).trunk, reads)
    heads = [nn.Sequential(nn.Linear(width, n), *[nn.Tanh()] * squash) for n in outputs]
    return MultiTaskModel(trunk, [heads[0] if one_head else head for head in heads])
