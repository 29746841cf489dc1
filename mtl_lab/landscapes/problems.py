"""Problems with two tasks and two parameters, small enough to plot. `descent` has the paths of methods on them.

Points have shape (..., 2), in float64: a landscape takes all starts and all seeds of a study at once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mtl_core import seeds

FLOOR = 5e-6  # inside the logarithms of the SAM-GS problems


@dataclass(frozen=True)
class Landscape:
    """A problem with two losses of two parameters.

    losses    (..., 2) points -> (2, ...) losses.
    starts    starting points of the source.
    limits    ((low, high) of theta_1, (low, high) of theta_2) that a figure shows.
    optima    points where the sum of the losses is smallest.
    pareto    (N, 2) points of the Pareto set, from task 1's minimum to task 2's; None if it is not known.
    training  optimizer ("sgd" or "adam"), learning_rate, steps, convention of the source, or of this book.
    """

    name: str
    title: str
    losses: Callable[[Tensor], Tensor]
    starts: Sequence[tuple[float, float]]
    limits: tuple[tuple[float, float], tuple[float, float]]
    optima: Sequence[tuple[float, float]]
    training: Mapping = field(default_factory=dict)
    pareto: Tensor | None = None
    source: str = "this book"

    def gradients(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Losses (..., 2) and task gradients (..., 2 tasks, 2 parameters) at points (..., 2)."""
        flat = points.reshape(-1, 2)
        copies = flat.detach().expand(2, *flat.shape).clone().requires_grad_()  # one copy a task: one backward pass
        with torch.enable_grad():
            each = self.losses(copies).diagonal()  # (points, tasks): loss k at copy k
            (gradients,) = torch.autograd.grad(each.sum(), copies)
        shape = points.shape[:-1]
        return each.detach().reshape(*shape, 2), gradients.transpose(0, 1).reshape(*shape, 2, 2)

    def hessians(self, point: Tensor) -> Tensor:
        """(2 tasks, 2, 2) second derivatives at one point (2,)."""
        hessian = torch.autograd.functional.hessian
        return torch.stack([hessian(lambda p, k=k: self.losses(p)[k], point) for k in range(2)])


def bowls(name: str, title: str, minima, curvatures, starts, limits, **more) -> Landscape:
    r"""Two convex quadratics, $L_k = \frac12 (\theta - a_k)^\top H_k (\theta - a_k)$.

    minima      a_1, a_2.
    curvatures  H_1, H_2, symmetric positive definite 2 × 2 matrices; otherwise ValueError.

    The Pareto set is exact: a point is Pareto optimal if some w in [0, 1] satisfies
    $(w H_1 + (1-w) H_2)\theta = w H_1 a_1 + (1-w) H_2 a_2$.
    """
    a = torch.tensor(minima, dtype=torch.float64)
    H = torch.tensor(curvatures, dtype=torch.float64)
    if not torch.equal(H, H.mT) or (torch.linalg.eigvalsh(H) <= 0).any():
        raise ValueError(f"curvatures are two symmetric positive definite matrices, got {curvatures}")

    def losses(points):
        return torch.stack([0.5 * ((points - a[k]) @ H[k] * (points - a[k])).sum(-1) for k in range(2)])

    Ha = (H @ a[..., None]).squeeze(-1)
    weight = torch.linspace(1, 0, 201, dtype=torch.float64)[:, None]
    mixed = weight[..., None] * H[0] + (1 - weight[..., None]) * H[1]
    pareto = torch.linalg.solve(mixed, weight * Ha[0] + (1 - weight) * Ha[1])
    optimum = torch.linalg.solve(H.sum(0), Ha.sum(0))
    training = {"optimizer": "sgd", "learning_rate": 0.02, "steps": 600, "convention": "plain, clipped"}
    return Landscape(name, title, losses, starts, limits, (tuple(optimum.tolist()),), training, pareto, **more)


def scaled(landscape: Landscape, factors: Sequence[float]) -> Landscape:
    """The landscape with loss k multiplied by factors[k]. ValueError unless there are two positive factors.

    The Pareto set stays the same; the optimum of the sum moves and is not known, so that `optima` is empty.
    """
    if len(factors) != 2 or min(factors) <= 0:
        raise ValueError(f"expected two positive factors, got {factors}")

    def losses(points):
        first, second = landscape.losses(points)
        return torch.stack([factors[0] * first, factors[1] * second])

    return replace(landscape, losses=losses, optima=())


