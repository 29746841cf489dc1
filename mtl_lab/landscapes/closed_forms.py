r"""Closed forms of the methods for two tasks, batched over many points; `descent.trajectories` uses them.

A rule takes task gradients J (B, 2, D) and losses (B, 2) and returns updates (B, D): update b is what the registered
method returns for J[b], before any scaling or clipping. A rule is made from an instance of the method, whose arguments
it reads; `knows` tells for which arguments there is a closed form.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.linalg import vector_norm

Rule = Callable[[Tensor, Tensor], Tensor]
_RULES: dict[str, tuple[Callable[..., Rule], frozenset[str]]] = {}


def _closed_form(name, *arguments):
    def register(make):
        _RULES[name] = (make, frozenset(arguments))
        return make

    return register


def knows(name: str, options: Iterable[str] = ()) -> bool:
    """Whether there is a closed form for method `name` with these arguments."""
    return name in _RULES and set(options) <= _RULES[name][1]


def rule(name: str, method) -> Rule:
    """A new rule, with a fresh state if it has one, that computes what the instance `method` computes. KeyError: no
    closed form for `name`."""
    return _RULES[name][0](method)


def names() -> list[str]:
    """The methods that have a closed form."""
    return list(_RULES)


def _dot(a, b):
    return (a * b).sum(-1)


def _mix(weight, J):
    """w g_1 + (1 - w) g_2."""
    return weight[:, None] * J[:, 0] + (1 - weight[:, None]) * J[:, 1]


def _norms_and_cosine(J):
    norms = vector_norm(J, dim=-1)
    lengths = norms.prod(-1)
    return norms, _dot(J[:, 0], J[:, 1]) / lengths.masked_fill(lengths == 0, 1)


def _in_lengths(lengths, J, norms):
    """The sum of the two gradients after scaling them to these lengths (B, 1 or 2); a zero gradient stays zero."""
    return (torch.where(norms > 0, lengths / norms, 0.0)[..., None] * J).sum(1)


def _equalised(J):
    """The sum of the two gradients after scaling both to their mean length."""
    norms = vector_norm(J, dim=-1)  # (B, 2)
    return _in_lengths(norms.mean(-1, keepdim=True), J, norms)


@_closed_form("equal")
def _equal(method):
    return lambda J, losses: J.sum(1)


@_closed_form("static", "weights")
def _static(method):
    return lambda J, losses: (method.weights.to(J)[:, None] * J).sum(1)


@_closed_form("log_sum")
def _log_sum(method):
    def update(J, losses):
        if (losses <= 0).any():
            raise ValueError("the sum of logs needs positive losses")
        return (J / losses[..., None]).sum(1)

    return update


@_closed_form("rlw")
def _rlw(method):
    return lambda J, losses: (torch.softmax(torch.randn_like(losses), -1)[..., None] * J).sum(1)


@_closed_form("dwa", "window", "temperature")
def _dwa(method):
    window, averages = [], []

    def update(J, losses):
        if len(window) == method.window:
            averages[:] = [*averages, torch.stack(window).mean(0)][-2:]
            window.clear()
        window.append(losses)
        if len(averages) < 2:
            return J.sum(1)
        return 2 * (torch.softmax(averages[1] / averages[0] / method.temperature, -1)[..., None] * J).sum(1)

    return update


@_closed_form("stch", "mu")
def _stch(method):
    return lambda J, losses: (torch.softmax(losses / method.mu, -1)[..., None] * J).sum(1)


@_closed_form("norm_equalised")
def _norm_equalised(method):
    return lambda J, losses: _equalised(J)


@_closed_form("mgda", "solver")
def _mgda(method):
    r"""The min-norm point of a segment: $w = \mathrm{clip}(g_2\cdot(g_2-g_1)/\|g_1-g_2\|^2, 0, 1)$."""

    def update(J, losses):
        between = J[:, 1] - J[:, 0]
        square = _dot(between, between)
        weight = _dot(J[:, 1], between) / square.masked_fill(square == 0, 1)
        return _mix(weight.clamp(0, 1), J)

    return update


@_closed_form("pcgrad")
def _pcgrad(method):
    r"""$\sum_i g_i - \min(0, g_1\cdot g_2)\,(g_1/\|g_1\|^2 + g_2/\|g_2\|^2)$: the order does not matter for K = 2."""

    def update(J, losses):
        squares = _dot(J, J)
        overlap = _dot(J[:, 0], J[:, 1]).clamp(max=0)[:, None]
        return ((1 - overlap / squares.masked_fill(squares == 0, 1))[..., None] * J).sum(1)

    return update


@_closed_form("gradvac", "beta")
def _gradvac(method):
    r"""$g_i + \|g_i\| (\hat\varphi\sqrt{1-c^2} / \sqrt{1-\hat\varphi^2} - c)\, g_j/\|g_j\|$ where $c < \hat\varphi$."""
    target = 0.0

    def update(J, losses):
        nonlocal target
        norms, c = _norms_and_cosine(J)
        target = torch.as_tensor(target, dtype=c.dtype)
        sine, wanted = ((1 - x**2).clamp(min=0).sqrt() for x in (c, target))  # rounding makes cosines of 1 + 1e-16
        pull = torch.where(c < target, target * sine - c * wanted, 0.0)[:, None] * norms
        more = (pull / (norms.flip(-1) * wanted.expand_as(c)[:, None] + 1e-40)).flip(-1)  # of g_j, for the other's g_i
        target = torch.lerp(target.expand_as(c), c, method.beta)
        return ((1 + more)[..., None] * J).sum(1)

    return update


@_closed_form("graddrop")
def _graddrop(method):
    def update(J, losses):
        purity = (1 + J.sum(1) / J.abs().sum(1)) / 2
        positive = purity > torch.rand_like(purity)
        return torch.where(positive, J.clamp(min=0).sum(1), J.clamp(max=0).sum(1))

    return update


@_closed_form("moco", "beta", "gamma", "rho")
def _moco(method):
    averages, weights, steps = None, None, 0

    def update(J, losses):
        nonlocal averages, weights, steps
        steps += 1
        averages = torch.lerp(torch.zeros_like(J) if averages is None else averages, J, method.beta / steps**0.5)
        weights = torch.full_like(losses, 0.5, dtype=J.dtype) if weights is None else weights
        slope = (averages @ averages.mT @ weights[..., None]).squeeze(-1) + method.rho * weights
        moved = weights - method.gamma / steps**0.5 * slope
        first = ((1 + moved[:, 0] - moved[:, 1]) / 2).clamp(0, 1)  # onto the simplex
        weights = torch.stack([first, 1 - first], -1)
        return (weights[..., None] * averages).sum(1)

    return update


@_closed_form("upgrad")
def _upgrad(method):
    """With two tasks, each projected gradient is PCGrad's; UPGrad is their mean."""
    projected = _pcgrad(method)
    return lambda J, losses: projected(J, losses) / 2


