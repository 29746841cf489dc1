r"""CAGrad: near the mean gradient, the direction along which the task that gains least gains most."""

from torch import Tensor
from torchjd import aggregation
from torchjd.linalg import PSDMatrix

from mtl_core.methods._gramian import ByGram
from mtl_core.methods.registry import AGGREGATION, GRAM, Method, register


class _CAGradWeighting(aggregation.CAGradWeighting):
    def __init__(self, c: float, rescale: bool):
        super().__init__(c)
        self.factor = 1 / (1 + c**2) if rescale else 1.0

    def forward(self, gramian: PSDMatrix, /) -> Tensor:
        # Solve for w on the simplex:  \min_w g_w \cdot \bar g + c \|\bar g\| \|g_w\|
        # The weights of \Delta, and the published codes' factor:  1/K + c \|\bar g\| w_k / \|g_w\|;  1 / (1 + c^2)
        return self.factor * super().forward(gramian)


class CAGrad(ByGram):
    r"""$\Delta = \bar g + c\|\bar g\|\, g_w/\|g_w\|$, (K, D) -> (D,); $\bar g$ is the mean, $g_w = \sum_k w_k g_k$.

    w on the simplex minimises $g_w\cdot\bar g + c\|\bar g\|\|g_w\|$.

    c        radius of the ball around the mean gradient, in lengths of it.
    rescale  divide by $1 + c^2$, as the published codes do.

    TorchJD's rule, on a Gram matrix of unit trace: TorchJD's own gives zero weights, so no step at all, where the
    squared norms sum to less than 1e-4.
    Source: Liu et al., NeurIPS 2021, arXiv 2110.14048, Algorithm 1.
    """

    def __init__(self, c: float = 0.4, rescale: bool = False):
        super().__init__(_CAGradWeighting(c, rescale))


PAPER = "Liu et al. 2021, arXiv 2110.14048"
DEFAULTS = {"c": (0.4, "run scripts of github.com/Cranial-XIX/CAGrad")}
PRESETS = {name: {"c": c, "rescale": True} for name, c in (("recon", 0.2), ("nash-mtl", 0.4), ("famo", 0.4))}
register(Method("cagrad", "CAGrad", AGGREGATION, CAGrad, "mean", PAPER, DEFAULTS, PRESETS, needs=GRAM))
