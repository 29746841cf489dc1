"""Situations 10 to 30 of those that `test_balancer_cases.py` begins with."""

import copy
import io
import pickle
import subprocess
import sys

import pytest
import torch
from balancer_networks import NAMES, Net, batch, gradients_of, joint, same, step
from torch import nn

from mtl_core.balancer import Balancer
from mtl_core.gradients import NonFiniteGradientError
from mtl_core.methods import METHODS
from mtl_lab.probes.update_comparison import arguments


@pytest.mark.supports("torch.compile of a trunk or a head", "yes")
@pytest.mark.supports("torch.compile of the whole network", "refused", "name what is shared, with shared=")
def test_10_torch_compile():
    """A compiled trunk is like any; a whole model that is compiled does not tell what tasks share."""
    torch._dynamo.reset()
    net, (x, ys) = Net(), batch()
    want = Net()
    step(Balancer("sam_gs", want), want, x, ys)
    net.trunk = torch.compile(net.trunk, backend="aot_eager")
    step(Balancer("sam_gs", net), net, x, ys)
    assert same(gradients_of(net), gradients_of(want))
    torch._dynamo.reset()
    whole = Net()
    compiled = torch.compile(whole, backend="aot_eager")
    outputs = compiled(x)[1]
    with pytest.raises(ValueError, match="shared="):
        Balancer("sam_gs", whole).backward([(o - y).pow(2).mean() for o, y in zip(outputs, ys, strict=True)])
    outputs = compiled(x)[1]
    Balancer("sam_gs", whole, shared=["trunk"]).backward(
        [(o - y).pow(2).mean() for o, y in zip(outputs, ys, strict=True)]
    )
    assert same(gradients_of(whole), gradients_of(want))


@pytest.mark.supports("frozen parts", "yes")
@pytest.mark.parametrize("name", NAMES)
def test_12_frozen_trunk(name):
    """The heads train, with their own gradients or those that a loss weighting gives them."""
    net, (x, ys) = Net(), batch()
    net.trunk.requires_grad_(False)
    step(Balancer(name, net, **arguments(METHODS[name], 2)), net, x, ys)
    assert all(head.weight.grad.abs().max() > 0 for head in net.heads)
    assert all(p.grad is None for p in net.trunk.parameters())


def test_13_a_parameter_that_was_not_given():
    net, (x, ys) = Net(), batch()
    for name in ("equal", "uncertainty", "pcgrad", "mgda_ub"):
        with pytest.raises(ValueError, match="heads.0.weight"):
            step(Balancer(name, net.trunk), net, x, ys)
    step(Balancer("pcgrad", net.trunk, ignore=net.heads), net, x, ys)
    assert net.heads[0].weight.grad is None and net.trunk[0].weight.grad is not None
    net.zero_grad()
    step(Balancer("equal", net.trunk, ignore=["heads"]), net, x, ys)
    assert net.heads[0].weight.grad is None and net.trunk[0].weight.grad is not None


@pytest.mark.supports("tied weights", "yes")
def test_15_tied_weights():
    torch.manual_seed(0)
    x = torch.randn(4, 6)
    trunk, head, up = nn.Linear(6, 6, bias=False), nn.Linear(6, 6), nn.Linear(6, 6)
    net = nn.ModuleList([trunk, head, up])

    def losses():
        z = trunk(x)
        return [(z @ trunk.weight.T).pow(2).mean(), up(head(z)).pow(2).mean(), up(z).tanh().mean()]

    want = joint(net, losses())
    balancer = Balancer("equal", net)
    balancer.observers.append(lambda gradients: None)
    balancer.backward(losses())
    assert same(gradients_of(net), want, 1e-6)
    assert balancer.gradients.names == ["0.weight", "2.weight", "2.bias"]  # the upsampler of two heads is shared too


