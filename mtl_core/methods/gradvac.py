r"""Gradient vaccine (GradVac): bring each pair of task gradients to the cosine that they usually have."""

import numpy as np
import torch
from torch import Tensor, nn

from mtl_core.methods._gramian import ByGram
from mtl_core.methods._state import ShapedByLoading
from mtl_core.methods.registry import AGGREGATION, GRAM, Method, register

TINY = 1e-40  # guards against 0/0 only: 1e-8 would damp the cosines of short gradients


class GradVac(ShapedByLoading, ByGram):
    r"""$\sum_i g_i'$, (K, D) -> (D,): not only conflicting pairs are changed, as in PCGrad.

    For each task i and the others j in random order: where $\cos(g_i', g_j) = c < \hat\varphi_{ij}$, add
    $g_j \|g_i'\| (\hat\varphi\sqrt{1-c^2} - c\sqrt{1-\hat\varphi^2}) / (\|g_j\|\sqrt{1-\hat\varphi^2})$ to $g_i'$;
    then $\hat\varphi_{ij} \leftarrow (1-\beta)\hat\varphi_{ij} + \beta c$.

    beta  of the moving average, in [0, 1] (ValueError). 0.5 in TorchJD and LibMTL.

    State (buffer): `usual` (K, K) float64, $\hat\varphi$, from 0. TorchJD's rule on all shared parameters at once; the
    paper prefers one target per layer. All i at once, as in PCGrad.
    Source: Wang et al., ICLR 2021, arXiv 2010.05874, Algorithm 1.
    """

    task_state = {"usual": ("kk", 0.0)}

    def __init__(self, beta: float = 0.5):
        if not 0 <= beta <= 1:
            raise ValueError(f"beta must lie in [0, 1], got {beta}")
        super().__init__(self._vaccinated, ridge=16)  # the ridge keeps cosines below 1
        self.beta = beta
        self.usual: Tensor = nn.Buffer(torch.zeros(0, 0, dtype=torch.float64))

    def _vaccinated(self, gramian: Tensor) -> Tensor:
        G, K = gramian.numpy(), len(gramian)
        if not self.usual.numel():
            self.usual = torch.zeros(K, K, dtype=torch.float64)
        usual, lengths, i = self.usual.cpu().numpy(), np.sqrt(G.diagonal()), np.arange(K)
        orders = torch.stack([torch.randperm(K - 1) for _ in range(K)]).numpy()
        # Each g_i' in coordinates of the gradients, g_i' = J^\top v_i from v_i = e_i, and its products with them, G v_i
        V, products = np.eye(K), G.copy()
        for j in (orders + (orders >= i[:, None])).T:  # the others: all but i
            # Its length and its cosine with g_j:  \|g_i'\|^2 = v_i^\top G v_i;  c = g_i' \cdot g_j / (\|g_i'\| \|g_j\|)
            length = np.sqrt((V * products).sum(1).clip(0))
            c, target = products[i, j] / (length * lengths[j] + TINY), usual[i, j]
            # Turn g_i' towards g_j until their cosine is the usual one, then move the usual one:
            # \cos(g_i', g_j) = \hat\varphi_{ij};  \hat\varphi_{ij} \leftarrow (1-\beta) \hat\varphi_{ij} + \beta c
            sine, wanted = np.sqrt((1 - c**2).clip(0)), np.sqrt((1 - target**2).clip(0))
            more = np.where(c < target, length * (target * sine - c * wanted) / (lengths[j] * wanted + TINY), 0)
            V[i, j] += more
            products += more[:, None] * G[j]
            usual[i, j] = (1 - self.beta) * target + self.beta * c
        self.usual = torch.from_numpy(usual)  # on a GPU it was a copy
        return torch.from_numpy(V.sum(0))


PAPER, DEFAULTS = "Wang et al. 2021, arXiv 2010.05874", {"beta": (0.5, "TorchJD and LibMTL")}
register(Method("gradvac", "GradVac", AGGREGATION, GradVac, "sum", PAPER, DEFAULTS, needs=GRAM, random=True))
