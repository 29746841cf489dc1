r"""DB-MTL, dual balancing: losses by their logarithms, then averaged gradients at one length."""

import torch
from torch import Tensor

from mtl_core.linalg import equalised, finite_norms
from mtl_core.methods._state import RunningAverages, check_positive
from mtl_core.methods.registry import AGGREGATION, Method, register


class DBMTL(RunningAverages):
    r"""Averaged gradients of $\log L_k$, each brought to the largest norm, then summed.

    $y_k \leftarrow y_k - (1 - \beta)(y_k - g_k / L_k)$; $\Delta = \max_j \|y_j\| \sum_k y_k / \|y_k\|$;
    (K, D) gradients and (K,) losses -> (D,). Without losses, the gradients count as those of the logarithms.

    beta  decay of the average. ValueError outside of [0, 1), and where a loss is not positive.

    y starts at 0, as in LibMTL, whose authors are the method's: the first step is 1 − β of a full one. A gradient
    of zero takes no part. The heads' gradients stay what the convention says: not divided by L_k as in the paper.
    Source: Lin et al. 2023, arXiv 2308.12029, Algorithm 1.
    """

    def __init__(self, beta: float = 0.9):
        super().__init__()
        if not 0 <= beta < 1:
            raise ValueError(f"beta must lie in [0, 1), got {beta}")
        self.beta = beta

    @torch.no_grad()
    def forward(self, matrix: Tensor, losses: Tensor | None = None) -> Tensor:
        # Balance of the losses, the gradients of their logarithms:  \nabla \log L_k = g_k / L_k
        if losses is not None:
            check_positive(losses, "DB-MTL")
            matrix = matrix / losses[:, None].to(matrix)
        # Average them:  y_k \leftarrow y_k - (1 - \beta) (y_k - g_k / L_k)
        self.track(matrix, 1 - self.beta)
        # Balance of the gradients, all at the largest norm:  \max_j \|y_j\| \sum_k y_k / \|y_k\|
        norms = finite_norms(self.averages)
        return equalised(self.averages, norms, norms.max())


PAPER, NEEDS = "Lin et al. 2023, arXiv 2308.12029", ("gradients", "losses")
register(Method("db_mtl", "DB-MTL", AGGREGATION, DBMTL, "sum", PAPER, {"beta": (0.9, "LibMTL")}, needs=NEEDS))
