"""`Balancer`: tasks that come and go, weights between steps, what a logger reads, what is refused."""

import pytest
import torch
from balancer_networks import Net, batch, gradients_of, joint, same, step
from torch import nn

from mtl_core.balancer import Balancer
from mtl_core.methods import CONVENTIONS, Method, find

torch.set_num_threads(1)


# --- tasks that come and go


@pytest.mark.parametrize(
    "name", ["sam_gs", "moco", "db_mtl", "uncertainty", "imtl_l", "gradnorm", "famo", "dwa", "gradvac"]
)
def test_an_absent_tasks_state_waits(name):
    """Two tasks of three learn as they would alone, and the third is as it was."""
    options = {"window": 1} if name == "dwa" else {}
    net, (x, ys) = Net(3), batch(3)
    balancer = Balancer(name, net, **options)

    def advance(tasks, size):
        outputs = net(x)[1]
        losses = {f"t{k}": size * (outputs[k] - ys[k]).pow(2).mean() for k in tasks}
        balancer.backward(losses)
        balancer.after_step({task: 0.9 * loss for task, loss in losses.items()})

    def state(k):
        modules = [m for m in balancer.method.modules() if hasattr(m, "task_state")]
        tensors = [getattr(m, tensor)[k].detach() for m in modules for tensor in m.task_state]
        optimizers = [o for m in modules if (o := getattr(m, "_optimizer", None))]
        tensors += [t[k] for o in optimizers for s in o.state.values() for t in s.values() if t.ndim]
        return [t.clone() for t in tensors]

    advance((0, 1, 2), 1.0)
    before = state(0), state(1)
    advance((0, 2), 0.9)
    advance((0, 2), 0.7)
    waits = [torch.equal(a, b) for a, b in zip(before[1], state(1), strict=True) if not a.isnan().any()]
    moves = [not torch.equal(a, b) for a, b in zip(before[0], state(0), strict=True)]
    assert all(waits) and waits and any(moves)
    advance((0, 1, 2), 1.0)


def test_momentum_is_kept_by_parameter():
    """A layer that is unfrozen later has new columns, which start at zero; those that were there keep their state."""
    net, (x, ys) = Net(), batch()
    net.trunk[0].bias.requires_grad_(False)
    balancer = Balancer("sam_gs", net)
    step(balancer, net, x, ys)
    before = balancer.method.momentum.clone()
    net.trunk[0].bias.requires_grad_(True)
    net.zero_grad()
    step(balancer, net, x, ys)
    after, matrix = balancer.method.momentum, balancer.gradients.matrix
    assert before.shape == (2, 48) and after.shape == (2, 56)
    assert torch.allclose(after[:, :48], 0.9 * before + 0.1 * matrix[:, :48])
    assert torch.allclose(after[:, 48:], 0.1 * matrix[:, 48:])


def test_a_task_that_joins():
    net, (x, ys) = Net(3), batch(3)
    balancer = Balancer("uncertainty", net)
    z, outputs = net(x)
    balancer.backward({f"t{k}": (outputs[k] - ys[k]).pow(2).mean() for k in (0, 1)})
    step(balancer, net, x, ys)
    assert len(balancer.method.log_var) == 3 and balancer.tasks == ["t0", "t1", "t2"]
    with pytest.raises(ValueError, match="weights are for 2 tasks: give one for each of"):
        step(Balancer("static", net, weights=[1.0, 2.0]), net, x, ys)


def test_an_absence_makes_no_column_private():
    net, (x, ys) = Net(3), batch(3)
    balancer = Balancer("norm_equalised", net)
    step(balancer, net, x, ys)
    net.zero_grad()
    outputs = net(x)[1]
    balancer.backward({"t0": outputs[0].pow(2).mean(), "t1": None, "t2": None})
    assert torch.allclose(
        net.trunk[0].weight.grad, torch.autograd.grad(net(x)[1][0].pow(2).mean(), net.trunk[0].weight)[0]
    )
    for k in (0, 1):  # alternating batches
        alone = Balancer("norm_equalised", net)
        alone.backward({f"t{k}": net(x)[1][k].pow(2).mean()})


