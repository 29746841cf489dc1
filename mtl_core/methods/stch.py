r"""Smooth Tchebycheff scalarisation (STCH): a smooth maximum of the losses, so that the worst task counts most."""

from torch import Tensor
from torchjd import scalarization

from mtl_core.methods.registry import WEIGHTING, Method, register


class STCH(scalarization.STCH):
    r"""$\mu \log \sum_k \exp(L_k / \mu)$, (K,) losses -> scalar. The weights of the tasks sum to 1.

    mu  smoothing, in the unit of the losses; the paper tries 0.01 to 1.

    All preferences are 1, so that mu does not depend on K; TorchJD's default is 1/K, which is this with mu K instead.
    Differs from LibMTL's and the official multi-task code, which take $\log(L_k / L_k^\text{nadir})$ for $L_k$.
    Source: Lin et al., ICML 2024, arXiv 2402.19078, equation 9.
    """

    def __init__(self, mu: float = 0.1):
        super().__init__(mu)

    def forward(self, losses: Tensor, /) -> Tensor:
        # TorchJD's preferences are 1/K, so K L_k gives preferences of 1:  \mu \log \sum_k \exp(L_k / \mu)
        return super().forward(len(losses) * losses)


DEFAULTS = {"mu": (0.1, "one of the four values that the paper tries")}
register(Method("stch", "Smooth Tchebycheff", WEIGHTING, STCH, "mean", "Lin et al. 2024, arXiv 2402.19078", DEFAULTS))
