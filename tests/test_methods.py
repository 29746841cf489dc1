"""Every row of the registry: scale, conventions, published numbers, and that no method does nothing."""

import math

import pytest
import torch
from engine import linear_losses, linear_model, matrix_of
from torch import nn
from torch.nn import functional as F
from torchjd.aggregation import Aggregator

from mtl_core import methods, training
from mtl_core.conflict import ConflictLog, cosines
from mtl_core.gradients import task_gradients
from mtl_core.methods import CONVENTIONS, METHODS, Convention, Method
from mtl_core.models import MultiTaskModel
from mtl_core.tasks import Problem, Split, classification

NAMES = list(METHODS)
AGGREGATIONS = [n for n, row in METHODS.items() if row.kind == "gradient aggregation"]
WEIGHTINGS = [n for n, row in METHODS.items() if row.kind == "loss weighting"]


def fresh(name, K=2, **more):
    """An instance with its defaults; static weights get weights that are not all one."""
    return methods.make(name, **({"weights": [1.0 + k / 2 for k in range(K)]} if name == "static" else {}), **more)


def combined(name, gradients, convention="plain", offsets=None, dtype=torch.float64, method=None, K_sizes=None):
    """(shared gradient, head gradients) that an optimizer would see for these task gradients."""
    rows = torch.as_tensor(gradients, dtype=dtype)
    K, D = rows.shape
    model = linear_model(K_sizes or [D], K, dtype)
    features = model.features(None)
    losses = linear_losses(model, features, rows, [1.0 + k for k in range(K)], offsets or [2.0 + k for k in range(K)])
    found = task_gradients(losses, model, features)
    torch.manual_seed(0)
    convention = CONVENTIONS[convention] if isinstance(convention, str) else convention
    values = torch.stack(losses).detach()
    methods.combine(method or fresh(name, K), METHODS[name], convention, found, values, model.heads)
    shared = torch.cat([p.grad for p in model.trunk.parameters()])
    return shared.clone(), torch.cat([head.weight.grad for head in model.heads])


def conflicting(K, D=12, dtype=torch.float64):
    rows = torch.randn(K, D, generator=torch.Generator().manual_seed(10 + K), dtype=torch.float64)
    rows = rows - 1.3 * rows.mean(0)  # pushes the rows apart
    assert (cosines(rows) < 0).all()
    return (rows * torch.linspace(0.5, 2, K, dtype=torch.float64)[:, None]).to(dtype)


# --- the registry


