r"""Sum of logs: the scale-invariant sum of the losses. Multiplying one loss by a number changes no gradient."""

from torch import Tensor
from torchjd import scalarization

from mtl_core.methods._state import check_positive
from mtl_core.methods.registry import WEIGHTING, Method, register


class LogSum(scalarization.Scalarizer):
    r"""$\sum_k \log L_k$, (K,) losses -> scalar. ValueError where a loss is not positive.

    Source: a baseline of Nash-MTL, Navon et al., ICML 2022, arXiv 2202.01017, section 6.
    """

    def forward(self, losses: Tensor, /) -> Tensor:
        check_positive(losses, "the sum of logs")
        # Each task's loss by its logarithm, so that the gradient of task k is divided by L_k:  \sum_k \log L_k
        return losses.log().sum()


register(Method("log_sum", "Sum of logs", WEIGHTING, LogSum, "sum", "Navon et al. 2022, arXiv 2202.01017"))
