r"""Methods whose weights follow from the Gram matrix $G = J J^\top$ alone, and what their solvers share."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torchjd import aggregation

from mtl_core.linalg import check_finite, gram


class SolverError(ArithmeticError):
    """A method's optimisation problem was not solved; nothing replaces its solution."""


def unit_gram(matrix: Tensor) -> Tensor:
    """J Jᵀ over its trace, (K, D) -> (K, K) float64 on the host; zeros where J is zero.

    Weights that depend on directions and relative norms alone are the same for J and 1e-20 J; computed from this
    matrix, they are. NonFiniteGradientError, with the tasks, where J is not finite.
    """
    product = gram(matrix)
    if not 1e-30 < product.trace() < 1e30:  # squares may have left float32
        largest = matrix.abs().max() if matrix.numel() else matrix.new_zeros(())
        matrix = matrix / torch.where(largest > 0, largest, 1)
        product = gram(matrix)
    short = product.diagonal() < 1e-30
    if short.any() and matrix[short.to(matrix.device)].any():  # their squares may have, their products need not
        product = gram(matrix.double())
        kept = product.diagonal() >= 1e-290
        product = torch.where(kept[:, None] & kept, product, 0)
    check_finite(product.diagonal())
    trace = product.trace()
    return (product / torch.where(trace > 0, trace, 1)).cpu()


class ByGram(aggregation.WeightedAggregator):
    r"""$J^\top w$, (K, D) -> (D,): `weigh` maps G of unit trace, (K, K) float64, to the weights w of the tasks, (K,).

    SolverError where a weight is not finite.
    """

    def __init__(self, weigh: Callable[[Tensor], Tensor]):
        super().__init__(_OnUnitGram(weigh))


class _OnUnitGram(aggregation.Weighting):
    def __init__(self, weigh: Callable[[Tensor], Tensor]):
        super().__init__()
        self.weigh = weigh

    @torch.no_grad()
    def forward(self, matrix: Tensor, /) -> Tensor:
        weights = self.weigh(unit_gram(matrix))
        if not weights.isfinite().all():
            raise SolverError(f"the weights of the task gradients are not finite: {weights.tolist()}")
        return weights.to(matrix)


def cosine_form(gramian: Tensor) -> tuple[Tensor, Tensor]:
    """(norms n, C) with G = diag(n) C diag(n), C the cosines; a zero gradient has a zero row in C, and n = 1."""
    norms = gramian.diagonal().sqrt()
    norms = torch.where(norms > 0, norms, 1)
    return norms, gramian / norms[:, None] / norms


def square_root(product: Tensor) -> np.ndarray:
    """R with RᵀR = C for a positive semi-definite C, which rounding may have made slightly indefinite."""
    values, vectors = np.linalg.eigh(product.numpy())
    return np.sqrt(values.clip(0))[:, None] * vectors.T
