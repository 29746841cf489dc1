"""Conventions and numbers: scale, clip, heads, Recon's released combiners, loss weightings."""

import math

import pytest
import torch
from engine import combined, conflicting, fresh, linear_losses, linear_model, small_model, small_problem, step_of, take
from torch import nn
from torchjd.aggregation import Aggregator

from mtl_core import methods
from mtl_core.balancer import Balancer
from mtl_core.methods import CONVENTIONS, METHODS, Convention, Method

NAMES = [n for n, spec in METHODS.items() if spec.kind != "feature rotation"]
AGGREGATIONS = [n for n, spec in METHODS.items() if spec.kind == "gradient aggregation"]
WEIGHTINGS = [n for n, spec in METHODS.items() if spec.kind == "loss weighting"]


# --- conventions


@pytest.mark.parametrize("K", [1, 2, 5])
def test_factors(K):
    table = {
        ("sum", "sum"): 1,
        ("sum", "mean"): K,
        ("mean", "mean"): 1,
        ("mean", "sum"): 1 / K,
        ("K times", "sum"): K,
        ("K times", "mean"): K,
        ("raw", "sum"): 1,
        ("raw", "mean"): 1,
    }
    for (scale, native), factor in table.items():
        assert Convention("x", scale=scale).factor(native, K) == pytest.approx(factor)


def test_conventions_by_name_and_their_errors():
    assert {n: (c.heads, c.scale, c.clip) for n, c in CONVENTIONS.items() if n != "plain, clipped"} == {
        "plain": ("unit", "sum", None),
        "recon": ("unit", "sum", None),
        "samgs": ("unit", "K times", 1.0),
        "nash-mtl": ("weighted", "raw", None),
        "famo": ("weighted", "raw", None),
    }
    assert CONVENTIONS["plain, clipped"].clip == 1.0 and CONVENTIONS["plain, clipped"].scale == "sum"
    for bad, message in (
        ({"heads": "both"}, "heads is one of unit, weighted; got 'both'"),
        ({"scale": "max"}, "scale is"),
        ({"clip": 0.0}, "positive norm or None, got 0.0"),
        ({"clip": -1.0}, "clip"),
        ({"probe": "later"}, "probe is one of frozen, training, evaluation; got 'later'"),
        ({"own_optimizer": ("lion", 0.1)}, "one of adam, sgd; rate.*'lion'"),
        ({"exceptions": {"mgda": {"heads": "no"}}}, "heads is one of"),
    ):
        with pytest.raises(ValueError, match=message):
            Convention("x", **bad)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", ["sum", "mean", "K times", "raw"])
def test_the_shared_gradient_is_multiplied_by_the_factor_and_clipped(name, scale):
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
        if convention.of(name).heads == "unit":
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


def test_what_a_method_keeps_is_not_written():
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


@pytest.mark.parametrize("name", NAMES)
def test_the_matrix_that_is_read_is_that_of_the_step(name):
    """Neither the method nor scale and clip write into J, which observers and loggers see."""
    model = linear_model([12], 3, torch.float64)
    balancer = Balancer(fresh(name, 3), model, convention="samgs", spec=METHODS[name])
    balancer.observers.append(lambda gradients: None)
    features = model.features(None)
    balancer.backward(linear_losses(model, features, conflicting(3), offsets=[5.0] * 3), features=features)
    assert torch.equal(balancer.gradients.matrix, conflicting(3))


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
    """One backward pass of the weighted sum, or K where J is observed: the same gradients."""
    problem, gradients = small_problem(3), []
    for observed in (False, True):
        model = small_model(3)
        balancer = step_of(name, model, observed=observed)
        take(balancer, model, problem.tasks, problem.train.batch(slice(0, 16)))
        assert balancer.passes == (3 if observed else 1)
        gradients.append([p.grad.clone() for p in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def test_what_the_code_of_sam_gs_does_to_each_method():
    """Read off its classes (commit 7eee6a2): a clip before the backward pass does nothing; some multiply by K."""
    raw, weighted = ("unit", "raw", None), ("weighted", "raw", None)
    expected = {name: ("unit", "K times", 1.0) for name in ("sam_gs", "cagrad", "graddrop", "aligned_mtl")}
    expected |= dict.fromkeys(("equal", "log_sum", "rlw", "uncertainty", "famo"), raw)
    expected |= dict.fromkeys(("imtl_g", "imtl_g_features", "nash_mtl"), weighted)
    expected |= {"dwa": ("unit", "mean", None), "pcgrad": ("unit", "raw", 1.0)}
    expected |= dict.fromkeys(("mgda", "mgda_ub"), ("weighted", "K times", None))
    found = {name: CONVENTIONS["samgs"].of(name) for name in expected}
    assert {name: (c.heads, c.scale, c.clip) for name, c in found.items()} == expected
