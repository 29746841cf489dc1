r"""CAGrad: near the mean gradient, the direction along which the task that gains least gains most."""

from functools import partial

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from mtl_core.methods._gramian import ByGram, cosine_form, square_root
from mtl_core.methods.registry import AGGREGATION, GRAM, Method, register

RIDGE = 1e-4  # each gradient's part of its own, in lengths: with it, gradients that cancel do not get weights of 1e8


class CAGrad(ByGram):
    r"""$\Delta = \bar g + u$, (K, D) -> (D,): $\bar g$ is the mean, u maximises $\min_k g_k\cdot\Delta$ in a ball.

    $\|u\| \le c\|\bar g\|$. The published form is $u = c\|\bar g\|\, g_w/\|g_w\|$ with $g_w = \sum_k w_k g_k$, w on the
    simplex minimising $g_w\cdot\bar g + c\|\bar g\|\|g_w\|$: the same problem, from its dual side.

    c        radius of the ball around the mean gradient, in lengths of it; at least 0 (ValueError).
    rescale  divide by $1 + c^2$, as the published codes do.

    A task whose gradient is zero takes no part in the minimum. Solved exactly, by least squares, where the published
    codes iterate. Differs from TorchJD's, which takes no step where $\|g_w\|$ is below 1e-4 of $\|J\|$, as where one
    gradient is 1e-4 as long as another; the published codes always move.
    Source: Liu et al., NeurIPS 2021, arXiv 2110.14048, Algorithm 1.
    """

    def __init__(self, c: float = 0.4, rescale: bool = False):
        if not 0 <= c < float("inf"):
            raise ValueError(f"c is a radius, a finite number from 0, got {c}")
        # The published codes' factor:  1 / (1 + c^2)
        self.c, self.factor = c, 1 / (1 + c**2) if rescale else 1.0
        super().__init__(partial(in_ball, c=c, factor=self.factor))


def in_ball(gramian: Tensor, c: float, factor: float) -> Tensor:
    r"""The weights of $\Delta$, (K,): of all u in the ball, $u = \sum_k v_k g_k$ brings the smallest gain furthest.

    The shortest u whose gains are all at least m solves a non-negative least squares problem, and its length grows
    with m: Newton's method finds the m at which that length is the ball's radius.
    """
    # The gains along the mean gradient, and the radius:  h_k = g_k \cdot \bar g;  s = c \|\bar g\|
    v, gains, some = torch.zeros_like(gramian[0]), gramian.mean(1), gramian.diagonal() > 0
    radius = c * gains.mean().clamp(min=0).sqrt().item()
    if not radius > 0:
        return factor * (1 / len(gramian) + v)
    lengths, product = cosine_form(gramian[some][:, some])
    norms, own = lengths.numpy(), (gains[some] / lengths).numpy()
    # In lengths, x_k = v_k n_k, the shortest u with gains of at least m, from the cosines C = R^\top R:
    # \min_{x \ge 0} \frac12 \|R x\|^2 - x \cdot (m - h) / n
    R = np.vstack([square_root(product), RIDGE * np.eye(len(norms))])
    back = np.linalg.pinv(R).T

    # Length 0 is enough for the smallest gain of the mean gradient, and s for no more than  \min_k h_k + s n_k.  From
    # there Newton's steps come down: the length is convex in m, and its square has the slope  2 \sum_k x_k / n_k
    m, before = ((own + 1.01 * radius) * norms).min(), np.inf
    while m < before:
        x = nnls(R, back @ (m / norms - own), maxiter=20 * len(norms))[0]
        length = np.linalg.norm(R @ x)
        before, m = m, m - (length - radius) * length / max((x / norms).sum(), 1e-300)
    v[some] = torch.from_numpy(x / norms)
    # The weights:  1/K + v_k
    return factor * (1 / len(gramian) + v)


PAPER = "Liu et al. 2021, arXiv 2110.14048"
DEFAULTS = {"c": (0.4, "run scripts of github.com/Cranial-XIX/CAGrad")}
PRESETS = {name: {"c": c, "rescale": True} for name, c in (("recon", 0.2), ("nash-mtl", 0.4), ("famo", 0.4))}
register(Method("cagrad", "CAGrad", AGGREGATION, CAGrad, "mean", PAPER, DEFAULTS, PRESETS, needs=GRAM))
