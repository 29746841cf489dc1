r"""FairGrad: the alpha-fair compromise between the tasks, from the plain sum to max-min fairness."""

from torchjd import aggregation

from mtl_core.methods._gramian import ByGram
from mtl_core.methods.nash_mtl import AlphaFairWeighting
from mtl_core.methods.registry import AGGREGATION, GRAM, Method, register


def fairgrad(alpha: float = 2.0, normalise: bool = True) -> aggregation.WeightedAggregator:
    r"""$J^\top w$ with w > 0 and $G w = \|G\|\, w^{-1/\alpha}$, $G = J J^\top$; (K, D) -> (D,).

    alpha      1 is Nash-MTL, 0 (excluded) the plain sum, infinity max-min fairness. ValueError unless positive.
    normalise  with the factor $\|G\|$: the direction is the same, and the update has the size of a sum. False:
               $G w = w^{-1/\alpha}$, as printed and released; then the update is proportional to the gradients'
               scale to the power $(1 - \alpha)/(1 + \alpha)$, for alpha = 2 the power -1/3.

    Solved as a convex problem; the released code and TorchJD use a general least-squares solver.
    Source: Ban & Ji, ICML 2024, arXiv 2402.15638, equation 4.
    """
    if not alpha > 0:
        raise ValueError(f"alpha is positive, got {alpha}")
    # Each task gains (G w)_k, in inverse proportion to a power of its weight:  G w = \|G\| w^{-1/\alpha}
    return ByGram(AlphaFairWeighting(alpha, normalise))


PAPER, DEFAULTS = "Ban & Ji 2024, arXiv 2402.15638", {"alpha": (2.0, "run scripts of github.com/OptMN-Lab/fairgrad")}
register(Method("fairgrad", "FairGrad", AGGREGATION, fairgrad, "sum", PAPER, DEFAULTS, needs=GRAM))
