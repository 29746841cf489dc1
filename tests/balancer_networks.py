"""Networks, batches and comparisons that the tests of `Balancer` share."""

import torch
from torch import nn

from mtl_core.methods import METHODS

torch.set_num_threads(1)
NAMES = [name for name, spec in METHODS.items() if spec.kind != "feature rotation"]
AGGREGATIONS = [name for name in NAMES if METHODS[name].kind == "gradient aggregation"]


class Net(nn.Module):
    """A trunk and K heads, in double precision."""

    def __init__(self, K=2, trunk=None, size=8):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(6, size), nn.Tanh()) if trunk is None else trunk
        self.heads = nn.ModuleList(nn.Linear(size, 1) for _ in range(K))
        self.double()

    def forward(self, x):
        z = self.trunk(x)
        return z, [head(z).squeeze(1) for head in self.heads]


def batch(K=2, size=16):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size, 6, generator=generator).double(), torch.randn(K, size, generator=generator).double()


def step(balancer, net, x, ys, loss=lambda output, y: (output - y).pow(2).mean(), **more):
    z, outputs = net(x)
    losses = {f"t{k}": loss(output, y) for k, (output, y) in enumerate(zip(outputs, ys, strict=True))}
    balancer.backward(losses, features=z, **more)
    return losses


def gradients_of(net):
    return [None if p.grad is None else p.grad.clone() for p in net.parameters()]


def same(one, other, tolerance=1e-9):
    return all(
        (a is None and b is None) or torch.allclose(a, b, rtol=tolerance, atol=tolerance)
        for a, b in zip(one, other, strict=True)
    )


def joint(net, losses):
    """Gradients of the plain sum."""
    net.zero_grad()
    sum(losses).backward()
    found = gradients_of(net)
    net.zero_grad()
    return found


class UNet(nn.Module):
    """Every decoder reads every map of the encoder."""

    def __init__(self, maps, K):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Conv2d(4 if i else 3, 4, 3, padding=1) for i in range(maps))
        self.decoders = nn.ModuleList(nn.ModuleList(nn.Conv2d(4, 1, 1) for _ in range(maps)) for _ in range(K))

    def forward(self, x):
        maps = []
        for block in self.blocks:
            x = block(x).relu()
            maps.append(x)
            x = nn.functional.avg_pool2d(x, 2)
        size = maps[0].shape[2:]
        return maps, [
            sum(nn.functional.interpolate(mix(z), size=size) for mix, z in zip(decoder, maps, strict=True))
            for decoder in self.decoders
        ]


class TwoEncoders(nn.Module):
    def __init__(self):
        super().__init__()
        self.image, self.text = nn.Linear(6, 4), nn.Linear(5, 4)
        self.heads = nn.ModuleList([nn.Linear(8, 1), nn.Linear(8, 1)])

    def forward(self, x):
        pair = self.image(x[:, :6]).tanh(), self.text(x[:, 6:]).tanh()
        return pair, [head(torch.cat(pair, 1)).pow(2).mean() + k for k, head in enumerate(self.heads)]
