"""ResNet18 for small images, at any width, from torchvision's blocks."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from mtl_core._extras import require
from mtl_core.models.multi_task import MultiTaskModel, initialise

NORMS: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm2d, "group": partial(nn.GroupNorm, 4)}


class ResNet(nn.Module):
    """torchvision's ResNet of basic blocks with a free width, then a shared linear layer and ReLU.

    (B, channels, H, W) -> (B, features). Where features is None the linear layer is missing, and the features are the
    pooled maps: (B, widths[-1] * pool²). At widths 64-128-256-512 its parameters are those of torchvision's
    `resnet18`, in the same order, but for the stem's channels. torchvision's own class cannot be narrowed: its first
    width is fixed at 64. ImportError without torchvision.
    """

    def __init__(
        self,
        widths: Sequence[int] = (64, 128, 256, 512),
        blocks: Sequence[int] = (2, 2, 2, 2),
        channels: int = 1,
        features: int | None = 100,
        norm: str = "batch",
        pool: int = 1,
    ):
        super().__init__()
        # torchvision takes longer to import than all of mtl_core, and is an extra
        resnet = require("torchvision.models.resnet", extra="vision")
        BasicBlock, conv1x1 = resnet.BasicBlock, resnet.conv1x1
        if norm not in NORMS:
            raise ValueError(f"norm is one of {', '.join(NORMS)}, got {norm!r}")
        if len(widths) != len(blocks):
            raise ValueError(f"one width per stage: {len(blocks)} stages, {len(widths)} widths")
        make_norm = NORMS[norm]
        self.conv1 = nn.Conv2d(channels, widths[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = make_norm(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        before = widths[0]
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True), start=1):
            stride = 1 if stage == 1 else 2
            down = None
            if stride != 1 or before != width:
                down = nn.Sequential(conv1x1(before, width, stride), make_norm(width))
            first = BasicBlock(before, width, stride, down, norm_layer=make_norm)
            rest = [BasicBlock(width, width, norm_layer=make_norm) for _ in range(count - 1)]
            setattr(self, f"layer{stage}", nn.Sequential(first, *rest))
            before = width
        self.stages = len(widths)
        self.avgpool = nn.AdaptiveAvgPool2d(pool)
        self.fc = None if features is None else nn.Linear(before * pool**2, features)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                initialise(module)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"layer{stage}")(x)
        x = self.avgpool(x).flatten(1)
        return x if self.fc is None else self.relu(self.fc(x))

    def parts(self) -> list[Any]:
        """The stem, the stages, and what follows: applied in turn they are the forward pass."""
        stages = [getattr(self, f"layer{stage}") for stage in range(1, self.stages + 1)]
        stem = nn.Sequential(self.conv1, self.bn1, self.relu, self.maxpool)
        last = [] if self.fc is None else [self.fc, self.relu]
        return [stem, *stages, nn.Sequential(self.avgpool, nn.Flatten(), *last)]


def is_norm(layer: str) -> bool:
    """Whether the layer of a ResNet, by its name, is a normalisation."""
    return "bn" in layer or layer.endswith("downsample.1")


def released_by_recon(layers: Sequence[str]) -> list[str]:
    """Of the names of ResNet18's layers the 25 that Recon's released ranking puts first, at S = -0.1.

    They are all 20 normalisations, the stem's convolution and the four of layer1; in the order of `layers`.
    """
    return [name for name in layers if is_norm(name) or name == "conv1" or name.startswith("layer1.")]


def resnet18(
    outputs: Sequence[int],
    width: int = 64,
    channels: int = 1,
    features: int | None = 100,
    norm: str = "batch",
    constant_width: bool = False,
    pool: int = 1,
) -> MultiTaskModel:
    """The network of Recon's Multi-Fashion+MNIST experiments, one linear head per task.

    outputs         output width of each head.
    width           width of the first stage; 64 is the paper's, 8 the `small` profile's.
    features, pool  of the shared linear layer; None leaves it out, and the heads read the last maps, averaged to
                    pool x pool: 1 for CIFAR-10 (512 features). On images of 64 x 64 pixels those maps are 2 x 2, and
                    pool=2 passes them on unpooled (2,048 features): the network of CelebA, whose 11,176,512
                    shared parameters follow from the sizes that Recon prints.
    constant_width  every stage as wide as the first: separates depth from layer size, which grow
                    together in the ordinary network.

    The shared 512 -> 100 layer belongs to the trunk, as in the released code (github.com/
    moukamisama/Recon); the paper's text speaks of two linear layers per task instead.
    At width 64: 11,221,540 shared parameters in 41 layers, 1,010 in each head of 10 classes.
    Not with channels last: on a CPU that takes 4/5 of the time, and its float32 gradients were wrong by 2 %.
    """
    widths = [width] * 4 if constant_width else [width * 2**stage for stage in range(4)]
    trunk = ResNet(widths, channels=channels, features=features, norm=norm, pool=pool)
    read = widths[-1] * pool**2 if features is None else features
    return MultiTaskModel(trunk, [nn.Linear(read, n) for n in outputs])
