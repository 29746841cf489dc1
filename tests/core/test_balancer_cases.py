"""Situations that users of multi-task libraries report in public, put to `Balancer`: right, or an error that says why.

The numbers are those of the collection that the issue names; where it holds for every method, it is tried with each.
"""

import pytest
import torch
from balancer_networks import AGGREGATIONS, NAMES, Net, TwoEncoders, UNet, batch, gradients_of, joint, same, step
from torch import nn

from mtl_core.balancer import Balancer
from mtl_core.methods import METHODS, make
from mtl_lab.probes.update_comparison import arguments, update_of


@pytest.mark.parametrize("name", NAMES)
def test_01_missing_labels(name):
    """A batch without labels of one task, its masked loss zero: the trunk moves, or the task is named."""
    net, (x, ys) = Net(3), batch(3)

    def masked(output, y):
        known = ~y.isnan()
        return torch.where(known, output - y.nan_to_num(), 0.0).pow(2).sum() / known.sum().clamp(min=1)

    balancer = Balancer(name, net, **arguments(METHODS[name], 3))
    step(balancer, net, x, ys, masked)
    net.zero_grad()
    ys[1] = float("nan")
    try:
        step(balancer, net, x, ys, masked)
    except ValueError as error:
        assert "'t1'" in str(error) and "None" in str(error)
    else:
        assert all(p.grad.isfinite().all() for p in net.parameters())
        assert net.trunk[0].weight.grad.abs().max() > 1e-9


@pytest.mark.parametrize("length", [1e-2, 1e-4, 1e-6, 1e-8, 0.0])
def test_01b_cagrad_moves_where_a_gradient_vanishes(length):
    """Within its ball around the mean gradient, and to the good of the task that gains least of those with labels."""
    matrix = torch.tensor([[1.0, 0.0], [0.3, 1.0], [length, 0.0]])
    found, mean = make("cagrad", c=0.4)(matrix), matrix.mean(0)
    assert (found - mean).norm() <= 0.4001 * mean.norm()
    gains, least = matrix[matrix.norm(dim=1) > 0] @ found, (matrix[matrix.norm(dim=1) > 0] @ mean).min()
    assert found.norm() > 0.1 and gains.min() >= least


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_01c_gradients_of_very_different_length(name):
    for ratio in (1e-3, 1e-6):
        matrix = torch.randn(3, 50, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1.0], [1.0], [ratio]])
        found = update_of(make(name), METHODS[name], matrix, torch.ones(3))
        assert 0 < found.norm() < 1e30


@pytest.mark.supports("a batch without a task", "yes")
@pytest.mark.parametrize("name", NAMES)
def test_03_a_task_is_absent(name):
    """None or missing: the others' step, and the task's head keeps no gradient."""
    options = {"weights": {"t0": 1.0, "t1": 2.0, "t2": 3.0}} if name == "static" else {}
    net, (x, ys) = Net(3), batch(3)
    balancer = Balancer(name, net, **options)
    step(balancer, net, x, ys)
    for absent in ({"t1": None}, {}):
        net.zero_grad()
        z, outputs = net(x)
        losses = {"t0": (outputs[0] - ys[0]).pow(2).mean(), "t2": (outputs[2] - ys[2]).pow(2).mean(), **absent}
        balancer.backward(losses, features=z)
        assert net.heads[1].weight.grad is None and net.heads[2].weight.grad.abs().max() > 0
        assert net.trunk[0].weight.grad.abs().max() > 0
    step(balancer, net, x, ys)


def test_03_a_constant_is_no_absent_task():
    net, (x, _) = Net(2), batch()
    with pytest.raises(ValueError, match="'b' has no graph.*None"):
        Balancer("pcgrad", net).backward({"a": net(x)[1][0].mean(), "b": torch.tensor(0.0)})


