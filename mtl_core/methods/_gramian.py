"""Aggregations whose weights follow from the Gram matrix: MGDA solved exactly, IMTL-G, Aligned-MTL, GradVac, UPGrad."""

from collections.abc import Callable

import numpy as np
import torch
from scipy.linalg import lapack
from scipy.optimize import nnls
from torch import Tensor
from torchjd import aggregation
from torchjd.linalg import DualConeProjector

from mtl_core.conflict import gram
from mtl_core.gradients import NonFiniteGradientError


class SolverError(ArithmeticError):
    """A method's optimisation problem was not solved; nothing stands in for its solution."""


def unit_gram(matrix: Tensor) -> Tensor:
    """J Jᵀ over its trace, (K, D) -> (K, K) float64 on the host; zeros where J is zero.

    Weights that depend on directions and relative norms alone are the same for J and 1e-20 J; computed from this
    matrix, they are. NonFiniteGradientError, with the tasks, where J is not finite.
    """
    product = gram(matrix)
    if not 1e-30 < product.trace() < 1e30:  # squares may have left float32
        largest = matrix.abs().max() if matrix.numel() else matrix.new_zeros(())
        matrix = matrix / torch.where(largest > 0, largest, 1)
        product = gram(matrix)
    short = product.diagonal() < 1e-30
    if short.any() and matrix[short.to(matrix.device)].any():  # their squares may have, their products need not
        product = gram(matrix.double())
        kept = product.diagonal() >= 1e-290
        product = torch.where(kept[:, None] & kept, product, 0)
    bad = (~product.diagonal().isfinite()).nonzero().flatten().tolist()
    if bad:
        raise NonFiniteGradientError(
            f"expected finite gradients, got NaN or infinity for task {', '.join(map(str, bad))}"
        )
    trace = product.trace()
    return (product / torch.where(trace > 0, trace, 1)).cpu()


class ByGram(aggregation.WeightedAggregator):
    """`weigh` maps the Gram matrix of unit trace, (K, K) float64, to the weights of the rows, (K,)."""

    def __init__(self, weigh: Callable[[Tensor], Tensor]):
        super().__init__(_OnUnitGram(weigh))


class _OnUnitGram(aggregation.Weighting):
    def __init__(self, weigh):
        super().__init__()
        self.weigh = weigh

    @torch.no_grad()
    def forward(self, matrix: Tensor, /) -> Tensor:
        weights = self.weigh(unit_gram(matrix))
        if not weights.isfinite().all():
            raise SolverError(f"the weights of the task gradients are not finite: {weights.tolist()}")
        return weights.to(matrix)


def cosine_form(gramian: Tensor) -> tuple[Tensor, Tensor]:
    """(norms n, C) with G = diag(n) C diag(n); a zero row of G is a zero row of C, with n = 1."""
    norms = gramian.diagonal().sqrt()
    norms = torch.where(norms > 0, norms, 1)
    return norms, gramian / norms[:, None] / norms


def _root(product: Tensor) -> np.ndarray:
    """R with RᵀR = C for a positive semi-definite C, which rounding may have made slightly indefinite."""
    values, vectors = np.linalg.eigh(product.numpy())
    return np.sqrt(values.clip(0))[:, None] * vectors.T


def min_norm_weights(gramian: Tensor) -> Tensor:
    r"""The shortest vector in the convex hull of the rows: $\arg\min_{w\in\Delta} w^\top G w$, exact; (K, K) -> (K,).

    Non-negative least squares does it: $\min_{x\ge0} x^\top G x + (1 - \sum_k x_k)^2$ has $x = w / (1 + w^\top Gw)$,
    since both terms are smallest for the same direction of x. 0.3 ms at K = 40, gap below 1e-12. TorchJD's
    Frank-Wolfe stops after 100 iterations, where the squared length can be several times the smallest at K = 40.
    """
    zero = (gramian.diagonal() == 0).double()
    if zero.any():  # the shortest vector is 0
        return zero / zero.sum()
    norms, product = cosine_form(gramian)
    for unit in (norms.min(), norms.mean()):  # the first is exact for short gradients, and may fail for ratios of 1e10
        columns = _root(product) * (norms / unit).numpy()
        try:
            found, _ = nnls(np.vstack([columns, np.ones(len(norms))]), np.append(np.zeros(len(norms)), 1.0))
            break
        except RuntimeError:
            continue
    else:
        raise SolverError(f"no shortest vector found for gradients with the norms {norms.tolist()}")
    return torch.from_numpy(found / found.sum())


