"""The network of PASCAL-Context: MobileNetV2 and R-ASPP that all tasks share, a DeepLabv3+ decoder for each task."""

from collections.abc import Sequence
from os import PathLike

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_core._extras import require
from mtl_core.models.dense import Decoder, ImageSize, dilate, initialise_convolutions, low_and_high, unit
from mtl_core.models.multi_task import MultiTaskModel

LOW, DILATED = 3, 14  # the block whose output the decoders read, and the first of those that no stride comes before


class RASPP(nn.Module):
    """Each place by itself and the mean over the image, joined: (B, channels, H, W) -> (B, features, H, W)."""

    def __init__(self, channels: int, features: int):
        super().__init__()
        self.aspp_branch_1 = unit(channels, features, 1, nn.ReLU6)
        self.aspp_branch_2 = unit(channels, features, 1, nn.ReLU6)
        self.dropout = nn.Dropout(0.1)
        self.aspp_projection = unit(2 * features, features, 1, nn.ReLU6)
        initialise_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        here, everywhere = self.aspp_branch_1(x), self.aspp_branch_2(F.adaptive_avg_pool2d(x, 1))
        return self.aspp_projection(self.dropout(torch.cat([here, everywhere.expand_as(here)], 1)))


class MobileNetRASPP(nn.Module):
    """Images (B, 3, H, W) -> (B, L + features, H/4, W/4): an early block's output, and R-ASPP's features as large.

    network  torchvision's MobileNetV2; its last stage is dilated, so that R-ASPP sees H/16 x W/16, and its last
             convolution, to 1,280 channels, is left out. H and W are multiples of 4.
    """

    def __init__(self, network, features: int):
        super().__init__()
        self.image_size = ImageSize(multiple=4)
        self.features = network.features[:-1]
        dilate(self.features[DILATED:])
        self.raspp = RASPP(network.features[-1][0].in_channels, features)

    def forward(self, x: Tensor) -> Tensor:
        x, low = self.image_size(x), x
        for i, block in enumerate(self.features):
            x = block(x)
            low = x if i == LOW else low
        return low_and_high(low, self.raspp(x))


def mobilenet_raspp(
    outputs: Sequence[int], width: float = 1.0, weights: str | PathLike | None = None
) -> MultiTaskModel:
    """The network of Recon's PASCAL-Context table: (B, 3, H, W) -> for each task (B, outputs, H, W).

    width    multiple of the published widths, rounded to eights as torchvision rounds them.
    weights  file with torchvision's MobileNetV2 on ImageNet, as `torch.save` wrote it; the papers start from it.

    At width 1: 1,927,168 shared parameters in 108 layers (54 convolutions, 54 BatchNorms). Segmentation in 21 classes,
    human parts in 7, saliency and normals together are 8.04 MB, as printed; R-ASPP drops out 0.1.
    Source: the network of github.com/brdav/bmtas (arXiv 2008.10292) before it branches; the sizes in Recon's table
    prove that it is theirs. Layers have torchvision's names.
    Differences: the decoders share one enlarged copy of the features, and losses take the unit vectors of normals.
    ImportError without torchvision.
    """
    make = require("torchvision.models", extra="vision").MobileNetV2
    network, features = make(width_mult=width), 8 * max(round(16 * width), 1)
    if weights is not None:
        network.load_state_dict(torch.load(weights, weights_only=True))
    low, projected = network.features[LOW].out_channels, 8 * max(round(6 * width), 1)
    decoders = [Decoder(n, low, features, True, projected, nn.ReLU6) for n in outputs]
    return MultiTaskModel(MobileNetRASPP(network, features), decoders)
