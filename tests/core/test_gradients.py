"""Gradients by task against torch.autograd.grad, one full backward pass each; who reaches what; cost; what is named."""

import pytest
import torch
from engine import Vector, linear_losses, linear_model, step_of
from networks import MODELS, SPLITS, build, direct, losses_of, run
from torch import nn

from mtl_core import recon
from mtl_core.gradients import NonFiniteGradientError, reached, task_gradients
from mtl_core.models import MultiTaskModel


def compare(model, found, expected):
    """J and every `.grad` after a step of the plain sum, against `direct`."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    by = {name: [k for k, row in enumerate(expected) if row[name] is not None] for name in parameters}
    assert found.names == [name for name in parameters if len(by[name]) > 1]  # registration order
    assert found.tasks == [f"task {k}" for k in range(len(expected))]
    for k, row in enumerate(expected):
        parts = [torch.zeros_like(parameters[n]) if row[n] is None else row[n] for n in found.names]
        wanted = torch.cat([g.flatten() for g in parts]) if parts else torch.zeros(0)
        torch.testing.assert_close(found.matrix[k], wanted.to(found.matrix), rtol=1e-9, atol=1e-12)
    for name, p in parameters.items():
        assert (p.grad is None) == (not by[name]), name
        if by[name]:
            total = sum(expected[k][name] for k in by[name])
            torch.testing.assert_close(p.grad, total, rtol=1e-9, atol=1e-12)


# --- the matrix


@pytest.mark.parametrize("K", [2, 3])
@pytest.mark.parametrize("name", MODELS)
def test_rows_are_the_gradients_of_the_losses(name, K):
    model, inputs, targets = build(name, K)
    expected = direct(model, inputs, targets)
    found = run(model, inputs, targets)
    compare(model, found, expected)
    assert found.matrix.dtype == torch.float64 and found.matrix.abs().sum(1).min() > 0
    assert found.names == [f"trunk.{n}" for n, _ in model.trunk.named_parameters()]


@pytest.mark.parametrize("K", [2, 3])
@pytest.mark.parametrize("split", SPLITS)
def test_forked_trunks(split, K):
    """A copy that one task alone reaches is no column of J, and gets that task's gradient."""
    model, inputs, targets = build("resnet", K, split=split)
    found = run(model, inputs, targets)
    compare(model, found, direct(model, inputs, targets))
    own = {n for n, _ in model.trunk.named_parameters()} - {n.removeprefix("trunk.") for n in found.names}
    assert len(own) > 0 and (found.matrix.shape == (K, 0)) == (split == "everything")


def test_a_layer_that_two_of_three_tasks_reach_is_shared():
    class Trunk(nn.Module):
        def __init__(self):
            super().__init__()
            self.all, self.two, self.one, self.none = (nn.Linear(3, 3) for _ in range(4))

        def forward(self, x):
            z = self.all(x)
            pair = self.two(z)
            return z, pair, self.one(pair)

    model = MultiTaskModel(Trunk().double(), [nn.Linear(3, 2).double() for _ in range(3)])
    inputs, targets = torch.randn(4, 3, dtype=torch.float64), torch.randint(2, (3, 4))
    found = run(model, inputs, targets)
    compare(model, found, direct(model, inputs, targets))
    assert list(found.layers) == ["trunk.all", "trunk.two"]
    assert found.layers["trunk.two"][0].abs().sum() == 0 and found.layers["trunk.two"][1:].abs().sum(1).min() > 0


def test_frozen_parameters_take_no_part():
    model, inputs, targets = build("batch norm", 2)
    model.trunk[0].bias.requires_grad_(False)
    for p in [*model.trunk[1].parameters(), *model.heads[0].parameters()]:
        p.requires_grad_(False)
    found = run(model, inputs, targets)
    compare(model, found, direct(model, inputs, targets))
    assert found.names == ["trunk.0.weight", "trunk.4.weight", "trunk.4.bias"]
    assert {n: view.shape for n, view in found.layers.items()} == {"trunk.0": (2, 36), "trunk.4": (2, 725)}
    assert all(p.grad is None for p in [*model.trunk[1].parameters(), *model.heads[0].parameters()])


# --- its memory


def test_layers_are_views_weight_before_bias():
    model, inputs, targets = build("batch norm", 2)
    found = run(model, inputs, targets)
    sizes = {"trunk.0": 4 * 9 + 4, "trunk.1": 8, "trunk.4": 144 * 5 + 5}
    assert {name: view.shape for name, view in found.layers.items()} == {n: (2, d) for n, d in sizes.items()}
    assert torch.equal(torch.cat(list(found.layers.values()), dim=1), found.matrix)
    expected = direct(model, inputs, targets)[1]
    assert torch.allclose(found.layers["trunk.4"][1, :-5], expected["trunk.4.weight"].flatten())
    assert torch.allclose(found.layers["trunk.4"][1, -5:], expected["trunk.4.bias"])
    found.layers["trunk.1"].fill_(7)
    assert (found.matrix == 7).sum() == 16


