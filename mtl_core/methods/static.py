r"""Static weights: a weighted sum of the losses, its weights fixed before training (and found by a search)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchjd import scalarization

from mtl_core.methods.registry import WEIGHTING, Method, register


class Static(scalarization.Scalarizer):
    r"""$\sum_k w_k L_k$ with fixed weights, (K,) losses -> scalar.

    weights  K finite numbers; ValueError for others, or for another number of losses.
    """

    task_state = {"weights": ("k", None)}

    def __init__(self, weights: Sequence[float]):
        super().__init__()
        self.weights: Tensor = nn.Buffer(torch.as_tensor(weights, dtype=torch.float32))
        if self.weights.ndim != 1 or not torch.isfinite(self.weights).all():
            raise ValueError(f"static weights are K finite numbers, got {weights}")

    def forward(self, losses: Tensor, /) -> Tensor:
        if len(losses) != len(self.weights):
            raise ValueError(f"{len(self.weights)} static weights for {len(losses)} losses")
        # The weighted sum:  \sum_k w_k L_k
        return self.weights.to(losses) @ losses


register(
    Method("static", "Tuned fixed weights", WEIGHTING, Static, "sum", "weighted sum of the losses, weights searched")
)
