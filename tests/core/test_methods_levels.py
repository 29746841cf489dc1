"""Where a method reads its gradients: features, last layer, losses after the step; one pass through the trunk."""

import gc
from dataclasses import replace
from types import SimpleNamespace

import pytest
import references
import torch
from engine import fresh, small_model, small_problem
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks

from mtl_core import methods
from mtl_core.methods import CONVENTIONS, METHODS, Convention
from mtl_core.methods.backward import feature_matrix
from mtl_core.recon import split_layers
from mtl_core.training.step import Step, _random_state, _set_random_state

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


def step_of(name, model, problem, convention=PLAIN, observed=False):
    return Step(model, problem.tasks, METHODS[name], fresh(name, len(problem.tasks)), convention, observed)


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
    step = step_of(name, model, problem, Convention("x", heads=heads), observed)
    assert step.backward_passes == (3 if observed else 1)
    step(*problem.train.batch(slice(0, 16)))
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
        step, optimizer = step_of(name, model, problem, convention, observed), torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(3):
            step(*problem.train.batch(slice(0, 16)))
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
        step_of(name, model, problem)(*problem.train.batch(slice(0, 16)))
        assert len(calls) == expected, name
        assert METHODS[name].extra_passes(3)["backward"] == expected - 1
    assert METHODS["famo"].extra_passes(3)["forward"] == 1 and METHODS["equal"].extra_passes(3)["forward"] == 0


