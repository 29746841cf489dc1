r"""Regression over pairs of nodes, where pairs that share a node are not independent.

The outcome of pair {i, j} is regressed on a predictor x and on covariates held fixed. An effect is the difference in
outcome between the 90th and the 10th percentile of x over these pairs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special


@dataclass(frozen=True)
class Effect:
    """An effect in the outcome's unit, its interval [low, high], and the two-sided p value of no effect."""

    value: float
    low: float
    high: float
    p: float


def spread(x) -> float:
    """90th minus 10th percentile."""
    return float(np.subtract(*np.quantile(x, [0.9, 0.1])))


def membership(nodes, count: int) -> np.ndarray:
    """(n, count): 1 where observation n has the node. nodes  (n, m) numbers of nodes, below `count`."""
    return (np.asarray(nodes)[:, :, None] == np.arange(count)).any(1).astype(float)


def mixed(
    y, columns: Mapping[str, Sequence], parts: Mapping[str, np.ndarray], freedom: float, level: float = 0.95
) -> dict[str, Effect]:
    r"""The effect of each column on y in a mixed model: residuals are $\sum_m Z_m u_m + e$, u and e independent.

    y        (n,) outcomes.
    columns  name -> (n,) predictor or covariate; a constant is added.
    parts    name -> Z_m (n, levels), such as a `membership`, whose random effects u_m share one variance.
    freedom  degrees of freedom of t.

    The variances maximise the restricted likelihood, the slopes and errors are those of generalised least squares.
    (statsmodels' MixedLM finds the same, but where a variance is next to 0 its errors are NaN or it stops.)
    """
    y, design = np.asarray(y), np.column_stack([*columns.values(), np.ones(len(y))])
    free, shapes = len(y) - design.shape[1], [part @ part.T for part in parts.values()]

    def solved(ratios):  # the variances of the parts over that of e
        weights = np.linalg.inv(np.eye(len(y)) + np.tensordot(ratios, shapes, 1))
        information = design.T @ weights @ design
        slopes = np.linalg.solve(information, design.T @ weights @ y)
        square = (y - design @ slopes) @ weights @ (y - design @ slopes) / free
        likelihood = np.linalg.slogdet(weights)[1] - np.linalg.slogdet(information)[1] - free * np.log(square)
        return likelihood, slopes, np.sqrt(square * np.diag(np.linalg.inv(information)))

    limits = {"x0": np.ones(len(parts)), "bounds": [(0, 1e4)] * len(parts), "method": "L-BFGS-B"}
    _, slopes, errors = solved(optimize.minimize(lambda ratios: -solved(ratios)[0], **limits).x)
    sizes = np.array([spread(x) for x in columns.values()])
    found, half = slopes[:-1] * sizes, special.stdtrit(freedom, 0.5 + level / 2) * errors[:-1] * sizes
    p = 2 * special.stdtr(freedom, -np.abs(slopes / errors)[:-1])
    return {n: Effect(*map(float, v)) for n, *v in zip(columns, found, found - half, found + half, p, strict=True)}


def of_pairs(x, y, pairs, given: Mapping[str, Sequence], level: float = 0.95) -> Effect:
    """The effect of x on y over pairs (n, 2) of K nodes, by `mixed` with one random effect for both nodes of a pair.

    given  name -> (n,) covariate held fixed. The degrees of freedom are n less those of the columns and the nodes.
    """
    K, columns = np.max(pairs) + 1, {"predictor": x, **given}
    return mixed(y, columns, {"node": membership(pairs, K)}, len(x) - len(columns) - K, level)["predictor"]


def mrqap(x, y, pairs, given: Mapping[str, Sequence], permutations: int = 10_000, seed: int = 0) -> float:
    """Two-sided p value of x in least squares, by double semi-partialling (Dekker et al., Psychometrika 72, 2007).

    What the covariates leave of x is relabelled: nodes are permuted, and with them the pairs. Each relabelling is
    regressed on the covariates again, and its t statistic compared with the one found. Every pair of nodes occurs once.
    """
    pairs, fixed = np.asarray(pairs), np.column_stack([np.ones(len(x)), *given.values()])
    K, (i, j) = pairs.max() + 1, pairs.T
    rest, left = np.eye(len(x)) - fixed @ np.linalg.pinv(fixed), np.zeros((K, K))
    left[i, j] = left[j, i] = found = rest @ x
    orders = np.random.default_rng(seed).permuted(np.tile(np.arange(K), (permutations, 1)), axis=1)
    relabelled = np.vstack([found, left[orders[:, i], orders[:, j]] @ rest])
    partial = np.abs(relabelled @ y) / np.linalg.norm(relabelled, axis=1)  # grows as |t| does
    return float(np.mean(partial >= partial[0] - 1e-12))


def answer(low: float, high: float, margin: float) -> str:
    """What an interval says: "predicts", "predicts the opposite", "does not, to within …", "these pairs cannot tell".

    An end at the margin touches it, which gives the weaker answer.
    """
    if low > margin or high < -margin:
        return "predicts" if low > 0 else "predicts the opposite"
    return f"does not, to within {margin:g} %" if -margin < low and high < margin else "these pairs cannot tell"
