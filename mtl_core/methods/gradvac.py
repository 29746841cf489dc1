r"""Gradient vaccine (GradVac): bring each pair of task gradients to the cosine that they usually have."""

from typing import Any

import torch
from torchjd import aggregation

from mtl_core.methods._gramian import ByGram
from mtl_core.methods.registry import AGGREGATION, GRAM, Method, register


class _GradVac(aggregation.GradVacWeighting):
    """TorchJD's, whose used state does not load into a fresh instance."""

    task_state = {"_phi_t": ("kk", 0.0)}
    _phi_t: Any

    def _ensure_state(self, m: int, dtype: torch.dtype) -> None:
        if self._phi_t is None or len(self._phi_t) != m:
            self._phi_t = torch.zeros(m, m, dtype=dtype)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        if f"{prefix}_phi_t" in state_dict:
            self._phi_t = torch.empty_like(state_dict[f"{prefix}_phi_t"], device="cpu")
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def gradvac(beta: float = 0.5) -> aggregation.WeightedAggregator:
    r"""$\sum_i g_i'$, (K, D) -> (D,): not only conflicting pairs are changed, as in PCGrad.

    For each task i and the others j in random order: where $\cos(g_i', g_j) = c < \hat\varphi_{ij}$, add
    $g_j \|g_i'\| (\hat\varphi\sqrt{1-c^2} - c\sqrt{1-\hat\varphi^2}) / (\|g_j\|\sqrt{1-\hat\varphi^2})$ to $g_i'$;
    then $\hat\varphi_{ij} \leftarrow (1-\beta)\hat\varphi_{ij} + \beta c$.

    beta  of the moving average. 0.5 in TorchJD and LibMTL.

    TorchJD's rule on all shared parameters at once; the paper prefers one target per layer.
    Source: Wang et al., ICLR 2021, arXiv 2010.05874, Algorithm 1.
    """
    # Turn g_i' towards g_j until their cosine is the usual one, then move the usual one:
    # \cos(g_i', g_j) = \hat\varphi_{ij};  \hat\varphi_{ij} \leftarrow (1-\beta) \hat\varphi_{ij} + \beta c
    # eps guards against 0/0 only, 1e-8 would damp the cosines of short gradients; the ridge keeps cosines below 1
    return ByGram(_GradVac(beta, eps=1e-40), ridge=16)


PAPER, DEFAULTS = "Wang et al. 2021, arXiv 2010.05874", {"beta": (0.5, "TorchJD and LibMTL")}
register(Method("gradvac", "GradVac", AGGREGATION, gradvac, "sum", PAPER, DEFAULTS, needs=GRAM, random=True))