def test_what_only_absent_tasks_reach_keeps_no_gradient():
    """A layer of two tasks, both absent: None, not zeros, which weight decay would move."""
    net, (x, _) = Net(4), batch()
    layer = nn.Linear(8, 8).double()
    balancer = Balancer("norm_equalised", nn.ModuleList([net, layer]))

    def losses():
        z = net.trunk(x)
        return {f"t{k}": net.heads[k](layer(z) if k > 1 else z).pow(2).mean() for k in range(4)}

    balancer.backward(losses())
    assert layer.weight.grad.abs().max() > 0
    layer.weight.grad = None
    balancer.backward(losses() | {"t2": None, "t3": None})
    assert layer.weight.grad is None


def test_accumulation_over_batches_of_different_tasks():
    """Each micro-batch has a task of its own: the step is that of both."""
    net, (x, ys) = Net(), batch()
    want = Net()
    step(Balancer("nash_mtl", want), want, x, ys)
    balancer = Balancer("nash_mtl", net)
    balancer.accumulate({"t0": (net(x)[1][0] - ys[0]).pow(2).mean()})
    balancer.backward({"t1": (net(x)[1][1] - ys[1]).pow(2).mean()})
    assert same(gradients_of(net), gradients_of(want), 1e-8)


# --- every, project, weights


@pytest.mark.parametrize("name", ["cagrad", "mgda_ub", "gradnorm", "equal"])
@pytest.mark.parametrize("convention", ["plain", "nash-mtl", "plain, clipped"])
def test_weights_of_an_earlier_step(name, convention):
    """Between, the update is the sum of this step's gradients with the last weights, under the convention."""
    net, (x, ys) = Net(3), batch(3)
    balancer = Balancer(name, net, every=3, convention=convention)
    spec, rule, kept = find(name), CONVENTIONS[convention].of(name), []
    for i in range(3):
        net.zero_grad()
        losses = [(o - y).pow(2).mean() for o, y in zip(net(x + i)[1], ys, strict=True)]
        rows = torch.stack(
            [
                torch.cat(
                    [g.flatten() for g in torch.autograd.grad(loss, [*net.trunk.parameters()], retain_graph=True)]
                )
                for loss in losses
            ]
        )
        own = [
            torch.autograd.grad(loss, head.weight, retain_graph=True)[0]
            for loss, head in zip(losses, net.heads, strict=True)
        ]
        step(balancer, net, x + i, ys)
        weights = list(balancer.weights.values())
        kept.append(weights)
        assert weights == kept[0]
        factor = rule.factor(spec.native_scale, 3)
        want = factor * torch.tensor(weights, dtype=torch.float64) @ rows
        want *= rule.clip_factor(want.norm().item())
        assert torch.allclose(torch.cat([p.grad.flatten() for p in net.trunk.parameters()]), want, rtol=1e-6)
        weighted = spec.kind == "loss weighting" or rule.heads == "weighted"
        for k, head in enumerate(net.heads):
            assert torch.allclose(head.weight.grad, (factor * weights[k] if weighted else 1.0) * own[k], rtol=1e-6)


def test_methods_without_weights_are_projected_on_request():
    net, (x, ys) = Net(), batch()
    for name in ("sam_gs", "graddrop", "moco"):
        with pytest.raises(ValueError, match="project=True"):
            Balancer(name, net, every=2)
    balancer = Balancer("graddrop", net, every=2, project=True)
    step(balancer, net, x, ys)
    found, matrix = torch.cat([p.grad.flatten() for p in net.trunk.parameters()]), balancer.gradients.matrix.clone()
    weights = torch.tensor(list(balancer.weights.values()), dtype=torch.float64)
    nearest = matrix.T @ torch.linalg.lstsq(matrix.T, found[:, None]).solution[:, 0]
    assert torch.allclose(weights @ matrix, nearest, atol=1e-9)
    assert balancer.residual == pytest.approx(((found - nearest).norm() / found.norm()).item())
    net.zero_grad()
    step(balancer, net, x, ys)
    assert torch.allclose(torch.cat([p.grad.flatten() for p in net.trunk.parameters()]), weights @ matrix)


@pytest.mark.parametrize("name", ["mgda_ub", "gradnorm", "equal", "sam_gs"])
def test_an_observer_sees_the_matrix_and_changes_nothing(name):
    nets, (x, ys), seen = (Net(3), Net(3)), batch(3), []
    for net, observers in zip(nets, ([], [lambda gradients: seen.append(gradients.matrix.shape)]), strict=True):
        balancer = Balancer(name, net)
        balancer.observers += observers
        step(balancer, net, x, ys)
    assert seen == [(3, 56)] and same(*map(gradients_of, nets))


