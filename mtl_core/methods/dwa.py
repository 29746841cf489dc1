r"""Dynamic weight average (DWA): a task whose loss falls slowly gets more weight."""

from typing import Any

from torch import Tensor
from torchjd import scalarization

from mtl_core.methods.registry import WEIGHTING, Method, register


class DWA(scalarization.DWA):
    r"""$\sum_k w_k L_k$ with $w = K\,\mathrm{softmax}(r / T)$, (K,) losses -> scalar.

    $r_k$ is the mean loss of the last window of steps over that of the window before; the weights are 1 until
    there are two windows.

    window       steps of a window. The paper's is an epoch: give the number of steps of one. At least 1 (ValueError).
    temperature  T: the larger, the more equal the weights.

    Differs from nash-mtl's, which slides over the last 2 x 25 losses, starts from losses of one, and takes the mean
    over tasks. The rule is TorchJD's; here its history is part of `state_dict()`.
    Source: Liu, Johns, Davison, CVPR 2019, arXiv 1803.10704, equation 7.
    """

    def __init__(self, window: int = 25, temperature: float = 2.0):
        super().__init__(temperature)
        if window < 1:
            raise ValueError(f"a window has at least one step, got {window}")
        self.window = window

    def forward(self, losses: Tensor, /) -> Tensor:
        # After each window, its mean losses join the history:  \bar L_k(t)
        if self._n_batches == self.window:
            self.step()
        # Rates of the last two windows, the weights, the sum:
        # r_k = \bar L_k(t-1) / \bar L_k(t-2);  w_k = K e^{r_k/T} / \sum_i e^{r_i/T};  \sum_k w_k L_k
        return super().forward(losses)

    def get_extra_state(self) -> dict[str, Any]:
        return {"sum": self._loss_sum, "steps": self._n_batches, "averages": self._previous_averages}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self._loss_sum, self._n_batches = state["sum"], state["steps"]
        self._previous_averages = list(state["averages"])


DEFAULTS = {"temperature": (2.0, "section 4.1 of the paper"), "window": (25, "github.com/AvivNavon/nash-mtl")}
PRESETS = {"nash-mtl": {"window": 25}, "famo": {"window": 25}}
register(Method("dwa", "DWA", WEIGHTING, DWA, "sum", "Liu et al. 2019, arXiv 1803.10704", DEFAULTS, PRESETS))
