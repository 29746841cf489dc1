"""Every method once more in plain numpy and float64, straight from its definition: what the parity table compares with.

Nothing of mtl_core, torch or TorchJD is used. A reference takes the steps of a training run, each with the gradients
J (K, D), the losses L (K,) and the losses `after` the step, and `draws`, which gives the random numbers that the
method's definition calls for; it returns the K weights or the update of each step. Problems with constraints are
solved by trying every set of active ones, which is exact and feasible for a few tasks.
"""

import itertools

import numpy as np
from scipy import optimize

DOT, NORM = np.dot, np.linalg.norm


class Adam:
    """Kingma & Ba 2015, with the weight decay added to the gradient."""

    def __init__(self, rate, decay=0.0):
        self.rate, self.decay, self.m, self.v, self.t = rate, decay, 0.0, 0.0, 0

    def step(self, x, gradient):
        gradient, self.t = gradient + self.decay * x, self.t + 1
        self.m, self.v = 0.9 * self.m + 0.1 * gradient, 0.999 * self.v + 0.001 * gradient**2
        return x - self.rate * (self.m / (1 - 0.9**self.t)) / (np.sqrt(self.v / (1 - 0.999**self.t)) + 1e-8)


def softmax(x):
    return np.exp(x) / np.exp(x).sum()


def each(weights_of):
    """A reference without state whose update is a weighted sum of the rows."""
    return lambda steps, draws: [weights_of(J, L) @ J for J, L, _ in steps]


# --- loss weightings


def rlw(steps, draws):
    return [softmax(draws.normal(len(J))) @ J for J, _, _ in steps]


def dwa(window, temperature):
    def run(steps, draws):
        losses, found = [L for _, L, _ in steps], []
        for t, (J, _, _) in enumerate(steps):
            done = t // window
            if done < 2:
                weights = np.ones(len(J))
            else:
                newer, older = (np.mean(losses[(done - i) * window : (done - i + 1) * window], 0) for i in (1, 2))
                weights = len(J) * softmax(newer / older / temperature)
            found.append(weights @ J)
        return found

    return run


def learnt(weight_of, slope_of):
    """Weights w(s) of numbers s that start at 0 and learn with Adam at 0.025 from ds."""

    def run(steps, draws):
        s, adam, found = np.zeros(len(steps[0][0])), Adam(0.025), []
        for J, L, _ in steps:
            found.append(weight_of(s) @ J)
            s = adam.step(s, slope_of(s, L))
        return found

    return run


def famo(steps, draws):
    xi, adam, found = np.zeros(len(steps[0][0])), Adam(0.025, 1e-3), []
    for J, L, after in steps:
        z = softmax(xi)
        found.append((z / (L + 1e-8)) / (z / (L + 1e-8)).sum() @ J)
        change = np.log(L + 1e-8) - np.log(after + 1e-8)
        xi = adam.step(xi, (np.diag(z) - np.outer(z, z)) @ change)
    return found


def gradnorm(steps, draws, alpha=1.5):
    w, adam, first, found = np.ones(len(steps[0][0])), Adam(0.025), steps[0][1], []
    for J, L, _ in steps:
        found.append(w @ J)
        norms = np.array([NORM(g) for g in J])
        rate = (L / first) / np.mean(L / first)
        w = adam.step(w, np.sign(w * norms - np.mean(w * norms) * rate**alpha) * norms)
        w = np.maximum(w, 1e-3)
        w = w * len(w) / w.sum()
    return found


# --- gradient aggregations


def pcgrad(steps, draws):
    found = []
    for J, _, _ in steps:
        total = 0.0
        for i in range(len(J)):
            g = J[i].copy()
            for j in draws.permutation(len(J)):
                if j != i and DOT(g, J[j]) < 0:
                    g -= DOT(g, J[j]) / DOT(J[j], J[j]) * J[j]
            total = total + g
        found.append(total)
    return found


