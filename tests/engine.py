"""What the tests of the engine share: small models whose gradients are known, and a plain restatement of them."""

import numpy as np
import torch
from torch import Tensor, nn

from mtl_core import methods
from mtl_core.balancer import Balancer
from mtl_core.conflict import ConflictScores, cosines
from mtl_core.data.problem import Problem, Split, classification
from mtl_core.methods import METHODS
from mtl_core.models import MultiTaskModel, ResNet

torch.set_num_threads(1)


class Vector(nn.Module):
    """A layer that is nothing but one parameter vector."""

    def __init__(self, size: int, dtype=torch.float32):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size, dtype=dtype))


class LinearTrunk(nn.Module):
    """Its features are its parameters: a loss g.features has exactly the gradient g."""

    def __init__(self, sizes, dtype=torch.float32):
        super().__init__()
        self.parts = nn.ModuleList(Vector(size, dtype) for size in sizes)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part.weight for part in self.parts])


def linear_model(sizes, K: int, dtype=torch.float32) -> MultiTaskModel:
    return MultiTaskModel(LinearTrunk(sizes, dtype), [Vector(1, dtype) for _ in range(K)])


def linear_losses(model, features, gradients, coefficients=None, offsets=None) -> list[Tensor]:
    """Loss k = g_k . features + c_k * head_k (+ offset): shared gradient g_k, head gradient c_k."""
    rows = torch.as_tensor(gradients, dtype=features.dtype)
    K = len(rows)
    coefficients = coefficients or [1.0] * K
    offsets = offsets or [0.0] * K
    return [rows[k] @ features + coefficients[k] * model.heads[k].weight.sum() + offsets[k] for k in range(K)]


def matrix_of(*rows, dtype=torch.float32) -> Tensor:
    return torch.tensor(rows, dtype=dtype)


TOLERANCE = 2e-5  # the traces are float32, printed with six digits


def agrees(found, printed):
    np.testing.assert_allclose(np.asarray(found, dtype=float), printed, rtol=TOLERANCE, atol=1e-9)


def restatement(matrices, gamma, beta1, beta2, epsilon=1e-8):
    """SAM-GS in numpy, float64, straight from the update rule; (update, branch) of each step."""
    m, h, results = 0.0, 0.0, []
    for t, J in enumerate(matrices, start=1):
        K, n = len(J), [float(np.sqrt(np.sum(g * g))) for g in J]
        pairs = [2 * n[i] * n[j] / (n[i] ** 2 + n[j] ** 2) for i in range(K) for j in range(i + 1, K)]
        psi = sum(pairs) / len(pairs) if pairs else 1.0
        m = beta1 * m + (1 - beta1) * J
        h = beta2 * h + (1 - beta2) * (1 - psi) ** 2 + epsilon
        if psi < gamma:
            results.append((sum(n) / K * sum(g / k for g, k in zip(J, n, strict=True)), "equalise"))
        else:
            weights = np.abs(m / (1 - beta1**t)) / np.sqrt(h / (1 - beta2**t))
            results.append(((J * weights).sum(0), "momentum"))
    return results


def narrow_resnet(K: int = 3) -> MultiTaskModel:
    """A narrow ResNet18 whose BatchNorm layers hold statistics and affine parameters that are all different."""
    torch.manual_seed(0)
    model = MultiTaskModel(ResNet([4] * 4, features=6), [nn.Linear(6, 3) for _ in range(K)]).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    # at width 4 all stages are equally wide, so layer2..4 have downsample layers by their stride alone
    return model.eval()


def close(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def fresh(name, K=2, **more):
    """An instance with its defaults; static weights get weights that are not all one."""
    return methods.make(name, **({"weights": [1.0 + k / 2 for k in range(K)]} if name == "static" else {}), **more)


def combined(name, gradients, convention="plain", offsets=None, dtype=torch.float64, method=None, K_sizes=None):
    """(shared gradient, head gradients) that an optimizer would see for these task gradients."""
    rows = torch.as_tensor(gradients, dtype=dtype)
    K, D = rows.shape
    model = linear_model(K_sizes or [D], K, dtype)
    features = model.features(None)
    losses = linear_losses(model, features, rows, [1.0 + k for k in range(K)], offsets or [2.0 + k for k in range(K)])
    torch.manual_seed(0)
    balancer = Balancer(method or fresh(name, K), model, convention=convention, spec=METHODS[name])
    balancer.backward(losses, features=features)
    shared = torch.cat([p.grad for p in model.trunk.parameters()])
    return shared.clone(), torch.cat([head.weight.grad for head in model.heads])


def conflicting(K, D=12, dtype=torch.float64):
    rows = torch.randn(K, D, generator=torch.Generator().manual_seed(10 + K), dtype=torch.float64)
    rows = rows - 1.3 * rows.mean(0)  # pushes the rows apart
    assert (cosines(rows) < 0).all()
    return (rows * torch.linspace(0.5, 2, K, dtype=torch.float64)[:, None]).to(dtype)


def small_problem(K, examples=48):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(examples, 6, generator=generator, dtype=torch.float64)
    targets = [(x @ torch.randn(6, 3, generator=generator, dtype=torch.float64)).argmax(1) for _ in range(K - 1)]
    targets.append((targets[0] + 1) % 3)  # contradicts task 0
    split = Split(x, tuple(targets))
    return Problem(tuple(classification(f"t{k}", 3) for k in range(K)), split, split, split, {"synthetic": True})


def small_model(K, batch_norm=False):
    torch.manual_seed(1)
    middle = [nn.BatchNorm1d(8)] if batch_norm else []
    trunk = nn.Sequential(nn.Linear(6, 8), *middle, nn.Tanh(), nn.Linear(8, 5), nn.Tanh())
    return MultiTaskModel(trunk, [nn.Linear(5, 3) for _ in range(K)]).double()


def step_of(name, model, convention="plain", observed=False, method=None, spec=None):
    """A balancer with a fresh method of that name; `observed`: J is computed whatever the method reads."""
    method = method or fresh(name, len(model.heads))
    balancer = Balancer(method, model, convention=convention, spec=spec or METHODS[name])
    balancer.observers += [lambda gradients: None] if observed else []
    return balancer


def take(balancer, model, tasks, batch):
    """A step as a loop takes it, but for the optimizer: gradients of a batch in every `.grad`; the losses (K,)."""
    inputs, targets = batch
    model.zero_grad()
    features = model.features(inputs)
    outputs = model.outputs(features)
    losses = {t.name: t.loss(o, y) for t, o, y in zip(tasks, outputs, targets, strict=True)}
    balancer.backward(losses, features=features)
    return balancer.losses


def after(balancer, model, tasks, batch):
    """What comes behind the optimizer's step: the losses of the same batch, for a method that learns from them."""
    inputs, targets = batch
    with torch.no_grad():
        balancer.after_step({t.name: t.loss(o, y) for t, o, y in zip(tasks, model(inputs), targets, strict=True)})


THRESHOLDS = (0.0, -0.02, -0.1, -0.15)


def scored(iterations, thresholds=THRESHOLDS, **more):
    layers = list(iterations[0])
    scores = ConflictScores(layers, len(iterations[0][layers[0]]), thresholds, **more)
    for gradients in iterations:
        scores.update(gradients)
    return scores


def random_iterations(seed, count, K=3, sizes=(3, 5, 2), **more):
    generator = torch.Generator().manual_seed(seed)
    names = [f"layer{i}" for i in range(len(sizes))]
    return [
        {n: torch.randn(K, d, generator=generator, **more) for n, d in zip(names, sizes, strict=True)}
        for _ in range(count)
    ]
