r"""UPGrad: the mean of the gradients, each projected onto the cone of directions that harm no task."""

import numpy as np
import torch
from scipy.linalg import lapack
from scipy.optimize import nnls
from torch import Tensor
from torchjd import aggregation
from torchjd.linalg import DualConeProjector

from mtl_core.methods._gramian import ByGram, cosine_form, square_root
from mtl_core.methods.registry import AGGREGATION, GRAM, Method, register

LARGE = 1e7  # of what is added to a weight of 1


def upgrad() -> aggregation.WeightedAggregator:
    r"""$\Delta = \frac1K J^\top \sum_k v_k$, $v_k = \arg\min_{v \ge e_k} v^\top G v$; (K, D) -> (D,).

    K quadratic programmes, exact, under 1 ms together at K = 40. TorchJD's own solver needs quadprog and regularises G
    by 1e-4 of its trace, which takes short gradients for noise.
    Source: Quinton & Rey 2024, arXiv 2406.16232, equations 4 and 6.
    """
    # J^\top v_k is g_k projected onto the cone  {d : J d \ge 0};  the weights of the tasks are the mean of the v_k
    return ByGram(aggregation.UPGradWeighting(projector=ExactProjector()), ridge=16)


class ExactProjector(DualConeProjector):
    r"""(N, K) weights u and G (K, K) -> (N, K): each u becomes $\arg\min_{v \ge u} v^\top G v$, exactly."""

    def __call__(self, U: Tensor, G: Tensor) -> Tensor:
        # Units in which all gradients, and the largest entry of each u, have size 1
        norms, product = cosine_form(G)
        start = (U * norms).numpy()
        size = np.abs(start).max(1, initial=0, keepdims=True)
        start /= np.where(size > 0, size, 1)
        # What is added, x = v - u, solves:  x \ge 0,  y = C (u + x) \ge 0,  x \cdot y = 0
        more, unsolved = _complementary(product.numpy(), start @ product.numpy())
        # Where pivots do not find it, non-negative least squares do:  \min_{x \ge 0} \|R x + R u\|, R^\top R = C
        if unsolved:
            root = square_root(product)
            # Opposite gradients leave x free along a line: a tiny weight of \|x\|, below rounding of C, takes its end
            short = np.vstack([root, 1e-8 * np.eye(len(root))])
            for k in unsolved:
                more[k] = nnls(root, -root @ start[k])[0]
                if more[k].max(initial=0) > LARGE:
                    more[k] = nnls(short, np.append(-root @ start[k], np.zeros(len(root))))[0]
        return torch.from_numpy((start + more) * size) / norms


def _complementary(C: np.ndarray, Q: np.ndarray, rounds: int = 30) -> tuple[np.ndarray, list[int]]:
    """For each q of Q, x >= 0 with y = C x + q >= 0 and x · y = 0; and the numbers of those not solved.

    Block principal pivoting: solve for the entries taken as positive, exchange all that come out negative, until none
    does; one to three rounds. It may cycle, or C may be singular there: such q are left.
    """
    # A guess, by projected gradient steps:  x \leftarrow \max(x - s (C x + q), 0)
    X, step = -Q.clip(max=0), 2 / np.abs(C).sum(1).max(initial=1)
    for _ in range(8):
        X = (X - step * (X @ C + Q)).clip(0)
    positive = X > 1e-13
    todo = np.flatnonzero((Q < -1e-13).any(1)).tolist()
    while todo and rounds:
        rounds -= 1
        # With P the entries taken as positive, y_P = 0 gives x:  C_{PP} x_P = -q_P
        for k in todo:
            chosen, x = positive[k].nonzero()[0], X[k]
            x[:] = 0
            if len(chosen):
                x[chosen] = lapack.dposv(C[chosen][:, chosen].T, -Q[k][chosen], 0, 1, 1)[1]
        # Exchange the entries with the wrong sign, x_P < 0 or y < 0 outside of P, until there are none
        x, chosen = X[todo], positive[todo]
        y = x @ C + Q[todo]
        wrong = np.where(chosen, x, y) < -1e-13
        positive[todo] = chosen ^ wrong
        todo = [todo[i] for i in np.flatnonzero(wrong.any(1))]
    # A singular C_{PP} leaves y_P \ne 0, or an x so large that rounding alone decides y
    unsolved = np.abs(np.where(positive, X @ C + Q, 0)).max(1, initial=0) > 1e-10
    unsolved |= X.max(1, initial=0) > LARGE
    unsolved[todo] = True
    return X, np.flatnonzero(unsolved).tolist()


PAPER = "Quinton & Rey 2024, arXiv 2406.16232"
register(Method("upgrad", "UPGrad", AGGREGATION, upgrad, "mean", PAPER, needs=GRAM))
