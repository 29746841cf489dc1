"""The nine-layer network of CelebA that FAMO and SAM-GS train."""

from collections.abc import Sequence

from torch import nn

from mtl_core.models.multi_task import MultiTaskModel


def celeba_cnn(outputs: Sequence[int], channels: int = 3, width: int = 64) -> MultiTaskModel:
    """Seven convolutions and two linear layers, each with BatchNorm and ReLU, without bias; one linear head per task.

    width  of the first convolution; the papers' is 64. The others have 2, 2, 4, 4, 8 and 8 times as many channels.

    (B, channels, H, W) -> (B, 8 * width) -> K times (B, outputs); H and W are at least 8. Maximum pooling follows the
    1st, 3rd and 5th convolution, the mean over positions the last one. At width 64 it has 5,176,640 shared parameters
    in 18 layers, and 513 in each head of one logit. Sizes as counted in github.com/ThomBors/samgs, commit 7eee6a2.
    """

    def block(layer: nn.Module, norm: nn.Module) -> list[nn.Module]:
        return [layer, norm, nn.ReLU()]

    layers, before, last = list[nn.Module](), channels, 8 * width
    for number, times in enumerate((1, 2, 2, 4, 4, 8, 8)):
        layers += block(nn.Conv2d(before, times * width, 3, padding=1, bias=False), nn.BatchNorm2d(times * width))
        layers += [nn.MaxPool2d(2)] if number in (0, 2, 4) else []
        before = times * width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    for _ in range(2):
        layers += block(nn.Linear(last, last, bias=False), nn.BatchNorm1d(last))
    return MultiTaskModel(nn.Sequential(*layers), [nn.Linear(last, n) for n in outputs])
