"""Small problems for the tests of RotoGrad's family."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from mtl_core.methods.rotograd import RotateOnly, RotoGrad, RotoGradNorm, ScaleOnly

torch.set_num_threads(1)
FAMILY = [RotateOnly, ScaleOnly, RotoGrad, RotoGradNorm]


def about(axis, degrees):
    """The rotation of three dimensions about an axis."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    rows = {"x": [[1, 0, 0], [0, c, -s], [0, s, c]], "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]]}[axis]
    return torch.tensor(rows, dtype=torch.float64)


def small(make, size=4, K=3, dtype=torch.float64, seed=0, d=4, **options):
    torch.manual_seed(seed)
    trunk = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, d)).to(dtype)
    heads = [nn.Linear(d, 2).to(dtype) for _ in range(K)]
    x, y = torch.randn(8, 3, dtype=dtype), torch.randn(K, 8, 2, dtype=dtype)
    return make(trunk, heads, size, **options), x, y


def losses_of(model, x, y):
    return [F.mse_loss(o, t) for o, t in zip(model(x), y, strict=True)]


def at_features(model, losses):
    """G_k, the gradients of `losses(model)` at the shared features, one full backward pass each: (K, B, d, *post)."""
    model.eval()
    seen = []
    hook = model.trunk.register_forward_hook(lambda module, inputs, z: seen.append(z))
    found = losses(model)
    hook.remove()
    model.train()
    return torch.stack([torch.autograd.grad(loss, seen[0], retain_graph=True)[0] for loss in found])


def gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
