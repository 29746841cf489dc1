r"""A ResNet18 in which each task has a stream of its own, to take apart what a split network's gain consists of.

The streams lie one behind the other in the batch, K B examples. A shared layer sees all of them: a shared BatchNorm has
one statistic over all streams, in training and evaluation alike (`recon.split` applies it to each stream in turn, as
the released code does). A private layer gives each stream to that task's copy.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mtl_core.models.multi_task import MultiTaskModel, reinitialise
from mtl_core.models.resnet import resnet18

PARTS = ("private", "shared")


class Private(nn.Module):
    """K copies of a layer, each for its part of the batch: (K B, ...) -> (K B, ...)."""

    def __init__(self, copies: Sequence[nn.Module]):
        super().__init__()
        self.copies = nn.ModuleList(copies)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([copy(part) for copy, part in zip(self.copies, x.chunk(len(self.copies)), strict=True)])


class Affine(nn.Module):
    r"""What follows a normalisation: $\gamma x + \beta$ for each channel, 1 and 0 at first."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class Streams(MultiTaskModel):
    """A trunk that makes K features of one input, one for each stream; head k reads stream k.

    other  lambda: in training mode the output of task k is (B, classes, S), S predictions over which the loss is a
           mean. They are those of stream k and of the others, in the proportion 1 to lambda, so that stream i is
           trained on $(L_i + \\lambda \\sum_{j \\ne i} L_j) / (1 + (K - 1) \\lambda)$.
    """

    def __init__(self, trunk: nn.Module, heads: Any, other: float):
        super().__init__(trunk, heads)
        if other not in (0, 0.5, 1):
            raise ValueError(f"lambda is 0, 1/2 or 1, got {other}")
        self.times = {0: (1, 0), 0.5: (2, 1), 1: (1, 1)}[other]  # of its own stream and of each other one

    def features(self, inputs: Tensor) -> tuple[Tensor, ...]:
        K = len(self.heads)
        return self.trunk(torch.cat([inputs] * K)).chunk(K)

    def outputs(self, features: Tensor | Sequence[Tensor]) -> list[Tensor]:
        if not self.training or self.times[1] == 0:
            return super().outputs(features)
        own, others = self.times
        return [
            torch.stack([head(f) for j, f in enumerate(features) for _ in range(own if j == k else others)], -1)
            for k, head in enumerate(self.heads)
        ]


def resnet18_streams(
    outputs: Sequence[int],
    private: Sequence[str] = (),
    other: float = 0.0,
    affine: str = "private",
    statistics: str = "private",
    jitter: float = 0.01,
    **options: Any,
) -> Streams:
    r"""`resnet18`, which is given `options`, with copies of the layers `private`.

    private             names of layers of its trunk. Copies are drawn anew, after all else: what is shared starts alike
                        whatever is private.
    other               lambda, 0, 1/2 or 1: how much of a stream's training is for the other tasks. At 0 this is
                        Recon's split network; at 1 it has the same parameters and passes, and tasks are not separated.
    affine, statistics  "private" or "shared": of the BatchNorms in `private`, what each task has for itself.
    jitter              private $\gamma$ start at $1 + N(0, \mathrm{jitter}^2)$; else, at lambda = 1 and with shared
                        convolutions, all copies would stay equal.

    Every layer but the private ones gets the gradient of the plain sum of the task losses, in which each task counts
    once whatever lambda is. ValueError: another word, a layer that is not there.
    """
    if {affine, statistics} - {*PARTS} or (affine, statistics) == ("shared", "shared"):
        raise ValueError(f"affine and statistics are of {PARTS}, at least one private; got {affine}, {statistics}")
    model, K = resnet18(outputs, **options), len(outputs)
    trunk: Any = model.trunk
    for name in private:
        if name not in dict(trunk.named_modules()):
            raise ValueError(f"the trunk has no layer {name!r}; it has conv1, bn1, layer1.0.conv1 …")
        layer = trunk.get_submodule(name)
        copies = [layer, *(copy.deepcopy(layer) for _ in range(K - 1))]
        for other_copy in copies[1:]:
            reinitialise(other_copy, name)
        new: Any = _norm(copies, affine, statistics) if isinstance(layer, nn.BatchNorm2d) else Private(copies)
        for module in new.modules():
            if isinstance(module, Private) and jitter and isinstance(module.copies[0], nn.BatchNorm2d | Affine):
                for part in [*module.copies]:
                    if part.weight is not None:
                        nn.init.normal_(part.weight, 1, jitter)
        trunk.set_submodule(name, new)
    return Streams(trunk, model.heads, other)


def _norm(copies: Sequence[nn.BatchNorm2d], affine: str, statistics: str) -> nn.Module:
    """A BatchNorm of which the tasks share nothing, the statistics, or the affine map."""
    if affine == statistics:
        return Private(copies)
    C = copies[0].num_features
    bare = [nn.BatchNorm2d(C, affine=False) for _ in copies]
    maps = [Affine(C) for _ in copies]
    return nn.Sequential(bare[0], Private(maps)) if affine == "private" else nn.Sequential(Private(bare), maps[0])
