r"""Methods whose weights follow from the Gram matrix $G = J J^\top$ alone, and what their solvers share."""

import math
from collections.abc import Callable
from typing import cast

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
    product = gram(matrix).cpu() if product is None else product
    squares = product.diagonal()
    if not 1e-30 < (trace := squares.sum().item()) < 1e30:  # squares may have left float32
        largest = matrix.abs().max() if matrix.numel() else matrix.new_zeros(())
        matrix = matrix / torch.where(largest > 0, largest, 1)
        product = gram(matrix).cpu()
        squares = product.diagonal()
    short = squares < 1e-30
    if short.any() and matrix[short.to(matrix.device)].any():  # their squares may have, their products need not
        product = gram(matrix.double()).cpu()
        kept = product.diagonal() >= 1e-290
        product = torch.where(kept[:, None] & kept, product, 0)
    if not (trace := product.trace().item()) < math.inf:
        check_finite(product.diagonal())
    return product / (trace or 1.0)


class OnGram(aggregation.Weighting):
    r"""J, (K, D) -> the weights w of the tasks, (K,): `weigh` makes them of G of unit trace, (K, K) float64.

    SolverError where a weight is not finite.
    """

    def __init__(self, weigh: Callable[[Tensor], Tensor]):
        super().__init__()
        self.weigh = weigh

    @torch.no_grad()
    def forward(self, matrix: Tensor, /, product: Tensor | None = None) -> Tensor:
        weights = self.weigh(unit_gram(matrix, product))
        if not weights.isfinite().all():
            raise SolverError(f"the weights of the task gradients are not finite: {weights.tolist()}")
        return weights.to(matrix)


class ByGram(aggregation.WeightedAggregator):
    r"""$J^\top w$, (K, D) -> (D,), by an `OnGram` or what it takes."""

    def __init__(self, weigh: Callable[[Tensor], Tensor] | OnGram):
        super().__init__(weigh if isinstance(weigh, OnGram) else OnGram(weigh))

    def weights(self, matrix: Tensor, product: Tensor | None = None) -> Tensor:
        """w of J; `product` is J Jᵀ, float64 on the host, where it is known."""
        return cast(OnGram, self.weighting).forward(matrix, product)


def cosine_form(gramian: Tensor) -> tuple[Tensor, Tensor]:
    """(norms n, C) with G = diag(n) C diag(n), C the cosines; a zero gradient has a zero row in C, and n = 1."""
    norms = gramian.diagonal().sqrt()
    norms = torch.where(norms > 0, norms, 1)
    return norms, gramian / norms[:, None] / norms


def square_root(product: Tensor) -> np.ndarray:
    """R with RᵀR = C for a positive semi-definite C, which rounding may have made slightly indefinite."""
    values, vectors = np.linalg.eigh(product.numpy())
    return np.sqrt(values.clip(0))[:, None] * vectors.T
