"""More of what works with `Balancer`, and what it refuses. The page *What works with what* is made from such marks."""

import pytest
import torch
from balancer_networks import Net, batch, gradients_of, joint, same, step
from torch import distributed, nn

from mtl_core.balancer import Balancer


def devices():
    """The devices that this machine may lack: skipped there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return [
        pytest.param(name, marks=pytest.mark.skipif(not found, reason=f"no {name} on this machine"))
        for name, found in there.items()
    ]


@pytest.mark.supports("a GPU (CUDA)", "yes", device="cuda")
@pytest.mark.supports("a GPU (Apple's MPS)", "yes", device="mps")
@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("name", ["equal", "uncertainty", "norm_equalised", "mgda", "sam_gs", "mgda_ub", "nash_mtl"])
def test_a_device_gives_what_the_cpu_gives(name, device):
    found = []
    for where in ("cpu", device):
        net, (x, ys) = Net().float(), batch()
        net.to(where)
        balancer = Balancer(name, net)
        for _ in range(2):
            net.zero_grad()
            step(balancer, net, x.float().to(where), ys.float().to(where))
        found.append([g.cpu() for g in gradients_of(net)])
    assert same(*found, tolerance=1e-3)


@pytest.mark.supports(
    "a gradient penalty inside a loss (double backward)",
    "yes",
    "for the input that requires grad: ignore=[torch.Tensor]",
)
def test_a_loss_that_holds_a_gradient():
    net, (x, _) = Net(), batch()
    x.requires_grad_()
    with pytest.raises(ValueError, match=r"inputs that require grad: ignore=\[torch.Tensor\]"):
        Balancer("equal", net).backward([out.sum() for out in net(x)[1]])

    def losses():
        outputs = net(x)[1]
        (slope,) = torch.autograd.grad(outputs[0].sum(), x, create_graph=True)
        return [(slope.norm(dim=1) - 1).pow(2).mean(), outputs[1].pow(2).mean()]

    want = joint(net, losses())
    balancer = Balancer("equal", net, ignore=[torch.Tensor])
    balancer.observers.append(lambda gradients: None)  # so that J is computed
    balancer.backward(losses())
    assert same(gradients_of(net), want)


@pytest.mark.supports("gradients of the update (create_graph)", "refused", "the update has no graph")
def test_the_update_has_no_graph():
    net, (x, ys) = Net(), batch()
    with pytest.raises(TypeError, match="create_graph"):
        Balancer("pcgrad", net).backward([o.pow(2).mean() for o in net(x)[1]], create_graph=True)
    step(Balancer("pcgrad", net), net, x, ys)
    assert not any(p.grad.requires_grad for p in net.parameters())


@pytest.mark.supports("FSDP, sharded parameters (DTensor)", "refused", "give the plain module")
def test_sharded_parameters_are_refused():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_tensor

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        net = Net()
        net.trunk[0].weight = nn.Parameter(distribute_tensor(net.trunk[0].weight.detach(), mesh))
        with pytest.raises(ValueError, match="trunk.0.weight.*DTensor"):
            Balancer("pcgrad", net)
    finally:
        distributed.destroy_process_group()
    wrapper = type("FullyShardedDataParallel", (nn.Module,), {"__module__": "torch.distributed.fsdp"})
    with pytest.raises(ValueError, match="wrapped in FullyShardedDataParallel"):
        Balancer("pcgrad", nn.ModuleList([wrapper(), Net()]))


@pytest.mark.supports("several optimizers, rates by layer", "yes")
def test_the_optimizers_are_yours():
    """The balancer fills `.grad` and asks for nothing else: each optimizer steps its part."""
    net, (x, ys) = Net(), batch()
    before = [p.detach().clone() for p in net.parameters()]
    optimizers = [torch.optim.SGD(net.trunk.parameters(), 0.1), torch.optim.Adam(net.heads.parameters(), 0.01)]
    step(Balancer("pcgrad", net), net, x, ys)
    for optimizer in optimizers:
        optimizer.step()
    assert all(not torch.equal(p, old) for p, old in zip(net.parameters(), before, strict=True))


@pytest.mark.supports("hooks on tensors", "yes", "each fires once for each task")
def test_hooks_of_tensors_fire_for_each_task():
    net, (x, ys), fired = Net(), batch(), []
    net.trunk.register_forward_hook(lambda module, given, z: z.register_hook(lambda g: fired.append(1)) and None)
    step(Balancer("pcgrad", net), net, x, ys)
    assert len(fired) == 2