@pytest.mark.supports("a batch for each task, with BatchNorm", "yes")
def test_04_each_task_its_own_batch():
    net = Net(3, nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU()))
    for sizes in ((9, 5, 2), (9, 9, 9)):
        xs = [torch.randn(size, 6).double() for size in sizes]
        losses = [head(net.trunk(x)).pow(2).mean() for head, x in zip(net.heads, xs, strict=True)]
        shared = list(net.trunk.parameters())
        want = [
            torch.cat([g.flatten() for g in torch.autograd.grad(loss, shared, retain_graph=True)]) for loss in losses
        ]
        balancer = Balancer("sam_gs", net)
        balancer.backward(losses)
        assert torch.allclose(balancer.gradients.matrix, torch.stack(want), atol=1e-12)


@pytest.mark.supports("a batch for each task, method at the features", "refused", "take a method of another level")
@pytest.mark.parametrize("name", ["mgda_ub", "imtl_g_features", "aligned_mtl_ub"])
@pytest.mark.parametrize("sizes", [(9, 5), (9, 9)])
def test_04b_features_of_different_examples(name, sizes):
    net = Net()
    zs = [net.trunk(torch.randn(size, 6).double()) for size in sizes]
    losses = [head(z).pow(2).mean() for head, z in zip(net.heads, zs, strict=True)]
    with pytest.raises(ValueError, match="same examples"):
        Balancer(name, net).backward(losses, features=zs)


@pytest.mark.supports("skip connections (U-Net)", "yes")
@pytest.mark.parametrize("K", [2, 3])
def test_05_all_decoders_read_all_maps(K):
    torch.manual_seed(0)
    net, x = UNet(3, K), torch.randn(2, 3, 16, 16)
    shared = list(net.blocks.parameters())
    want = [torch.cat([g.flatten() for g in torch.autograd.grad(net(x)[1][k].pow(2).mean(), shared)]) for k in range(K)]
    total = joint(net, [output.pow(2).mean() for output in net(x)[1]])
    balancer = Balancer("graddrop", net)
    balancer.backward([output.pow(2).mean() for output in net(x)[1]])
    assert torch.allclose(balancer.gradients.matrix, torch.stack(want), atol=1e-6)
    assert same([p.grad for p in net.decoders.parameters()], total[len(shared) :], 1e-5)
    maps, outputs = net(x)
    with pytest.raises(ValueError, match="computed from another"):
        Balancer("mgda_ub", net).backward([output.pow(2).mean() for output in outputs], features=maps)


@pytest.mark.supports("several encoders", "yes")
def test_05b_both_heads_read_both_encoders():
    torch.manual_seed(0)
    net, x = TwoEncoders(), torch.randn(7, 11)
    want = joint(net, net(x)[1])
    balancer = Balancer("equal", net)
    balancer.observers.append(lambda gradients: None)  # so that J is computed
    balancer.backward(net(x)[1])
    assert same(gradients_of(net), want, 1e-6)
    assert balancer.gradients.names == ["image.weight", "image.bias", "text.weight", "text.bias"]
    pair, losses = net(x)
    Balancer("mgda_ub", net).backward(losses, features=pair)


@pytest.mark.supports("features in a dictionary", "yes")
def test_06_features_in_a_dict():
    net, (x, _) = Net(), batch()
    z = net.trunk(x)
    features = {"last_hidden_state": z, "pooler_output": z.mean(1, keepdim=True)}
    losses = [head(features["last_hidden_state"]).pow(2).mean() for head in net.heads]
    want = joint(net, [head(net.trunk(x)).pow(2).mean() for head in net.heads])
    Balancer("static", net, weights=[1.0, 1.0]).backward(losses)
    assert same(gradients_of(net), want)
    with pytest.raises(ValueError, match="features=") as error:
        Balancer("mgda_ub", net).backward([head(net.trunk(x)).pow(2).mean() for head in net.heads])
    assert "mgda_ub" in str(error.value)


