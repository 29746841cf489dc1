"""Feature rotations in the training loop: the model they leave, their rates, resuming, precision, compilation."""

import copy

import pytest
import torch
from test_training import PROBLEM, SCHEDULE, new_model, outcome, train

from mtl_core import methods, models
from mtl_core.balancer import Balancer
from mtl_core.methods import CONVENTIONS, METHODS, Convention
from mtl_core.models.rotations import RotationLayer, with_rotation_layers
from mtl_core.training import loop
from mtl_core.training.schedule import Schedule

FAMILY = [name for name, spec in METHODS.items() if spec.kind == "feature rotation"]
SIZE = {"rotation_size": 8}


def fit(method="rotograd", **more):
    options = {"method_options": SIZE} | more
    return train(method, **options)


def test_the_registry_has_the_family():
    assert FAMILY == ["rotate_only", "scale_only", "rotograd", "rotograd_norm"]
    for name in FAMILY:
        model = new_model()
        made = methods.make(name, trunk=model.trunk, heads=model.heads, rotation_size=5, burn_in=7, init="haar")
        assert type(made) is getattr(methods, METHODS[name].make.__name__)
        assert made.burn_in == 7 and made.rotation_rate == 0.5
    assert methods.make("rotograd_norm", trunk=model.trunk, heads=model.heads, rotation_size=5, alpha=0.5).alpha == 0.5


@pytest.mark.parametrize("method", FAMILY)
def test_fit_leaves_a_model_that_rotates(method):
    model, history = fit(method, method_options={"rotation_size": 6, "init": "haar"})
    assert history.diverged is None and history.trunk_backward_passes == history.steps == 9
    assert loop.evaluate(model, PROBLEM.tasks, PROBLEM.validation) == history.epochs[-1]["validation"]
    rotations, model.rotations = model.rotations, None
    assert loop.evaluate(model, PROBLEM.tasks, PROBLEM.validation) != history.epochs[-1]["validation"]
    model.rotations = rotations
    assert ("rotations.skew" in model.state_dict()) and (rotations.skew != 0).any() == (method != "scale_only")
    start = new_model().state_dict()
    moved = {
        name for name, value in model.state_dict().items() if name in start and not torch.equal(value, start[name])
    }
    assert moved == set(start), "trunk and heads train"


def test_no_two_of_the_family_are_the_same():
    finals = {}
    for method in [*FAMILY, "equal"]:
        scale = {"method_options": SIZE} if method != "equal" else {"method_options": {}}
        model, _ = train(method, Schedule(epochs=3, batch_size=32, learning_rate=0.2), **scale)
        finals[method] = torch.cat([p.detach().flatten() for p in model.trunk.parameters()])
    names = list(finals)
    for i, one in enumerate(names):
        for other in names[:i]:
            assert (finals[one] - finals[other]).norm() > 1e-4, (one, other)


