"""A multi-layer perceptron for tabular problems."""

from collections.abc import Sequence

from torch import nn

from mtl_core.models.multi_task import MultiTaskModel


def mlp(outputs: Sequence[int], inputs: int = 64, width: int = 128, depth: int = 3) -> MultiTaskModel:
    """`depth` hidden layers of `width` units with ReLU, one linear head per task."""
    sizes = [inputs] + [width] * depth
    layers = [layer for a, b in zip(sizes, sizes[1:], strict=False) for layer in (nn.Linear(a, b), nn.ReLU())]
    return MultiTaskModel(nn.Sequential(*layers), [nn.Linear(width, n) for n in outputs])