@_closed_form("nash_mtl", "normalise")
def _nash_mtl(method):
    r"""$G w = s/w$ has $w_k = \sqrt{s/(1+\cos\varphi)}\,/\,\|g_k\|$, s = ‖G‖ or 1: the two gradients get one length."""

    def update(J, losses):
        norms, cosine = _norms_and_cosine(J)
        size = torch.linalg.matrix_norm(J @ J.mT) if method.weighting.normalise else torch.ones_like(cosine)
        free = 1 + cosine > 2e-13  # else no direction improves both
        length = torch.where(free, size / (1 + cosine).masked_fill(~free, 1), 0.0).sqrt()
        return _in_lengths(length[:, None], J, norms)

    return update


@_closed_form("fairgrad", "alpha")
def _fairgrad(method):
    r"""$C u = \|G\|\, n^{p-1} u^{-p}$ for $u = n w$, p = 1/α: one increasing equation for the ratio $t = u_2/u_1$."""
    p = 1 / method.weighting.alpha

    def update(J, losses):
        norms, c = _norms_and_cosine(J)
        safe = norms.masked_fill(norms == 0, 1)
        lengths = torch.linalg.matrix_norm(J @ J.mT)[:, None] * safe ** (p - 1)
        ratio = (p - 1) * (safe[:, 1] / safe[:, 0]).log()
        free = 1 + c > 2e-13  # else no direction improves both
        cosine = torch.where(free, c, 0.0)
        reach = torch.where(cosine < 0, -cosine.clamp(max=-1e-300).abs().log(), ratio.abs() / p + 1)  # of log t
        low, high = -reach, reach
        for _ in range(60):
            t = (middle := (low + high) / 2).exp()
            below = (t + cosine).log() + p * middle - (1 + cosine * t).log() < ratio
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        t = ((low + high) / 2).exp()
        first = (lengths[:, 0] / (1 + cosine * t)) ** (1 / (1 + p))
        each = torch.where(free[:, None], torch.stack([first, t * first], -1), 0.0)
        return _in_lengths(each, J, norms)

    return update