def test_rotate_only_at_rate_zero_in_the_limit_is_the_plain_sum():
    plain = train("equal", method_options={})[0]
    model = fit("rotate_only", method_options=SIZE | {"rotation_rate": 1e-12})[0]
    for one, other in zip(plain.trunk.parameters(), model.trunk.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_rotations_have_their_own_rate_and_no_decay():
    model = new_model()
    method = methods.make("rotograd_norm", trunk=model.trunk, heads=model.heads, rotation_size=8, rotation_rate=0.25)
    optimizer, _ = Schedule(epochs=1, learning_rate=0.4, weight_decay=0.1).make(method.parameter_groups(0.4))
    network, own = optimizer.param_groups
    assert (network["lr"], network["weight_decay"]) == (0.4, 0.1) and (own["lr"], own["weight_decay"]) == (0.1, 0)
    assert [p.shape for p in own["params"]] == [(2, 8, 8), (2,)] and own["momentum"] == 0.9
    assert len(network["params"]) == len(list(new_model().parameters()))
    still = methods.make("scale_only", trunk=model.trunk, heads=model.heads, rotation_size=8)
    assert len(still.parameter_groups(0.4)) == 1


def test_the_haar_start_belongs_to_the_methods_own_stream():
    def start(seed):
        model = new_model()
        fit(
            model=model,
            method_options=SIZE | {"init": "haar"},
            seed=seed,
            schedule=Schedule(epochs=1, batch_size=32, learning_rate=1e-9),
        )
        return model.rotations.base.clone()

    torch.manual_seed(3)
    first = start(1)
    torch.manual_seed(4)
    state = torch.get_rng_state()
    assert torch.equal(first, start(1)) and not torch.equal(first, start(2))
    assert torch.equal(state, torch.get_rng_state())


def one_step(model, size, convention="plain", observers=()):
    """RotoGrad after one step, as `fit` takes it."""
    options = {"rotation_size": 8, "init": "haar", "generator": torch.Generator().manual_seed(0)}
    method = methods.make("rotograd", trunk=model.trunk, heads=model.heads, **options)
    method.convention, model.rotations = methods.conventions.named(convention), method.rotation
    method.observers += observers
    inputs, targets = PROBLEM.train.batch(slice(0, size))
    method.backward([t.loss(o, y) for t, o, y in zip(PROBLEM.tasks, method(inputs), targets, strict=True)])
    return method


def test_observed_gradients_are_those_of_the_tasks():
    model, seen = new_model(), []
    method = one_step(model, 16, observers=[lambda gradients: seen.append(gradients)])
    inputs, targets = PROBLEM.train.batch(slice(0, 16))
    (gradients,), features = seen, model.features(inputs)
    found = gradients.matrix
    losses = [t.loss(o, y) for t, o, y in zip(PROBLEM.tasks, model.outputs(features), targets, strict=True)]
    for k, loss in enumerate(losses):
        wanted = torch.autograd.grad(loss, list(model.trunk.parameters()), retain_graph=True)
        torch.testing.assert_close(found[k], torch.cat([g.flatten() for g in wanted]), rtol=1e-4, atol=1e-7)
    assert method.passes == 3 and gradients.names == [n for n, _ in model.trunk.named_parameters()]


def test_conventions_apply_to_the_trunk_alone():
    def gradients(convention):
        model = new_model()
        one_step(model, 32, convention)
        trunk = torch.cat([p.grad.flatten() for p in model.trunk.parameters()])
        return trunk, torch.cat([p.grad.flatten() for p in [*model.heads.parameters(), model.rotations.skew]])

    trunk, rest = gradients(CONVENTIONS["plain"])
    mean, same = gradients(Convention("m", scale="mean"))
    torch.testing.assert_close(mean, trunk / 2)
    assert torch.equal(same, rest)
    clip = 0.5 * trunk.norm().item()
    clipped, same = gradients(Convention("c", clip=clip))
    assert clipped.norm().item() == pytest.approx(clip, rel=1e-4) and torch.equal(same, rest)


def test_an_instance_around_another_model_is_refused():
    other = new_model()
    method = methods.make("rotograd", trunk=other.trunk, heads=other.heads, rotation_size=8)
    with pytest.raises(ValueError, match="trunk and heads of the model"):
        loop.fit(new_model(), PROBLEM, method, SCHEDULE, spec=METHODS["rotograd"])


def test_a_model_is_rotated_once_and_options_are_known():
    other = new_model()
    method = methods.make("rotograd", trunk=other.trunk, heads=other.heads, rotation_size=8)
    loop.fit(other, PROBLEM, method, SCHEDULE, spec=METHODS["rotograd"])
    with pytest.raises(ValueError, match="rotations of an earlier fit"):
        loop.fit(other, PROBLEM, "rotograd", SCHEDULE, method_options=SIZE)
    with pytest.raises(ValueError, match="rotograd has no argument 'rotation_sise'; did you mean 'rotation_size'"):
        loop.fit(new_model(), PROBLEM, "rotograd", SCHEDULE, method_options={"rotation_sise": 8})


@pytest.mark.parametrize("method", ["rotograd", "rotograd_norm"])
def test_a_cut_off_run_resumes_with_momentum_of_the_rotations(method):
    schedule = Schedule(epochs=3, batch_size=32, learning_rate=0.05)
    options, states = SIZE | {"init": "haar", "normalize_losses": True, "burn_in": 4}, []

    def keep(training):  # the first is before the burn-in ends
        states.append(copy.deepcopy(training.state()))

    whole, wanted = fit(method, schedule=schedule, method_options=options, after_epoch=keep)
    resumed, found = fit(method, schedule=schedule, method_options=options, start=states[0])
    assert outcome(found) == outcome(wanted)
    assert all(torch.equal(v, resumed.state_dict()[n]) for n, v in whole.state_dict().items())


# --- R_k as an extra layer


def test_a_rotation_layer_gets_its_own_tasks_gradient_whatever_the_method():
    model = with_rotation_layers(new_model(), 8)
    assert all(isinstance(head[0], RotationLayer) for head in model.heads)
    inputs, targets = PROBLEM.train.batch(slice(0, 32))
    same = zip(model(inputs), new_model()(inputs), strict=True)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in same), "it starts at the identity"
    losses = [t.loss(o, y) for t, o, y in zip(PROBLEM.tasks, model(inputs), targets, strict=True)]
    wanted = [
        torch.autograd.grad(loss, head[0].rotation.skew, retain_graph=True)[0]
        for loss, head in zip(losses, model.heads, strict=True)
    ]
    Balancer("mgda", model).backward(losses)
    for head, gradient in zip(model.heads, wanted, strict=True):
        assert torch.equal(head[0].rotation.skew.grad, gradient) and gradient.norm() > 1e-6
    model, history = train("mgda", model=model, method_options={})
    assert all((head[0].rotation.skew != 0).any() for head in model.heads) and history.diverged is None


