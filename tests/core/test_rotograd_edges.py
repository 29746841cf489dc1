"""RotoGrad's family at the edges: zeros, states, refusals."""

import copy
import math

import pytest
import torch
from rotograd_problems import FAMILY, about, gradients, losses_of, small
from torch import nn
from torch.nn import functional as F

from mtl_core.gradients import NonFiniteGradientError
from mtl_core.methods.rotograd import RotateOnly, RotoGrad, RotoGradNorm, ScaleOnly


@pytest.mark.parametrize("make", FAMILY)
@pytest.mark.parametrize("which", ["one", "all"])
def test_zero_gradients_give_a_defined_step(make, which):
    model, x, y = small(make)
    losses = losses_of(model, x, y)
    losses = [loss * (0.0 if which == "all" or k == 1 else 1.0) + 0.5 for k, loss in enumerate(losses)]
    model.backward(losses)
    assert all(torch.isfinite(g).all() for g in gradients(model).values())
    trunk = torch.cat([p.grad.flatten() for p in model.trunk.parameters()])
    assert (trunk.norm() == 0) == (which == "all")
    if which == "one" and make in (ScaleOnly, RotoGrad):
        assert model.initial_norms[1] == 0 and (model.initial_norms[[0, 2]] > 0).all()
        assert torch.isfinite(torch.stack(model.rotations)).all()
        model.backward(losses_of(model, x, y))  # its first gradient counts as its G^0
        assert model.initial_norms[1] > 0


def test_tiny_losses_are_not_divided_by():
    """The released package turns 1e-6 into 1e10 and NaN at the end of the burn-in; a first loss of zero at once."""
    model, x, y = small(RotoGrad, normalize_losses=True, burn_in=1)
    for factor in (1.0, 1e-6, 1.0):
        model.zero_grad()
        losses = [factor * loss for loss in losses_of(model, x, y)]
        model.backward(losses)
        assert max(g.abs().max() for g in gradients(model).values()) < 100
    model, x, y = small(RotoGrad, normalize_losses=True, burn_in=1)
    first, *others = losses_of(model, x, y)
    model.backward([0 * first, *others])
    assert model.initial_losses[0] == 0 and all(torch.isfinite(g).all() for g in gradients(model).values())
    model.zero_grad()
    model.backward(losses_of(model, x, y))
    assert model.initial_losses[0] > 0, "its first loss that is not tiny"


def test_negative_losses_keep_their_direction():
    plain, x, y = small(RotateOnly)
    plain.backward([loss - 100 for loss in losses_of(plain, x, y)])
    model, x, y = small(RotateOnly, normalize_losses=True)
    model.backward([loss - 100 for loss in losses_of(model, x, y)])
    for one, other in zip(plain.heads.parameters(), model.heads.parameters(), strict=True):
        assert F.cosine_similarity(one.grad.flatten(), other.grad.flatten(), dim=0) > 0.999
    model, x, y = small(RotoGradNorm)
    with pytest.raises(ValueError, match="needs positive losses; not positive: 'task 0', 'task 1', 'task 2'"):
        model.backward([loss - 100 for loss in losses_of(model, x, y)])


@pytest.mark.parametrize("make", FAMILY)
def test_a_state_loads_into_a_fresh_instance(make):
    model, x, y = small(make, normalize_losses=True, burn_in=2, init="haar")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def step(model, optimizer):
        optimizer.zero_grad()
        model.backward(losses_of(model, x, y))
        optimizer.step()

    for _ in range(3):
        step(model, optimizer)
    fresh, *_ = small(make, seed=7, normalize_losses=True, burn_in=2)
    fresh.load_state_dict(model.state_dict())
    again = copy.deepcopy(model)
    second, third = (torch.optim.SGD(m.parameters(), lr=0.05) for m in (fresh, again))
    step(model, optimizer)
    step(fresh, second)
    step(again, third)
    for name, value in model.state_dict().items():
        assert torch.equal(value, fresh.state_dict()[name]), name
        assert torch.equal(value, again.state_dict()[name]), name


def test_everything_is_registered_and_the_callers_list_is_left_alone():
    torch.manual_seed(0)
    heads = [nn.Linear(4, 1), nn.Linear(4, 1)]
    model = RotoGradNorm(nn.Linear(3, 4), heads, 4)
    assert [type(h) for h in heads] == [nn.Linear, nn.Linear] and model.heads[0] is heads[0]
    RotoGrad(nn.Linear(3, 4), tuple(heads), 4)
    names = {n for n, _ in model.named_parameters()}
    assert names == {
        "trunk.weight",
        "trunk.bias",
        "heads.0.weight",
        "heads.0.bias",
        "heads.1.weight",
        "heads.1.bias",
        "rotation.skew",
        "log_weights",
    }
    split = [*model.model_parameters(), *model.rotation_parameters(), *model.weight_parameters()]
    assert len(split) == len(set(split)) == len(names)
    assert not list(ScaleOnly(nn.Linear(3, 4), heads, 4).rotation_parameters())
    model.double()
    x = torch.randn(5, 3, dtype=torch.float64)
    model.backward([o.square().mean() for o in model(x)])
    assert all(p.grad.dtype == torch.float64 for p in model.parameters())


