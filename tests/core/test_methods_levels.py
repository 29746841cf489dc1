"""Where a method reads its gradients: features, last layer, losses after the step; one pass through the trunk."""

from dataclasses import replace

import pytest
import references
import torch
from balancer_networks import Net, batch, step
from engine import small_model, small_problem, step_of, take
from torch import nn
from torchjd.aggregation import WeightedAggregator, Weighting

from mtl_core import methods, recon
from mtl_core.balancer import Balancer
from mtl_core.methods import CONVENTIONS, METHODS, Convention
from mtl_core.methods.famo import FAMO
from mtl_core.random_state import random_state, set_random_state
from mtl_core.training import loop
from mtl_core.training.schedule import Schedule
from mtl_lab.figures import method_card

FEATURES = [n for n, spec in METHODS.items() if spec.level == "features" and spec.kind == "gradient aggregation"]
NEAR = {**{n: "features" for n in FEATURES}, "gradnorm": "last layer"}
PLAIN = CONVENTIONS["plain"]


def gradients_by_hand(model, problem, batch):
    """(J, Z, gradients of the last layer, heads' gradients, losses) by one full backward pass a task."""
    inputs, targets = problem.train.batch(batch)
    features = model.features(inputs)
    trunk, last = list(model.trunk.parameters()), list(model.trunk[-2].parameters())
    losses = [task.loss(head(features), t) for task, head, t in zip(problem.tasks, model.heads, targets, strict=True)]

    def rows(inputs):
        found = [torch.autograd.grad(loss, inputs, retain_graph=True) for loss in losses]
        return torch.stack([torch.cat([part.flatten() for part in row]) for row in found])

    heads = [
        torch.autograd.grad(loss, list(h.parameters()), retain_graph=True)
        for loss, h in zip(losses, model.heads, strict=True)
    ]
    return rows(trunk), rows([features]), rows(last), heads, torch.stack(losses).detach()


def shared(model):
    return torch.cat([p.grad.flatten() for p in model.trunk.parameters()])


REFERENCE = {"mgda_ub": references.min_norm, "imtl_g_features": references.imtl_g}


@pytest.mark.parametrize("name", REFERENCE)
@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.parametrize("heads", ["unit", "weighted"])
def test_weights_from_the_features_combine_the_parameters_gradients(name, observed, heads):
    """Z flattened over batch and features gives the weights, which then weigh the rows of J (and the heads)."""
    problem, model = small_problem(3), small_model(3)
    J, Z, _, head_gradients, _ = gradients_by_hand(model, problem, slice(0, 16))
    weights = torch.from_numpy(REFERENCE[name](Z.numpy()))
    assert (weights - torch.from_numpy(REFERENCE[name](J.numpy()))).abs().max() > 1e-2  # other than those from J
    balancer = step_of(name, model, Convention("x", heads=heads), observed)
    take(balancer, model, problem.tasks, problem.train.batch(slice(0, 16)))
    assert balancer.passes == (3 if observed else 1)
    torch.testing.assert_close(shared(model), 3 * weights @ J, rtol=1e-9, atol=1e-12)  # native scale "mean"
    for k, head in enumerate(model.heads):
        factor = 3 * weights[k] if heads == "weighted" else 1
        for p, gradient in zip(head.parameters(), head_gradients[k], strict=True):
            torch.testing.assert_close(p.grad, factor * gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NEAR)
@pytest.mark.parametrize(
    "convention",
    [PLAIN, CONVENTIONS["samgs"], Convention("x", heads="weighted", clip=0.01)],
    ids=["plain", "samgs", "clipped"],
)
def test_both_ways_of_a_step_agree(name, convention):
    """One pass through the trunk, or, where the step is observed, all of J: the same gradients, step by step."""
    problem, found = small_problem(3), []
    for observed in (False, True):
        model, points = small_model(3), []
        balancer, optimizer = step_of(name, model, convention, observed), torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(3):
            take(balancer, model, problem.tasks, problem.train.batch(slice(0, 16)))
            points.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
            if convention.clip is not None:
                assert shared(model).norm() <= convention.clip
            optimizer.step()
        found.append(torch.stack(points))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


