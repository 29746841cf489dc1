"""Properties over families of matrices: what each method promises, from 1 to 40 tasks and from 1e-12 to 1e12."""

import pytest
import torch
from engine import fresh
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mtl_core import methods
from mtl_core.gradients import NonFiniteGradientError
from mtl_core.methods import CONVENTIONS, METHODS, SolverError
from mtl_core.methods._gramian import ByGram, unit_gram
from mtl_core.methods.backward import task_weights
from mtl_core.methods.moco import onto_simplex
from mtl_lab.probes.update_comparison import update_of

NAMES = [n for n, spec in METHODS.items() if spec.kind == "gradient aggregation"]
GRAM = [n for n in NAMES if METHODS[n].needs == ("Gram matrix",)]
SYMMETRIC = [n for n in NAMES if n != "broken" and not METHODS[n].random]
PROMISE = ["mgda_ub", "nash_mtl", "fairgrad", "upgrad", "exact mgda"]  # no task is harmed
FAMILIES = ("random", "aligned", "conflicting", "norms apart", "rank deficient", "zero row", "parallel", "opposite")


def family(kind, K, D=60, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1000 * seed + K)
    J = torch.randn(K, D, generator=generator, dtype=torch.float64)
    factors = torch.exp(2 * torch.randn(K, 1, generator=generator, dtype=torch.float64))
    if kind == "aligned":
        J += 2 * torch.randn(D, generator=generator, dtype=torch.float64)
    elif kind == "conflicting":
        J -= 0.8 * J.mean(0)
    elif kind == "norms apart":
        J *= factors**2
    elif kind == "rank deficient":
        J[K // 2 :] = J[: K - K // 2].flip(0)
    elif kind == "zero row":
        J[-1] = 0
    elif kind == "parallel":
        J = factors * J[0]
    elif kind == "opposite":
        J = torch.cat([J[:1], -J[: K - 1]])[:K]
    return J.to(dtype)


def method_of(name, K):
    return methods.make("mgda", solver="exact") if name == "exact mgda" else fresh(name, K)


def update(name, J, steps=1):
    torch.manual_seed(0)
    method = method_of(name, len(J))
    for _ in range(steps):
        found = method(J)
    return found


# --- a result everywhere


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("name", NAMES)
def test_finite_for_all_families_sizes_and_scales(name, kind):
    for K, scale, dtype in (
        (1, 1, torch.float32),
        (2, 1e-12, torch.float64),
        (3, 1e12, torch.float64),
        (9, 1e-6, torch.float32),
        (40, 1e6, torch.float32),
    ):
        J = family(kind, K, dtype=dtype) * scale
        found = update(name, J, steps=3)
        assert found.shape == (60,) and found.dtype == dtype and torch.isfinite(found).all(), (K, scale)


ROWS = {
    "zero": lambda J: 0 * J,
    "tiny beside ordinary": lambda J: torch.cat([J[:1] * 1e-44, J[1:]]),
    "tiny": lambda J: J * 1e-44,
    "huge beside ordinary": lambda J: torch.cat([J[:1] * 1e36, J[1:]]),
    "huge": lambda J: J * 1e35,
    "parallel": lambda J: J[:1] * torch.arange(1.0, len(J) + 1)[:, None],
    "opposite": lambda J: J[:1] * torch.arange(len(J) // 2 - len(J) + 0.5, len(J) // 2)[:, None],
    "one column": lambda J: J[:, :1].clone(),
    "three columns": lambda J: J[:, :3].clone(),
}
TOO_LARGE = {"sam_gs": "quadratic", "gradnorm": "expected finite gradients", "fairgrad": "not finite in torch.float32"}


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("name", [n for n, spec in METHODS.items() if spec.kind != "feature rotation"])
def test_float32_gradients_at_the_edge_give_a_result_or_say_why_not(name, kind):
    """Also a weight that float64 holds and float32 does not, and cosines that rounding brings above 1."""
    for K in (2, 10, 40):
        J = ROWS[kind](torch.randn(K, 60, generator=torch.Generator().manual_seed(K))).clamp(-3e38, 3e38)
        torch.manual_seed(0)
        method = method_of(name, K)
        try:
            for _ in range(6):
                found = update_of(method, METHODS[name], J)
                assert found.isfinite().all(), K
        except ArithmeticError as error:
            assert TOO_LARGE[name] in str(error) and kind in ("huge", "huge beside ordinary"), K


@pytest.mark.parametrize("name", [n for n in NAMES if n != "broken"])
def test_no_gradients_at_all_are_refused(name):
    if name != "graddrop":  # an empty sum
        with pytest.raises(ValueError, match="expected the gradients of one task or more, got none"):
            fresh(name, 1)(torch.zeros(0, 5))


# --- symmetries


@pytest.mark.parametrize("kind", ("random", "conflicting", "norms apart"))
@pytest.mark.parametrize("name", SYMMETRIC)
def test_the_order_of_tasks_does_not_matter(name, kind):
    J = family(kind, 5)
    order = torch.tensor([3, 0, 4, 2, 1])
    one, other = update(name, J, 3), update(name, J[order], 3)
    tolerance = 0.2 if name == "mgda" else 1e-8  # Frank-Wolfe stops on the way
    assert (one - other).norm() <= tolerance * one.norm()


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("graddrop", "sam_gs")])
def test_a_rotation_of_parameter_space_turns_the_update(name):
    """Methods that read the Gram matrix, and others of norms alone, know no coordinates."""
    J = family("conflicting", 4)
    turn, _ = torch.linalg.qr(torch.randn(60, 60, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    one, other = update(name, J, 2) @ turn, update(name, J @ turn, 2)
    assert (one - other).norm() <= 1e-8 * one.norm()


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e-4, 1e4, 1e12, 1e30])
@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("sam_gs", "moco")])
def test_linear_in_the_common_scale_in_float32_too(name, scale):
    """A method must not stop moving because gradients are small (graddrop draws the same numbers)."""
    J = family("norms apart", 4, dtype=torch.float32)
    one, other = update(name, J, 2), update(name, J * scale, 2) / scale
    # Frank-Wolfe stops on the way, where rounding decides
    assert (one - other).norm() <= (0.5 if name == "mgda" else 2e-3) * one.norm()