def mgda(solver: str = "frank-wolfe") -> aggregation.WeightedAggregator:
    r"""MGDA, (K, D) -> (D,): $J^\top w$, $w = \arg\min_{w\in\Delta} \|J^\top w\|^2$. Heads and scale: the convention.

    solver  "frank-wolfe", TorchJD's, which every result of this book so far rests on; "exact", `min_norm_weights`.

    Source: Désidéri 2012; Sener & Koltun, NeurIPS 2018, arXiv 1810.04650, Algorithm 2.
    """
    if solver not in ("frank-wolfe", "exact"):
        raise ValueError(f"solver is 'frank-wolfe' or 'exact', got {solver!r}")
    return ByGram(aggregation.MGDAWeighting() if solver == "frank-wolfe" else min_norm_weights)


def mgda_ub() -> aggregation.WeightedAggregator:
    r"""MGDA-UB: the same on $Z_k = \partial L_k/\partial z$, batch and features flattened; one trunk pass in all.

    $\|\sum_k w_k g_k\| \le \|\partial z/\partial\theta\| \|\sum_k w_k Z_k\|$: the upper bound of the name.
    Differs from LibMTL's `rep_grad`, which sums Z over the batch first. Solved exactly.
    Source: Sener & Koltun, NeurIPS 2018, arXiv 1810.04650, section 3.3.
    """
    return ByGram(min_norm_weights)


def imtl_g() -> aggregation.WeightedAggregator:
    r"""IMTL-G: the vector with equal projections on all task gradients, $\sum_k w_k = 1$; (K, D) -> (D,).

    $w \propto G^{+}n$, $n_k = \|g_k\|$; with $G = \mathrm{diag}(n)\,C\,\mathrm{diag}(n)$ this is $C^{+}1 / n$, which
    norms 1e12 apart do not harm. Weights may be negative, and large where the gradients nearly oppose each other;
    zero where their sum vanishes. Source: Liu et al., ICLR 2021, section 3.1, equation 4.
    """

    def weigh(gramian: Tensor) -> Tensor:
        norms, product = cosine_form(gramian)
        weights = torch.linalg.pinv(product, hermitian=True).sum(1) / norms
        total = weights.sum()
        return torch.zeros_like(weights) if total.abs() <= 1e-12 * weights.abs().sum() else weights / total

    return ByGram(weigh)


def aligned_mtl(scale_mode: str = "min") -> aggregation.WeightedAggregator:
    r"""Aligned-MTL: all singular values of J become the smallest, then the mean of the rows; (K, D) -> (D,).

    With $G = V\Lambda V^\top$ the weights are $\sqrt{\lambda_\min}\, V\Lambda^{-1/2}V^\top 1/K$, on the numerical
    rank of G. TorchJD's; the released code's weights are 1 instead of 1/K, and LibMTL's calls a function that torch
    no longer has.

    scale_mode  "min", or "median" or "rmse" of the singular values.

    Source: Senushkin et al., CVPR 2023, Algorithm 1.
    """
    return ByGram(aggregation.AlignedMTLWeighting(scale_mode=scale_mode))