def _valleys(x, y):
    """The gates c_1, c_2 and the two logarithmic valleys f_1, f_2 of both SAM-GS problems."""
    gate = torch.tanh(y / 2)
    f1 = (0.5 * (-x - 7) - torch.tanh(-y)).abs().clamp(min=FLOOR).log() + 6
    f2 = (0.5 * (-x + 3) + torch.tanh(-y) + 2).abs().clamp(min=FLOOR).log() + 6
    return gate.clamp(min=0), (-gate).clamp(min=0), f1, f2


def _samgs_1(points):
    x, y = points.unbind(-1)
    c1, c2, f1, f2 = _valleys(x, y)
    q1, q2 = (((x - side) ** 2 + 0.1 * (y + 8) ** 2) / 10 - 20 for side in (7, -7))
    return torch.stack([c1 * f1 + c2 * q1, c1 * f2 + c2 * q2])


def _samgs_2(points):
    x, y = points.unbind(-1)
    c1, c2, f1, f2 = _valleys(x, y)

    def q(side):
        near, far, v = (x - 5.5 * side) / 4, (x - 5.45 * side) / 4, y / 4
        return 0.1 * (far**6 + v**6) - (near**4 + v**4) - 1.5 * (near**2 + v**2) + 1.5

    return torch.stack([c1 * f1 + c2 * q(1), c1 * f2 + c2 * q(-1)])


def _adam(steps):
    return {"optimizer": "adam", "learning_rate": 1e-3, "steps": steps, "convention": "samgs"}


_SOURCE = "SAM-GS, arXiv 2506.06130, appendix; formulas and starts as in the released code"
_WINDOW = ((-5.0, 5.0), (-4.0, 4.0))
_STARTS = ((-3.5, 3.0), (0.5, 3.5), (3.5, -2.5))
_SAMGS_1_PARETO = torch.stack(
    [torch.linspace(7, -7, 201, dtype=torch.float64), torch.full((201,), -8.3552, dtype=torch.float64)], 1
)
_ALL = (
    bowls(
        "bowls",
        "Two bowls",
        minima=((-2.0, -1.0), (2.0, 1.0)),
        curvatures=(((1.0, 0.0), (0.0, 0.2)), ((0.4, 0.0), (0.0, 1.2))),
        starts=_STARTS,
        limits=_WINDOW,
    ),
    bowls(
        "uneven_bowls",
        "Two bowls, one ten times as steep",
        minima=((-2.0, 0.0), (2.0, 1.0)),
        curvatures=(((10.0, 0.0), (0.0, 10.0)), ((1.0, 0.0), (0.0, 1.0))),
        starts=_STARTS,
        limits=_WINDOW,
    ),
    bowls(
        "ravines",
        "Two crossed ravines",
        minima=((-1.5, 1.0), (1.5, 1.0)),
        curvatures=(((3.0, 2.6), (2.6, 3.0)), ((3.0, -2.6), (-2.6, 3.0))),
        starts=_STARTS,
        limits=_WINDOW,
    ),
    Landscape(
        "samgs_1",
        "SAM-GS, problem 1",
        _samgs_1,
        starts=((-8, 5), (-3, 7.5), (0, 10), (3, 7.5), (8, 5), (-10, -3), (10, -3)),
        limits=((-11, 11), (-11, 11)),
        optima=((0.0, -8.35511),),
        training=_adam(20_000),
        pareto=_SAMGS_1_PARETO,
        source=_SOURCE,
    ),
    Landscape(
        "samgs_2",
        "SAM-GS, problem 2",
        _samgs_2,
        starts=((-3.5, 5.5), (3.5, 5.5), (-6.5, 2.5), (6.5, 2.5), (0, 10), (0, -8)),
        limits=((-11, 11), (-13, 11)),
        optima=((-5.45457, -10.84261), (5.45457, -10.84261)),
        training=_adam(21_000),
        source=_SOURCE,
    ),
)
LANDSCAPES = {landscape.name: landscape for landscape in _ALL}


def jittered(starts, count: int, sd: float) -> Tensor:
    """(count, N, 2): the N starts plus normal noise of standard deviation `sd`, for the seeds 0 … count − 1."""
    starts = torch.as_tensor(starts, dtype=torch.float64)
    generators = [seeds.numpy_generator(seed, "initialisation", "starts") for seed in range(count)]
    return torch.stack([starts + sd * torch.from_numpy(g.normal(size=starts.shape)) for g in generators])
