"""Aggregations that keep a running average of each task's gradient: MoCo and DB-MTL."""

import torch
from torch import Tensor

from mtl_core.conflict import gram, row_norms
from mtl_core.gradients import NonFiniteGradientError
from mtl_core.methods.own_parameters import ShapedByLoading, positive
from mtl_core.methods.sam_gs import _equalised_to, _finite_norms


class _Averages(ShapedByLoading):
    """State of K running averages (K, D), which loads into a fresh instance."""

    def __init__(self):
        super().__init__()
        self.register_buffer("averages", torch.empty(0, 0))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def track(self, matrix: Tensor, beta: float) -> None:
        r"""$y_k \leftarrow y_k - \beta (y_k - g_k)$, from y = 0."""
        _finite_norms(matrix)
        if self.steps == 0:
            self.averages = torch.zeros_like(matrix)
        if matrix.shape != self.averages.shape:
            raise ValueError(f"{type(self).__name__} has state for a matrix of shape {tuple(self.averages.shape)}, got "
                             f"{tuple(matrix.shape)}: make a new instance for another problem")  # fmt: skip
        self.averages.lerp_(matrix, beta)
        self.steps += 1


class MoCo(_Averages):
    r"""Multi-gradient with correction: MGDA's weights by projected gradient steps on averaged gradients.

    $y_k \leftarrow y_k - \beta_t (y_k - g_k)$; $\lambda \leftarrow \Pi_\Delta(\lambda - \gamma_t (Y Y^\top + \rho
    I)\lambda)$; $\Delta = Y^\top\lambda$; $\beta_t = \beta t^{-1/2}$, $\gamma_t = \gamma t^{-1/2}$; (K, D) -> (D,).

    beta, gamma, rho  LibMTL's defaults.

    y starts at 0 and λ at 1/K, as in LibMTL. Not linear in the gradients' scale: γ has the unit of 1/‖g‖².
    Differs from LibMTL's, which takes a softmax for the projection on the simplex and scales g_k to the norm L_k.
    Source: Fernando et al., ICLR 2023, arXiv 2210.12624, Algorithm 1.
    """

    def __init__(self, beta: float = 0.5, gamma: float = 0.1, rho: float = 0.0):
        super().__init__()
        if not 0 < beta <= 1 or not gamma > 0 or not rho >= 0:
            raise ValueError(f"expected 0 < beta <= 1, gamma > 0 and rho >= 0, got {beta}, {gamma} and {rho}")
        self.beta, self.gamma, self.rho = beta, gamma, rho
        self.register_buffer("weights", torch.empty(0, dtype=torch.float64))

    @torch.no_grad()
    def forward(self, matrix: Tensor, /) -> Tensor:
        self.track(matrix, self.beta / (self.steps.item() + 1) ** 0.5)
        if not self.weights.numel():
            self.weights = torch.full((len(matrix),), 1 / len(matrix), dtype=torch.float64)
        weights = self.weights.cpu()  # a checkpoint may have put them elsewhere
        slope = gram(self.averages).cpu() @ weights + self.rho * weights
        if not slope.isfinite().all():
            largest = row_norms(self.averages).max().item()
            raise NonFiniteGradientError(f"MoCo's step is quadratic in the averaged gradients and overflowed: their "
                                         f"largest norm is {largest:.1e}. Scale the losses down.")  # fmt: skip
        self.weights = onto_simplex(weights - self.gamma / self.steps.item() ** 0.5 * slope)
        return self.weights.to(matrix) @ self.averages


def onto_simplex(point: Tensor) -> Tensor:
    """The nearest point with non-negative entries that sum to 1, (K,) -> (K,); by sorting (Held et al. 1974)."""
    point = point - point.max()  # the projection does not change, and the largest entries keep their digits
    high = point.sort(descending=True).values
    excess = (high.cumsum(0) - 1) / torch.arange(1, len(point) + 1, dtype=point.dtype)
    return (point - excess[high > excess][-1]).clamp(min=0)


class DBMTL(_Averages):
    r"""Dual balancing: averaged gradients of $\log L_k$, each brought to the largest norm, then summed.

    $y_k \leftarrow y_k - (1 - \beta)(y_k - g_k / L_k)$; $\Delta = \max_j \|y_j\| \sum_k y_k / \|y_k\|$;
    (K, D) gradients and (K,) losses -> (D,). Without losses, the rows count as gradients of the logarithms.

    beta  decay of the average.

    y starts at 0, as in LibMTL, whose authors are the method's: the first step is 1 − β of a full one. A gradient
    of zero takes no part. The heads' gradients stay what the convention says: not divided by L_k as in the paper.
    Source: Lin et al. 2023, arXiv 2308.12029, Algorithm 1.
    """

    def __init__(self, beta: float = 0.9):
        super().__init__()
        if not 0 <= beta < 1:
            raise ValueError(f"beta must lie in [0, 1), got {beta}")
        self.beta = beta

    @torch.no_grad()
    def forward(self, matrix: Tensor, losses: Tensor | None = None) -> Tensor:
        if losses is not None:
            positive(losses, "DB-MTL")
            matrix = matrix / losses[:, None].to(matrix)
        self.track(matrix, 1 - self.beta)
        norms = _finite_norms(self.averages)
        return _equalised_to(self.averages, norms, norms.max())