def test_rows_say_what_they_are():
    for name, row in METHODS.items():
        assert row.name == name and row.title and row.paper
        assert row.kind in methods.KINDS and row.native_scale in ("sum", "mean")
        assert all(len(default) == 2 and default[1] for default in row.defaults.values())
    issue = {"equal", "mgda", "pcgrad", "graddrop", "cagrad", "sam_gs", "static", "log_sum", "norm_equalised", "broken"}
    assert issue <= set(METHODS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("K", [2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_row_works(name, K, dtype):
    J = conflicting(K, dtype=dtype)
    shared, heads = combined(name, J, dtype=dtype)
    assert shared.dtype == dtype and shared.shape == (12,) and torch.isfinite(shared).all()
    assert shared.norm() > 1e-3 and (heads != 0).all()
    single, _ = combined(name, J[:1], dtype=dtype)
    assert torch.isfinite(single).all() and single.norm() > 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_random_says_whether_it_draws(name):
    torch.manual_seed(0)
    state, method = torch.get_rng_state(), fresh(name, 3)
    if METHODS[name].kind == "loss weighting":
        method(torch.tensor([1.0, 2.0, 3.0]))
    else:
        method(conflicting(3))
    assert METHODS[name].random == (not torch.equal(torch.get_rng_state(), state))


@pytest.mark.parametrize("K", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_native_scale_is_true(name, K):
    """K equal gradients g come back as K g ("sum") or as g ("mean")."""
    g = matrix_of([0.3, -0.2, 0.5], dtype=torch.float64)
    J = g.expand(K, 3)
    if METHODS[name].kind == "loss weighting":
        losses = torch.ones(K, dtype=torch.float64, requires_grad=True)
        method = methods.make("static", weights=[1.0] * K) if name == "static" else fresh(name)
        (weights,) = torch.autograd.grad(method(losses), losses)
        update = weights @ J
    else:
        update = fresh(name, K)(J)
    if name == "sam_gs":  # the momentum branch is quadratic in g; its equalised branch is a sum
        assert torch.allclose(update, K * 1000 * (g * g.abs())[0])
        spread = matrix_of([1.0, 0.0, 0.0], [99.0, 0.0, 0.0], dtype=torch.float64)
        assert torch.allclose(fresh(name)(spread), matrix_of([100.0, 0.0, 0.0], dtype=torch.float64)[0])
        return
    expected = {"sum": float(K), "mean": 1.0}[METHODS[name].native_scale]
    if name == "cagrad":  # by its formula (1 + c) g: the step goes to the rim of the ball around the mean
        expected *= 1.4
    if name == "broken":  # a control that is wrong on purpose
        expected -= 0.9
    torch.testing.assert_close(update, expected * g[0], rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", [n for n in AGGREGATIONS if n != "sam_gs"])
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e6])
def test_aggregations_are_linear_in_the_common_scale(name, scale):
    """A method must not stop moving because gradients are small."""
    J = conflicting(3)
    torch.manual_seed(0)
    expected = fresh(name)(J)
    torch.manual_seed(0)
    torch.testing.assert_close(fresh(name)(scale * J) / scale, expected, rtol=1e-3, atol=1e-4)


def test_unknown_names_and_arguments_give_suggestions():
    with pytest.raises(ValueError, match="unknown method 'cagrda'; did you mean 'cagrad'.*There are: equal"):
        methods.make("cagrda")
    with pytest.raises(ValueError, match="unknown method 'zzzz' There are|unknown method 'zzzz'[.]? There"):
        methods.find("zzzz")
    with pytest.raises(ValueError, match="sam_gs has no argument 'gama'; did you mean 'gamma'"):
        methods.make("sam_gs", gama=0.5)
    with pytest.raises(ValueError, match="mgda has no argument 'zzzz'.*takes: "):
        methods.make("mgda", zzzz=0.5)


def test_make_applies_defaults_and_arguments():
    assert methods.make("sam_gs").gamma == 0.1 and methods.make("sam_gs", gamma=0.7).gamma == 0.7
    one, other = methods.make("mgda"), methods.make("mgda")
    assert one is not other
    for row in METHODS.values():
        for preset in row.presets.values():
            methods.make(row.name, **preset)


def test_register_and_replace():
    class Twice(Aggregator):
        def forward(self, matrix, /):
            return 2 * matrix.sum(0)

    row = Method("twice", "Twice", "gradient aggregation", Twice, "sum", "this test")
    try:
        assert methods.register(row) is row and methods.find("twice") is row
        with pytest.raises(ValueError, match="there is a method 'twice' already; pass replace=True"):
            methods.register(row)
        other = Method("twice", "Other", "gradient aggregation", Twice, "sum", "this test")
        assert methods.register(other, replace=True) is METHODS["twice"] is other
        shared, _ = combined("twice", conflicting(2))
        assert torch.allclose(shared, 2 * conflicting(2).sum(0))
    finally:
        METHODS.pop("twice", None)
    with pytest.raises(ValueError, match="kind is one of"):
        Method("x", "X", "magic", Twice, "sum", "")
    with pytest.raises(ValueError, match="native_scale is 'sum' or 'mean', got 'max'"):
        Method("x", "X", "loss weighting", Twice, "max", "")


# --- conventions


@pytest.mark.parametrize("K", [1, 2, 5])
def test_factors(K):
    table = {("sum", "sum"): 1, ("sum", "mean"): K, ("mean", "mean"): 1, ("mean", "sum"): 1 / K,
             ("K times", "sum"): K, ("K times", "mean"): K, ("raw", "sum"): 1, ("raw", "mean"): 1}  # fmt: skip
    for (scale, native), factor in table.items():
        assert Convention("x", scale=scale).factor(native, K) == pytest.approx(factor)


def test_conventions_by_name_and_their_errors():
    assert {n: (c.heads, c.scale, c.clip) for n, c in CONVENTIONS.items() if n != "plain, clipped"} == {
        "plain": ("unit", "sum", None), "recon": ("unit", "sum", None), "samgs": ("unit", "K times", 1.0)} | {
        n: (c.heads, c.scale, c.clip) for n, c in CONVENTIONS.items() if n in ("nash-mtl", "famo")}  # fmt: skip
    assert CONVENTIONS["plain, clipped"].clip == 1.0 and CONVENTIONS["plain, clipped"].scale == "sum"
    for bad, message in (({"heads": "both"}, "heads is one of unit, weighted; got 'both'"),
                         ({"scale": "max"}, "scale is"), ({"clip": 0.0}, "positive norm or None, got 0.0"),
                         ({"clip": -1.0}, "clip")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            Convention("x", **bad)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", ["sum", "mean", "K times", "raw"])
def test_combine_multiplies_by_the_factor_and_clips_the_shared_gradient(name, scale):
    J = conflicting(3)
    raw, _ = combined(name, J, Convention("raw", scale="raw"))
    factor = Convention("x", scale=scale).factor(METHODS[name].native_scale, 3)
    shared, _ = combined(name, J, Convention("x", scale=scale))
    torch.testing.assert_close(shared, factor * raw, rtol=1e-9, atol=1e-12)
    for clip in (0.05, 1e9):
        clipped, _ = combined(name, J, Convention("x", scale=scale, clip=clip))
        norm = (factor * raw).norm()
        expected = factor * raw * min(1.0, clip / (norm.item() + 1e-6))
        torch.testing.assert_close(clipped, expected, rtol=1e-9, atol=1e-12)
        assert clipped.norm() <= clip
        parameters = [nn.Parameter(torch.zeros(12, dtype=torch.float64))]
        parameters[0].grad = factor * raw
        torch.nn.utils.clip_grad_norm_(parameters, clip)
        torch.testing.assert_close(clipped, parameters[0].grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_heads_keep_their_raw_gradient_under_unit(name):
    for convention in CONVENTIONS.values():
        if convention.heads == "unit":
            _, heads = combined(name, conflicting(3), convention)
            assert torch.equal(heads, torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))


@pytest.mark.parametrize(
    "name, arguments", [("mgda", {}), ("cagrad", {"c": 0.4, "rescale": True}), ("cagrad", {"c": 0.4})]
)
def test_weighted_heads_get_the_weight_of_their_task(name, arguments):
    """The weights are those of the update: shared = sum_k w_k g_k and head k = w_k times its own gradient."""
    J = conflicting(3)
    for scale in ("sum", "raw"):
        convention = Convention("x", heads="weighted", scale=scale)
        shared, heads = combined(name, J, convention, method=methods.make(name, **arguments))
        unit, _ = combined(name, J, Convention("x", scale=scale), method=methods.make(name, **arguments))
        torch.testing.assert_close(shared, unit, rtol=1e-9, atol=1e-12)
        weights = heads / torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
        torch.testing.assert_close(weights @ J, shared, rtol=1e-9, atol=1e-12)
        assert (weights != 1).any()


def test_combine_does_not_write_what_a_method_keeps():
    """Scale and clip must not be multiplied into a vector that is the method's own state."""

    class Average(Aggregator):
        def __init__(self):
            super().__init__()
            self.register_buffer("average", torch.zeros(12, dtype=torch.float64))

        def forward(self, matrix, /):
            self.average += matrix.sum(0)
            return self.average

    method, J = Average(), conflicting(3)
    METHODS["average"] = Method("average", "Average", "gradient aggregation", Average, "mean", "this test")
    try:
        for step in (1, 2):
            shared, _ = combined("average", J, Convention("x", clip=0.1), method=method)
            assert shared.norm() == pytest.approx(0.1, rel=1e-4)
            torch.testing.assert_close(method.average, step * J.sum(0))
    finally:
        METHODS.pop("average")


def test_matrix_is_left_as_it_is():
    for name in NAMES:
        model = linear_model([12], 3, torch.float64)
        features = model.features(None)
        losses = linear_losses(model, features, conflicting(3), offsets=[5.0] * 3)
        found = task_gradients(losses, model, features)
        methods.combine(fresh(name, 3), METHODS[name], CONVENTIONS["samgs"], found, torch.stack(losses), model.heads)
        assert torch.equal(found.matrix, conflicting(3)), name


# --- published numbers (P3): g1 = (1, 0), g2 = (-0.5, 1), under Recon's convention

PAIR = [[1.0, 0.0], [-0.5, 1.0]]


@pytest.mark.parametrize(
    "name, arguments, expected",
    [
        ("equal", {}, (0.5, 1.0)),
        ("pcgrad", {}, (0.8, 1.4)),
        ("mgda", {}, (0.615385, 0.923077)),
        ("cagrad", {"c": 0.2, "rescale": True}, (0.685274, 1.027912)),
        ("cagrad", {"c": 0.4, "rescale": True}, (0.733816, 1.100724)),
    ],
)
def test_combiners_agree_with_recons_released_functions(name, arguments, expected):
    shared, heads = combined(name, PAIR, "recon", method=methods.make(name, **arguments))
    torch.testing.assert_close(shared, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=5e-4)
    assert torch.equal(heads, torch.tensor([1.0, 2.0], dtype=torch.float64))
    if name == "cagrad" and arguments["c"] == 0.2:
        assert METHODS["cagrad"].presets["recon"] == arguments


def test_no_gradient_no_step():
    for name in AGGREGATIONS:
        assert torch.equal(fresh(name, 3)(torch.zeros(3, 4)), torch.zeros(4)), name


def test_mgda_weight_and_plain_cagrad():
    J = torch.tensor(PAIR, dtype=torch.float64)
    assert methods.make("mgda").weighting(J)[0].item() == pytest.approx(0.538462, abs=1e-6)
    plain, rescaled = (methods.make("cagrad", rescale=r)(J) for r in (False, True))
    torch.testing.assert_close(plain, 1.16 * rescaled)


def test_graddrop_statistics():
    J = torch.tensor(PAIR, dtype=torch.float64).repeat(1, 3000)
    torch.manual_seed(0)
    shared = methods.make("graddrop")(J).view(-1, 2)
    assert (shared[:, 1] == 1).all() and set(shared[:, 0].tolist()) == {1.0, -0.5}
    share = (shared[:, 0] == 1).double().mean().item()
    assert abs(share - 2 / 3) < 4 * math.sqrt(2 / 9 / 3000)  # four standard errors
    assert METHODS["graddrop"].native_scale == "sum"


# --- loss weightings


def test_static_and_log_sum_equal_a_backward_of_their_scalar():
    J, offsets = conflicting(3), [0.5, 2.0, 4.0]
    shared, heads = combined("static", J, offsets=offsets, method=methods.make("static", weights=[0.25, 1.0, 2.0]))
    torch.testing.assert_close(shared, 0.25 * J[0] + J[1] + 2 * J[2])
    torch.testing.assert_close(heads, torch.tensor([0.25, 2.0, 6.0], dtype=torch.float64))
    shared, heads = combined("log_sum", J, offsets=offsets)  # weights 1 / L
    torch.testing.assert_close(shared, J[0] / 0.5 + J[1] / 2 + J[2] / 4)
    torch.testing.assert_close(heads, torch.tensor([1 / 0.5, 2 / 2, 3 / 4], dtype=torch.float64))
    with pytest.raises(ValueError, match="positive losses; not positive: task 1, 2"):
        fresh("log_sum")(torch.tensor([1.0, 0.0, -1.0]))
    with pytest.raises(ValueError, match="2 static weights for 3 losses"):
        methods.make("static", weights=[1.0, 2.0])(torch.ones(3))
    for bad in ([1.0, float("nan")], [[1.0]], 1.0):
        with pytest.raises(ValueError, match="K finite numbers"):
            methods.make("static", weights=bad)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_both_ways_of_a_weighted_step_agree(name):
    """training.Step takes one backward pass of the scalar, unless it is observed: the same gradients."""
    problem = small_problem(3)
    gradients = []
    for observed in (False, True):
        model = small_model(3)
        step = training.Step(model, problem.tasks, METHODS[name], fresh(name, 3), CONVENTIONS["plain"], observed)
        assert step.scalar is not observed and step.backward_passes == (3 if observed else 1)
        step(*problem.train.batch(slice(0, 16)))
        gradients.append([p.grad.clone() for p in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


# --- no method does nothing, no two are the same


def small_problem(K, examples=48):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(examples, 6, generator=generator, dtype=torch.float64)
    targets = [(x @ torch.randn(6, 3, generator=generator, dtype=torch.float64)).argmax(1) for _ in range(K - 1)]
    targets.append((targets[0] + 1) % 3)  # contradicts task 0
    split = Split(x, tuple(targets))
    return Problem(tuple(classification(f"t{k}", 3) for k in range(K)), split, split, split, {"synthetic": True})


def small_model(K, batch_norm=False):
    torch.manual_seed(1)
    middle = [nn.BatchNorm1d(8)] if batch_norm else []
    trunk = nn.Sequential(nn.Linear(6, 8), *middle, nn.Tanh(), nn.Linear(8, 5), nn.Tanh())
    return MultiTaskModel(trunk, [nn.Linear(5, 3) for _ in range(K)]).double()


def trajectory(name, K=3, steps=4):
    model, problem = small_model(K), small_problem(K)
    step = training.Step(model, problem.tasks, METHODS[name], fresh(name, K), CONVENTIONS["plain"], observed=True)
    optimizer, points = torch.optim.SGD(model.parameters(), lr=0.1), []
    torch.manual_seed(2)
    for _ in range(steps):
        step(*problem.train.batch(slice(0, 48)))
        assert (cosines(step.gradients.matrix) < 0).any()  # tasks do conflict here
        for n, p in model.named_parameters():
            assert p.grad is not None and p.grad.norm() > 1e-6, f"{name} leaves {n} without gradient"
        optimizer.step()
        points.append(torch.cat([p.detach().flatten() for p in model.trunk.parameters()]))
    return torch.stack(points)


IDENTITIES: set[frozenset] = set()  # pairs of methods that are the same by definition; none so far


@pytest.fixture(scope="module")
def trajectories():
    return {name: trajectory(name) for name in NAMES}


def test_every_method_moves_the_trunk_and_no_two_alike(trajectories):
    for i, one in enumerate(NAMES):
        moves = trajectories[one].diff(dim=0).norm(dim=1)
        assert (moves > 1e-4).all(), one
        for other in NAMES[:i]:
            same = (trajectories[one][0] - trajectories[other][0]).norm() < 1e-6 * moves[0]
            assert same == (frozenset((one, other)) in IDENTITIES), (one, other)


def test_identities_of_arguments():
    J = conflicting(3)
    total = J.sum(0)
    torch.testing.assert_close(methods.make("broken", factor=1.0)(J), total)
    torch.testing.assert_close(methods.make("broken", task=1, factor=0.5)(J), total - 0.5 * J[1])
    torch.testing.assert_close(methods.make("broken")(J), total - 0.9 * J[0])
    torch.testing.assert_close(methods.make("cagrad", c=0.0)(J), J.mean(0), rtol=1e-6, atol=1e-9)
    equalised = methods.make("norm_equalised")(J)
    torch.testing.assert_close(equalised, methods.make("sam_gs", gamma=1.0)(J))
    torch.testing.assert_close(equalised, J.norm(dim=1).mean() * F.normalize(J, dim=1).sum(0))
    torch.testing.assert_close(methods.make("pcgrad")(J.abs()), J.abs().sum(0))


# --- the observed loop with equal weights is training on the summed loss (P10)


def test_one_observed_epoch_equals_plain_sgd_on_the_summed_loss():
    problem, model, twin = small_problem(3), small_model(3, batch_norm=True), small_model(3, batch_norm=True)
    log = ConflictLog(3)
    schedule = training.Schedule(epochs=1, batch_size=16, learning_rate=0.05)
    training.fit(model, problem, "equal", schedule, seed=4, observers=[log], test=False)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.9)
    order = torch.randperm(48, generator=training.torch_generator(4, "batch order"))
    for batch in order.split(16):
        inputs, targets = problem.train.batch(batch)
        optimizer.zero_grad()
        sum(F.cross_entropy(o, t) for o, t in zip(twin(inputs), targets, strict=True)).backward()
        optimizer.step()
    assert log.summary()["iterations"] == 3
    for (name, one), other in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6, msg=name)
