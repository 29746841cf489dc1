r"""Nash-MTL and FairGrad: positive weights w with $G w = w^{-1/\alpha}$, solved as one convex problem."""

import numpy as np
import torch
from scipy.linalg import lapack
from torch import Tensor
from torchjd import aggregation

from mtl_core.conflict import gram
from mtl_core.methods.by_gram import SolverError, cosine_form, unit_gram

STATIONARY = 1e-13  # squared length of the shortest convex combination of unit gradients that counts as zero


def alpha_fair_weights(gramian: Tensor, alpha: float) -> Tensor:
    r"""w > 0 with $G w = \|G\|\, w^{-1/\alpha}$; (K, K) float64 -> (K,). Weight 0 for a zero gradient.

    w is the minimum of the convex $\frac12 w^\top G w - \|G\| \sum_k \varphi(w_k)$ with
    $\varphi'(w) = w^{-1/\alpha}$: Newton steps in units of w, in cosine form, $u_k = n_k w_k$:
    $C u = c\, u^{-p}$, $p = 1/\alpha$, $c_k = \|G\|\, n_k^{p-1}$. Under 1 ms at K = 40, residual below 1e-10.

    All zero where some convex combination of the unit gradients vanishes: the point is Pareto stationary, the
    equation has no solution, and no direction improves every task. SolverError if Newton's method fails.
    """
    weights, active = torch.zeros(len(gramian), dtype=torch.float64), gramian.diagonal() > 0
    if not active.any():
        return weights
    norms, product = cosine_form(gramian[active][:, active])
    norms, product, p = norms.numpy(), product.numpy(), 1 / alpha
    right = norms ** (p - 1) * np.linalg.norm(gramian)
    found = _newton(product, right / right.max(), p)
    if found is None:
        values, vectors = np.linalg.eigh(product)  # rounding of a float32 matrix: negative eigenvalues
        found = _newton((vectors * values.clip(0)) @ vectors.T, right / right.max(), p)
    if found is None:
        raise SolverError(f"no weights with G w = w^(-{p:g}) found for the cosines {product.round(6).tolist()}")
    weights[active] = torch.from_numpy(found * right.max() ** (1 / (1 + p)) / norms)
    return weights


def _newton(product: np.ndarray, right: np.ndarray, p: float) -> np.ndarray | None:
    """u > 0 with C u = c u^(-p); zeros at a Pareto-stationary point; None where the steps fail.

    Steps in units of u, cut off at -0.95, need no line search: with one, the same were solved of 3,600 random problems
    of up to 24 tasks.
    """
    u, last = right ** (1 / (1 + p)), np.inf  # the solution for C = I
    for _ in range(200):
        left, b = u * (product @ u), right * u ** (1 - p)
        if left.sum() < STATIONARY * u.sum() ** 2:
            return np.zeros_like(u)
        # (diag(u) C diag(u) + p diag(b)) d = b - u * (C u);  u <- u (1 + d), nowhere below u / 20
        _, d, failed = lapack.dposv(u[:, None] * product * u + np.diag(p * b), b - left)
        if failed:
            return None
        size = np.abs(d).max()
        if size < 1e-10 or (size < 1e-5 and size > last / 2):  # as far as rounding allows
            return u * (1 + d)
        last, u = size, u * (1 + d / max(1.0, -d.min() / 0.95))


class _Bargain(aggregation.Weighting):
    def __init__(self, alpha, normalise):
        super().__init__()
        self.alpha, self.normalise = alpha, normalise

    @torch.no_grad()
    def forward(self, matrix: Tensor, /) -> Tensor:
        weights = alpha_fair_weights(unit_gram(matrix), self.alpha)
        if not self.normalise:  # v = |G|^(-1 / (1 + p)) w has G v = v^(-p)
            size = torch.linalg.norm(gram(matrix)).item()
            weights *= size ** (-self.alpha / (1 + self.alpha)) if size else 0.0
        return weights.to(matrix)


def nash_mtl(normalise: bool = True) -> aggregation.WeightedAggregator:
    r"""Nash-MTL: the bargaining solution, $J^\top w$ with w > 0 and $G w = \|G\|/w$, G = J Jᵀ; (K, D) -> (D,).

    Every task gains the same in proportion to its weight: $w_k\, g_k\cdot\Delta$ is one number for all k.

    normalise  with the factor $\|G\|$ (Frobenius), by which the update has the size of a sum of gradients. False:
               $G w = 1/w$, as printed and released; then the update has length $\sqrt K$, whatever the gradients'.

    Solved exactly in every step. Differs from the released code and TorchJD, which linearise 20 times with the
    solver ECOS and, where that is not installed or fails, keep the old weights, at the start equal ones; and from
    the paper's option of solving in every n-th step, which would also save the gradients of the steps between. A
    Pareto-stationary point gives no step, a failure an error.
    Clipping to 1 is part of the convention `nash-mtl`. Source: Navon et al., ICML 2022, arXiv 2202.01017, Claim 3.1.
    """
    return aggregation.WeightedAggregator(_Bargain(1.0, normalise))


def fairgrad(alpha: float = 2.0, normalise: bool = True) -> aggregation.WeightedAggregator:
    r"""FairGrad: $J^\top w$ with w > 0 and $G w = \|G\|\, w^{-1/\alpha}$, G = J Jᵀ; (K, D) -> (D,).

    alpha      1 is Nash-MTL, 0 (excluded) the plain sum, infinity max-min fairness.
    normalise  with the factor $\|G\|$: the direction is the same, and the update has the size of a sum. False:
               $G w = w^{-1/\alpha}$, as printed and released; then the update is proportional to the gradients'
               scale to the power $(1 - \alpha)/(1 + \alpha)$, for alpha = 2 the power -1/3.

    Solved as a convex problem; the released code and TorchJD use a general least-squares solver.
    Source: Ban & Ji, ICML 2024, arXiv 2402.15638, equation 4.
    """
    if not alpha > 0:
        raise ValueError(f"alpha is positive, got {alpha}")
    return aggregation.WeightedAggregator(_Bargain(alpha, normalise))
