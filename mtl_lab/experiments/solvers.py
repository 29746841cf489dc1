"""Optimality gap and time of the solvers, for methods that solve an optimisation problem in every step.

One entry for each problem, solver and number of tasks, on conflicting gradients of different norms. The gap is
relative and zero at a solution: (w'Gw - min_k (Gw)_k) / w'Gw for the shortest convex combination, the largest
|(Gw)_k w_k^(1/alpha) / |G| - 1| for the bargains, F(w) - min_k g_k d over |mean|^2 for CAGrad, the largest
|v_k' G (v_k - e_k)| / G_kk for the projections of UPGrad. Times are medians of this process's CPU time.
`python tests/solver_table.py` prints all of it as JSON; the pages of the methods show their rows.
"""

import time
import warnings
from collections.abc import Sequence

import torch
from torchjd import aggregation

from mtl_core import methods
from mtl_core.methods import _gramian, mgda, upgrad
from mtl_core.methods.nash_mtl import alpha_fair_weights

TASKS, ALPHA = (2, 9, 40), 2.0


def matrix(K):
    generator = torch.Generator().manual_seed(K)
    J = torch.randn(K, 400, generator=generator, dtype=torch.float64)
    return (J - 0.8 * J.mean(0)) * torch.exp(torch.randn(K, 1, generator=generator, dtype=torch.float64))


def shortest(G, w):
    length = w @ G @ w
    return (length - (G @ w).min()) / length


def bargain(G, w, alpha=ALPHA):
    return (G @ w * w ** (1 / alpha) / torch.linalg.norm(G) - 1).abs().max()


def bargain_as_printed(G, w):
    return (G @ w * w ** (1 / ALPHA) - 1).abs().max()


def cagrad(G, w, c=0.4):
    mean = G.mean(0)  # the slopes of the mean gradient
    size, inner = mean.mean().sqrt(), (w - 1 / len(w)).clamp(min=0)
    inner = inner / inner.sum()
    value = inner @ mean + c * size * (inner @ G @ inner).sqrt()
    return (value - (G @ w).min()) / size**2


def projections(G, V):
    return ((V - torch.eye(len(G), dtype=G.dtype)) * (V @ G)).abs().max(1).values.div(G.diagonal()).max()


def solvers() -> list[tuple]:
    """(problem, solver, supplier, G -> solution, gap)."""
    projector = upgrad.ExactProjector()

    def projected(G):
        return projector(torch.eye(len(G), dtype=G.dtype), G)

    return [
        ("MGDA, MGDA-UB", "non-negative least squares", "mtl_core", mgda.min_norm_weights, shortest),
        ("MGDA", "Frank-Wolfe", "torchjd", aggregation.MGDAWeighting(), shortest),
        ("Nash-MTL", "Newton", "mtl_core", lambda G: alpha_fair_weights(G, 1.0), lambda G, w: bargain(G, w, 1.0)),
        ("FairGrad", "Newton", "mtl_core", lambda G: alpha_fair_weights(G, ALPHA), bargain),
        ("FairGrad", "least squares", "torchjd", aggregation.FairGradWeighting(ALPHA), bargain_as_printed),
        ("CAGrad", "root of least squares", "mtl_core", methods.make("cagrad").weighting.weigh, cagrad),
        ("CAGrad", "Clarabel", "torchjd", aggregation.CAGradWeighting(0.4), cagrad),
        ("UPGrad", "non-negative least squares, once a task", "mtl_core", projected, projections),
    ]


def measure(solve, G, budget=0.2) -> float:
    """Median milliseconds of CPU time, after one call that is not counted."""
    solve(G)
    times, until = [], time.process_time() + budget
    while len(times) < 3 or (len(times) < 50 and time.process_time() < until):
        start = time.process_time()
        solve(G)
        times.append(time.process_time() - start)
    return 1e3 * sorted(times)[len(times) // 2]


def measured(problems: Sequence[str] | None = None) -> list[dict]:
    """The entries of `problems`; None: of all."""
    chosen = [entry for entry in solvers() if problems is None or entry[0] in problems]
    entries = []
    for problem, solver, supplier, solve, gap in chosen:
        for K in TASKS:
            G = _gramian.unit_gram(matrix(K))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # solvers warn of inaccuracy, which the gap measures
                numbers = {"gap": float(gap(G, solve(G))), "milliseconds": round(measure(solve, G), 4)}
            entries.append({"problem": problem, "solver": solver, "supplier": supplier, "tasks": K, **numbers})
    return entries