@pytest.mark.supports("padding masks, any inputs", "yes")
def test_17_any_inputs():
    """A trunk with a padding mask, three heads: the loop calls the network, the balancer sees losses."""
    torch.manual_seed(0)

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.attention = nn.Embedding(20, 8), nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, ids, mask):
            h = self.embedding(ids)
            return self.attention(h, h, h, key_padding_mask=mask)[0].mean(1)

    net = nn.ModuleDict({"trunk": Encoder(), "heads": nn.ModuleList(nn.Linear(8, 1) for _ in range(3))})
    ids, mask = torch.randint(20, (4, 6)), torch.zeros(4, 6, dtype=torch.bool)
    for name in ("pcgrad", "famo"):
        net.zero_grad()
        z = net["trunk"](ids, mask)
        Balancer(name, net).backward([head(z).pow(2).mean() for head in net["heads"]])
        assert all(p.grad is not None for p in net.parameters())


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.reentrant, self.a, self.b = (
            reentrant,
            nn.Linear(6, 8),
            nn.Sequential(nn.Linear(8, 8), nn.Dropout(), nn.Tanh()),
        )

    def forward(self, x):
        if self.reentrant is None:
            return self.b(self.a(x))
        return torch.utils.checkpoint.checkpoint(self.b, self.a(x), use_reentrant=self.reentrant)


@pytest.mark.supports("activation checkpoints, use_reentrant=False", "yes")
@pytest.mark.supports("activation checkpoints, use_reentrant=True", "refused", "use_reentrant=False")
def test_18_activation_checkpoints():
    x, found = batch()[0], {}
    for reentrant in (None, False):
        torch.manual_seed(0)
        net = Net(3, Checkpointed(reentrant))
        torch.manual_seed(0)
        Balancer("norm_equalised", net).backward([o.pow(2).mean() for o in net(x)[1]])
        found[reentrant] = gradients_of(net)
    assert same(*found.values())
    with pytest.raises(ValueError, match="use_reentrant=False"):
        net = Net(3, Checkpointed(True))
        Balancer("norm_equalised", net).backward([o.pow(2).mean() for o in net(x)[1]])
    net = Net(3, nn.Linear(6, 8))
    x.requires_grad_()  # the graph ends at the inputs, which are ignored: the trunk's parameters are not in it
    z = torch.utils.checkpoint.checkpoint(net.trunk, x, use_reentrant=True)
    with pytest.raises(ValueError, match="use_reentrant=False"):
        Balancer("norm_equalised", net, ignore=[torch.Tensor]).backward([h(z).pow(2).mean() for h in net.heads])


@pytest.mark.supports("sparse gradients", "refused", "make them dense, or name the layer in ignore=")
@pytest.mark.supports("complex parameters", "refused", "keep real and imaginary parts")
def test_20_sparse_embedding():
    net = nn.ModuleList([nn.Embedding(20, 8, sparse=True), nn.Linear(8, 1), nn.Linear(8, 1)])
    z = net[0](torch.randint(20, (4,)))
    with pytest.raises(ValueError, match="0.weight has a sparse gradient"):
        Balancer("pcgrad", net).backward([net[1](z).mean(), net[2](z).mean()])
    with pytest.raises(ValueError, match="complex"):
        Balancer("pcgrad", [torch.zeros(2, dtype=torch.complex64, requires_grad=True)])


@pytest.mark.supports("NaN or infinity in a task", "refused", "the error names task and layer; no state has moved")
@pytest.mark.parametrize("name", ["equal", "pcgrad", "sam_gs", "nash_mtl", "famo", "uncertainty", "mgda_ub", "db_mtl"])
def test_22_nan_in_one_task(name):
    net, (x, ys) = Net(), batch()
    balancer = Balancer(name, net)
    step(balancer, net, x, ys)
    before = copy.deepcopy([*balancer.method.state_dict().items()])
    kept, bad = gradients_of(net), ys.clone()
    bad[1, 3] = float("nan")
    balancer.after_step([o.pow(2).mean() + 1 for o in net(x)[1]]) if name != "famo" else None
    with pytest.raises(NonFiniteGradientError, match="'t1'"):
        step(balancer, net, x, bad)
    after = [*balancer.method.state_dict().items()]
    assert all(not torch.is_tensor(a) or torch.equal(a, b) for (_, a), (_, b) in zip(before, after, strict=True))
    assert same(gradients_of(net), kept, 0)
    step(balancer, net, x, ys)