@pytest.mark.parametrize("make", FAMILY)
def test_which_halves_a_variant_has_and_what_a_copy_keeps_of_a_step(make):
    """Rotations that stay put ask for no gradient; the graph of a step is not copied."""
    model, x, y = small(make)
    assert (make.rotates, make.scales) == (make is not ScaleOnly, make in (ScaleOnly, RotoGrad))
    assert model.rotation.skew.requires_grad == make.rotates
    losses = losses_of(model, x, y)
    again = copy.deepcopy(model)  # between forward and backward
    with pytest.raises(ValueError, match="forward pass in training mode"):
        again.backward(losses)
    model.backward(losses)


def test_evaluation_is_plain_and_differentiable():
    model, x, y = small(RotoGrad, init="haar")
    trained = model(x)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(model(x), trained, strict=True)), "training mode without a graph"
    model.eval()
    outputs = model(x.requires_grad_())
    assert all(torch.allclose(a, b) for a, b in zip(outputs, trained, strict=True))
    assert torch.autograd.grad(sum(o.sum() for o in outputs), x)[0].norm() > 0
    with pytest.raises(ValueError, match="forward pass in training mode"):
        model.backward([o.sum() for o in outputs])


def test_the_haar_draw_is_uniform_and_repeatable():
    trunk, heads = nn.Linear(2, 3), [nn.Linear(3, 1)] * 400

    def draw(seed):
        made = RotoGrad(trunk, heads, 3, init="haar", generator=torch.Generator().manual_seed(seed))
        return torch.stack(made.rotations)

    R = draw(0)
    assert torch.equal(R, draw(0)) and not torch.equal(R, draw(1))
    assert (torch.linalg.det(R) > 0.99).all()
    assert R.mean(0).abs().max() < 0.12 and (R.square().mean(0) - 1 / 3).abs().max() < 0.08
    traces = R.diagonal(dim1=1, dim2=2).sum(1)
    assert abs(traces.square().mean() - 1) < 0.25, "the second moment of the trace is 1 on SO(3)"
    state = torch.get_rng_state()
    draw(0)
    assert torch.equal(state, torch.get_rng_state()), "its own generator shifts no other draw"


# --- refusals


