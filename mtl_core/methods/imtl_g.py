r"""IMTL-G, the gradient balance of impartial multi-task learning: equal projections on all task gradients."""

import torch
from torch import Tensor
from torchjd import aggregation

from mtl_core.methods._gramian import ByGram, cosine_form
from mtl_core.methods.registry import AGGREGATION, GRAM, Method, register


def imtl_g() -> aggregation.WeightedAggregator:
    r"""$\Delta = \sum_k w_k g_k$ with $\Delta \cdot g_k / \|g_k\|$ equal for all k, $\sum_k w_k = 1$; (K, D) -> (D,).

    Weights may be negative, and large where the gradients nearly oppose each other; zero where their sum vanishes.
    Source: Liu et al., ICLR 2021, section 3.1, equation 4.
    """
    return ByGram(weigh)


def weigh(gramian: Tensor) -> Tensor:
    """The weights of the tasks in that sum, (K, K) -> (K,)."""
    # Norms and cosines:  G = diag(n) C diag(n), n_k = \|g_k\|
    norms, product = cosine_form(gramian)
    # Equal projections mean  G w \propto n,  so  w \propto C^+ 1 / n,  which norms 1e12 apart do not harm
    weights = torch.linalg.pinv(product, hermitian=True).sum(1) / norms
    # Weights that sum to one:  w / \sum_k w_k
    total = weights.sum()
    return torch.zeros_like(weights) if total.abs() <= 1e-12 * weights.abs().sum() else weights / total


PAPER, AT = "Liu et al. 2021, ICLR", "features"
register(Method("imtl_g", "IMTL-G", AGGREGATION, imtl_g, "mean", PAPER, needs=GRAM))
register(Method("imtl_g_features", "IMTL-G at the features", AGGREGATION, imtl_g, "mean", PAPER, level=AT, needs=GRAM))