@pytest.mark.supports("GradScaler", "yes")
@pytest.mark.parametrize(
    "name", ["equal", "uncertainty", "pcgrad", "nash_mtl", "sam_gs", "db_mtl", "mgda_ub", "gradnorm"]
)
def test_07_grad_scaler(name):
    """Training is that without a scaler; an overflow is skipped and moves no state."""

    def run(scale, overflows=(), steps=5):
        net, (x, ys) = Net(), batch()
        net.float()
        balancer, optimizer = Balancer(name, net), torch.optim.SGD(net.parameters(), lr=1e-2)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale) if scale else None
        for n in range(steps + len(overflows)):
            optimizer.zero_grad()
            hook = net.trunk.register_forward_hook(lambda m, i, z: z.register_hook(lambda g: g * torch.inf) and None)
            if n not in overflows:
                hook.remove()
            torch.manual_seed(0)
            step(balancer, net, x.float(), ys.float(), scaler=scaler)
            hook.remove()
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer)
                scaler.update()
        assert balancer.steps == steps
        return torch.cat([p.detach().flatten() for p in net.parameters()])

    plain = run(None)
    assert torch.allclose(plain, run(2.0**10), atol=2e-4, rtol=1e-3)
    assert torch.allclose(plain, run(2.0**10, overflows=(0, 3)), atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["uncertainty", "pcgrad", "sam_gs", "mgda_ub"])
def test_07b_unscale_first(name):
    """`scaler.unscale_(optimizer)`, as before clipping by hand, gives the gradients of a step without a scaler."""
    nets, (x, ys) = (Net(), Net()), batch()
    scaler, optimizer = torch.amp.GradScaler("cpu", init_scale=2.0**10), torch.optim.SGD(nets[1].parameters(), 0.1)
    for net, given in zip(nets, (None, scaler), strict=True):
        torch.manual_seed(0)
        step(Balancer(name, net), net, x, ys, scaler=given)
    scaler.unscale_(optimizer)
    assert same(*map(gradients_of, nets))


@pytest.mark.supports("losses that the scaler has scaled", "refused", "give the losses, and scaler=")
def test_07_a_loss_that_is_scaled_already():
    net, (x, _) = Net(), batch()
    scaler = torch.amp.GradScaler("cpu")
    with pytest.raises(ValueError, match="'a' is scaled already"):
        Balancer("pcgrad", net).backward({"a": scaler.scale(net(x)[1][0].mean())}, scaler=scaler)


@pytest.mark.supports("gradient accumulation", "yes")
@pytest.mark.parametrize("name", [n for n in NAMES if METHODS[n].level not in ("features",)])
def test_08_gradient_accumulation(name):
    """Two halves, each loss halved, are the whole."""
    (x, ys), found = batch(), []
    options = arguments(METHODS[name], 2)
    for halves in (False, True):
        net = Net()
        balancer = Balancer(name, net, **options)
        torch.manual_seed(0)
        if halves:
            balancer.accumulate([((o - y[:8]).pow(2).mean()) / 2 for o, y in zip(net(x[:8])[1], ys, strict=True)])
            balancer.backward([((o - y[8:]).pow(2).mean()) / 2 for o, y in zip(net(x[8:])[1], ys, strict=True)])
        else:
            balancer.backward([(o - y).pow(2).mean() for o, y in zip(net(x)[1], ys, strict=True)])
        found.append(gradients_of(net))
    assert same(*found, tolerance=1e-6)


@pytest.mark.supports("gradient accumulation, method at the features", "refused", "take a method of another level")
def test_08_features_do_not_accumulate():
    net, (x, _) = Net(), batch()
    with pytest.raises(ValueError, match="mgda_ub"):
        Balancer("mgda_ub", net).accumulate([o.mean() for o in net(x)[1]])


@pytest.mark.supports("a regulariser with a backward pass of its own", "yes")
@pytest.mark.parametrize("name", ["equal", "pcgrad", "mgda_ub", "sam_gs"])
def test_09_what_stood_in_grad_stays(name):
    """The gradient of a regulariser is added to, and neither scaled nor clipped."""
    net, (x, ys) = Net(), batch()
    step(Balancer(name, net, convention="plain, clipped"), net, x, ys)
    alone = gradients_of(net)
    net.zero_grad()
    (100 * net.trunk[0].weight.pow(2).sum()).backward()
    regulariser = net.trunk[0].weight.grad.clone()
    step(Balancer(name, net, convention="plain, clipped"), net, x, ys)
    assert torch.allclose(net.trunk[0].weight.grad, alone[0] + regulariser)
