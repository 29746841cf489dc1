r"""PCGrad: where two task gradients conflict, take the conflicting part out of each."""

from torchjd import aggregation

from mtl_core.methods._gramian import ByGram
from mtl_core.methods.registry import AGGREGATION, GRAM, Method, register


def pcgrad() -> aggregation.WeightedAggregator:
    r"""$\sum_i g_i'$, (K, D) -> (D,), where $g_i'$ starts as $g_i$ and passes the other tasks j in random order:

    $g_i' \leftarrow g_i' - \frac{g_i' \cdot g_j}{\|g_j\|^2} g_j$ where $g_i' \cdot g_j < 0$.

    TorchJD's rule, on a Gram matrix of unit trace, which neither overflows nor vanishes.
    Source: Yu et al., NeurIPS 2020, arXiv 2001.06782, Algorithm 1.
    """
    # Project each gradient off those it conflicts with, in coordinates of the gradients (g_i' = J^\top v, v = e_i):
    # v_j \leftarrow v_j - (G v)_j / G_{jj}  where  (G v)_j < 0
    return ByGram(aggregation.PCGradWeighting())


PAPER = "Yu et al. 2020, arXiv 2001.06782"
register(Method("pcgrad", "PCGrad", AGGREGATION, pcgrad, "sum", PAPER, needs=GRAM, random=True))
