"""Every row of the registry: scale, conventions, published numbers, and that no method does nothing."""

import inspect

import engine
import pytest
import torch
from engine import after, combined, conflicting, matrix_of, small_model, small_problem, step_of, take
from torch.nn import functional as F
from torchjd.aggregation import Aggregator

from mtl_core import methods
from mtl_core.conflict import cosines
from mtl_core.methods import METHODS, Method
from mtl_core.methods.registry import arguments_of
from mtl_core.training import loop
from mtl_core.training.schedule import Schedule
from mtl_lab.figures import method_card
from mtl_lab.probes import update_comparison
from mtl_lab.runs.conflict_log import ConflictLog

NAMES = [n for n, spec in METHODS.items() if spec.kind != "feature rotation"]
AGGREGATIONS = [n for n, spec in METHODS.items() if spec.kind == "gradient aggregation"]
WEIGHTINGS = [n for n, spec in METHODS.items() if spec.kind == "loss weighting"]


def fresh(name, K=2, **more):
    """As the engine's, with a window that a test of ten steps sees the end of."""
    return engine.fresh(name, K, **({"window": 2} if name == "dwa" else {}), **more)


def update_of(name, J, losses=None, method=None):
    """What the method returns for J, (K, D) -> (D,), before any convention."""
    return update_comparison.update_of(method or fresh(name, len(J)), METHODS[name], J, losses)


# --- the registry


def test_rows_say_what_they_are():
    for name, spec in METHODS.items():
        assert spec.name == name and spec.title and spec.paper
        assert spec.kind in methods.KINDS and spec.native_scale in ("sum", "mean")
        assert all(len(default) == 2 and default[1] for default in spec.defaults.values())
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
    update_of(name, conflicting(3), torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), method)
    assert METHODS[name].random == (not torch.equal(torch.get_rng_state(), state))


@pytest.mark.parametrize("K", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_native_scale_is_true(name, K):
    """K equal gradients g come back as K g ("sum") or as g ("mean")."""
    g = matrix_of([0.3, -0.2, 0.5], dtype=torch.float64)
    J = g.expand(K, 3)
    method = methods.make("static", weights=[1.0] * K) if name == "static" else fresh(name, K)
    for _ in range(300 if name in ("moco", "db_mtl") else 1):  # until the running averages have forgotten their zero
        update = update_of(name, J, method=method)
    if name == "sam_gs":  # the momentum branch is quadratic in g; its equalised branch is a sum
        assert torch.allclose(update, K * 1000 * (g * g.abs())[0])
        spread = matrix_of([1.0, 0.0, 0.0], [99.0, 0.0, 0.0], dtype=torch.float64)
        assert torch.allclose(fresh(name)(spread), matrix_of([100.0, 0.0, 0.0], dtype=torch.float64)[0])
        return
    expected = {"sum": float(K), "mean": 1.0}[METHODS[name].native_scale]
    if name == "cagrad":  # by its formula (1 + c) g: the step goes to the rim of the ball around the mean
        expected *= 1.4
    if name == "uncertainty":  # by its formula half of the sum
        expected /= 2
    if name == "broken":  # a control that is wrong on purpose
        expected -= 0.9
    torch.testing.assert_close(update, expected * g[0], rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", [n for n in AGGREGATIONS if n not in ("sam_gs", "moco")])
@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e-3, 1e3, 1e6, 1e12])
def test_aggregations_are_linear_in_the_common_scale(name, scale):
    """A method must not stop moving because gradients are small."""
    J = conflicting(3)
    torch.manual_seed(0)
    expected = fresh(name)(J)
    torch.manual_seed(0)
    torch.testing.assert_close(fresh(name)(scale * J) / scale, expected, rtol=1e-3, atol=1e-4)


def test_own_aggregations_keep_no_graph():
    for name in ("norm_equalised", "sam_gs"):
        assert not fresh(name)(conflicting(2).requires_grad_()).requires_grad


def test_unknown_names_and_arguments_give_suggestions():
    with pytest.raises(ValueError, match="unknown method 'cagrda'; did you mean 'cagrad'.*There are: equal"):
        methods.make("cagrda")
    with pytest.raises(ValueError, match="unknown method 'zzzz' There are|unknown method 'zzzz'[.]? There"):
        methods.find("zzzz")
    with pytest.raises(ValueError, match="sam_gs has no argument 'gama'; did you mean 'gamma'"):
        methods.make("sam_gs", gama=0.5)
    with pytest.raises(ValueError, match="mgda has no argument 'zzzz'.*takes: "):
        methods.make("mgda", zzzz=0.5)
    for name in METHODS:
        for argument in METHODS[name].defaults:
            with pytest.raises(ValueError, match=f"options are finite numbers; not so: {argument}"):
                methods.make(name, **{argument: float("nan")})
    with pytest.raises(ValueError, match="c is a radius, a finite number from 0, got nan"):
        METHODS["cagrad"].make(float("nan"))


def test_make_applies_defaults_and_arguments():
    assert methods.make("sam_gs").gamma == 0.1 and methods.make("sam_gs", gamma=0.7).gamma == 0.7
    one, other = methods.make("mgda"), methods.make("mgda")
    assert one is not other
    for spec in METHODS.values():
        for preset in spec.presets.values():
            methods.make(spec.name, **preset)