@_closed_form("imtl_g")
def _imtl_g(method):
    r"""Equal projections and weights that add up to one: $w_k \propto 1/\|g_k\|$."""

    def update(J, losses):
        norms, cosine = _norms_and_cosine(J)
        inverse = torch.where(norms > 0, 1 / norms, 0.0)
        total = inverse.sum(-1)
        apart = (1 + cosine > 1e-12) & (total > 0)
        return _in_lengths(torch.where(apart, 1 / total, 0.0)[:, None], J, norms)

    return update


@_closed_form("aligned_mtl")
def _aligned_mtl(method):
    r"""$\sqrt{\lambda_\min}\,V\Lambda^{-1/2}V^\top\,1/2$ on the numerical rank of $G = V\Lambda V^\top$."""

    def update(J, losses):
        values, vectors = torch.linalg.eigh(J @ J.mT)  # ascending
        kept = values > 2 * torch.finfo(values.dtype).eps * values[:, 1:]
        least = torch.where(kept[:, 0], values[:, 0], values[:, 1])[:, None]
        shrink = torch.where(kept, (least / values.masked_fill(~kept, 1)).sqrt(), 0.0)
        weights = (vectors @ (shrink * vectors.sum(1) / 2)[..., None]).squeeze(-1)
        return (weights[..., None] * J).sum(1)

    return update


@_closed_form("cagrad", "c", "rescale")
def _cagrad(method):
    r"""The convex function $w\mapsto g_w\cdot\bar g + c\|\bar g\|\|g_w\|$ of one weight has its minimum in closed form.

    With $q(w) = \|g_w\|^2 = a(w-m)^2 + r$ the derivative vanishes where $a(w-m)/\sqrt q = s$ for one number s.
    """

    def update(J, losses):
        mean = J.mean(1)
        reach = method.c * vector_norm(mean, dim=-1)
        between = J[:, 0] - J[:, 1]
        a = _dot(between, between)
        safe = a.masked_fill(a == 0, 1)
        middle = -_dot(J[:, 1], between) / safe  # m: the line's point of least norm
        r = (_dot(J[:, 1], J[:, 1]) - a * middle**2).clamp(min=0)
        s = -_dot(between, mean) / reach.masked_fill(reach == 0, 1)
        inside = s**2 < a  # else the function falls all the way to one end
        distance = (s**2 * r / (safe * (a - s**2).masked_fill(~inside, 1))).sqrt()
        offset = torch.sign(s) * torch.where(inside, distance, torch.inf)
        worst = _mix(torch.where(a > 0, middle + offset, 0.5).clamp(0, 1), J)
        worst = torch.where((J == 0).all(-1).any(-1, keepdim=True), J.sum(1), worst)  # a zero gradient takes no part
        length = vector_norm(worst, dim=-1)
        step = mean + (reach / length.masked_fill(length == 0, 1))[:, None] * worst
        return method.factor * step

    return update


@_closed_form("sam_gs", "gamma", "beta1", "beta2", "epsilon", "variant")
def _sam_gs(method):
    momentum, dissimilarity, steps, printed = None, 0.0, 0, method.variant == "printed"

    def update(J, losses):
        nonlocal momentum, dissimilarity, steps
        if momentum is None:
            momentum = torch.zeros_like(J)
            momentum[..., 1:] = float(method.variant == "reinforcement")
        norms = vector_norm(J, dim=-1)
        large = norms.amax(-1)
        ratio = torch.where(large == 0, 1.0, norms.amin(-1) / large)
        pair = 2 * ratio / (1 + ratio**2)
        similarity = (1 + pair) / 2 if printed else pair
        steps += 1
        momentum = method.beta1 * momentum + (1 - method.beta1) * J
        change = (1 - method.beta2) * (1 - similarity) ** 2 + method.epsilon
        dissimilarity = method.beta2 * dissimilarity + change
        root = (dissimilarity / (1 - method.beta2**steps)).sqrt() + printed * method.epsilon
        moved = (J * momentum.abs()).sum(1) / ((1 - method.beta1**steps) * root)[:, None]
        equal = _in_lengths(norms.mean(-1, keepdim=True), J * J, norms) if printed else _equalised(J)
        return torch.where((similarity < method.gamma)[:, None], equal, moved)

    return update