@pytest.mark.parametrize("scale", [1e-25, 1e20])
@pytest.mark.parametrize("name", [n for n in NAMES if n in METHODS and "Gram matrix" in METHODS[n].needs])
def test_float32_gradients_whose_squares_overflow_or_vanish(name, scale):
    """A run that diverges passes through such numbers: it ends by them, and no solver ends the search for it."""
    J = family("conflicting", 3, dtype=torch.float32)
    one, other = update(name, J, 2), update(name, J * scale, 2) / scale
    assert torch.isfinite(other).all() and (one - other).norm() <= 1e-2 * one.norm()


def test_a_gradient_whose_norm_float64_cannot_hold_is_no_gradient():
    with pytest.raises(NonFiniteGradientError, match="expected finite gradients, got NaN or infinity for task 0, 1"):
        update("moco", torch.ones(2, 60, dtype=torch.float64) * 1e155)


@pytest.mark.parametrize("name", ["nash_mtl", "imtl_g", "imtl_g_features", "norm_equalised"])
def test_the_direction_does_not_depend_on_the_tasks_own_scales(name):
    J = family("aligned", 4)
    factors = torch.tensor([[1e-6], [1.0], [30.0], [1e5]], dtype=torch.float64)
    one, other = update(name, J), update(name, factors * J)
    torch.testing.assert_close(one / one.norm(), other / other.norm(), rtol=1e-6, atol=1e-9)
    changed = update("fairgrad", factors * J)
    assert (changed / changed.norm() - one / one.norm()).norm() > 0.1  # not every method is like that


# --- promises


def harm(J, d):
    """The most negative slope along d of any task, in units of the largest gradient's own."""
    norms = J.norm(dim=1)
    return (-(J @ d) / norms.clamp_min(1e-300)).max() / norms.max().clamp_min(1e-300)


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("name", PROMISE)
def test_no_task_is_harmed_where_that_is_promised(name, kind):
    for K in (1, 2, 3, 9, 40):
        J = family(kind, K)
        assert harm(J, update(name, J)) < 1e-7, K


def test_the_sum_and_others_do_harm_there():
    """The promise means something: on the same matrices methods without it break it."""
    J = family("conflicting", 9)
    J[0] *= 5
    for name in ("norm_equalised", "graddrop", "db_mtl", "pcgrad"):
        assert harm(J, update(name, J)) > 1e-3, name
    assert harm(J, J.sum(0)) > 1e-3


rows = st.integers(1, 6).flatmap(
    lambda D: st.lists(
        st.lists(st.floats(-1, 1, width=32).map(lambda x: 0.0 if abs(x) < 1e-3 else x), min_size=D, max_size=D),
        min_size=1,
        max_size=6,
    )
)


