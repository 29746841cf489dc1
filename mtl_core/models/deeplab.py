"""DeepLabv3+ for several tasks: a ResNet and ASPP that all tasks share, a decoder for each task."""

from collections.abc import Sequence
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from mtl_core._extras import require
from mtl_core.models.dense import Decoder, ImageSize, dilate, initialise_convolutions, low_and_high
from mtl_core.models.multi_task import MultiTaskModel
from mtl_core.models.resnet import ResNet

BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


class DeepLab(nn.Module):
    """Images (B, 3, H, W) -> (B, L + features, H/4, W/4): the ResNet's first stage, and ASPP's features as large.

    The ResNet's last stage is dilated: ASPP sees H/16 x W/16. H and W are multiples of 4.
    """

    def __init__(self, resnet: Any, features: int, rates: Sequence[int]):
        super().__init__()
        ASPP = require("torchvision.models.segmentation.deeplabv3", extra="vision").ASPP
        self.image_size = ImageSize(multiple=4)
        self.conv1, self.bn1, self.relu, self.maxpool = resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = (getattr(resnet, f"layer{n}") for n in range(1, 5))
        dilate(self.layer4)
        self.aspp = ASPP(resnet.fc.in_features, rates, features)
        initialise_convolutions(self.aspp)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(self.image_size(x)))))
        low = self.layer1(x)
        return low_and_high(low, self.aspp(self.layer4(self.layer3(self.layer2(low)))))


def deeplab(
    outputs: Sequence[int], backbone: str = "resnet50", width: int | None = None, features: int = 256,
    rates: Sequence[int] = (6, 12, 18), weights: str | PathLike | None = None,
) -> MultiTaskModel:  # fmt: skip
    """A ResNet, ASPP and one decoder for each task: (B, 3, H, W) -> for each task (B, outputs, H, W).

    backbone  a ResNet of torchvision, by name.
    width     instead of it a ResNet18 whose first stage is so wide: 8 for the `small` profile.
    features  channels of ASPP and of the decoders; rates: the dilations of ASPP, at 1/16 of the image's sides.
    weights   file with torchvision's weights of that backbone on ImageNet, as `torch.save` wrote them.

    Source: Chen et al., ECCV 2018, arXiv 1802.02611; torchvision's ResNet and ASPP (dropout 0.5), the decoders of BMTAS
    (github.com/brdav/bmtas) at their defaults. None of the three papers prints a number for it: it is the usual
    larger network of PASCAL-Context and NYUv2. ImportError without torchvision; ValueError for an unknown backbone.
    """
    if backbone not in BACKBONES:
        raise ValueError(f"backbone is one of {', '.join(BACKBONES)}; got {backbone!r}")
    if width is None:
        resnet = getattr(require("torchvision.models", extra="vision"), backbone)()
    else:
        resnet = ResNet([width * 2**stage for stage in range(4)], channels=3)
    if weights is not None:
        resnet.load_state_dict(torch.load(weights, weights_only=True))
    low = resnet.fc.in_features // 8
    return MultiTaskModel(DeepLab(resnet, features, rates), [Decoder(n, low, features) for n in outputs])
