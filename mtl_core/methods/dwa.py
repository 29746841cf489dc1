r"""Dynamic weight average (DWA): a task whose loss falls slowly gets more weight."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torchjd import scalarization

from mtl_core.methods._state import ShapedByLoading
from mtl_core.methods.registry import WEIGHTING, Method, register


class DWA(ShapedByLoading, scalarization.Scalarizer):
    r"""$\sum_k w_k L_k$ with $w = K\,\mathrm{softmax}(r / T)$, (K,) losses -> scalar.

    $r_k$ is the mean loss of the last window of steps over that of the window before; the weights are 1 until
    there are two windows.

    window       steps of a window. The paper's is an epoch: give the number of steps of one. At least 1 (ValueError).
    temperature  T, positive (ValueError): the larger, the more equal the weights.

    Differs from nash-mtl's, which slides over the last 2 x 25 losses, starts from losses of one, and takes the mean
    over tasks; and from TorchJD's, whose history is not in `state_dict()` and knows no absent task: a mean is over the
    steps of the window that had the task. Source: Liu, Johns, Davison, CVPR 2019, arXiv 1803.10704, equation 7.
    """

    task_state = {"total": ("k", 0.0), "count": ("k", 0.0), "older": ("k", math.nan), "newer": ("k", math.nan)}

    def __init__(self, window: int = 25, temperature: float = 2.0):
        super().__init__()
        if window < 1:
            raise ValueError(f"a window has at least one step, got {window}")
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.window, self.temperature, self.steps = window, temperature, 0
        self.total: Tensor = nn.Buffer(torch.empty(0))
        self.count: Tensor = nn.Buffer(torch.empty(0))
        self.older: Tensor = nn.Buffer(torch.empty(0))
        self.newer: Tensor = nn.Buffer(torch.empty(0))

    def forward(self, losses: Tensor, /) -> Tensor:
        seen = losses.detach()
        if not self.total.numel():
            self.total, self.count = torch.zeros_like(seen), torch.zeros_like(seen)
            self.older, self.newer = torch.full_like(seen, math.nan), torch.full_like(seen, math.nan)
        # After each window, its mean losses join the history:  \bar L_k(t)
        if self.steps == self.window:
            mean = torch.where(self.count > 0, self.total / self.count, self.newer)
            self.older, self.newer, self.steps = self.newer, mean, 0
            self.total, self.count = torch.zeros_like(mean), torch.zeros_like(mean)
        self.total, self.count, self.steps = self.total + seen, self.count + 1, self.steps + 1
        # The weighted sum:  \sum_k w_k L_k
        return (self._compute_weights(seen) * losses).sum()

    def _compute_weights(self, losses: Tensor) -> Tensor:
        # Rates of the last two windows:  r_k = \bar L_k(t-1) / \bar L_k(t-2)
        rates = self.newer / self.older
        if rates.isnan().all():
            return torch.ones_like(losses)
        # A task that was not in both windows counts as one that stays:  w_k = K e^{r_k/T} / \sum_i e^{r_i/T}
        return len(rates) * torch.softmax(rates.nan_to_num(1.0) / self.temperature, 0)

    def get_extra_state(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]


DEFAULTS = {"temperature": (2.0, "section 4.1 of the paper"), "window": (25, "github.com/AvivNavon/nash-mtl")}
PRESETS = {"nash-mtl": {"window": 25}, "famo": {"window": 25}}
register(Method("dwa", "DWA", WEIGHTING, DWA, "sum", "Liu et al. 2019, arXiv 1803.10704", DEFAULTS, PRESETS))
