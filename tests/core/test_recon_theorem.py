r"""Recon's Theorem 4.1, by numbers: what one step with copies of layers changes, in the conventions of paper and code.

The paper's step gives a shared layer $\sum_i w_i g_i$ with $\sum_i w_i = 1$, and a copy its own $g_i$: unequal steps.
The released code gives a shared layer the sum, $w_i = 1$.
"""

import pytest
import torch
from torch import nn

from mtl_core import recon
from mtl_core.models import MultiTaskModel

CONVENTIONS = {"paper": 0.5, "code": 1.0}  # w of each of two tasks
LAYERS = ["0"]  # that are split: the first of two linear layers


def made(seed, sign):
    """A network, inputs, and targets of two tasks that agree (sign 1) or oppose each other (sign -1)."""
    torch.manual_seed(seed)
    trunk = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4), nn.Tanh())
    model = MultiTaskModel(trunk, [nn.Linear(4, 1) for _ in range(2)]).double()
    model.heads[1].load_state_dict(model.heads[0].state_dict())  # what differs is in the targets
    x, y = torch.randn(32, 5).double(), torch.randn(32, 1).double()
    noise = 0.3 * torch.randn(2, 32, 1).double()
    return model, x, [y + noise[0], sign * y + noise[1]]


@torch.enable_grad()
def gradients(model, x, targets):
    """Parameter -> its gradients by task, None where the task does not reach it."""
    losses = [nn.functional.mse_loss(out, y) for out, y in zip(model(x), targets, strict=True)]
    parameters = [*model.parameters()]
    each = [torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True) for loss in losses]
    return dict(zip(parameters, zip(*each, strict=True), strict=True))


def after_a_step(model, x, targets, rate, weight):
    """The sum of the losses after one step: what tasks share moves along the weighted sum, the rest along its own."""
    with torch.no_grad():
        for p, found in gradients(model, x, targets).items():
            reached = [g for g in found if g is not None]
            p -= rate * (weight * sum(reached) if len(reached) > 1 else reached[0])
        return sum(nn.functional.mse_loss(out, y) for out, y in zip(model(x), targets, strict=True)).item()


def difference(seed, sign, rate, weight):
    """The loss after Recon's step minus that after the shared one, from the same values."""
    model, x, targets = made(seed, sign)
    split = recon.split(model, LAYERS, 2)  # copies start at the shared values
    return after_a_step(split, x, targets, rate, weight) - after_a_step(model, x, targets, rate, weight)


def products(seed, sign):
    """The Gram matrix of the task gradients of the layers that are split."""
    model, x, targets = made(seed, sign)
    found = gradients(model, x, targets)
    J = torch.stack([torch.cat([found[p][k].flatten() for p in model.trunk[0].parameters()]) for k in range(2)])
    return J @ J.T


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_the_first_order_of_the_difference(convention, sign):
    r"""$(L_\mathrm{Recon} - L) / \alpha \to -\sum_i (\|g_i\|^2 - \sum_j w_j g_i \cdot g_j)$, in the split layers."""
    weight = CONVENTIONS[convention]
    for seed in range(5):
        G = products(seed, sign)
        # -\sum_i (g_i \cdot g_i - \sum_j w_j g_i \cdot g_j)
        expected = -(G.diagonal().sum() - weight * G.sum()).item()
        errors = [abs(difference(seed, sign, rate, weight) / rate - expected) for rate in (1e-4, 1e-5)]
        assert errors[1] < 1e-3 * G.diagonal().sum().item() and errors[1] < 0.2 * errors[0] + 1e-8
        if convention == "code":  # + \sum_{i \ne j} g_i \cdot g_j
            assert expected == pytest.approx(2 * G[0, 1].item())


def test_under_the_theorems_condition_recons_step_is_lower_in_the_papers_convention():
    r"""$\cos\varphi_{ij} \|g_i\| < \|g_j\|$ for both orders; it holds for gradients that agree, too."""
    agree = 0
    for sign in (1, -1):
        for seed in range(20):
            G = products(seed, sign)
            norms = G.diagonal().sqrt()
            cosine = G[0, 1] / norms.prod()
            if cosine * norms[0] < norms[1] and cosine * norms[1] < norms[0]:
                assert difference(seed, sign, 1e-4, CONVENTIONS["paper"]) < 0
                agree += int(cosine > 0.5)
    assert agree > 3, "so the theorem is no statement about conflict"


def test_in_the_codes_convention_recons_step_is_lower_where_gradients_conflict():
    signs = set()
    for sign in (1, -1):
        for seed in range(20):
            inner = products(seed, sign)[0, 1].item()
            assert (difference(seed, sign, 1e-5, CONVENTIONS["code"]) < 0) == (inner < 0)
            signs.add(inner < 0)
    assert signs == {True, False}