MEMORY = """
import os, resource, sys, torch
from torch import nn
from mtl_core.balancer import Balancer
torch.set_num_threads(1)
K = 30
net = nn.ModuleList([nn.Sequential(nn.Linear(1000, 1000), nn.Tanh()), *[nn.Linear(1000, 1) for _ in range(K)]])
x, ys = torch.randn(4, 1000), torch.randn(K, 4, 1)
torch.optim.Adam([nn.Parameter(torch.ones(1))])  # what it imports is no memory of a method
for name in sys.argv[1:]:
    if not os.fork():
        balancer = Balancer("equal" if name == "sum" else name, net)
        for _ in range(2):
            net.zero_grad()
            z = net[0](x)
            losses = [(head(z) - y).pow(2).mean() for head, y in zip(list(net)[1:], ys)]
            sum(losses).backward() if name == "sum" else balancer.backward(losses, features=z)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)  # kB
        print(name, peak, flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""


def test_27_memory_of_many_tasks():
    """Peaks of 30 tasks and a million parameters, beyond that of the plain sum, in units of J."""
    most = {"equal": 0.3, "uncertainty": 0.3, "mgda_ub": 0.7, "pcgrad": 1.3, "norm_equalised": 1.3, "sam_gs": 2.3}
    most |= {"moco": 2.3, "graddrop": 2.3, "db_mtl": 3.3}
    done = subprocess.run([sys.executable, "-c", MEMORY, "sum", *most], capture_output=True, text=True, check=True)
    peaks = {name: int(size) for name, size in map(str.split, done.stdout.splitlines())}
    found = {name: (peaks[name] - peaks["sum"]) * 1024 / (30 * 1001000 * 4) for name in most}
    assert all(found[name] < most[name] for name in most), found
    assert found["pcgrad"] > 0.8, found  # J itself is seen


@pytest.mark.supports("LSTM, GRU, RNN", "yes")
@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
def test_28_recurrent_trunk(layer):
    torch.manual_seed(0)
    trunk, heads = layer(6, 8, 2, batch_first=True), nn.ModuleList(nn.Linear(8, 1) for _ in range(3))
    x, shared = torch.randn(4, 5, 6), list(trunk.parameters())

    def losses():
        z = trunk(x)[0][:, -1]
        return [head(z).pow(2).mean() for head in heads]

    want = [torch.cat([g.flatten() for g in torch.autograd.grad(losses()[k], shared)]) for k in range(3)]
    balancer = Balancer("norm_equalised", nn.ModuleList([trunk, heads]))
    balancer.backward(losses())
    assert torch.allclose(balancer.gradients.matrix, torch.stack(want), atol=1e-6)


@pytest.mark.parametrize("convention", ["plain", "samgs"])
@pytest.mark.parametrize("name", NAMES)
def test_29_one_task_is_plain_training(name, convention):
    net, (x, ys) = Net(1), batch(1)
    want = joint(net, [(net(x)[1][0] - ys[0]).pow(2).mean()])
    step(Balancer(name, net, convention=convention, **arguments(METHODS[name], 1)), net, x, ys)
    assert same(gradients_of(net), want)


@pytest.mark.supports("state_dict(), load_state_dict(), deepcopy, pickle", "yes")
@pytest.mark.parametrize("name", NAMES)
def test_30_resume(name):
    """A saved state, loaded into a fresh balancer, goes on as if nothing had been; so do copies of both."""
    options = arguments(METHODS[name], 2)
    net, (x, ys) = Net(), batch()
    balancer = Balancer(name, net, **options)
    for _ in range(2):
        losses = step(balancer, net, x, ys)
        balancer.after_step({task: loss * 0.9 for task, loss in losses.items()})
    file = io.BytesIO()
    torch.save(balancer.state_dict(), file)
    file.seek(0)
    fresh = Balancer(name, net, **options)
    fresh.load_state_dict(torch.load(file))
    copied, sent = copy.deepcopy((balancer, net)), pickle.loads(pickle.dumps((balancer, net)))
    found = []
    for b, n in ((balancer, net), (fresh, net), copied, sent):
        n.zero_grad()
        torch.manual_seed(0)
        step(b, n, x, ys)
        found.append(gradients_of(n))
    assert all(same(found[0], other, 0) for other in found[1:])