def gradvac(steps, draws, beta=0.5):
    K = len(steps[0][0])
    target, found = np.zeros((K, K)), []
    for J, _, _ in steps:
        total = 0.0
        for i in range(K):
            g, others = J[i].copy(), [j for j in range(K) if j != i]
            for j in (others[k] for k in draws.permutation(K - 1)):
                c, t = DOT(g, J[j]) / (NORM(g) * NORM(J[j])), target[i, j]
                if c < t:
                    length = (
                        NORM(g) * (t * np.sqrt(1 - c**2) - c * np.sqrt(1 - t**2)) / (NORM(J[j]) * np.sqrt(1 - t**2))
                    )
                    g = g + length * J[j]
                target[i, j] = (1 - beta) * t + beta * c
            total = total + g
        found.append(total)
    return found


def graddrop(steps, draws):
    found = []
    for J, _, _ in steps:
        purity, u = (1 + J.sum(0) / np.abs(J).sum(0)) / 2, draws.uniform(J.shape[1])
        found.append(np.where(purity > u, np.maximum(J, 0), np.minimum(J, 0)).sum(0))
    return found


def min_norm(J):
    """The shortest convex combination of the rows: the best over all supports, each solved by its linear system."""
    best, K = None, len(J)
    for size in range(1, K + 1):
        for support in map(list, itertools.combinations(range(K), size)):
            w = np.zeros(K)
            w[support] = np.linalg.solve(J[support] @ J[support].T, np.ones(size))
            if (w >= 0).all() and (best is None or NORM(w / w.sum() @ J) < NORM(best @ J)):
                best = w / w.sum()
    return best


def cagrad(steps, draws, c=0.4):
    return [_cagrad(J, c) for J, _, _ in steps]


def _cagrad(J, c):
    """By its primal, max over d in the ball |d - mean| <= c |mean| of min_k g_k d: on each set of tasks that tie."""
    mean, K = J.mean(0), len(J)
    best, radius = None, c * NORM(mean)
    for size in range(1, K + 1):
        for support in map(list, itertools.combinations(range(K), size)):
            S = J[support]
            inverse = np.linalg.pinv(S @ S.T)
            one, base = inverse @ np.ones(size), inverse @ (S @ mean)
            # S d = t 1  =>  coefficients a = t one - base of d - mean;  |d - mean|^2 = t^2 A - 2 t B + C = radius^2
            A, B, C = one.sum(), base.sum(), (S @ mean) @ base
            for sign in (1, -1):
                inside = B**2 - A * (C - radius**2)
                if inside < 0:
                    continue
                a = (B + sign * np.sqrt(inside)) / A * one - base
                d = mean + a @ S
                if (a >= -1e-12).all() and (best is None or (J @ d).min() > (J @ best).min()):
                    best = d
    return best


def imtl_g(J):
    """Liu et al. 2021, equation 4: alpha_{2:K} = g_1 U' (D U')^{-1}, D = g_1 - g_k, U = u_1 - u_k."""
    units = J / np.array([[NORM(g)] for g in J])
    D, U = J[0] - J[1:], units[0] - units[1:]
    rest = J[0] @ U.T @ np.linalg.inv(D @ U.T)
    return np.concatenate([[1 - rest.sum()], rest])


def alpha_fair(J, alpha):
    """w > 0 with G w = |G| w^(-1/alpha), by a general root finder in log w."""
    G = J @ J.T / NORM(J @ J.T)
    for start in (0.0, 1.0, -1.0, 2.0):
        x = optimize.root(lambda x: G @ np.exp(x) - np.exp(-x / alpha), np.full(len(J), start), tol=1e-15).x
        if np.abs(G @ np.exp(x) * np.exp(x / alpha) - 1).max() < 1e-10:
            return np.exp(x)
    raise ArithmeticError("the root finder found no weights")


def aligned(J):
    """All singular values of J become the smallest, then the mean of the rows."""
    U, values, V = np.linalg.svd(J, full_matrices=False)
    return (values[-1] * U @ V).mean(0)


def upgrad(J):
    """The mean of the rows, each projected on {d : J d >= 0} by its constraints that bind: all sets are tried."""
    K, total = len(J), 0.0
    for g in J:
        best = None
        for size in range(K + 1):
            for support in map(list, itertools.combinations(range(K), size)):
                S = J[support]
                d = g - S.T @ np.linalg.solve(S @ S.T, S @ g) if size else g
                if (J @ d >= -1e-12).all() and (best is None or NORM(d - g) < NORM(best - g)):
                    best = d
        total = total + best / K
    return total


