r"""Aligned-MTL: make the gradient system well conditioned by giving all its principal components one length."""

from typing import Literal

from torchjd import aggregation

from mtl_core.methods._gramian import ByGram
from mtl_core.methods.registry import AGGREGATION, GRAM, Method, register


def aligned_mtl(scale_mode: Literal["min", "median", "rmse"] = "min") -> aggregation.WeightedAggregator:
    r"""All singular values of J become the smallest, then the mean of the gradients is taken; (K, D) -> (D,).

    With $G = V\Lambda V^\top$ the weights are $\sqrt{\lambda_\min}\, V\Lambda^{-1/2}V^\top 1/K$, on the numerical
    rank of G. TorchJD's; the released code's weights are 1 instead of 1/K, and LibMTL's calls a function that torch
    no longer has.

    scale_mode  "min", or "median" or "rmse" of the singular values.

    Source: Senushkin et al., CVPR 2023, Algorithm 1.
    """
    # Eigenvalues of G = V \Lambda V^\top are squared singular values of J; balance them, then weigh all tasks alike:
    # w = \sqrt{\lambda_min} V \Lambda^{-1/2} V^\top 1/K
    return ByGram(aggregation.AlignedMTLWeighting(scale_mode=scale_mode))


PAPER, AT = "Senushkin et al. 2023, CVPR", "features"
register(Method("aligned_mtl", "Aligned-MTL", AGGREGATION, aligned_mtl, "mean", PAPER, needs=GRAM))
register(Method("aligned_mtl_ub", "Aligned-MTL-UB", AGGREGATION, aligned_mtl, "mean", PAPER, level=AT, needs=GRAM))
