r"""Methods whose weights follow from the Gram matrix $G = J J^\top$ alone, and what their solvers share."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torchjd import aggregation

from mtl_core.linalg import check_finite, gram


class SolverError(ArithmeticError):
    """A method's optimisation problem was not solved; nothing replaces its solution."""


def unit_gram(matrix: Tensor, product: Tensor | None = None) -> Tensor:
    """J Jᵀ over its trace, (K, D) -> (K, K) float64 on the host; zeros where J is zero.

    Weights that depend on directions and relative norms alone are the same for J and 1e-20 J; computed from this
    matrix, they are. NonFiniteGradientError, with the tasks, where J is not finite.

    product  J Jᵀ, where it is known.
    """
    product, tiny = gram(matrix).cpu() if product is None else product, torch.finfo(matrix.dtype).tiny
    squares = product.diagonal().tolist()  # for so few numbers Python is faster than tensors
    if matrix.dtype != torch.float64 and not all(1e-30 < x < 1e30 for x in squares):  # may have left float32
        matrix = matrix.double()
        product = gram(matrix).cpu()
        squares = product.diagonal().tolist()
    if not 1e-200 < sum(squares) < 1e200:  # squares may have left float64
        largest = matrix.abs().max() if matrix.numel() else matrix.new_zeros(())
        product = gram(matrix / torch.where(largest > 0, largest, 1)).cpu()
        squares = product.diagonal().tolist()
    if not squares or not math.isfinite(sum(squares)):
        check_finite(product.diagonal())
    # No weight that J's dtype can hold lengthens a gradient that is this short beside the others
    if min(squares) < (least := max(1e-290, tiny**2 * sum(squares))):
        kept = product.diagonal() >= least
        product = torch.where(kept[:, None] & kept, product, 0)
    return product / (sum(x for x in squares if x >= least) or 1.0)


class OnGram(aggregation.Weighting):
    r"""J, (K, D) -> the weights w of the tasks, (K,): `weigh` makes them of G of unit trace, (K, K) float64.

    ridge  adds this many roundings of J's dtype to the squared length of each gradient, as if each had a short part of
           its own: G is positive definite then, and gradients that cancel each other get weights that J's dtype bears.

    SolverError where a weight is not finite in J's dtype.
    """

    def __init__(self, weigh: Callable[[Tensor], Tensor], ridge: float = 0):
        super().__init__()
        self.weigh, self.ridge = weigh, ridge

    @torch.no_grad()
    def forward(self, matrix: Tensor, /, product: Tensor | None = None) -> Tensor:
        gramian = unit_gram(matrix, product)
        if self.ridge:
            gramian.diagonal().mul_(1 + self.ridge * torch.finfo(matrix.dtype).eps)
        return as_weights(self.weigh(gramian), matrix)


def as_weights(found: Tensor, matrix: Tensor) -> Tensor:
    """Weights (K,) in the matrix's dtype and place. SolverError where one is not finite there."""
    weights = found.to(matrix)
    if not weights.isfinite().all():
        raise SolverError(f"weights of the task gradients are not finite in {matrix.dtype}: {found.tolist()}")
    return weights


class ByGram(aggregation.WeightedAggregator):
    r"""$J^\top w$, (K, D) -> (D,), by an `OnGram` or what it takes."""

    def __init__(self, weigh: Callable[[Tensor], Tensor] | OnGram, ridge: float = 0):
        super().__init__(weigh if isinstance(weigh, OnGram) else OnGram(weigh, ridge))


def cosine_form(gramian: Tensor) -> tuple[Tensor, Tensor]:
    """(norms n, C) with G = diag(n) C diag(n), C the cosines; a zero gradient has a zero row in C, and n = 1."""
    norms = gramian.diagonal().sqrt()
    norms = torch.where(norms > 0, norms, 1)
    return norms, gramian / norms[:, None] / norms


def square_root(product: Tensor) -> np.ndarray:
    """R with RᵀR = C for a positive semi-definite C, which rounding may have made slightly indefinite."""
    values, vectors = np.linalg.eigh(product.numpy())
    return np.sqrt(values.clip(0))[:, None] * vectors.T
