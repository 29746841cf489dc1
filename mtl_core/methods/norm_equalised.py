r"""Norm-equalised sum, a control: the effect of equal gradient norms and of nothing else."""

import torch
from torch import Tensor
from torchjd import aggregation

from mtl_core.linalg import equalised, finite_norms
from mtl_core.methods.registry import AGGREGATION, Method, register


class NormEqualised(aggregation.Aggregator):
    r"""$\bar n \sum_k g_k / n_k$: every task gradient brought to the mean norm, then summed; (K, D) -> (D,).

    SAM-GS without momentum. A zero gradient takes no part. NonFiniteGradientError on NaN or infinity.
    """

    @torch.no_grad()
    def forward(self, matrix: Tensor, /) -> Tensor:
        # The norms, and the sum of the gradients at their mean norm:  n_k = \|g_k\|;  \bar n \sum_k g_k / n_k
        norms = finite_norms(matrix)
        return equalised(matrix, norms, norms.mean())


register(Method("norm_equalised", "Norm-equalised sum", AGGREGATION, NormEqualised, "sum", "control"))
