r"""Nash-MTL: the bargaining solution between the tasks. Its solver serves FairGrad too, which generalises it."""

from functools import partial

import numpy as np
import torch
from scipy.linalg import lapack
from torch import Tensor
from torchjd import aggregation

from mtl_core.linalg import finite_norms
from mtl_core.methods._gramian import ByGram, OnGram, SolverError, as_weights, cosine_form, unit_gram
from mtl_core.methods.registry import AGGREGATION, GRAM, Method, register

STATIONARY = 1e-13  # squared length of the shortest convex combination of unit gradients that counts as zero


def nash_mtl(normalise: bool = True) -> aggregation.WeightedAggregator:
    r"""$J^\top w$ with w > 0 and $G w = \|G\|/w$, $G = J J^\top$; (K, D) -> (D,).

    Every task gains the same in proportion to its weight: $w_k\, g_k\cdot\Delta$ is one number for all k.

    normalise  with the factor $\|G\|$ (Frobenius), by which the update has the size of a sum of gradients. False:
               $G w = 1/w$, as printed and released; then the update has length $\sqrt K$, whatever the gradients'.

    Solved exactly in every step. Differs from the released code and TorchJD, which linearise 20 times with the
    solver ECOS and, where that is not installed or fails, keep the old weights, at the start equal ones; and from
    the paper's option of solving in every n-th step, which would also save the gradients of the steps between. A
    Pareto-stationary point gives no step, a failure an error.
    Clipping to 1 is part of the convention `nash-mtl`. Source: Navon et al., ICML 2022, arXiv 2202.01017, Claim 3.1.
    """
    # The alpha-fair weights for alpha = 1:  G w = \|G\| w^{-1}
    return ByGram(AlphaFairWeighting(1.0, normalise))


class AlphaFairWeighting(OnGram):
    r"""J, (K, D) -> weights (K,) > 0 with $G w = \|G\|\, w^{-1/\alpha}$, or without the factor $\|G\|$."""

    def __init__(self, alpha: float, normalise: bool):
        # With the factor, the weights are the same for J and for J of unit trace:  G w = \|G\| w^{-p}, p = 1/\alpha
        super().__init__(partial(alpha_fair_weights, alpha=alpha))
        self.alpha, self.normalise = alpha, normalise

    @torch.no_grad()
    def forward(self, matrix: Tensor, /, product: Tensor | None = None) -> Tensor:
        unit = unit_gram(matrix, product)
        weights = self.weigh(unit)
        # Without it:  v = \|G\|^{-1/(1+p)} w  has  G v = v^{-p}
        if not self.normalise:
            size = (unit.norm() * finite_norms(matrix).square().sum()).item()
            weights *= size ** (-self.alpha / (1 + self.alpha)) if size else 0.0
        return as_weights(weights, matrix)


def alpha_fair_weights(gramian: Tensor, alpha: float) -> Tensor:
    r"""w > 0 with $G w = \|G\|\, w^{-1/\alpha}$; (K, K) float64 -> (K,). Weight 0 for a zero gradient.

    w is the minimum of the convex $\frac12 w^\top G w - \|G\| \sum_k \varphi(w_k)$ with
    $\varphi'(w) = w^{-1/\alpha}$, by Newton steps. Under 1 ms at K = 40, residual below 1e-10.

    All zero where some convex combination of the unit gradients vanishes: the point is Pareto stationary, the
    equation has no solution, and no direction improves every task. SolverError if Newton's method fails.
    """
    weights, active = torch.zeros(len(gramian), dtype=torch.float64), gramian.diagonal() > 0
    if not active.any():
        return weights
    # In cosine form, G = diag(n) C diag(n), the unknowns are  u_k = n_k w_k:
    # C u = c u^{-p},  p = 1/\alpha,  c_k = \|G\| n_k^{p-1}
    lengths, cosines = cosine_form(gramian[active][:, active])
    norms, product, p = lengths.numpy(), cosines.numpy(), 1 / alpha
    right = norms ** (p - 1) * np.linalg.norm(gramian)
    # Solve for a right side whose largest entry is 1
    u = _newton(product, right / right.max(), p)
    if u is None:
        values, vectors = np.linalg.eigh(product)  # rounding of a float32 matrix: negative eigenvalues
        u = _newton((vectors * values.clip(0)) @ vectors.T, right / right.max(), p)
    if u is None:
        raise SolverError(f"no weights with G w = w^(-{p:g}) found for the cosines {product.round(6).tolist()}")
    # Back from there:  w_k = u_k (\max_j c_j)^{1/(1+p)} / n_k
    weights[active] = torch.from_numpy(u * right.max() ** (1 / (1 + p)) / norms)
    return weights


def _newton(product: np.ndarray, right: np.ndarray, p: float) -> np.ndarray | None:
    """u > 0 with C u = c u^(-p); zeros at a Pareto-stationary point; None where the steps fail.

    Steps in units of u, cut off at -0.95, need no line search: with one, the same were solved of 3,600 random problems
    of up to 24 tasks.
    """
    # Start from the solution for C = I:  u = c^{1/(1+p)}
    u, last = right ** (1 / (1 + p)), np.inf
    for _ in range(200):
        left, b = u * (product @ u), right * u ** (1 - p)
        # Pareto stationary:  \|\sum_k u_k g_k / n_k\|^2 = u^\top C u  vanishes beside (\sum_k u_k)^2
        if left.sum() < STATIONARY * u.sum() ** 2:
            return np.zeros_like(u)
        # Newton's step d, relative to u, with b = c u^{1-p}:  (diag(u) C diag(u) + p diag(b)) d = b - u (C u)
        _, d, failed = lapack.dposv(u[:, None] * product * u + np.diag(p * b), b - left)
        if failed:
            return None
        size = np.abs(d).max()
        if size < 1e-10 or (size < 1e-5 and size > last / 2):  # as far as rounding allows
            return u * (1 + d)
        # Take it, nowhere below u / 20:  u \leftarrow u (1 + d)
        last, u = size, u * (1 + d / max(1.0, -d.min() / 0.95))
    return None


PAPER = "Navon et al. 2022, arXiv 2202.01017"
PRESETS = {name: {"normalise": False} for name in ("nash-mtl", "famo", "samgs")}
register(Method("nash_mtl", "Nash-MTL", AGGREGATION, nash_mtl, "sum", PAPER, presets=PRESETS, needs=GRAM))