@example([[0.0, 0.0, -1.0], [0.0, 1.0, 0.0], [1.0, 0.625, 1.0], [0.0, -0.0078125, 1.0]], 1.0)  # opposite but for one
@settings(max_examples=150, deadline=None)
@given(rows, st.sampled_from([1e-12, 1.0, 1e12]))
def test_no_task_is_harmed_by_any_matrix(matrix, scale):
    """Small matrices of all ranks: equal, zero, opposite rows come up by themselves."""
    J = torch.tensor(matrix, dtype=torch.float64) * scale
    for name in PROMISE:
        found = update(name, J)
        assert torch.isfinite(found).all() and harm(J, found) < 1e-6, name


@settings(max_examples=100, deadline=None)
@given(rows)
def test_any_matrix_gives_a_result(matrix):
    J = torch.tensor(matrix, dtype=torch.float64)
    for name in NAMES:
        assert torch.isfinite(update(name, J, 2)).all(), name


def test_equal_projections_equal_gains_and_equal_singular_values():
    J = family("aligned", 4)
    d = update("imtl_g", J)
    projections = J @ d / J.norm(dim=1)
    torch.testing.assert_close(projections, projections[:1].expand(4))
    weights = methods.make("nash_mtl").weighting(J)
    gains = weights * (J @ (weights @ J))
    torch.testing.assert_close(gains, gains[:1].expand(4))
    # Aligned-MTL's update is the mean of rows whose Gram matrix is a multiple of the identity
    rows = methods.make("aligned_mtl").weighting.weigh._compute_balance_transformation(J @ J.T) @ J
    torch.testing.assert_close(update("aligned_mtl", J), rows.mean(0))
    torch.testing.assert_close(rows @ rows.T, (rows @ rows.T)[0, 0] * torch.eye(4, dtype=torch.float64))


@pytest.mark.parametrize("name, factor", [("pcgrad", 1.0), ("gradvac", 1.0), ("upgrad", 0.25)])
def test_surgery_leaves_gradients_alone_that_do_not_conflict(name, factor):
    J = torch.rand(4, 60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(update(name, J), factor * J.sum(0))


def test_two_tasks_in_pcgrad_and_upgrad_are_the_same_up_to_the_mean():
    """An identity at K = 2: both project each gradient off the other."""
    J = family("conflicting", 2)
    assert (J @ J.T)[0, 1] < 0
    torch.testing.assert_close(update("pcgrad", J), 2 * update("upgrad", J))
    J = family("conflicting", 3)
    assert (update("pcgrad", J) - 3 * update("upgrad", J)).norm() > 0.01 * J.norm()


def test_nash_and_imtl_g_share_their_direction_for_two_tasks():
    J = family("norms apart", 2)
    one, other = update("nash_mtl", J), update("imtl_g", J)
    torch.testing.assert_close(one / one.norm(), other / other.norm())


@pytest.mark.parametrize("alpha, name", [(1e-3, "equal"), (1e3, "max-min")])
def test_the_limits_of_fairgrad(alpha, name):
    """α -> 0 is the sum; α -> infinity gives every task the same slope."""
    J = family("aligned", 3)
    d = methods.make("fairgrad", alpha=alpha)(J)
    if name == "equal":
        torch.testing.assert_close(d / d.norm(), J.sum(0) / J.sum(0).norm(), rtol=0, atol=1e-2)
    else:
        torch.testing.assert_close(J @ d, (J @ d).mean().expand(3), rtol=1e-2, atol=0)


def test_moco_tends_to_the_shortest_convex_combination():
    J = family("aligned", 3) * torch.tensor([[1.0], [0.5], [2.0]], dtype=torch.float64) / 10
    method = methods.make("moco", gamma=5.0)
    for _ in range(3000):
        found = method(J)
    torch.testing.assert_close(found, update("exact mgda", J), rtol=0, atol=1e-6)
    for bad in ({"beta": 0.0}, {"beta": 1.5}, {"gamma": 0.0}, {"rho": -1.0}):
        with pytest.raises(ValueError, match="expected 0 < beta <= 1, gamma > 0 and rho >= 0"):
            methods.make("moco", **bad)
    with pytest.raises(ValueError, match=r"MoCo has state of the shape \(3, 60\), got \(2, 60\): make a new"):
        method(J[:2])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=40))
def test_projection_on_the_simplex(point):
    """Non-negative, of sum 1, and p - projection is the same number wherever the projection is positive, else less."""
    p = torch.tensor(point, dtype=torch.float64)
    found = onto_simplex(p)
    assert (found >= 0).all() and found.sum().item() == pytest.approx(1)
    shift = (p - p.max()) - found
    support = found > 0
    slack = 1e-9 + 1e-15 * p.abs().max()
    assert (shift[support] - shift[support][0]).abs().max() <= slack
    assert (shift[~support] <= shift[support][0] + slack).all()


