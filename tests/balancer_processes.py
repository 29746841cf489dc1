"""One of the two gloo processes of `test_balancer_processes.py`: RANK in the environment, a folder as argument."""

import os
import sys
from functools import partial
from pathlib import Path

import torch
from torch import distributed, nn

from mtl_core.balancer import Balancer
from mtl_core.gradients import NonFiniteGradientError
from mtl_core.methods import METHODS
from mtl_lab.probes.update_comparison import arguments

torch.set_num_threads(1)
PARTS = (slice(0, 9), slice(9, 15))


def build():
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(6, 8), nn.Tanh())
    return nn.ModuleDict({"trunk": trunk, "heads": nn.ModuleList(nn.Linear(8, 1) for _ in range(3))}).double()


def data():
    """15 examples; task t1 has labels of 7, all but one of them in the first process."""
    generator = torch.Generator().manual_seed(1)
    x, ys = torch.randn(15, 6, generator=generator).double(), torch.randn(3, 15, generator=generator).double()
    known = torch.ones(3, 15, dtype=torch.bool)
    known[1] = torch.tensor([1] * 6 + [0] * 8 + [1]).bool()
    return x, ys, known


def losses(net, part=slice(None), hide=(), start=0):
    """({task: masked mean}, {task: labels}, features); tasks in `hide` have no loss in the second process."""
    x, ys, known = data()
    z = net["trunk"](x[part])
    found, counts = {}, {}
    for k, head in enumerate(net["heads"]):
        error = (head(z).squeeze(1) - ys[k, part])[known[k, part]].pow(2)
        found[f"t{k}"], counts[f"t{k}"] = (None, 0) if k in hide else (error.mean() + start, len(error))
    return found, counts, z


def train(name, part=slice(None), mine=None):
    """Gradients of two steps, the second of which accumulates."""
    net, found = build(), []
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    balancer = Balancer(name, net, **arguments(METHODS[name], 3))
    for i in range(2):
        optimizer.zero_grad()
        given, counts, z = losses(net, part)
        torch.manual_seed(i)
        if i == 1 and METHODS[name].level != "features":
            balancer.accumulate(given, counts=mine and counts)
            given, counts, z = losses(net, part)
        balancer.backward(given, features=z, counts=mine and counts)
        found.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
        optimizer.step()
        after, counts, _ = losses(net, part)
        balancer.after_step(after)
    return found


def refused(action, error, words):
    try:
        action()
    except error as caught:
        assert words in str(caught), caught
    else:
        raise AssertionError(f"expected {error.__name__} with {words!r}")


def main(folder):
    rank = int(os.environ["RANK"])
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    want, bad = torch.load(Path(folder) / "want.pt"), []
    for name in want:
        for i, (a, b) in enumerate(zip(train(name, PARTS[rank], True), want[name], strict=True)):
            if not torch.allclose(a, b, rtol=1e-6, atol=1e-6 * b.abs().max().item()):
                bad.append(f"{name}, step {i}: {(a - b).abs().max():.1e} of {b.abs().max():.1e}")
        drawn = [torch.empty(1) for _ in range(2)]
        distributed.all_gather(drawn, torch.rand(1))
        if not torch.equal(*drawn):  # they were seeded alike
            bad.append(f"{name}: behind its steps the processes' random states are not alike")
    assert not bad, bad

    net = build()
    balancer = Balancer("norm_equalised", net)  # at first each process has one task, and nothing looks shared
    given, counts, _ = losses(net, PARTS[rank], hide=(1, 2) if rank else (0, 2))
    balancer.backward({task: loss for task, loss in given.items() if loss is not None})
    assert balancer.tasks == ["t1", "t0"] and len(balancer.gradients.names) == 2, balancer.tasks
    everyone = [torch.empty(48, dtype=torch.float64) for _ in range(2)]
    distributed.all_gather(everyone, net["trunk"][0].weight.grad.flatten())
    assert torch.equal(*everyone) and everyone[0].abs().max() > 0

    given, counts, _ = losses(net, PARTS[rank], start=torch.nan if rank else 0)
    refused(lambda: balancer.backward(given), NonFiniteGradientError, "'t0'")
    for name in ("mgda_ub", "gradnorm", "pcgrad"):  # a head's slope is NaN in one process: no other waits for it
        balancer = Balancer(name, net)
        given, counts, z = losses(net, PARTS[rank])
        head = net["heads"][1].weight
        given["t1"] = given["t1"] + rank * (head - head.detach()).abs().sum().sqrt()
        refused(partial(balancer.backward, given, features=z), NonFiniteGradientError, "'t1'")
    net.zero_grad()
    optimizer, scaler = torch.optim.SGD(net.parameters(), lr=0.1), torch.amp.GradScaler("cpu", init_scale=2.0)
    given, counts, z = losses(net, PARTS[rank])
    if rank:
        z.register_hook(lambda g: g * torch.inf)
    kept = net["trunk"][0].weight.detach().clone()
    balancer.backward(given, scaler=scaler)
    scaler.step(optimizer)
    assert torch.equal(kept, net["trunk"][0].weight), "an overflow in one process is one in all"
    wrapped = nn.parallel.DistributedDataParallel(nn.Linear(2, 2))
    refused(lambda: Balancer("pcgrad", wrapped), ValueError, "wrapper.module")
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