def test_set_rotations_refuses_what_is_no_rotation():
    model, *_ = small(RotoGrad, size=3)
    good = torch.eye(3)
    model.set_rotations([about("z", 30), about("x", 10), good])
    assert torch.allclose(model.rotations[0], about("z", 30), atol=1e-15)
    bad = {
        "rotation 1 has determinant -1: a reflection": torch.diag(torch.tensor([1.0, 1.0, -1.0])),
        "rotation 1 is not orthogonal: an entry of RᵀR - I is 3": 2 * good,
        "rotation 1 is not orthogonal.* nan": good * math.nan,
        r"rotation 1 must have shape \(3, 3\), got \(2, 2\)": torch.eye(2),
    }
    for message, matrix in bad.items():
        with pytest.raises(ValueError, match=message):
            model.set_rotations([good, matrix, good])
        assert torch.allclose(model.rotations[0], about("z", 30), atol=1e-15), "nothing was changed"
    with pytest.raises(ValueError, match="expected 3 rotations, one per task, got 2"):
        model.set_rotations([good, good])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "both"}, "objective is 'code' or 'paper', got 'both'"),
        ({"init": "random"}, "init is 'identity' or 'haar', got 'random'"),
        ({"orthogonal_map": "qr"}, "orthogonal_map is None or one of matrix_exp, cayley, householder; got 'qr'"),
        ({"rotation_rate": 0}, "rotation_rate is positive and burn_in at least 0, got 0 and 20"),
        ({"rotation_rate": float("nan")}, "rotation_rate is positive and burn_in at least 0, got nan and 20|finite"),
        ({"burn_in": -1}, "rotation_rate is positive and burn_in at least 0, got 0.5 and -1"),
        ({"size": 0}, "at least 1, got 0"),
        ({"size": 2.5}, "a whole number of features"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        small(RotoGrad, **options)


def test_misuse_is_refused_with_what_to_do():
    model, x, y = small(RotoGrad)
    with pytest.raises(ValueError, match="one for each"):
        model.backward([torch.zeros(())] * 3)
    losses = losses_of(model, x, y)
    with pytest.raises(ValueError, match="expected 3 losses, one per task; got task 0, task 1"):
        model.backward(losses[:2])
    for wrong, said in (
        (losses[2].detach(), "'task 2' has no graph"),
        (losses[2][None], "'task 2' is .* of shape (1,)"),
    ):
        with pytest.raises(ValueError, match=said.replace("(1,)", r"\(1,\)")):
            model.backward([*losses[:2], wrong])
        losses = losses_of(model, x, y)
    model.backward(losses)
    with pytest.raises(ValueError, match="one for each"):
        model.backward(losses)
    stale = losses_of(model, x, y)
    model(x)
    with pytest.raises(ValueError, match="do not depend on the outputs of the last forward pass"):
        model.backward(stale)
    with pytest.raises(ValueError, match=r"rotations of 9 features need as many; features of shape \(8, 4\) have 4"):
        small(RotoGrad, size=9)[0](x)
    losses = losses_of(model, x, y)
    with pytest.raises(ValueError, match="the losses reach trunk.*past the last forward's features"):
        model.backward([losses[0] + sum(p.square().sum() for p in model.trunk.parameters()), *losses[1:]])
    forked = RotoGrad(nn.Identity(), [nn.Identity()], 2)
    with pytest.raises(ValueError, match="one tensor that all tasks share, got tuple"):
        forked((x, x))


@pytest.mark.parametrize("kind", [dict, nn.ModuleDict])
def test_heads_by_task_name_outputs_and_losses(kind):
    torch.manual_seed(0)
    trunk, heads, x = nn.Linear(3, 4), {"left": nn.Linear(4, 1), "right": nn.Linear(4, 2)}, torch.randn(8, 3)
    found = []
    for given in (kind(heads), list(heads.values())):
        model = RotoGrad(trunk, given, 4)
        out = model(x)
        left, right = out.values() if isinstance(out, dict) else out
        losses = {"right": right.square().mean(), "left": left.square().mean()}  # in another order than the heads
        model.backward(losses if isinstance(out, dict) else [losses["left"], losses["right"]])
        found.append([p.grad.clone() for p in model.parameters()])
        model.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    model = RotoGrad(trunk, kind(heads), 4)
    losses = [value.mean() for value in model(x).values()]
    with pytest.raises(ValueError, match="expected 2 losses, one per task, left, right; got task 0, task 1"):
        model.backward(losses)


@pytest.mark.parametrize("make", FAMILY)
@pytest.mark.parametrize("init", ["identity", "haar"])
def test_one_task(make, init):
    """Nothing to share with: a step goes down, along the task's own gradient but for its length."""
    model, x, y = small(make, K=1, init=init)
    model.backward(losses_of(model, x, y))
    found = torch.cat([p.grad.flatten() for p in model.trunk.parameters()])
    own = torch.autograd.grad(losses_of(model.eval(), x, y)[0], list(model.trunk.parameters()))
    assert F.cosine_similarity(found, torch.cat([g.flatten() for g in own]), dim=0) > 1 - 1e-9
    with torch.no_grad():
        for p in model.trunk.parameters():
            p -= 1e-3 * p.grad
    assert losses_of(model, x, y)[0] < model.losses[0]


@pytest.mark.parametrize("make", FAMILY)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_numbers_are_named(make, bad):
    model, x, y = small(make)
    losses = losses_of(model, x, y)
    with pytest.raises(NonFiniteGradientError, match="the loss of 'task 1'; the gradient at the features of 'task 1'"):
        model.backward([losses[0], losses[1] * bad, losses[2]])
    assert all(p.grad is None for p in model.parameters()), "heads and rotations included"


@pytest.mark.parametrize("make", FAMILY)
def test_a_step_that_fails_moves_no_state(make):
    """The gradients at the features are finite, inside of the trunk one is not."""
    model, x, y = small(make, normalize_losses=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    hook = model.trunk[0].register_forward_hook(
        lambda module, given, z: z.register_hook(lambda g: g * math.inf) and None
    )
    with pytest.raises(NonFiniteGradientError, match="NaN or infinity in a gradient of the trunk or of a head"):
        model.backward(losses_of(model, x, y))
    hook.remove()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.supports("RotoGrad with a GradScaler", "yes")
@pytest.mark.parametrize("make", FAMILY)
def test_a_grad_scaler(make):
    """Training is that without one; an overflow is skipped and moves no state."""

    def run(scale, overflows=()):
        model, x, y = small(make, normalize_losses=True, burn_in=2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**scale) if scale else None
        for n in range(5 + len(overflows)):
            optimizer.zero_grad()
            hook = model.trunk.register_forward_hook(
                lambda module, given, z, n=n: z.register_hook(lambda g: g * math.inf if n in overflows else g) and None
            )
            model.backward(losses_of(model, x, y), scaler=scaler)
            hook.remove()
            if scaler is None:
                optimizer.step()
            else:
                scaler.step(optimizer)
                scaler.update()
        return model.state_dict()

    plain = run(None)
    assert plain["steps"] == 5
    for other in (run(10), run(10, overflows=(0, 3))):
        for name, value in plain.items():
            torch.testing.assert_close(other[name], value, rtol=1e-9, atol=1e-12)
