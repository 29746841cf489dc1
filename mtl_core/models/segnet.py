"""SegNet as multi-task papers use it: an encoder and a decoder that all tasks share, two convolutions for each task."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from mtl_core.models.dense import ImageSize
from mtl_core.models.multi_task import MultiTaskModel


class Convolution(nn.Conv2d):
    """Starts Xavier normal with a bias of zero, and so do the copies that a split draws anew."""

    def reset_parameters(self) -> None:
        nn.init.xavier_normal_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


def unit(before: int, after: int) -> nn.Sequential:
    """A 3 x 3 convolution with bias, its BatchNorm and ReLU, under the names of Recon's released rankings."""
    conv, norm = Convolution(before, after, 3, padding=1), nn.BatchNorm2d(after)
    return nn.Sequential(OrderedDict(conv1=conv, bn1=norm, relu1=nn.ReLU(inplace=True)))


def prediction(features: int, outputs: int) -> nn.Sequential:
    """The head of a task: (B, features, H, W) -> (B, outputs, H, W), no normalisation or ReLU in between."""
    first, last = Convolution(features, features, 3, padding=1), Convolution(features, outputs, 1)
    return nn.Sequential(OrderedDict(conv1=first, conv2=last))


class SegNet(nn.Module):
    """VGG16's 13 convolutions down and 13 up: (B, channels, H, W) -> (B, width, H, W), H and W at least 32.

    Pooling passes on where each maximum lay, and unpooling puts values back there; where a side is odd, to the size
    that it had.
    """

    def __init__(self, width: int = 64, channels: int = 3, flat: bool = False):
        super().__init__()
        self.widths, self.flat = [width * n for n in (1, 2, 4, 8, 8)], flat
        self.ends = [width, *self.widths[:-1]]  # of the decoder's stages, which mirror the encoder's
        pairs = [*zip(self.ends, self.widths, strict=True)]
        self.image_size = ImageSize(least=32)
        self.encoder_block = nn.ModuleList(unit(a, b) for a, b in [(channels, width), *pairs[1:]])
        self.decoder_block = nn.ModuleList(unit(b, a) for a, b in pairs)
        self.conv_block_enc = nn.ModuleList(self.rest(i, b) for i, (_, b) in enumerate(pairs))
        self.conv_block_dec = nn.ModuleList(self.rest(i, a) for i, (a, _) in enumerate(pairs))
        self.down_sampling = nn.MaxPool2d(2, 2, return_indices=True)
        self.up_sampling = nn.MaxUnpool2d(2, 2)

    @staticmethod
    def rest(stage: int, width: int) -> nn.Sequential:
        return unit(width, width) if stage < 2 else nn.Sequential(unit(width, width), unit(width, width))

    def stages(self, x: Tensor) -> tuple[list, list]:
        """Of the encoder's five stages, then the decoder's, what comes in the middle and in the end of each.

        The middle: behind the first convolution of an encoder's stage, before the first of a decoder's.
        """
        x, down, up, places = self.image_size(x), [], [], []
        for enter, rest in zip(self.encoder_block, self.conv_block_enc, strict=True):
            middle = enter(x)
            end = rest(middle)
            down.append((middle, end))
            x, indices = self.down_sampling(end)
            places.append((indices, end.shape[-2:]))
        for enter, rest in zip([*self.decoder_block][::-1], [*self.conv_block_dec][::-1], strict=True):
            middle = self.up_sampling(x, *places.pop())
            x = rest(enter(middle))
            up.append((middle, x))
        return down, up

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        features = self.stages(x)[1][-1][1]
        return features.flatten(1) if self.flat else features


def segnet(
    outputs: Sequence[int], width: int = 64, channels: int = 3, flat: tuple[int, int] | None = None
) -> MultiTaskModel:
    """The network of Recon's CityScapes and NYUv2 tables: (B, channels, H, W) -> for each task (B, outputs, H, W).

    width  of the first stage; 64 is the papers', 8 the `small` profile's. Stages have 1, 2, 4, 8, 8 times that.
    flat   (H, W) of the images: between trunk and heads one vector (B, width H W) an image. RotoGrad on NYUv2 rotates
           its first 1,024 entries (Javaloy & Valera, arXiv 2103.02631): two and two thirds lines of the first channel.
           Without, `RotoGrad(trunk, heads, m, post_shape=(H, W))` rotates m channels, alike at every pixel.

    At width 64: 24,943,296 shared parameters in 52 layers (26 convolutions, 26 BatchNorms), 37,383 in a head of 7
    classes, 36,993 in one of depth; for CityScapes 95.43 MB, as printed.
    Source: the "split" SegNet of github.com/lorenmt/mtan, which Recon's code (github.com/moukamisama/Recon) takes
    over; layers have its names and order. Differences: no log-softmax and no unit vectors in the end (the losses take
    them), no unused `logsigma`, and sides that 32 does not divide.
    """
    trunk = SegNet(width, channels, flat is not None)
    heads: list[nn.Module] = [prediction(width, n) for n in outputs]
    if flat is not None:
        heads = [nn.Sequential(nn.Unflatten(1, (width, *flat)), head) for head in heads]
    return MultiTaskModel(trunk, heads)
