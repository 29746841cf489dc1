"""LeNet: a small convolutional network without normalisation layers, for controls and quick tests."""

from collections.abc import Sequence

from torch import nn

from mtl_core.models.multi_task import MultiTaskModel


def lenet(
    outputs: Sequence[int], channels: int = 1, size: int | Sequence[int] = 36, features: int = 50
) -> MultiTaskModel:
    """LeNet as multi-task papers use it: two 5x5 convolutions with pooling, one shared linear layer.

    size  of the images in pixels: one number, or height and width.
    The pool comes before the ReLU, as in Sener & Koltun's code: the same numbers, on a quarter of the activations.
    """
    height, width = (((side - 4) // 2 - 4) // 2 for side in ([size] * 2 if isinstance(size, int) else size))
    trunk = nn.Sequential(
        nn.Conv2d(channels, 10, 5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(10, 20, 5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(20 * height * width, features),
        nn.ReLU(),
    )
    return MultiTaskModel(trunk, [nn.Linear(features, n) for n in outputs])
