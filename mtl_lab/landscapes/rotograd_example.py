r"""The illustration of RotoGrad's paper (its Figure 1): two tasks on features of two dimensions, many seeds at once.

Both tasks have the same test function with shifted optima, $L_k = \varphi(R_k z - a_k)$, and no heads. The network is
Linear(2, 10), ReLU, Linear(10, 2) with the single input x = (0, 0). A vanilla run ends between the optima or in one of
them; rotations can bring the optima together. `study` runs the rules of `mtl_core.methods.rotograd` for all seeds,
starts and rotation rates in one batch, in float64; a test compares it with that module step by step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mtl_core.methods.rotograd import RESET_SHARE, TINY
from mtl_core.seeds import numpy_generator, wobbled

METHODS = {"vanilla": "Sum", "scale_only": "ScaleOnly", "rotate_only": "RotateOnly", "rotograd": "RotoGrad"}
STARTS = ("identity", "haar")


@dataclass(frozen=True)
class Pair:
    """Two tasks with one test function.

    phi            (..., 2) points -> (...) values.
    solved         a task counts as solved below this value; minimum: the smallest value of phi.
    learning_rate  of the network.
    optima         a_1, a_2.
    """

    title: str
    phi: Callable[[Tensor], Tensor]
    solved: float
    minimum: float
    learning_rate: float
    source: str
    optima: tuple = ((1.5, 1.5), (-1.5, -1.5))

    def losses(self, r: Tensor) -> Tensor:
        """(..., 2 tasks) at features r (..., 2 tasks, 2)."""
        return self.phi(r - r.new_tensor(self.optima))


def _waves(u):
    # |u| - sin(3u)/u; torch.sinc is defined at 0, where the released code divides 0 by 0
    return _both(u.abs() - 3 * torch.sinc(3 * u / torch.pi))


def _egg(u):
    a, b = (u[..., 0] + u[..., 1]) / 2**0.5, (u[..., 0] - u[..., 1]) / 2**0.5
    return torch.exp(-a) + a - 1 + b.square()


PAIRS = {
    "non_convex": Pair("Non-convex pair", _waves, -5.5, -6.0, 1e-3, "formula of the released example"),
    "convex": Pair("Convex pair", _egg, 0.05, 0.0, 1e-2, "this book's own; the paper's formula is not at hand"),
}


@dataclass(frozen=True)
class Study:
    """Result of `study` at T kept steps (T,). The other tensors start with (T, starts, rates, seeds).

    losses (..., 2), z (..., 2), rotations (..., 2, 2, 2); solved: whether both tasks are solved.
    """

    steps: Tensor
    losses: Tensor
    z: Tensor
    rotations: Tensor
    solved: Tensor


def study(
    pair: Pair,
    method: str,
    *,
    seeds: Sequence[int] = range(100),
    rates: Sequence[float] = (0.05,),
    starts: Sequence[str] = ("identity",),
    steps: int = 400,
    every: int = 50,
    learning_rate: float | None = None,
    decay: float = 0.99999,
    burn_in: int = 20,
    optimizer: str = "adam",
    normalize_losses: bool = True,
    objective: str = "code",
) -> Study:
    """Run `method` from every seed, start and rotation rate.

    rates          learning rates of the rotations, times decay^t at step t.
    starts         of the rotations, from `STARTS`.
    steps, every   number of steps; each `every`-th step and the last are kept.
    learning_rate  of the network, for plain SGD; None takes the pair's.
    optimizer      of the rotations: "adam" as in the released example, or "sgd".
    normalize_losses, burn_in, objective  as in `methods.rotograd.RotoGrad`; "vanilla" has none of them.
    ValueError: an unknown method, start, optimizer or objective.
    """
    for what, given, known in (("optimizer", optimizer, ("adam", "sgd")), ("objective", objective, ("code", "paper"))):
        if given not in known:
            raise ValueError(f"{what} is one of {', '.join(known)}; got {given!r}")
    if method not in METHODS:
        raise ValueError(f"method is one of {', '.join(METHODS)}; got {method!r}")
    if unknown := set(starts) - set(STARTS):
        raise ValueError(f"starts are of {', '.join(STARTS)}; got {', '.join(sorted(unknown))}")
    shape = (len(starts), len(rates), len(seeds))
    learning_rate = pair.learning_rate if learning_rate is None else learning_rate
    b1, W2, b2, base = map(wobbled, _initial(seeds, starts, shape))
    angle = torch.zeros(*shape, 2, dtype=torch.float64)
    first, second = torch.zeros_like(angle), torch.zeros_like(angle)
    rate = torch.tensor(rates, dtype=torch.float64)[:, None, None]
    state, kept = {}, []
    for t in range(steps + 1):
        hidden = b1.relu()
        z = (W2 @ hidden[..., None]).squeeze(-1) + b2
        R = _rotation(base + angle)
        r = _both(R * z[..., None, None, :]).requires_grad_()
        losses = pair.losses(r)
        if t % every == 0 or t == steps:
            kept.append((t, losses.detach(), z, R))
        if t == steps:
            break
        (tilde,) = torch.autograd.grad(losses.sum(), r)
        if method != "vanilla" and normalize_losses:
            tilde = tilde * _normaliser(losses.detach(), state, t == burn_in)[..., None]
        update, pull = _homogenise(method, R, tilde, state, t == burn_in, objective)
        if method in ("rotate_only", "rotograd"):
            g = _both(_both(_rotation(base + angle + torch.pi / 2) * pull))  # dR / d angle: turned a quarter further
            if optimizer == "adam":
                first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g * g
                scale = (second / (1 - 0.999 ** (t + 1))).sqrt() + 1e-8
                g = first / (1 - 0.9 ** (t + 1)) / scale
            angle = angle - rate * decay**t * g
        step = learning_rate * update[..., None]
        b1, W2, b2 = b1 - _both(step * W2, -2) * (b1 > 0), W2 - step * hidden[..., None, :], b2 - step[..., 0]
    times, losses, z, R = zip(*kept, strict=True)
    losses = torch.stack(losses)
    return Study(torch.tensor(times), losses, torch.stack(z), torch.stack(R), (losses < pair.solved).all(-1))


def _initial(seeds, starts, shape):
    """PyTorch's initialisation of both layers (the input is zero: W1 does not matter) and the rotations' angles."""
    parameters, angles = [], []
    for seed in seeds:
        generator = numpy_generator(seed, "initialisation", "illustration")
        parameters.append([torch.from_numpy(generator.uniform(-1, 1, n)) for n in (10, 20, 2)])
        angles.append(torch.from_numpy(numpy_generator(seed, "method", "illustration").uniform(0, 2 * torch.pi, 2)))
    b1, W2, b2 = (torch.stack(each) for each in zip(*parameters, strict=True))
    b1, W2, b2 = b1 / 2**0.5, W2.view(-1, 2, 10) / 10**0.5, b2 / 10**0.5
    base = torch.stack([torch.stack(angles) * (start == "haar") for start in starts])[:, None]
    return *(t.expand(*shape, *t.shape[1:]).clone() for t in (b1, W2, b2)), base.expand(*shape, 2)


def _both(t: Tensor, dim: int = -1) -> Tensor:
    """The sum over a dimension of two entries; `t.sum(dim)` takes ten times as long for one so short."""
    first, second = t.unbind(dim)
    return first + second


def _rotation(angle: Tensor) -> Tensor:
    """Rotation matrices (..., 2, 2) by angles (...) in radians."""
    c, s = angle.cos(), angle.sin()
    return torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)


def _normaliser(losses, state, again):
    """1 / |L_k(t0)| (..., 2), by the rule of `methods.rotograd`; `again`: this is the step at which t0 may be reset."""
    large = losses.abs() > TINY
    initial = state.setdefault("losses", torch.zeros_like(losses))
    start = state.setdefault("first losses", torch.zeros_like(losses))
    state["first losses"] = start = torch.where((start == 0) & large, losses, start)
    reset = again & (losses.abs() > RESET_SHARE * start.abs())
    state["losses"] = initial = torch.where(large & ((initial == 0) | reset), losses, initial)
    return torch.where(initial == 0, 1.0, 1 / initial.abs())


def _homogenise(method, R, tilde, state, again, objective):
    """Gradients at z (..., 2), and at the rotations (..., 2, 2, 2)."""
    G = _both(R * tilde[..., None], -2)  # R^T times the gradient at R z
    norms = _both(G.square()).sqrt()
    U = G / norms.clamp_min(torch.finfo(G.dtype).tiny)[..., None]
    V, total = _both(U, -2) / 2, _both(G, -2)
    twice_the_mean = _both(total.square()).sqrt()  # its length
    factor = twice_the_mean if objective == "code" else torch.ones_like(twice_the_mean)
    pull = -factor[..., None, None, None] * tilde[..., :, None] * V[..., None, None, :]
    if method in ("vanilla", "rotate_only"):
        return total, pull
    before = state.setdefault("norms", torch.zeros_like(norms))
    state["norms"] = before = torch.where((norms > 0) & ((before == 0) | again), norms, before)
    ratios = torch.where(before > 0, norms / before, 0.0)
    shares = ratios / _both(ratios)[..., None].clamp_min(torch.finfo(G.dtype).tiny)
    return _both(shares * norms)[..., None] * 2 * V, pull