def test_the_trunk_is_walked_once():
    problem, calls = small_problem(3), []

    class Walked(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            calls.append(1)
            return gradient

    class Count(nn.Module):
        def forward(self, x):
            return Walked.apply(x)

    for name, expected in (("mgda_ub", 1), ("gradnorm", 1), ("famo", 1), ("rlw", 1), ("mgda", 3), ("equal", 1)):
        model = small_model(3)
        model.trunk.insert(1, Count())
        calls.clear()
        take(step_of(name, model), model, problem.tasks, problem.train.batch(slice(0, 16)))
        assert len(calls) == expected, name
        assert method_card.extra_passes(METHODS[name], 3)["backward"] == expected - 1
    assert [method_card.extra_passes(METHODS[name], 3)["forward"] for name in ("famo", "equal")] == [1, 0]


def test_gradnorm_reads_the_last_layer():
    """After one step the weights move by the signs that the norms at the last layer give, and by no others."""
    problem, model = small_problem(3), small_model(3)
    model.trunk[-2].weight.data.mul_(3)
    J, _, last, _, losses = gradients_by_hand(model, problem, slice(0, 16))
    balancer = step_of("gradnorm", model)
    take(balancer, model, problem.tasks, problem.train.batch(slice(0, 16)))
    torch.testing.assert_close(shared(model), J.sum(0), rtol=1e-9, atol=1e-12)  # all weights were 1
    norms = last.norm(dim=1)  # at the first step all training rates are 1: towards the mean norm
    moved = 1 - 0.025 * torch.sign(norms - norms.mean())
    torch.testing.assert_close(balancer.method.weights.detach(), 3 * moved / moved.sum(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("observed", [False, True])
def test_a_method_without_weights_is_refused_at_the_features(observed):
    """GradDrop decides number by number: there is no weight to send through the trunk."""
    problem, model = small_problem(2), small_model(2)
    spec = replace(METHODS["graddrop"], level="features")
    balancer = step_of("graddrop", model, observed=observed, spec=spec)
    with pytest.raises(ValueError, match="expected a WeightedAggregator of torchjd, got GradDrop; register it at"):
        take(balancer, model, problem.tasks, problem.train.batch(slice(0, 16)))


@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.parametrize("name", FEATURES)
def test_a_trunk_without_common_features_is_refused(name, observed):
    problem, model = small_problem(2), recon.split(small_model(2), ["2"], 2, "copy")
    message = f"{name} needs features of the same examples, through which all .* or take a method of the level 'param"
    with pytest.raises(ValueError, match=message):
        take(step_of(name, model, observed=observed), model, problem.tasks, problem.train.batch(slice(0, 16)))


@pytest.mark.parametrize(
    "cut",
    [lambda z: (z[:, :4], z[:, 4:]), lambda z: z.chunk(2, 1)],
    ids=["slices", "chunk"],
)
def test_features_may_be_parts_of_one_tensor(cut):
    """Cut up or not, they are the same numbers."""
    net, (x, ys) = Net(), batch()
    step(Balancer("mgda_ub", net), net, x, ys)
    wanted = net.trunk[0].weight.grad.clone()
    net.zero_grad()
    parts = cut(net.trunk(x))
    outputs = [head(torch.cat(parts, 1)).squeeze(1) for head in net.heads]
    losses = [(o - y).pow(2).mean() for o, y in zip(outputs, ys, strict=True)]
    Balancer("mgda_ub", net).backward(losses, features=parts)
    torch.testing.assert_close(net.trunk[0].weight.grad, wanted, rtol=1e-9, atol=1e-12)


# --- the losses after the step, in the loop that has them


class Dropping(nn.Module):
    """Dropout that keeps its masks, its mode, and the random state before it drew."""

    def __init__(self):
        super().__init__()
        self.masks, self.modes, self.random = [], [], []

    def forward(self, x):
        self.random.append(torch.get_rng_state())
        self.masks.append(torch.rand_like(x) > 0.5)
        self.modes.append(self.training)
        return x * self.masks[-1]


class Spy(FAMO):
    """Draws numbers of its own in each step, and keeps what it is given after it."""

    def __init__(self, model):
        super().__init__()
        object.__setattr__(self, "model", model)  # not a part of it

    def forward(self, losses):
        self.before, self.mean = losses.detach().clone(), self.model.trunk[1].running_mean.clone()
        torch.rand(3)
        self.random = torch.get_rng_state()
        return super().forward(losses)

    def update(self, losses):
        self.after, self.mean_after, self.random_after = losses, self.model.trunk[1].running_mean, torch.get_rng_state()
        self.mean_after = self.mean_after.clone()


@pytest.mark.parametrize("probe", ["frozen", "training", "evaluation"])
def test_the_probe_sees_the_batch_after_the_optimizers_step(probe):
    """Only a frozen one leaves statistics and random state as the step left them, what the method drew included."""
    problem, model = small_problem(2), small_model(2, batch_norm=True)
    model.trunk.append(dropping := Dropping())
    spy = Spy(model)
    schedule, rule = Schedule(epochs=1, batch_size=48, learning_rate=0.5), Convention("x", probe=probe)
    loop.fit(model, problem, spy, schedule, spec=METHODS["famo"], convention=rule)
    assert dropping.modes[:2] == [True, probe != "evaluation"] and not spy.after.requires_grad
    assert torch.equal(*dropping.masks[:2]) == (probe == "frozen")
    assert torch.equal(spy.mean_after, spy.mean) == (probe != "training")
    assert torch.equal(spy.random_after, spy.random) == (probe == "frozen")
    if probe == "frozen":  # the same noise before and after: what changed is the step's doing
        inputs, targets = problem.train.batch(torch.randperm(48, generator=loop.torch_generator(0, "batch order")))
        torch.set_rng_state(dropping.random[0])
        outputs = model.train()(inputs)
        again = [t.loss(o, y) for t, o, y in zip(problem.tasks, outputs, targets, strict=True)]
        torch.testing.assert_close(spy.after, torch.stack(again).detach(), rtol=1e-12, atol=0)
        assert (spy.after - spy.before).abs().max() > 1e-3


def test_the_random_state_of_a_gpu_is_kept_where_the_batch_lies_there(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.tensor([device.index]))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: calls.append((state.item(), device.index)))
    gpu = torch.device("cuda:1")
    state = random_state(gpu)
    assert state["cuda"].item() == 1 and "cuda" not in random_state("cpu")
    set_random_state(random_state("cpu"), "cpu")
    set_random_state(state, "cpu")  # a checkpoint of a GPU, read on a CPU
    assert calls == []
    set_random_state(state, gpu)
    assert calls == [(1, 1)]


# --- what is read


def test_gradients_at_features_of_half_precision_are_read_in_float32():
    seen = []

    class Keeps(Weighting):
        def forward(self, matrix, /):
            seen.append(matrix.dtype)
            return matrix.new_ones(len(matrix))

    for dtype, wanted in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        net, (x, ys) = Net().to(dtype), batch()
        balancer = Balancer(WeightedAggregator(Keeps()), net, spec=METHODS["mgda_ub"])
        step(balancer, net, x.to(dtype), ys.to(dtype))
        assert seen.pop() == wanted


class Last(nn.Module):
    """Two layers that tasks share."""

    def __init__(self, first="first", unused=False):
        super().__init__()
        self.name = first
        setattr(self, first, nn.Linear(6, 8))
        self.out = nn.Linear(8, 8)
        self.unused = nn.Linear(2, 2) if unused else None

    def forward(self, x):
        return self.out(getattr(self, self.name)(x).tanh())


@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_gradnorm_reads_what_trains_of_the_last_layer(observed, frozen):
    """The last that the losses reach: one that is registered behind it takes no part, a frozen bias neither."""
    reads_the_last_layer(Last(unused=True), observed, frozen)


@pytest.mark.parametrize("observed", [False, True])
def test_gradnorm_reads_no_layer_whose_name_begins_like_the_last_ones(observed):
    reads_the_last_layer(Last("out_of_order"), observed)


def reads_the_last_layer(trunk, observed, frozen=False):
    net, (x, ys) = Net(3, trunk), batch(3)
    net.trunk.out.bias.requires_grad_(not frozen)
    parameters = [p for p in net.trunk.out.parameters() if p.requires_grad]
    losses = [(o - y).pow(2).mean() for o, y in zip(net(x)[1], ys, strict=True)]
    rows = [torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses]
    norms = torch.stack([torch.cat([g.flatten() for g in row]).norm() for row in rows])
    moved = 1 - 0.01 * norms * torch.sign(norms - norms.mean())  # at the first step all training rates are 1
    balancer = Balancer("gradnorm", net, convention=Convention("x", own_optimizer=("sgd", 0.01)))
    balancer.observers += [lambda gradients: None] if observed else []
    step(balancer, net, x, ys)
    torch.testing.assert_close(balancer.method.weights.detach(), 3 * moved / moved.sum(), rtol=1e-9, atol=0)


def test_conventions_of_published_codes_differ_by_method():
    nash, famo = CONVENTIONS["nash-mtl"], CONVENTIONS["famo"]
    assert nash.of("nash_mtl").clip == 1.0 and nash.of("imtl_g").clip is None
    assert (nash.of("mgda").scale, nash.of("mgda").heads) == ("K times", "weighted")
    assert (nash.of("pcgrad").heads, nash.of("dwa").scale) == ("unit", "mean")
    assert famo.of("cagrad").clip == 1.0 and famo.of("mgda").clip is None and famo.probe == "training"
    assert CONVENTIONS["samgs"].own_optimizer is None and nash.own_optimizer == ("adam", 0.025)
    for convention in CONVENTIONS.values():
        assert set(convention.exceptions) <= set(METHODS) and convention.source
    problem, model = small_problem(3), small_model(3)
    J, *_, losses = gradients_by_hand(model, problem, slice(0, 16))
    given = problem.train.batch(slice(0, 16))
    take(step_of("dwa", model, nash), model, problem.tasks, given)
    torch.testing.assert_close(shared(model), J.mean(0), rtol=1e-9, atol=1e-12)
    for name, scale in (("mgda", 3), ("imtl_g", 1)):
        take(step_of(name, model, nash), model, problem.tasks, given)
        expected = scale * methods.make(name)(J)
        torch.testing.assert_close(shared(model), expected, rtol=1e-6, atol=1e-9)
