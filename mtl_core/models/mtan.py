"""MTAN: a SegNet that all tasks share, of which each task takes what its attention lets through."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_core.models.multi_task import MultiTaskModel
from mtl_core.models.segnet import Convolution, SegNet, prediction, unit


def attention(before: int, width: int) -> nn.Sequential:
    """A mask in (0, 1) for each of `width` channels and each pixel."""
    layers: dict[str, nn.Module] = {"conv1": Convolution(before, width, 1), "bn1": nn.BatchNorm2d(width)}
    layers |= {"relu1": nn.ReLU(inplace=True), "conv2": Convolution(width, width, 1), "bn2": nn.BatchNorm2d(width)}
    return nn.Sequential(OrderedDict(layers, Sigmoid2=nn.Sigmoid()))


class MTAN(SegNet):
    """(B, channels, H, W) -> K features (B, width, H, W), one for each task; H and W at least 32.

    `encoder_att[stage][task]` and `decoder_att[stage][task]` belong to a task, all else to all.
    """

    encoder_att: Any  # lists of lists of modules
    decoder_att: Any

    def __init__(self, tasks: int, width: int = 64, channels: int = 3):
        super().__init__(width, channels)
        pairs = [*zip(self.ends, self.widths, strict=True)]
        into = [width, *(2 * b for b in self.widths[1:])]

        def by_task(before: int, after: int) -> nn.ModuleList:
            return nn.ModuleList(attention(before, after) for _ in range(tasks))

        self.encoder_att = nn.ModuleList(by_task(n, b) for n, b in zip(into, self.widths, strict=True))
        self.decoder_att = nn.ModuleList(by_task(a + b, a) for a, b in pairs)
        after = [*self.widths[1:], self.widths[-1]]
        self.encoder_block_att = nn.ModuleList(unit(b, n) for b, n in zip(self.widths, after, strict=True))
        self.decoder_block_att = nn.ModuleList(unit(b, a) for a, b in pairs)
        self.max_pool = nn.MaxPool2d(2, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        down, up = self.stages(x)
        return tuple(self.attended(k, down, up) for k in range(len(self.encoder_att[0])))

    def attended(self, k: int, down: list, up: list) -> Tensor:
        """The features of task k."""
        a: list[Tensor] = []  # what attention let through one stage before; nothing at first
        for mask, block, (middle, end) in zip(self.encoder_att, self.encoder_block_att, down, strict=True):
            a = [self.max_pool(block(mask[k](torch.cat([middle, *a], 1)) * end))]
        for i, (middle, end) in zip(reversed(range(len(up))), up, strict=True):
            x = F.interpolate(a[0], size=middle.shape[-2:], mode="bilinear", align_corners=True)
            x = self.decoder_block_att[i](x)
            a = [self.decoder_att[i][k](torch.cat([middle, x], 1)) * end]
        return a[0]


def mtan(outputs: Sequence[int], width: int = 64, channels: int = 3) -> MultiTaskModel:
    """The network of Recon's and SAM-GS's NYUv2 tables: (B, channels, H, W) -> for each task (B, outputs, H, W).

    width  of SegNet's first stage, see `segnet`.

    At width 64: 35,163,456 parameters that all tasks share, in 72 layers; 2,984,576 of attention for each task, which
    are in the trunk, get their own task's gradient alone, and cannot be split; heads as `segnet`'s. NYUv2's three tasks
    are 168.72 MB, as printed.
    Source: Liu, Johns, Davison, CVPR 2019, arXiv 1803.10704, and its code, github.com/lorenmt/mtan; the names of shared
    layers are those of Recon's released ranking. Differences: those of `segnet`.
    """
    return MultiTaskModel(MTAN(len(outputs), width, channels), [prediction(width, n) for n in outputs])
