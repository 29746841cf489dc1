r"""Uncertainty weights: each task's weight is its inverse variance, and the variances are learnt."""

from torch import Tensor
from torchjd import scalarization

from mtl_core.methods._state import LearnedParameters
from mtl_core.methods.registry import WEIGHTING, Method, register


class Uncertainty(LearnedParameters, scalarization.UW):
    r"""$\sum_k \frac12 e^{-s_k} L_k + \frac12 s_k$, the log-variances s learnt; (K,) losses -> scalar.

    s starts at 0, so that the step starts as half the sum. The convention's `own_optimizer` moves s; in the released
    code of SAM-GS, and on CelebA in FAMO's, nothing does, and the weighting is half the sum for ever.
    Source: Kendall, Gal, Cipolla, CVPR 2018, arXiv 1705.07115; the factor 1/2 at every task is that of the codes.
    """

    learned = "log_var"
    task_state = {"log_var": ("k", 0.0)}

    def __init__(self) -> None:
        super().__init__(0)

    def forward(self, losses: Tensor, /) -> Tensor:
        # The log-variances, one per task, start at zero:  s_k = \log \sigma_k^2 = 0
        self.begin(losses)
        # Weights fall with the variance, and a penalty keeps the variance down:
        # \sum_k \frac12 e^{-s_k} L_k + \frac12 s_k
        return super().forward(losses)


PAPER = "Kendall et al. 2018, arXiv 1705.07115"
register(Method("uncertainty", "Uncertainty weights", WEIGHTING, Uncertainty, "sum", PAPER, learns=True))
