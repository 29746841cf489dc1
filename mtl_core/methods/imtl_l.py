r"""IMTL-L, the loss balance of impartial multi-task learning: learnt scales bring every loss to 1."""

from torch import Tensor
from torchjd import scalarization

from mtl_core.methods._state import LearnedParameters
from mtl_core.methods.registry import WEIGHTING, Method, register


class IMTLL(LearnedParameters, scalarization.IMTLL):
    r"""$\sum_k e^{s_k} L_k - s_k$, the log-scales s learnt; (K,) losses -> scalar.

    s starts at 0; the optimum is $e^{s_k} = 1/L_k$. Twice the uncertainty weighting of −s.
    Source: Liu et al., ICLR 2021, section 3.2 (loss balance).
    """

    learned = "log_scale"
    task_state = {"log_scale": ("k", 0.0)}

    def __init__(self) -> None:
        super().__init__(0)

    def forward(self, losses: Tensor, /) -> Tensor:
        # The log-scales, one per task, start at zero:  s_k = 0
        self.begin(losses)
        # Each loss times its scale; the penalty -s_k keeps the scales from falling to zero:
        # \sum_k e^{s_k} L_k - s_k
        return super().forward(losses)


register(Method("imtl_l", "IMTL-L", WEIGHTING, IMTLL, "sum", "Liu et al. 2021, ICLR", learns=True))