class _GradVac(aggregation.GradVacWeighting):
    """TorchJD's, whose used state does not load into a fresh instance."""

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        if f"{prefix}_phi_t" in state_dict:
            self._phi_t = torch.empty_like(state_dict[f"{prefix}_phi_t"], device="cpu")
            self._state_key = (len(self._phi_t), self._phi_t.dtype)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def gradvac(beta: float = 0.5) -> aggregation.WeightedAggregator:
    r"""Gradient vaccine: pairs are brought to the cosine they usually have, not only out of conflict; (K, D) -> (D,).

    For each task i and the others j in random order: where $\cos(g_i', g_j) = c < \hat\varphi_{ij}$, add
    $g_j \|g_i'\| (\hat\varphi\sqrt{1-c^2} - c\sqrt{1-\hat\varphi^2}) / (\|g_j\|\sqrt{1-\hat\varphi^2})$ to $g_i'$;
    then $\hat\varphi_{ij} \leftarrow (1-\beta)\hat\varphi_{ij} + \beta c$. The update is $\sum_i g_i'$.

    beta  of the moving average. 0.5 in TorchJD and LibMTL.

    TorchJD's rule on all shared parameters at once; the paper prefers one target per layer.
    Source: Wang et al., ICLR 2021, arXiv 2010.05874, Algorithm 1.
    """
    return ByGram(_GradVac(beta, eps=1e-40))  # a guard against 0/0 only; 1e-8 damps the cosines of short gradients


class _ExactProjector(DualConeProjector):
    """Each row u of U becomes argmin vᵀGv over v >= u; where pivots do not find v − u, non-negative least squares."""

    def __call__(self, U: Tensor, G: Tensor) -> Tensor:
        norms, product = cosine_form(G)
        start = (U * norms).numpy()
        size = np.abs(start).max(1, initial=0, keepdims=True)
        start /= np.where(size > 0, size, 1)
        more, left = _complementary(product.numpy(), start @ product.numpy())
        if left:
            root = _root(product)
            more[left] = [nnls(root, -root @ start[k])[0] for k in left]
        return torch.from_numpy((start + more) * size) / norms


def _complementary(C: np.ndarray, Q: np.ndarray, rounds: int = 30) -> tuple[np.ndarray, list[int]]:
    """Rows x >= 0 with y = C x + q >= 0 and x · y = 0 for the rows q of Q; and which rows were not solved.

    Block principal pivoting: solve for the entries taken as positive, exchange all that come out negative, until none
    does; one to three rounds. It may cycle, or C may be singular there: such rows are left.
    """
    X, step = -Q.clip(max=0), 2 / np.abs(C).sum(1).max(initial=1)
    for _ in range(8):  # projected gradient: a guess
        X = (X - step * (X @ C + Q)).clip(0)
    positive = X > 1e-13
    todo = (Q < -1e-13).any(1).nonzero()[0].tolist()
    while todo and rounds:
        rounds -= 1
        for k in todo:
            chosen, x = positive[k].nonzero()[0], X[k]
            x[:] = 0
            if len(chosen):
                x[chosen] = lapack.dposv(C[chosen][:, chosen].T, -Q[k][chosen], 0, 1, 1)[1]
        x, chosen = X[todo], positive[todo]
        y = x @ C + Q[todo]
        wrong = np.where(chosen, x, y) < -1e-13
        positive[todo] = chosen ^ wrong
        again = wrong.any(1)
        todo = [k for k, more in zip(todo, again, strict=True) if more]
    unsolved = np.abs(np.where(positive, X @ C + Q, 0)).max(1, initial=0) > 1e-10
    unsolved[todo] = True
    return X, unsolved.nonzero()[0].tolist()


def upgrad() -> aggregation.WeightedAggregator:
    r"""UPGrad: the mean of the gradients, each projected onto the cone of directions that harm no task.

    $\Delta = \frac1K J^\top \sum_k v_k$, $v_k = \arg\min_{v \ge e_k} v^\top G v$; (K, D) -> (D,).
    K quadratic programmes, exact, under 1 ms together at K = 40. TorchJD's own solver needs quadprog and regularises G
    by 1e-4 of its trace, which takes short gradients for noise.
    Source: Quinton & Rey 2024, arXiv 2406.16232, equations 4 and 6.
    """
    return ByGram(aggregation.UPGradWeighting(projector=_ExactProjector()))