def test_the_next_step_writes_into_the_same_memory_and_leaves_nothing_stale():
    """Nor where the losses reach a layer no more: its columns are zero, its `.grad` is left alone."""

    class Optional(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.use = nn.Linear(3, 3), nn.Linear(3, 3), True

        def forward(self, x):
            return self.second(self.first(x)) if self.use else self.first(x)

    model = MultiTaskModel(Optional().double(), [nn.Linear(3, 2).double() for _ in range(2)])
    inputs, targets = torch.randn(4, 3, dtype=torch.float64), torch.randint(2, (2, 4))
    balancer, places = step_of("equal", model, observed=True), set()
    for use in (True, True, False, True):
        model.trunk.use = use
        inputs = inputs * 0.7
        expected = direct(model, inputs, targets)
        model.zero_grad()
        balancer.backward(losses_of(model, model.features(inputs), targets))
        found = balancer.gradients
        places.add(found.matrix.data_ptr())
        if use:
            compare(model, found, expected)
        else:
            assert found.layers["trunk.second"].abs().sum() == 0 and model.trunk.second.weight.grad is None
            wanted = torch.cat([expected[1]["trunk.first.weight"].flatten(), expected[1]["trunk.first.bias"]])
            torch.testing.assert_close(found.layers["trunk.first"][1], wanted)
    assert len(places) == 1


# --- the functions by themselves


def test_task_gradients_leave_grad_and_graph_alone():
    model, inputs, targets = build("batch norm", 3)
    expected, losses = direct(model, inputs, targets), losses_of(model, model.features(inputs), targets)
    names, parameters = zip(*model.named_parameters(), strict=True)
    for _ in range(2):
        J = task_gradients(losses, parameters)
        assert J.shape == (3, sum(p.numel() for p in parameters)) and J.dtype == torch.float64
        for row, wanted in zip(J, expected, strict=True):
            parts = [torch.zeros_like(p) if wanted[n] is None else wanted[n] for n, p in model.named_parameters()]
            torch.testing.assert_close(row, torch.cat([g.flatten() for g in parts]), rtol=1e-9, atol=1e-12)
    assert all(p.grad is None for p in parameters) and len(names) == len(parameters)


def test_who_reaches_what():
    """One loss: its bit. Two or more: at least two bits. Behind `stop` nothing is looked at."""
    a, b, c, d = (torch.ones(2, requires_grad=True) for _ in range(4))
    z = a * b
    losses = [(z * c).sum(), z.sum(), d.sum() + z.sum()]
    leaves, second = reached(losses)
    assert leaves.keys() == {a, b, c, d} and not second
    assert leaves[c] == 0b001 and leaves[d] == 0b100
    assert all(bits & (bits - 1) for bits in (leaves[a], leaves[b]))
    above, _ = reached(losses, stop=[z])
    assert above.keys() == {z, c, d} and above[z] & (above[z] - 1)
    frozen = [(z.detach() * c).sum()]
    assert reached(frozen)[0] == {c: 1}


class Pair(torch.autograd.Function):
    """One node of the graph with two outputs, as a compiled model is."""

    @staticmethod
    def forward(context, x):
        return x * 1, x * 2

    @staticmethod
    def backward(context, one, two):
        return one + 2 * two


def test_a_node_that_gives_losses_different_outputs_hides_who_reaches_what():
    x = torch.ones(2, requires_grad=True)
    one, two = Pair.apply(x)
    assert reached([one.sum(), two.sum()])[1] and not reached([one.sum(), one.sum()])[1]
    assert not reached([(one + two).sum(), (one * two).sum()])[1]


# --- cost: one forward pass, each head once, what is shared K times, the graph freed


class Counted(nn.Module):
    """The identity that counts its forward and backward passes."""

    def __init__(self):
        super().__init__()
        self.forwards = self.backwards = 0

    def forward(self, x):
        self.forwards += 1
        y = x * 1
        y.register_hook(self.count)
        return y

    def count(self, gradient):
        self.backwards += 1


@pytest.mark.parametrize("K", [1, 2, 4])
def test_the_trunk_is_walked_once_for_each_task_and_a_head_once(K):
    trunk_counter, head_counters = Counted(), [Counted() for _ in range(K)]
    trunk = nn.Sequential(nn.Linear(3, 4), trunk_counter, nn.Tanh(), nn.Linear(4, 3))
    model = MultiTaskModel(trunk, [nn.Sequential(nn.Linear(3, 4), c, nn.Linear(4, 2)) for c in head_counters])
    run(model, torch.randn(5, 3), torch.randint(2, (K, 5)))
    assert (trunk_counter.forwards, trunk_counter.backwards) == (1, K)
    assert [(c.forwards, c.backwards) for c in head_counters] == [(1, 1)] * K


@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.parametrize("split", [None, "last"])
def test_the_graph_is_freed(split, observed):
    model, inputs, targets = build("resnet", 2, split=split)
    features = model.features(inputs)
    losses = losses_of(model, features, targets)
    step_of("equal", model, observed=observed).backward(losses)
    for root in (losses[0], features.sum() if split is None else features[0].sum()):
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            root.backward()


# --- what is not finite is named by task and layer


def refused(model, losses, observed=True, method="equal"):
    balancer = step_of(method, model, observed=observed)
    with pytest.raises(NonFiniteGradientError) as caught:
        balancer.backward(losses)
    assert all(p.grad is None for p in model.parameters())
    return str(caught.value)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_gradients_are_named_by_task_and_layer(bad):
    model, rows = linear_model([2, 3], 3), torch.ones(3, 5)
    rows[1, 3] = bad
    losses = linear_losses(model, model.features(None), rows)
    message = refused(model, [torch.where(torch.isfinite(loss), loss, torch.zeros(())) for loss in losses])
    assert "infinity in the gradient of 'task 1' at trunk.parts.1. Lower" in message


class Root(nn.Module):
    """sqrt at 0: the loss is finite, the slope of one layer is not."""

    def __init__(self, own):
        super().__init__()
        self.below, self.above, self.own = Vector(1), Vector(1), own

    def forward(self, x):
        root = torch.sqrt(self.below.weight)
        return (self.above.weight * 1, self.above.weight + root) if self.own else (self.above.weight + root,) * 2


@pytest.mark.parametrize("method", ["equal", "pcgrad"])
def test_gradients_of_a_tasks_own_layer_are_named(method):
    """A layer of one task is outside of J."""
    model = MultiTaskModel(Root(own=True), [Vector(1), Vector(1)])
    features = model.features(None)
    message = refused(
        model, [z.sum() + h.weight.sum() for z, h in zip(features, model.heads, strict=True)], method=method
    )
    assert "infinity in the gradient of 'task 1' at trunk.below.weight. Lower" in message


def test_gradients_inside_the_trunk_are_named():
    model = MultiTaskModel(Root(own=False), [Vector(1), Vector(1)])
    features = model.features(None)
    message = refused(model, [(k + 1) * features[k].sum() + model.heads[k].weight.sum() for k in range(2)])
    parts = " and ".join(f"the gradient of 'task {k}' at trunk.below" for k in range(2)).replace(" and ", "; ")
    assert f"infinity in {parts}. Lower" in message


def test_losses_are_named_and_long_lists_are_cut():
    model = linear_model([1] * 9, 2)
    offset = linear_losses(model, model.features(None), torch.ones(2, 9), offsets=[0.0, float("nan")])
    for observed in (False, True):
        assert "infinity in the loss of 'task 1'. Lower" in refused(model, offset[:], observed)
        offset = linear_losses(model, model.features(None), torch.ones(2, 9), offsets=[0.0, float("nan")])
    many = linear_losses(model, model.features(None), [[float("nan")] * 9, [1.0] * 9])
    assert "the loss of 'task 0'; " in (message := refused(model, many)) and "and 4 more. Lower" in message


def test_a_sum_that_overflows_with_finite_entries_is_no_error():
    model, rows = linear_model([2, 2], 2), torch.tensor([[3e38] * 4, [-3e38, -3e38, -3e38, 1.0]])
    balancer = step_of("equal", model, observed=True)
    balancer.backward(linear_losses(model, model.features(None), rows))
    J = balancer.gradients.matrix
    assert J.isfinite().all() and J.sum().isinf() and all(p.grad.isfinite().all() for p in model.parameters())


def test_a_backward_pass_that_fails_fails_with_its_own_words():
    class Breaks(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            return x.clone()

        @staticmethod
        def backward(context, gradient):
            raise RuntimeError("this layer cannot go back")

    model, inputs, targets = build("lenet", 2)
    losses = losses_of(model, Breaks.apply(model.features(inputs)), targets)
    with pytest.raises(RuntimeError, match="this layer cannot go back"):
        step_of("pcgrad", model).backward(losses)


# --- mixed precision


def test_own_layers_under_autocast():
    # not on ResNet: torch 2.15 reads unset memory in bfloat16 weight gradients of 3x3 convolutions from 2x2 to 1x1
    model, inputs, targets = build("batch norm", 2, torch.float32)
    model = recon.split(model, ["1"], 2, "copy")
    exact = run(model, inputs, targets).layers["trunk.4"].clone()
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        features = model.features(inputs)
        losses = losses_of(model, features, targets)
    assert features[0].dtype == torch.bfloat16
    balancer = step_of("equal", model, observed=True)
    balancer.backward(losses)
    found = balancer.gradients
    assert found.matrix.dtype == torch.float32 and torch.isfinite(found.matrix).all()
    assert torch.cosine_similarity(found.layers["trunk.4"].flatten(), exact.flatten(), dim=0) > 0.98
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())
