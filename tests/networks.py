"""Networks of many kinds for the tests of the gradient engine, and one full backward pass per task."""

import torch
from torch import nn
from torch.nn import functional as F

from mtl_core import recon
from mtl_core.balancer import Balancer
from mtl_core.models import MultiTaskModel, ResNet, lenet, mlp
from mtl_core.recon import candidate_layers

torch.set_num_threads(1)


def with_batch_norm(K):
    trunk = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 5))
    return MultiTaskModel(trunk, [nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)) for _ in range(K)])


def resnet(K):
    return MultiTaskModel(ResNet([4] * 4, features=6), [nn.Linear(6, 3) for _ in range(K)])


def recurrent(K):
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.gru = nn.GRU(8, 5, batch_first=True)

        def forward(self, x):
            return self.gru(x[:, 0])[0][:, -1]

    return MultiTaskModel(Last(), [nn.Linear(5, 3) for _ in range(K)])


MODELS = {
    "mlp": lambda K: MultiTaskModel(nn.Sequential(nn.Flatten(), mlp([], 64, 7, 2).trunk), mlp([3] * K, 64, 7).heads),
    "lenet": lambda K: lenet([3] * K, size=16, features=5),
    "batch norm": with_batch_norm,
    "resnet": resnet,
    "recurrent": recurrent,
}
SPLITS = {
    "all batch norm": lambda name: "bn" in name or "downsample.1" in name,
    "stem": lambda name: name == "conv1",
    "inside a block": lambda name: name in ("layer1.0.conv2", "layer3.0.downsample.1"),
    "last": lambda name: name == "fc",
    "everything": lambda name: True,
}


def build(name, K, dtype=torch.float64, split=None):
    torch.manual_seed(0)
    model = MODELS[name](K).to(dtype)
    if split is not None:
        names = [n for n in candidate_layers(model) if SPLITS[split](n)]
        assert names
        model = recon.split(model, names, K, "reinitialise")
    side = 16 if name in ("lenet", "resnet") else 8
    inputs = torch.randn(6, 1, side, side, dtype=dtype)
    targets = torch.randint(3, (K, 6))
    return model, inputs, targets


def losses_of(model, features, targets):
    outputs = model.outputs(features)
    return [F.cross_entropy(o, t) * (k + 1) for k, (o, t) in enumerate(zip(outputs, targets, strict=True))]


def direct(model, inputs, targets):
    """task -> {parameter: gradient} by one full backward pass each."""
    losses = losses_of(model, model.features(inputs), targets)
    names, parameters = zip(*[(n, p) for n, p in model.named_parameters() if p.requires_grad], strict=True)
    return [
        dict(zip(names, torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True), strict=True))
        for loss in losses
    ]


def run(model, inputs, targets):
    """(balancer after a step of the plain sum, gradients of all tasks)."""
    balancer = Balancer("equal", model)
    balancer.observers.append(lambda gradients: None)
    balancer.backward(losses_of(model, model.features(inputs), targets))
    return balancer.gradients
