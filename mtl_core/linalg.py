"""Linear algebra on the matrix of task gradients, exact enough for ten million parameters.

J is (K, D): row k is the gradient of task k with respect to the D shared parameters.
"""

import torch
from torch import Tensor

from mtl_core.gradients import NonFiniteGradientError

# Columns at a time: they are summed in the matrix's own precision, the sums of chunks in float64 (one float32 sum over
# ten million columns is wrong by 1e-3); and temporaries of this size stay in the processor's cache.
CHUNK, NARROW = 1 << 15, 1 << 12


def gram(matrix: Tensor) -> Tensor:
    """J Jᵀ of (K, D) as (K, K) float64. One float32 product over ten million columns is wrong by 5e-4; this by 2e-7.

    In float64 throughout it would take twice as long, a third of a small network's backward passes at K = 40; where J
    is narrow, that costs nothing, and gradients that nearly cancel each other keep their digits.
    """
    if matrix.shape[1] <= NARROW:
        return matrix.double() @ matrix.double().T
    chunks = matrix.shape[1] // CHUNK
    parts = matrix[:, : chunks * CHUNK].unflatten(1, (chunks, CHUNK)).transpose(0, 1)  # (chunk, K, columns)
    rest = matrix[:, chunks * CHUNK :]
    product = (parts @ parts.mT).sum(0, dtype=torch.float64) + (rest @ rest.T).double()
    return (product + product.T) / 2  # kernels round its halves differently, and solvers believe that it is symmetric


def gradient_norms(matrix: Tensor) -> Tensor:
    """Euclidean norm of each gradient, (K, D) -> (K,) float64: neither 1e-30 nor 1e30 is lost. NaN in, NaN out."""
    chunks = matrix.shape[1] // CHUNK
    parts = torch.linalg.vector_norm(matrix[:, : chunks * CHUNK].unflatten(1, (chunks, CHUNK)), dim=2)
    rest = torch.linalg.vector_norm(matrix[:, chunks * CHUNK :], dim=1, keepdim=True)
    norms = torch.linalg.vector_norm(torch.cat([parts, rest], 1), dim=1, dtype=torch.float64)
    held = ((norms > 1e-15) & (norms < 1e18)).all()  # squares may have left float32; the exact way is 20 times slower
    return norms if held else torch.linalg.vector_norm(matrix, dim=1, dtype=torch.float64)


def check_finite(values: Tensor) -> None:
    """NonFiniteGradientError, with the tasks, where one of the K values is NaN or infinity; ValueError for K = 0."""
    if not len(values):
        raise ValueError("expected the gradients of one task or more, got none")
    if bad := ", ".join(str(k) for k, finite in enumerate(values.isfinite().tolist()) if not finite):
        raise NonFiniteGradientError(f"expected finite gradients, got NaN or infinity for task {bad}")


def finite_norms(matrix: Tensor) -> Tensor:
    """`gradient_norms`, on the host. NonFiniteGradientError, with the tasks, where a gradient is not finite."""
    norms = gradient_norms(matrix).cpu()
    check_finite(norms)
    return norms


def equalised(matrix: Tensor, norms: Tensor, length: Tensor) -> Tensor:
    r"""$\ell \sum_k g_k / n_k$: the sum of the gradients, each brought to `length`; a zero gradient takes no part."""
    # Weight of task k:  w_k = \ell / n_k, and 0 where n_k = 0
    weights = torch.where(norms > 0, length / norms, 0.0)
    if weights.max() > torch.finfo(matrix.dtype).max:  # norms that differ by more than float32 can hold
        return (weights.to(matrix.device) @ matrix.double()).to(matrix.dtype)
    # Their weighted sum:  \sum_k w_k g_k
    return weights.to(matrix) @ matrix