def test_what_a_logger_reads():
    net, (x, ys) = Net(3), batch(3)
    balancer = Balancer("mgda", net)
    assert balancer.weights == {} and balancer.cosines == {} and balancer.gradients is None
    step(balancer, net, x, ys)
    assert sum(balancer.weights.values()) == pytest.approx(1.0) and list(balancer.weights) == ["t0", "t1", "t2"]
    a, b = balancer.gradients.matrix[:2]
    assert balancer.cosines["t0", "t1"] == pytest.approx(torch.cosine_similarity(a, b, 0).item())
    assert list(balancer.gradients.layers) == ["trunk.0"]
    step(Balancer("sam_gs", net), net, x, ys)
    equal = Balancer("equal", net)
    step(equal, net, x, ys)
    assert equal.cosines == {} and list(equal.weights.values()) == [1.0] * 3


# --- what is refused


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda o: o[:1].pow(2), r"shape \(1,\)"),
        (lambda o: o.pow(2), r"shape \(16,\)"),
        (lambda o: 1.0, "float"),
        (lambda o: o.mean().detach(), "no graph"),
        (lambda o: o.mean().to(torch.complex64), "complex"),
    ],
)
@pytest.mark.parametrize("name", ["equal", "pcgrad"])
def test_losses_that_are_none(name, loss, words):
    net, (x, _) = Net(), batch()
    outputs = net(x)[1]
    with pytest.raises(ValueError, match=f"'depth'.*{words}"):
        Balancer(name, net).backward({"normal": outputs[0].mean(), "depth": loss(outputs[1])})


def test_options_that_make_no_sense():
    net = Net()
    for words, options in (
        ("finite", {"c": float("nan")}),
        ("every", {"every": 0}),
        ("every", {"every": True}),
        ("convention", {"convention": "plane"}),
        ("argument", {"cc": 0.4}),
    ):
        with pytest.raises(ValueError, match=words):
            Balancer("cagrad", net, **options)
    for method, words in (("rotograd", "RotoGrad"), ("pcgrat", "pcgrad"), (3, "int")):
        with pytest.raises(ValueError, match=words):
            Balancer(method, net)
    for given in ([], ["weight"], [torch.ones(2, requires_grad=True) * 2]):
        with pytest.raises(ValueError):
            Balancer("pcgrad", given)
    (x, ys) = batch()
    for words, call in (
        ("no task", lambda b: b.backward({"a": None})),
        ("one tensor", lambda b: b.backward(torch.ones(2))),
        ("counts", lambda b: b.backward([net(x)[1][0].mean()], counts={"task 9": 3})),
        ("counts", lambda b: b.backward([net(x)[1][0].mean()], counts={"task 0": -1})),
    ):
        with pytest.raises(ValueError, match=words):
            call(Balancer("pcgrad", net))


def test_names_of_bare_parameters_and_pairs():
    net, (x, ys) = Net(), batch()
    for given, layer in ((net.named_parameters(), "trunk.0"), (net.parameters(), "0")):
        balancer = Balancer("sam_gs", given)
        step(balancer, net, x, ys)
        assert layer in balancer.gradients.layers


def test_layers_of_pairs_in_another_order():
    """A user may give weights first, then biases: a layer is still its own columns."""
    net, (x, ys) = Net(2, nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8))), batch()
    pairs = sorted(net.named_parameters(), key=lambda pair: pair[0].endswith("bias"))
    balancer = Balancer("pcgrad", pairs)
    step(balancer, net, x, ys)
    wanted = torch.autograd.grad((net(x)[1][0] - ys[0]).pow(2).mean(), [*net.trunk[2].parameters()])
    assert balancer.gradients.layers["trunk.2"].shape == (2, 72)
    assert torch.allclose(balancer.gradients.layers["trunk.2"][0], torch.cat([g.flatten() for g in wanted]))


def test_an_instance_with_a_row_of_its_own():
    class Mean(nn.Module):
        def forward(self, matrix):
            return matrix.mean(0)

    net, (x, ys) = Net(), batch()
    want = joint(net, [(o - y).pow(2).mean() for o, y in zip(net(x)[1], ys, strict=True)])
    spec = Method("mean", "Mean", "gradient aggregation", Mean, "mean", "")
    step(Balancer(Mean(), net, spec=spec), net, x, ys)
    assert same(gradients_of(net), want)
