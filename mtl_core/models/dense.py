"""What networks that answer for every pixel share: a check of the image's size, dilation, the decoder of one task.

Heads give what the losses read, logits and not log-probabilities, normals of any length: the losses of dense tasks take
the softmax and the unit vector that the published code puts at the networks' end.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_core._extras import require
from mtl_core.models.multi_task import initialise


class ImageSize(nn.Module):
    """Passes images (B, C, H, W) on. ValueError where a side is below `least` pixels or no multiple of `multiple`."""

    def __init__(self, least: int = 1, multiple: int = 1):
        super().__init__()
        self.least, self.multiple = least, multiple

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        if min(height, width) < self.least or height % self.multiple or width % self.multiple:
            multiple = f", both multiples of {self.multiple}" if self.multiple > 1 else ""
            raise ValueError(
                f"expected images of at least {self.least} x {self.least} pixels{multiple}, got {height} x {width}; "
                "resize or pad them"
            )
        return images


def unit(before: int, after: int, kernel_size: int, activation: type[nn.Module] = nn.ReLU, groups: int = 1):
    """A convolution without bias, its BatchNorm and its activation: torchvision's."""
    make = require("torchvision.ops", extra="vision").Conv2dNormActivation
    return make(before, after, kernel_size, groups=groups, activation_layer=activation)


def dilate(modules: Iterable[nn.Module]) -> None:
    """Take the stride of 2 out of a ResNet's or MobileNet's stage, and let what follows look twice as far apart."""
    for conv in (module for part in modules for module in part.modules() if isinstance(module, nn.Conv2d)):
        if conv.stride == (2, 2):
            conv.stride = (1, 1)
            # what follows, and not this one, as torchvision's `replace_stride_with_dilation` and BMTAS's code have it
        elif conv.kernel_size == (3, 3):
            conv.dilation = conv.padding = (2, 2)


def initialise_convolutions(network: nn.Module) -> None:
    """He normal, as `initialise` draws, for all: torchvision's ASPP and BMTAS's decoders come with other rules."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            initialise(module)


def low_and_high(low: Tensor, high: Tensor) -> Tensor:
    """What the encoder saw early (B, L, H, W) and in the end (B, C, h, w), made as large: (B, L + C, H, W).

    One tensor, so that all heads read the same features. The published decoders enlarge the second each by itself.
    """
    return torch.cat([low, F.interpolate(high, size=low.shape[-2:], mode="bilinear")], 1)


class Decoder(nn.Module):
    """The decoder of one task in DeepLabv3+: features (B, low + high, H, W) -> (B, outputs, 4 H, 4 W).

    low, high   channels of the two parts of what `low_and_high` gives.
    separable   3 x 3 convolutions each as one by channel and one over channels.
    projected   channels to which the first part is reduced.
    Source: Chen et al., ECCV 2018, arXiv 1802.02611, as in github.com/brdav/bmtas.
    """

    def __init__(
        self, outputs: int, low: int, high: int, separable: bool = False, projected: int = 48,
        activation: type[nn.Module] = nn.ReLU,
    ):  # fmt: skip
        super().__init__()
        self.low = low
        self.low_level_reduce = unit(low, projected, 1, activation)
        self.conv_1, self.conv_2 = (
            nn.Sequential(unit(before, before, 3, activation, before), unit(before, high, 1, activation))
            if separable
            else unit(before, high, 3, activation)
            for before in (projected + high, high)
        )
        self.conv_logits = nn.Conv2d(high, outputs, 1)
        initialise_convolutions(self)
        nn.init.normal_(self.conv_logits.weight, std=0.01)

    def forward(self, features: Tensor) -> Tensor:
        low, high = features[:, : self.low], features[:, self.low :]
        x = torch.cat([self.low_level_reduce(low), high], 1)
        return F.interpolate(self.conv_logits(self.conv_2(self.conv_1(x))), scale_factor=4, mode="bilinear")