def simplex(point):
    """The nearest point with non-negative entries of sum 1, by bisection of the shift."""
    shift = optimize.brentq(lambda s: np.maximum(point - s, 0).sum() - 1, point.min() - 1, point.max(), xtol=1e-16)
    return np.maximum(point - shift, 0)


def moco(steps, draws, beta=0.5, gamma=0.1, rho=0.0):
    y, weights, found = 0.0, np.ones(len(steps[0][0])) / len(steps[0][0]), []
    for t, (J, _, _) in enumerate(steps, start=1):
        y = y - beta / np.sqrt(t) * (y - J)
        weights = simplex(weights - gamma / np.sqrt(t) * ((y @ y.T + rho * np.eye(len(J))) @ weights))
        found.append(weights @ y)
    return found


def db_mtl(steps, draws, beta=0.9):
    y, found = 0.0, []
    for J, L, _ in steps:
        y = beta * y + (1 - beta) * J / L[:, None]
        norms = [NORM(row) for row in y]
        found.append(max(norms) * sum(row / n for row, n in zip(y, norms, strict=True)))
    return found


def autoscale(steps, draws, explore=200):
    lengths, found = [], []
    for J, _, _ in steps:
        lengths = [*lengths, [NORM(g) / np.sqrt((J**2).sum()) for g in J]][:explore]
        means = np.mean(lengths, 0)
        found.append(len(J) * (1 / means) / np.sum(1 / means) @ J)
    return found


def sam_gs(steps, draws, gamma=0.1, beta1=0.9, beta2=0.99, epsilon=1e-8):
    m, h, found = 0.0, 0.0, []
    for t, (J, _, _) in enumerate(steps, start=1):
        K, n = len(J), [NORM(g) for g in J]
        psi = np.mean([2 * n[i] * n[j] / (n[i] ** 2 + n[j] ** 2) for i in range(K) for j in range(i)])
        m, h = beta1 * m + (1 - beta1) * J, beta2 * h + (1 - beta2) * (1 - psi) ** 2 + epsilon
        if psi < gamma:
            found.append(np.mean(n) * sum(g / k for g, k in zip(J, n, strict=True)))
        else:
            found.append((J * np.abs(m / (1 - beta1**t))).sum(0) / np.sqrt(h / (1 - beta2**t)))
    return found


def equalised(J, L):
    norms = np.array([NORM(g) for g in J])
    return norms.mean() / norms


REFERENCES = {
    "equal": each(lambda J, L: np.ones(len(J))),
    "static": each(lambda J, L: 1 + np.arange(len(J)) / 2),
    "log_sum": each(lambda J, L: 1 / L),
    "geometric_mean": each(lambda J, L: np.prod(L) ** (1 / len(L)) / (len(L) * L)),
    "rlw": rlw,
    "dwa": dwa(2, 2.0),
    "uncertainty": learnt(lambda s: np.exp(-s) / 2, lambda s, L: (1 - np.exp(-s) * L) / 2),
    "gradnorm": gradnorm,
    "imtl_l": learnt(np.exp, lambda s, L: np.exp(s) * L - 1),
    "famo": famo,
    "stch": each(lambda J, L: softmax(L / 0.1)),
    "norm_equalised": each(equalised),
    "mgda": each(lambda J, L: min_norm(J)),
    "mgda_ub": each(lambda J, L: min_norm(J)),
    "pcgrad": pcgrad,
    "gradvac": gradvac,
    "graddrop": graddrop,
    "cagrad": cagrad,
    "imtl_g": each(lambda J, L: imtl_g(J)),
    "imtl_g_features": each(lambda J, L: imtl_g(J)),
    "nash_mtl": each(lambda J, L: alpha_fair(J, 1.0)),
    "fairgrad": each(lambda J, L: alpha_fair(J, 2.0)),
    "aligned_mtl": lambda steps, draws: [aligned(J) for J, _, _ in steps],
    "aligned_mtl_ub": lambda steps, draws: [aligned(J) for J, _, _ in steps],
    "moco": moco,
    "db_mtl": db_mtl,
    "autoscale": autoscale,
    "upgrad": lambda steps, draws: [upgrad(J) for J, _, _ in steps],
    "sam_gs": sam_gs,
    "broken": each(lambda J, L: np.where(np.arange(len(J)) == 0, 0.1, 1.0)),
}
