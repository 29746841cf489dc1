r"""AutoScale: weights at which the weighted gradients are equally long, found early in a training, then fixed."""

import torch
from torch import Tensor, nn
from torchjd import aggregation

from mtl_core.methods._gramian import ByGram
from mtl_core.methods._state import ShapedByLoading
from mtl_core.methods.registry import AGGREGATION, GRAM, Method, register


class _Exploration(ShapedByLoading):
    task_state = {"total": ("k", 0.0)}

    def __init__(self, explore: int):
        super().__init__()
        self.explore = explore
        self.total: Tensor = nn.Buffer(torch.empty(0, dtype=torch.float64))
        self.steps: Tensor = nn.Buffer(torch.tensor(0))

    def forward(self, gramian: Tensor) -> Tensor:
        if len(self.total) != len(gramian):
            self.total, self.steps = torch.zeros(len(gramian), dtype=torch.float64), torch.tensor(0)
        if self.steps < self.explore:
            # Each gradient's length beside the others', summed:  s_k \leftarrow s_k + \|g_k\| / \|J\|
            self.total, self.steps = self.total.to(gramian) + gramian.diagonal().sqrt(), self.steps + 1
        # Weights at which the weighted gradients are equally long:  w_k = K s_k^{-1} / \sum_j s_j^{-1}
        inverse = torch.where(self.total > 0, 1 / self.total, 0.0)
        return len(inverse) * inverse / inverse.sum().clamp(min=1e-300)


def autoscale(explore: int = 200) -> aggregation.WeightedAggregator:
    r"""$\sum_k w_k g_k$, whose weights follow the gradients' mean lengths for a while, then stay; (K, D) -> (D,).

    $w_k = K s_k^{-1} / \sum_j s_j^{-1}$, with $s_k$ the sum of $\|g_k\| / \|J\|$ over the first steps. The gradient
    magnitude similarity $2 ab / (a^2 + b^2)$ of $a = w_i s_i$ and $b = w_j s_j$ is then 1 for each pair, its maximum.

    explore  number of steps after which the weights are fixed. ValueError below 1.

    A task whose gradients are all zero so far has weight 0. Source: Yang et al. 2025, arXiv 2508.13979, of which only
    the abstract was at hand, and no code: in two phases, metrics such as this similarity guide the choice of fixed
    weights. The closed form and the length of the exploration are ours. All K gradients are computed after it, too,
    where the weighted sum would do.
    """
    if explore < 1:
        raise ValueError(f"expected one or more steps of exploration, got {explore}")
    return ByGram(_Exploration(explore))


PAPER, DEFAULTS = "Yang et al. 2025, arXiv 2508.13979", {"explore": (200, "ours")}
register(Method("autoscale", "AutoScale", AGGREGATION, autoscale, "sum", PAPER, DEFAULTS, needs=GRAM))
