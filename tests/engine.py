"""What the tests of the engine share: small models whose gradients are known, and a plain restatement of them."""

import torch
from torch import Tensor, nn

from mtl_core.models import MultiTaskModel

torch.set_num_threads(1)


class Vector(nn.Module):
    """A layer that is nothing but one parameter vector."""

    def __init__(self, size: int, dtype=torch.float32):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size, dtype=dtype))


class LinearTrunk(nn.Module):
    """Its features are its parameters: a loss g.features has exactly the gradient g."""

    def __init__(self, sizes, dtype=torch.float32):
        super().__init__()
        self.parts = nn.ModuleList(Vector(size, dtype) for size in sizes)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part.weight for part in self.parts])


def linear_model(sizes, K: int, dtype=torch.float32) -> MultiTaskModel:
    return MultiTaskModel(LinearTrunk(sizes, dtype), [Vector(1, dtype) for _ in range(K)])


def linear_losses(model, features, gradients, coefficients=None, offsets=None) -> list[Tensor]:
    """Loss k = g_k . features + c_k * head_k (+ offset): shared gradient g_k, head gradient c_k."""
    rows = torch.as_tensor(gradients, dtype=features.dtype)
    K = len(rows)
    coefficients = coefficients or [1.0] * K
    offsets = offsets or [0.0] * K
    return [rows[k] @ features + coefficients[k] * model.heads[k].weight.sum() + offsets[k] for k in range(K)]


def matrix_of(*rows, dtype=torch.float32) -> Tensor:
    return torch.tensor(rows, dtype=dtype)