def test_gradnorm_reads_the_last_layer():
    """After one step the weights move by the signs that the norms at the last layer give, and by no others."""
    problem, model = small_problem(3), small_model(3)
    model.trunk[-2].weight.data.mul_(3)
    J, _, last, _, losses = gradients_by_hand(model, problem, slice(0, 16))
    step = step_of("gradnorm", model, problem)
    step(*problem.train.batch(slice(0, 16)))
    torch.testing.assert_close(shared(model), J.sum(0), rtol=1e-9, atol=1e-12)  # all weights were 1
    norms = last.norm(dim=1)  # at the first step all training rates are 1: towards the mean norm
    moved = 1 - 0.025 * torch.sign(norms - norms.mean())
    torch.testing.assert_close(step.method.weights.detach(), 3 * moved / moved.sum(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("observed", [False, True])
def test_a_method_without_weights_is_refused_at_the_features(observed):
    """GradDrop decides number by number: there is no weight to send through the trunk."""
    problem, model = small_problem(2), small_model(2)
    spec = replace(METHODS["graddrop"], level="features")
    step = Step(model, problem.tasks, spec, fresh("graddrop", 2), PLAIN, observed)
    with pytest.raises(ValueError, match="expected a WeightedAggregator of torchjd, got GradDrop; register it at"):
        step(*problem.train.batch(slice(0, 16)))


@pytest.mark.parametrize("name", NEAR)
def test_a_trunk_without_common_features_is_refused(name):
    problem, model = small_problem(2), split_layers(small_model(2), ["2"], "copy")
    message = f"{name} needs features that all tasks share: choose a method of the level 'parameters'"
    for observed in (False, True):
        step = step_of(name, model, problem, observed=observed)
        if observed and name == "gradnorm":  # all of J is there, and so the last layer that is shared
            step(*problem.train.batch(slice(0, 16)))
            continue
        with pytest.raises(ValueError, match=message):
            step(*problem.train.batch(slice(0, 16)))


# --- the losses after the step


class Dropping(nn.Module):
    """Dropout that remembers the last mask."""

    def forward(self, x):
        self.mask, self.trained = torch.rand_like(x) > 0.5, self.training
        return x * self.mask


def probing(probe):
    problem, model = small_problem(2), small_model(2, batch_norm=True)
    model.trunk.append(Dropping())
    step = step_of("famo", model, problem, Convention("x", probe=probe))
    seen = []
    step.method.update = lambda losses: seen.append((losses, model.trunk[-1].mask.clone(), model.trunk[-1].trained))
    return problem, model, step, torch.optim.SGD(model.parameters(), 0.5), seen


@pytest.mark.parametrize("probe", ["frozen", "training", "evaluation"])
def test_the_probe_sees_the_batch_after_the_optimizers_step(probe):
    problem, model, step, optimizer, seen = probing(probe)
    batch = problem.train.batch(slice(0, 16))
    torch.manual_seed(0)
    before = step(*batch)
    mask, statistics, random = model.trunk[-1].mask.clone(), model.trunk[1].running_mean.clone(), torch.get_rng_state()
    assert not seen
    optimizer.step()
    ((losses, probed, training),) = seen
    assert training == (probe != "evaluation") and model.training and not losses.requires_grad
    assert torch.equal(probed, mask) == (probe == "frozen")
    assert torch.equal(model.trunk[1].running_mean, statistics) == (probe != "training")
    assert torch.equal(torch.get_rng_state(), random) == (probe == "frozen")
    if probe == "frozen":  # the same noise before and after: what changed is the step's doing
        torch.manual_seed(0)
        outputs = model(batch[0])
        again = [t.loss(o, y) for t, o, y in zip(problem.tasks, outputs, batch[1], strict=True)]
        torch.testing.assert_close(losses, torch.stack(again).detach(), rtol=1e-12, atol=0)
        assert (losses - before).abs().max() > 1e-3


def test_the_probe_leaves_what_was_drawn_since_the_step():
    problem, model, step, optimizer, seen = probing("frozen")
    step(*problem.train.batch(slice(0, 16)))
    torch.rand(3)  # as a method may, or whatever comes between step and optimizer
    random = torch.get_rng_state()
    optimizer.step()
    assert len(seen) == 1 and torch.equal(torch.get_rng_state(), random)


def test_gradients_at_features_of_half_precision_are_multiplied_in_float32():
    Z = [torch.randn(2, 4, generator=torch.Generator().manual_seed(k)).bfloat16() for k in range(3)]
    matrix = feature_matrix(Z)
    assert matrix.dtype == torch.float32 and torch.equal(matrix, torch.stack([z.flatten().float() for z in Z]))
    assert feature_matrix([z.double() for z in Z]).dtype == torch.float64


@pytest.mark.parametrize("part", ["bias", "order"])
def test_gradnorm_reads_what_trains_of_the_last_layer(part):
    problem, model = small_problem(3), small_model(3)
    if part == "bias":
        model.trunk[-2].bias.requires_grad_(False)
    else:  # registered last, and the features do not pass through it
        model.trunk.append(nn.Identity())
        model.trunk[-1].unused = nn.Linear(2, 2)
    step = step_of("gradnorm", model, problem)
    if part == "order":
        with pytest.raises(ValueError, match="gradnorm reads the trunk's last layer, '.*unused'"):
            step(*problem.train.batch(slice(0, 16)))
    else:
        step(*problem.train.batch(slice(0, 16)))
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_the_random_state_of_a_gpu_is_kept_where_the_batch_lies_there(monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.tensor([device.index]))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: calls.append((state.item(), device.index)))
    batch = SimpleNamespace(device=torch.device("cuda:1"))
    state = _random_state(batch)
    assert state["cuda"].item() == 1 and "cuda" not in _random_state(torch.ones(1))
    _set_random_state(_random_state(torch.ones(1)), torch.ones(1))
    _set_random_state(state, torch.ones(1))  # a checkpoint of a GPU, read on a CPU
    assert calls == []
    _set_random_state(state, batch)
    assert calls == [(1, 1)]


def test_the_probe_waits_for_the_models_own_optimizer_and_comes_once():
    problem, model, step, optimizer, seen = probing("frozen")
    stranger = torch.optim.SGD([nn.Parameter(torch.ones(1))], 0.1)
    stranger.param_groups[0]["params"][0].grad = torch.ones(1)
    optimizer.step()
    assert not seen  # no batch yet
    step(*problem.train.batch(slice(0, 16)))
    stranger.step()
    assert not seen
    optimizer.step()
    optimizer.step()
    assert len(seen) == 1


def test_a_step_that_is_gone_is_not_called():
    problem, model, step, optimizer, seen = probing("frozen")
    step(*problem.train.batch(slice(0, 16)))
    hooks = _global_optimizer_post_hooks
    count = len(hooks)
    del step
    gc.collect()
    assert len(hooks) == count - 1
    optimizer.step()
    assert not seen
    kept = len(hooks)
    step_of("equal", model, problem)
    assert len(hooks) == kept  # only methods that need it listen


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
    step_of("dwa", model, problem, nash)(*problem.train.batch(slice(0, 16)))
    torch.testing.assert_close(shared(model), J.mean(0), rtol=1e-9, atol=1e-12)
    for name, scale in (("mgda", 3), ("imtl_g", 1)):
        step_of(name, model, problem, nash)(*problem.train.batch(slice(0, 16)))
        expected = scale * methods.make(name)(J)
        torch.testing.assert_close(shared(model), expected, rtol=1e-6, atol=1e-9)
