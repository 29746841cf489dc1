"""The baselines: TorchJD's aggregators and scalarisers, with what the registry needs on top of them."""

import torch
from torch import Tensor
from torchjd import aggregation, scalarization

from mtl_core.methods.by_gram import ByGram
from mtl_core.methods.own_parameters import positive
from mtl_core.methods.sam_gs import _equalised, _finite_norms


class Static(scalarization.Scalarizer):
    r"""$\sum_k w_k L_k$ with fixed weights, given as numbers; (K,) losses -> scalar."""

    def __init__(self, weights):
        super().__init__()
        self.register_buffer("weights", torch.as_tensor(weights, dtype=torch.float32))
        if self.weights.ndim != 1 or not torch.isfinite(self.weights).all():
            raise ValueError(f"static weights are K finite numbers, got {weights}")

    def forward(self, losses: Tensor, /) -> Tensor:
        if len(losses) != len(self.weights):
            raise ValueError(f"{len(self.weights)} static weights for {len(losses)} losses")
        return self.weights.to(losses) @ losses


class LogSum(scalarization.Scalarizer):
    r"""$\sum_k \log L_k$, the scale-invariant sum (Nash-MTL, arXiv 2202.01017, section 6); losses must be positive."""

    def forward(self, losses: Tensor, /) -> Tensor:
        positive(losses, "the sum of logs")
        return losses.log().sum()


class NormEqualised(aggregation.Aggregator):
    r"""$\bar n \sum_k g_k / n_k$: every task gradient brought to the mean norm, then summed; (K, D) -> (D,).

    A control: SAM-GS without momentum. A zero gradient takes no part.
    """

    @torch.no_grad()
    def forward(self, matrix: Tensor, /) -> Tensor:
        return _equalised(matrix, _finite_norms(matrix))


class Broken(aggregation.Aggregator):
    """The weighted sum with one task's shared gradient multiplied by `factor`: a sound table calls it different.

    weights  one number per task; None for ones.

    As an aggregation it leaves the heads their tasks' raw gradients; static weights, a loss weighting, weigh them.
    """

    def __init__(self, weights=None, task: int = 0, factor: float = 0.1):
        super().__init__()
        self.weights, self.task, self.factor = weights, task, factor

    def forward(self, matrix: Tensor, /) -> Tensor:
        weights = matrix.new_ones(len(matrix)) if self.weights is None else matrix.new_tensor(self.weights)
        weights[self.task] *= self.factor
        return weights @ matrix


class _CAGradWeighting(aggregation.CAGradWeighting):
    def __init__(self, c: float, rescale: bool):
        super().__init__(c)
        self.factor = 1 / (1 + c**2) if rescale else 1.0

    def forward(self, gramian: Tensor, /) -> Tensor:
        return self.factor * super().forward(gramian)


class CAGrad(ByGram):
    r"""TorchJD's CAGrad with the division by $1 + c^2$ that the published codes apply (`rescale`); (K, D) -> (D,).

    $\Delta = \bar g + c\|\bar g\|\, g_w/\|g_w\|$, where w on the simplex minimises
    $g_w\cdot\bar g + c\|\bar g\|\|g_w\|$. Solved on a Gram matrix of unit trace: TorchJD's own gives zero weights, so
    no step at all, where the squared norms sum to less than 1e-4.
    Source: Liu et al., NeurIPS 2021, arXiv 2110.14048, Algorithm 1.
    """

    def __init__(self, c: float = 0.4, rescale: bool = False):
        super().__init__(_CAGradWeighting(c, rescale))


def pcgrad() -> aggregation.WeightedAggregator:
    """TorchJD's PCGrad, on a Gram matrix of unit trace, which neither overflows nor vanishes; (K, D) -> (D,).

    Source: Yu et al., NeurIPS 2020, arXiv 2001.06782, Algorithm 1.
    """
    return ByGram(aggregation.PCGradWeighting())
