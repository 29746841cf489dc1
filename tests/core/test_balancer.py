"""`Balancer`: the same J as TorchJD, and what it promises beyond."""

import subprocess
import sys

import pytest
import torch
from balancer_networks import Net, TwoEncoders, UNet, batch, gradients_of, joint, same, step
from torch import nn
from torchjd import aggregation
from torchjd.autojac import backward as torchjd_backward
from torchjd.autojac import mtl_backward

from mtl_core.balancer import Balancer
from mtl_core.gradients import reached, uses

torch.set_num_threads(1)


# --- J


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
        self.heads = nn.ModuleList(nn.Linear(8, 1) for _ in range(3))

    def forward(self, x):
        z = self.layer(x).mean(1)
        return z, [head(z).pow(2).mean() for head in self.heads]


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.heads = nn.ModuleList(nn.Linear(4, 1) for _ in range(4))

    def forward(self, x):
        z = self.trunk(x)
        return z, [head(z).pow(2).mean() for head in self.heads]


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.heads = nn.GRU(3, 5, batch_first=True), nn.ModuleList(nn.Linear(5, 1) for _ in range(2))

    def forward(self, x):
        z = self.gru(x)[0][:, -1]
        return z, [head(z).pow(2).mean() for head in self.heads]


class Regressors(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Net(5)

    def forward(self, x):
        z, outputs = self.net(x)
        return z, [output.pow(2).mean() for output in outputs]


class Decoders(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = UNet(3, 3)

    def forward(self, x):
        maps, outputs = self.net(x)
        return maps, [output.pow(2).mean() for output in outputs]


ARCHITECTURES = {
    "regressors": (Regressors, (9, 6)),
    "transformer": (Transformer, (4, 5, 8)),
    "convolutions": (Convolutions, (4, 3, 8, 8)),
    "recurrent": (Recurrent, (4, 6, 3)),
    "two encoders": (TwoEncoders, (7, 11)),
    "U-Net": (Decoders, (2, 3, 16, 16)),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_matrix_is_torchjds(name):
    """Its `backward` gives the Jacobian of all parameters, its `mtl_backward` that of what lies before the features."""
    torch.manual_seed(0)
    build, size = ARCHITECTURES[name]
    net, x = build().double(), torch.randn(size).double()
    balancer = Balancer("sam_gs", net)
    balancer.backward(net(x)[1])
    found, named = balancer.gradients, dict(net.named_parameters())
    shared = [named[n] for n in found.names]
    torchjd_backward(net(x)[1], inputs=shared, parallel_chunk_size=1)
    K = len(found.matrix)
    want = torch.cat([p.jac.reshape(K, -1) for p in shared], 1)
    assert (found.matrix - want).abs().max() < 1e-6 * want.abs().max()
    own = {n: p.grad for n, p in named.items() if n not in found.names}
    for p in net.parameters():
        p.grad = None
    for p in shared:
        del p.jac
    features, losses = net(x)
    if name != "U-Net":  # its maps are computed from one another
        mtl_backward(losses, features=features, parallel_chunk_size=1)
        want = torch.cat([p.jac.reshape(K, -1) for p in shared], 1)
        assert (found.matrix - want).abs().max() < 1e-6 * want.abs().max()
        assert all(torch.allclose(g, named[n].grad, rtol=1e-6) for n, g in own.items())


@pytest.mark.supports("any Aggregator of TorchJD", "yes")
def test_any_aggregator_of_torchjd():
    net, (x, ys) = Net(), batch()
    balancer = Balancer(aggregation.MGDA(), net)
    step(balancer, net, x, ys)
    matrix = balancer.gradients.matrix
    assert torch.allclose(net.trunk[0].weight.grad.flatten(), aggregation.MGDA()(matrix)[:48])


def test_what_tasks_share_with_one_task_only():
    """A loss that is a part of another, the same loss twice, a loss without the others' layers."""
    torch.manual_seed(0)
    net, x = TwoEncoders(), torch.randn(7, 11)
    for losses in (lambda a, b: [a, a + b], lambda a, b: [a, a], lambda a, b: [a, 2 * b, b]):
        want = joint(net, losses(*net(x)[1]))
        balancer = Balancer("equal", net)
        balancer.observers.append(lambda gradients: None)
        balancer.backward(losses(*net(x)[1]))
        assert same(gradients_of(net), want, 1e-6)
        net.zero_grad()


def test_shared_is_exactly_what_was_given():
    """The rest gets the plain sum, or under weights on the heads, the weighted one."""
    net, (x, ys) = Net(3), batch(3)
    losses = [(o - y).pow(2).mean() for o, y in zip(net(x)[1], ys, strict=True)]
    rows = [torch.autograd.grad(loss, list(net.trunk.parameters()), retain_graph=True) for loss in losses]
    balancer = Balancer("mgda", net, shared=["trunk.0.weight"])
    balancer.backward(losses)
    assert balancer.gradients.names == ["trunk.0.weight"]
    assert torch.allclose(net.trunk[0].bias.grad, sum(row[1] for row in rows))
    net.zero_grad()
    for every in (1, 2):
        balancer = Balancer("mgda", net, shared=net.trunk[0].weight, convention="nash-mtl", every=every)
        for _ in range(every):
            net.zero_grad()
            step(balancer, net, x, ys)
        weights = [3 * w for w in balancer.weights.values()]  # this convention's scale is K
        want = sum(w * row[1] for w, row in zip(weights, rows, strict=True))
        assert torch.allclose(net.trunk[0].bias.grad, want)
    with pytest.raises(ValueError, match="trunc"):
        Balancer("mgda", net, shared=["trunc"])


def test_the_losses_are_walked_once():
    net, (x, ys) = Net(), batch()
    losses = step(Balancer("pcgrad", net), net, x, ys)
    with pytest.raises(ValueError, match="losses again"):
        Balancer("pcgrad", net).backward(losses)


# --- .grad


def test_views_of_a_reused_vector_do_not_change_behind_a_users_back():
    net, (x, ys) = Net(), batch()
    for name in ("pcgrad", "sam_gs", "mgda_ub"):
        net.zero_grad()
        balancer = Balancer(name, net)
        step(balancer, net, x, ys)
        held = [p.grad.flatten() for p in net.parameters()]
        copies = [h.clone() for h in held]
        address = net.trunk[0].weight.grad.data_ptr()
        for _ in range(2):
            net.zero_grad()
            step(balancer, net, 2 * x, ys)
        assert all(torch.equal(h, c) for h, c in zip(held, copies, strict=True))
        assert net.trunk[0].weight.grad.data_ptr() != address
    balancer = Balancer("pcgrad", net)
    addresses = set()
    del held
    for _ in range(4):
        net.zero_grad()
        step(balancer, net, x, ys)
        addresses.add(net.trunk[0].weight.grad.data_ptr())
    assert len(addresses) == 1


def test_uses_counts_views():
    flat = torch.zeros(4)
    alone = uses(flat)
    view = flat[:2]
    assert uses(flat) == alone + 1
    del view
    assert uses(flat) == alone


@pytest.mark.supports("zero_grad(set_to_none=False)", "yes")
def test_zero_grad_that_keeps_the_tensors():
    net, (x, ys) = Net(), batch()
    balancer = Balancer("pcgrad", net)
    step(balancer, net, x, ys)
    want = gradients_of(net)
    for _ in range(3):
        net.zero_grad(set_to_none=False)
        step(balancer, net, x, ys)
        assert same(gradients_of(net), want)


# --- precision, memory, processes


@pytest.mark.supports("autocast to bfloat16", "yes")
@pytest.mark.supports("parameters in bfloat16", "yes")
@pytest.mark.parametrize("name", ["pcgrad", "sam_gs", "uncertainty", "mgda_ub", "gradnorm"])
def test_lower_precision(name):
    """Under autocast and with bfloat16 parameters J is float32, and `.grad` has the parameter's type."""
    (x, ys), found = batch(), []
    for kind in ("float32", "autocast", "bfloat16"):
        net = Net().float()
        given, target = x.float(), ys.float()
        if kind == "bfloat16":
            net, given, target = net.bfloat16(), given.bfloat16(), target.bfloat16()
        balancer = Balancer(name, net)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind == "autocast"):
            z, outputs = net(given)
            losses = [(o - y).pow(2).mean() for o, y in zip(outputs, target, strict=True)]
        balancer.backward(losses, features=z)
        assert all(p.grad.dtype == p.dtype for p in net.parameters())
        assert balancer.gradients is None or balancer.gradients.matrix.dtype == torch.float32
        found.append(torch.cat([p.grad.flatten().float() for p in net.parameters()]))
    assert all(torch.cosine_similarity(found[0], other, 0) > 0.98 for other in found[1:])


MEMORY = """
import resource, sys, torch
from torch import nn
from mtl_core.balancer import Balancer
torch.set_num_threads(1)
K = 40
net = nn.ModuleList([nn.Sequential(nn.Linear(512, 1024), nn.Tanh()), *[nn.Linear(1024, 64) for _ in range(K)]])
x = torch.randn(256, 512)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)  # kB
import scipy.optimize
print(peak())
for name in ("equal", "pcgrad"):  # the one that takes less first: the peak of a process never falls
    balancer = Balancer(name, net)
    for _ in range(3):
        net.zero_grad()
        z = net[0](x)
        losses = [head(z).tanh().pow(2).mean() for head in list(net)[1:]]
        balancer.backward(losses)
    print(peak())
"""


@pytest.mark.supports("forty tasks in the memory of J and of the joint step", "yes")
def test_peak_memory():
    """J and no more than the joint step beside it: a second J, or 40 graphs kept, would be seen."""
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    before, equal, pcgrad = (int(size) / 1024 for size in done.stdout.split())
    matrix = 40 * (512 * 1024 + 1024) * 4 / 2**20
    assert pcgrad - before < matrix + 1.2 * (equal - before), (before, equal, pcgrad)


def test_a_walk_takes_each_edge_twice_at_most():
    """With K tasks the shared part is not walked K times: the calls of next_functions do not grow with K."""
    trunk = nn.Sequential(*[nn.Linear(4, 4) for _ in range(30)])
    sizes = []
    for K in (2, 20):
        z = trunk(torch.randn(2, 4))
        leaves, _ = reached([(k + 1.0) * z.sum() for k in range(K)])
        assert len(leaves) == 60 and all(bits & (bits - 1) for bits in leaves.values())
        sizes.append(sum(bin(bits).count("1") for bits in leaves.values()))
    assert sizes[0] == sizes[1]  # two bits are enough to know that a leaf is shared


@pytest.mark.supports(
    "DistributedDataParallel, DataParallel around a module", "refused", "give the plain module inside"
)
def test_wrapped_modules_are_refused():
    class DistributedDataParallel(nn.Module):
        __module__ = "torch.nn.parallel.distributed"

        def __init__(self, module):
            super().__init__()
            self.module = module

    net = Net()
    net.trunk = DistributedDataParallel(net.trunk)
    with pytest.raises(ValueError, match="trunk is wrapped in DistributedDataParallel.*wrapper.module"):
        Balancer("pcgrad", net)
    with pytest.raises(ValueError, match="DataParallel"):
        Balancer("pcgrad", nn.DataParallel(Net()))
