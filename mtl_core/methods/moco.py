r"""MoCo, multi-gradient with correction: MGDA's weights from averaged gradients, which have less noise."""

import torch
from torch import Tensor, nn

from mtl_core.linalg import gram
from mtl_core.methods._state import RunningAverages
from mtl_core.methods.registry import AGGREGATION, Method, register


class MoCo(RunningAverages):
    r"""MGDA's weights by projected gradient steps on averaged gradients; (K, D) -> (D,).

    $y_k \leftarrow y_k - \beta_t (y_k - g_k)$; $\lambda \leftarrow \Pi_\Delta(\lambda - \gamma_t (Y Y^\top + \rho
    I)\lambda)$; $\Delta = Y^\top\lambda$; $\beta_t = \beta t^{-1/2}$, $\gamma_t = \gamma t^{-1/2}$.

    beta, gamma, rho  LibMTL's defaults. ValueError unless 0 < beta <= 1, gamma > 0, rho >= 0.

    y starts at 0 and λ at 1/K, as in LibMTL. Not linear in the gradients' scale: γ has the unit of 1/‖g‖².
    Differs from LibMTL's, which takes a softmax for the projection on the simplex and scales g_k to the norm L_k.
    Source: Fernando et al., ICLR 2023, arXiv 2210.12624, Algorithm 1.
    """

    task_state = {"averages": ("kd", 0.0), "weights": ("k", 0.0)}

    def __init__(self, beta: float = 0.5, gamma: float = 0.1, rho: float = 0.0):
        super().__init__()
        if not 0 < beta <= 1 or not gamma > 0 or not rho >= 0:
            raise ValueError(f"expected 0 < beta <= 1, gamma > 0 and rho >= 0, got {beta}, {gamma} and {rho}")
        self.beta, self.gamma, self.rho = beta, gamma, rho
        self.weights: Tensor = nn.Buffer(torch.empty(0, dtype=torch.float64))

    @torch.no_grad()
    def forward(self, matrix: Tensor, /) -> Tensor:
        # Average each task's gradient:  y_k \leftarrow y_k - \beta t^{-1/2} (y_k - g_k)
        self.track(matrix, self.beta / (self.steps.item() + 1) ** 0.5)
        if not self.weights.numel():
            self.weights = torch.full((len(matrix),), 1 / len(matrix), dtype=torch.float64)
        weights = self.weights.cpu()  # a checkpoint may have put them elsewhere
        # Slope of half the squared length of the averaged step:  (Y Y^\top + \rho I) \lambda
        slope = gram(self.averages).cpu() @ weights + self.rho * weights
        if not slope.isfinite().all():  # squares have left float32
            slope = gram(self.averages.double()).cpu() @ weights + self.rho * weights
        # A step down that slope, back to the simplex:  \lambda \leftarrow \Pi_\Delta(\lambda - \gamma t^{-1/2} slope)
        self.weights = onto_simplex(weights - self.gamma / self.steps.item() ** 0.5 * slope)
        # The update:  \Delta = Y^\top \lambda
        return self.weights.to(matrix) @ self.averages


def onto_simplex(point: Tensor) -> Tensor:
    r"""The nearest point with non-negative entries that sum to 1, (K,) -> (K,): $\Pi_\Delta(x) = \max(x - \tau, 0)$.

    Source: Held, Wolfe, Crowder 1974, by sorting.
    """
    point = point - point.max()  # the projection does not change, and the largest entries keep their digits
    # With the entries in falling order, what must go of each of the first j:  \tau_j = (\sum_{i \le j} x_i - 1) / j
    high = point.sort(descending=True).values
    excess = (high.cumsum(0) - 1) / torch.arange(1, len(point) + 1, dtype=point.dtype)
    # The last j whose entry stays positive has the right \tau:  \max(x - \tau, 0)
    return (point - excess[high > excess][-1]).clamp(min=0)


DEFAULTS = {"beta": (0.5, "LibMTL; over √t"), "gamma": (0.1, "LibMTL; over √t"), "rho": (0.0, "LibMTL")}
register(Method("moco", "MoCo", AGGREGATION, MoCo, "mean", "Fernando et al. 2023, arXiv 2210.12624", DEFAULTS))