def test_db_mtl_weighs_by_logarithms():
    J, losses = family("aligned", 3), torch.tensor([0.5, 2.0, 8.0], dtype=torch.float64)
    method = methods.make("db_mtl", beta=0.0)  # no average
    logs = J / losses[:, None]
    expected = logs.norm(dim=1).max() * torch.nn.functional.normalize(logs).sum(0)
    torch.testing.assert_close(method(J, losses), expected)
    torch.testing.assert_close(methods.make("db_mtl", beta=0.0)(logs), expected)
    for bad in (1.0, -0.1):
        with pytest.raises(ValueError, match=r"beta must lie in \[0, 1\)"):
            methods.make("db_mtl", beta=bad)


@pytest.mark.parametrize("name", ["log_sum", "geometric_mean"])
def test_scale_invariant_weightings(name):
    """The unit of a loss does not change the direction: weight times loss is the same for all tasks."""
    losses = torch.tensor([0.01, 1.0, 300.0], dtype=torch.float64)
    weights = task_weights(fresh(name, 3), METHODS[name], CONVENTIONS["plain"], torch.eye(3), losses)
    torch.testing.assert_close(weights * losses, (weights * losses)[:1].expand(3))


def test_scale_modes_of_aligned_mtl():
    J = family("norms apart", 3)
    sizes = [methods.make("aligned_mtl", scale_mode=mode)(J).norm() for mode in ("min", "median", "rmse")]
    assert sizes[0] < sizes[1] < sizes[2]
    with pytest.raises(ValueError, match="Expected 'min', 'median', or 'rmse'"):
        methods.make("aligned_mtl", scale_mode="max")(J)


@pytest.mark.parametrize("name", ["moco", "db_mtl"])
def test_running_means_hold_no_graph(name):
    """A graph in the state would keep every batch of the training alive."""
    method = methods.make(name)
    found = method(torch.randn(2, 5).requires_grad_())
    assert not found.requires_grad and not any(buffer.requires_grad for buffer in method.buffers())


@pytest.mark.parametrize("scale", [1e-25, 1e22])
def test_the_gram_matrix_of_float32_gradients_whose_squares_it_cannot_hold(scale):
    J = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(unit_gram(scale * J), unit_gram(J), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["pcgrad", "gradvac", "mgda_ub", "upgrad", "aligned_mtl"])
def test_a_gradient_whose_square_is_no_number_any_more(name, dtype):
    """Its square underflows where its product with another gradient does not: weights of x / 0 would be NaN."""
    first, second = torch.tensor([1.0, 0.0, 0.5]), torch.tensor([-1.0, 2.0, 0.0])
    for exponent in (-8, -18, -20, -30, -37) if dtype == torch.float32 else (-20, -150, -160, -300):
        J = torch.stack([first.to(dtype), second.to(dtype) * 10.0**exponent])
        torch.manual_seed(0)
        update = fresh(name)(J)
        assert update.isfinite().all(), (name, exponent)
        if name == "pcgrad":  # the first gradient without its part along the second, as long as that is one
            expected = [0.8, 0.4, 0.5] if exponent > -145 else [1.0, 0.0, 0.5]
            torch.testing.assert_close(update, torch.tensor(expected, dtype=dtype), rtol=1e-5, atol=1e-5)


def test_weights_that_are_not_finite_are_an_error():
    with pytest.raises(SolverError, match="weights of the task gradients are not finite"):
        ByGram(lambda gramian: gramian.sum(1) * float("nan"))(torch.eye(2))


def test_autoscale_by_hand():
    """Two steps of exploration, the second with the first task three times as long; then the weights stay."""
    method = methods.make("autoscale", explore=2)
    J = torch.tensor([[3.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    torch.testing.assert_close(method(J), 2 * torch.tensor([1 / 3, 1 / 4]).double() / (7 / 12) @ J)
    s = torch.tensor([3 / 5 + 12 / 160**0.5, 4 / 5 + 4 / 160**0.5]).double()
    late = torch.tensor([[12.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    expected = 2 / s / (1 / s).sum()
    torch.testing.assert_close(method(late), expected @ late)
    for matrix in (J, late, 5 * J.flip(0)):
        torch.testing.assert_close(method(matrix), expected @ matrix)
    alike = methods.make("autoscale", explore=1)
    alike(late)
    weighted = (alike(torch.eye(2, dtype=torch.float64)) * late.norm(dim=1)).tolist()
    assert weighted[0] == pytest.approx(weighted[1]), "equally long: magnitude similarity 1"
    with pytest.raises(ValueError, match="one or more steps"):
        methods.make("autoscale", explore=0)