def test_register_and_replace():
    class Twice(Aggregator):
        def forward(self, matrix, /):
            return 2 * matrix.sum(0)

    spec = Method("twice", "Twice", "gradient aggregation", Twice, "sum", "this test")
    try:
        assert methods.register(spec) is spec and methods.find("twice") is spec
        with pytest.raises(ValueError, match="there is a method 'twice' already; pass replace=True"):
            methods.register(spec)
        other = Method("twice", "Other", "gradient aggregation", Twice, "sum", "this test")
        assert methods.register(other, replace=True) is METHODS["twice"] is other
        shared, _ = combined("twice", conflicting(2))
        assert torch.allclose(shared, 2 * conflicting(2).sum(0))
    finally:
        METHODS.pop("twice", None)
    with pytest.raises(ValueError, match="kind is one of"):
        Method("x", "X", "magic", Twice, "sum", "")
    with pytest.raises(ValueError, match="native_scale is one of sum, mean; got 'max'"):
        Method("x", "X", "loss weighting", Twice, "max", "")
    with pytest.raises(ValueError, match="level is one of losses, last layer, features, parameters; got 'trunk'"):
        Method("x", "X", "gradient aggregation", Twice, "sum", "", level="trunk")
    with pytest.raises(ValueError, match="needs holds some of .*; got Hessian, time$"):
        Method("x", "X", "gradient aggregation", Twice, "sum", "", needs=("time", "losses", "Hessian"))
    with pytest.raises(ValueError, match="there is a method 'scale_invariant' already"):
        methods.register(Method("scale_invariant", "X", "gradient aggregation", Twice, "sum", ""))


def test_what_rows_say_of_needs_and_cost():
    assert (METHODS["equal"].level, METHODS["equal"].needs) == ("losses", ("losses",))
    assert (METHODS["norm_equalised"].level, METHODS["norm_equalised"].needs) == ("parameters", ("gradients",))
    assert method_card.extra_passes(METHODS["mgda"], 5) == {"forward": 0, "backward": 4}
    assert method_card.extra_passes(METHODS["famo"], 5) == {"forward": 1, "backward": 0}
    assert (
        method_card.extra_passes(METHODS["mgda_ub"], 5)
        == method_card.extra_passes(METHODS["gradnorm"], 5)
        == {"forward": 0, "backward": 0}
    )
    for name in NAMES:
        assert METHODS[name].learns == hasattr(fresh(name), "learn"), name
        assert ("losses after the step" in METHODS[name].needs) == hasattr(fresh(name), "update"), name
    assert methods.make("scale_invariant")(torch.tensor([1.0, 2.0])) == pytest.approx(0.6931, abs=1e-4)
    with pytest.raises(ValueError, match="unknown method 'scale_invariance'; did you mean 'scale_invariant'"):
        methods.find("scale_invariance")


def test_defaults_are_arguments_and_are_the_classes_own():
    """A default of the registry that the class does not share would make the class's own a trap."""
    for name, spec in METHODS.items():
        own = arguments_of(spec.make)
        for argument, (value, _) in spec.defaults.items():
            assert argument in own, (name, argument)
            assert own[argument].default in (inspect.Parameter.empty, value), (name, argument)


# --- no method does nothing, no two are the same


def trajectory(name, K=3, steps=10):
    model, problem = small_model(K), small_problem(K)
    balancer, batch = step_of(name, model, observed=True, method=fresh(name, K)), problem.train.batch(slice(0, 48))
    optimizer, points = torch.optim.SGD(model.parameters(), lr=0.1), []
    torch.manual_seed(2)
    for _ in range(steps):
        take(balancer, model, problem.tasks, batch)
        assert (cosines(balancer.gradients.matrix) < 0).any()  # tasks do conflict here
        for n, p in model.named_parameters():
            assert p.grad is not None and p.grad.norm() > 1e-6, f"{name} leaves {n} without gradient"
        optimizer.step()
        after(balancer, model, problem.tasks, batch)
        points.append(torch.cat([p.detach().flatten() for p in model.trunk.parameters()]))
    return torch.stack(points)


IDENTITIES: set[frozenset] = set()  # pairs of methods that are the same by definition at K = 3; none so far


@pytest.fixture(scope="module")
def trajectories():
    return {name: trajectory(name) for name in NAMES}


def test_every_method_moves_the_trunk_and_no_two_alike(trajectories):
    for i, one in enumerate(NAMES):
        moves = trajectories[one].diff(dim=0).norm(dim=1)
        assert (moves > 1e-5).all(), one
        for other in NAMES[:i]:
            same = (trajectories[one] - trajectories[other]).abs().max() < 1e-6 * moves[0]
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
    schedule = Schedule(epochs=1, batch_size=16, learning_rate=0.05)
    loop.fit(model, problem, "equal", schedule, seed=4, observers=[log])
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.9)
    order = torch.randperm(48, generator=loop.torch_generator(4, "batch order"))
    for batch in order.split(16):
        inputs, targets = problem.train.batch(batch)
        optimizer.zero_grad()
        sum(F.cross_entropy(o, t) for o, t in zip(twin(inputs), targets, strict=True)).backward()
        optimizer.step()
    assert log.summary()["iterations"] == 3
    for (name, one), other in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6, msg=name)