def test_models_are_built_with_rotation_layers_and_the_same_start():
    plain = models.build("lenet", PROBLEM.tasks, seed=3, size=20, features=8)
    turned = models.build("lenet", PROBLEM.tasks, seed=3, size=20, features=8, rotation_size=8)
    inputs = PROBLEM.train.batch(slice(0, 4))[0]
    assert isinstance(turned.heads[0][0], RotationLayer)
    for one, other in zip(plain(inputs), turned(inputs), strict=True):
        torch.testing.assert_close(one, other)


# --- precision and compilation


@pytest.mark.parametrize("method", ["equal", "mgda", "rotograd"])
def test_bfloat16_trains_and_differs_by_rounding_alone(method):
    options = {"method_options": SIZE if method == "rotograd" else {}}
    schedule = Schedule(epochs=2, batch_size=32, learning_rate=0.05)
    _, full = train(method, schedule, **options)
    with torch.autocast("cpu", torch.bfloat16):
        _, half = train(method, schedule, **options)
    losses = [[e["train_loss"][t.name] for e in h.epochs for t in PROBLEM.tasks] for h in (full, half)]
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=0.02)


def compiled():
    torch.compiler.reset()
    model = new_model()
    for module in (model.trunk, *model.heads):
        module.compile(backend="aot_eager")
    return model


@pytest.mark.parametrize("method", ["equal", "mgda", "rotograd"])
def test_compiled_trunk_and_heads_train_alike(method):
    options = {"method_options": SIZE if method == "rotograd" else {}}
    schedule = Schedule(epochs=1, batch_size=32, learning_rate=0.05)
    plain, found = (train(method, schedule, model=model, **options)[0] for model in (new_model(), compiled()))
    for one, other in zip(plain.parameters(), found.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.supports("torch.compile with donated buffers", "refused", "torch._functorch.config.donated_buffer = False")
def test_a_trunk_compiled_for_one_backward_pass_is_refused_where_k_are_needed():
    """Torch 2.11 keeps the buffers of such a trunk: then it trains as the plain one does."""
    schedule, found, plain = Schedule(epochs=1, batch_size=32, learning_rate=0.05), compiled(), new_model()
    for model in (found, plain):
        train("equal", schedule, model=model, method_options={})
    if not torch.__version__.startswith("2.11."):
        with pytest.raises(ValueError, match="runs once, and each task needs one: set torch._functorch.config.donated"):
            train("mgda", schedule, model=found, method_options={})
        return
    for model in (found, plain):
        train("mgda", schedule, model=model, method_options={})
    for one, other in zip(plain.parameters(), found.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
