r"""Geometric mean: the K-th root of the product of the losses."""

from torch import Tensor
from torchjd import scalarization

from mtl_core.methods._state import check_positive
from mtl_core.methods.registry import WEIGHTING, Method, register


class GeometricMean(scalarization.GeometricMean):
    r"""$(\prod_k L_k)^{1/K}$, (K,) losses -> scalar. ValueError where a loss is not positive.

    Its direction is that of the sum of logs, and its length that times the geometric mean over K. The rule is
    TorchJD's, which accepts a loss of 0 and gives NaN gradients there.
    Source: Chennupati et al., MultiNet++, CVPR Workshops 2019, arXiv 1904.08492.
    """

    def forward(self, losses: Tensor, /) -> Tensor:
        check_positive(losses, "the geometric mean")
        # By logarithms, so that the product neither overflows nor vanishes:  \exp(\frac1K \sum_k \log L_k)
        return super().forward(losses)


PAPER = "Chennupati et al. 2019, arXiv 1904.08492"
register(Method("geometric_mean", "Geometric mean", WEIGHTING, GeometricMean, "mean", PAPER))
