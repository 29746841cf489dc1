"""Solvers: optimality gaps by certificates, up to 40 tasks, over scales and ranks; time; the library's own."""

import numpy as np
import pytest
import torch
from torchjd import aggregation

from mtl_core import methods
from mtl_core.methods import SolverError, mgda, nash_mtl, upgrad
from mtl_core.methods._gramian import cosine_form, unit_gram
from mtl_core.methods.mgda import min_norm_weights
from mtl_core.methods.nash_mtl import alpha_fair_weights
from mtl_lab.experiments import solvers

SIZES = (1, 2, 3, 9, 40)


def family(K, kind, dtype=torch.float64):
    """A matrix of K gradients of length 200: of that kind."""
    generator = torch.Generator().manual_seed(100 + K)
    J = torch.randn(K, 200, generator=generator, dtype=torch.float64)
    if kind == "aligned":
        J += 3 * torch.randn(200, generator=generator, dtype=torch.float64)
    if kind == "conflicting" and K > 1:
        J -= 0.9 * J.mean(0)
    if kind == "norms apart":
        J *= torch.exp(3 * torch.randn(K, 1, generator=generator, dtype=torch.float64))
    if kind == "rank 2":
        two = torch.randn(2, 200, generator=generator, dtype=torch.float64)
        J = torch.rand(K, 2, generator=generator, dtype=torch.float64) @ two  # all in one cone
    return J.to(dtype)


KINDS = ("random", "aligned", "conflicting", "norms apart", "rank 2")


def min_norm_gap(gramian, weights):
    """w'Gw - min_k (Gw)_k, at least as large as w'Gw less its smallest value; in units of the shortest row's."""
    return ((weights @ gramian @ weights - (gramian @ weights).min()) / gramian.diagonal().min()).item()


def bargain_gap(gramian, weights, alpha):
    norms, product = cosine_form(gramian)
    u = weights * norms
    right = torch.linalg.norm(gramian) * norms ** (1 / alpha - 1) * u ** (-1 / alpha)
    return (product @ u / right - 1).abs().max().item()


@pytest.mark.parametrize("K", SIZES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_gaps(K, kind, scale):
    gramian = unit_gram(family(K, kind) * scale)
    weights = min_norm_weights(gramian)
    assert (weights >= 0).all() and weights.sum().item() == pytest.approx(1, abs=1e-12)
    assert abs(min_norm_gap(gramian, weights)) < 1e-9
    for alpha in (1.0, 2.0, 0.5):
        weights = alpha_fair_weights(gramian, alpha)
        assert (weights > 0).all() and bargain_gap(gramian, weights, alpha) < 1e-8, alpha


@pytest.mark.parametrize("pivots", [True, False])
@pytest.mark.parametrize("K", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_upgrad_projects_each_gradient(K, kind, pivots, monkeypatch):
    """Optimality of every projection: v >= e_k, J d >= 0, and d touches a constraint wherever v is above it."""
    if not pivots:  # what cycles, or is singular, is left to non-negative least squares
        monkeypatch.setattr(upgrad, "_complementary", lambda C, Q: (np.full_like(Q, np.nan), list(range(len(Q)))))
    gramian = unit_gram(family(K, kind))
    found = upgrad.ExactProjector()(torch.eye(K, dtype=torch.float64), gramian)
    lengths = gramian.diagonal().sqrt()
    for k, v in enumerate(found):
        slack, above = gramian @ v / lengths, (v - torch.eye(K, dtype=torch.float64)[k]) * lengths
        assert above.min() > -1e-12 and slack.min() > -1e-7 * lengths[k]
        assert (slack * above).abs().max() < 1e-9 * lengths[k] ** 2


def test_pivots_solve_what_is_not_singular():
    for kind in ("random", "conflicting", "norms apart"):
        product = cosine_form(unit_gram(family(40, kind)))[1].numpy()
        X, left = upgrad._complementary(product, np.eye(40) @ product)
        assert left == [] and (X > 0).any(1).sum() == 40
    opposite = np.array([[1.0, -1.0], [-1.0, 1.0]])
    _, left = upgrad._complementary(opposite, opposite - 1e-3)
    assert left == [0, 1], "no x solves it: it must not pass for solved"
    worn = [
        [0.5, 0.5, 0.999, 0.999],
        [-0.999, -1.0, 0.001, -1.0],
        [-0.999, -1.0, -0.999, -0.999],
        [0.999, -0.001, 0.999, 0.999],
        [1.0, -1.0, 0.5, 0.0],
        [0.0, 1.0, -1.0, -0.001],
    ]
    J = torch.tensor(worn, dtype=torch.float64)  # one of its guesses takes no entry as positive
    assert (J @ methods.make("upgrad")(J)).min() > -1e-9
    stiff, q = np.array([[1.0, 0.9], [0.9, 1.0]]), np.array([[-1e-3, 1.0], [0.5, 0.5]])
    X, left = upgrad._complementary(stiff, q)
    assert left == [] and X.tolist() == [[1e-3, 0.0], [0.0, 0.0]]


def test_the_gram_matrix_of_a_wide_network_is_symmetric_so_pivots_solve_it():
    """Kernels round its halves differently: pivots use one of them, and looked wrong by the other."""
    J = torch.randn(11, 42_624, generator=torch.Generator().manual_seed(0))
    product = unit_gram(J)
    assert torch.equal(product, product.T)
    product = cosine_form(product)[1].numpy()
    assert upgrad._complementary(product, np.eye(11) @ product)[1] == []


def test_a_row_whose_pivots_ran_out_is_left():
    J, Q = np.random.default_rng(0).standard_normal((2, 40, 40))
    product, counts = np.corrcoef(J), []
    for rounds in (1, 2, 30):
        X, left = upgrad._complementary(product, Q.copy(), rounds)
        counts.append(len(left))
        X, Y = np.delete(X, left, 0), np.delete(X @ product + Q, left, 0)
        assert X.min(initial=0) > -1e-12 and Y.min(initial=0) > -1e-10 and np.abs(X * Y).max(initial=0) < 1e-10
    assert counts[0] > counts[1] > counts[2] == 0


def test_the_librarys_frank_wolfe_method_stops_above_the_optimum():
    """Why MGDA is solved exactly, and the library's solver is an option: tens of per cent at 9 and 40 tasks."""
    for K, least in ((9, 0.05), (40, 0.5)):
        gramian = unit_gram(family(K, "norms apart"))
        exact, library = (w @ gramian @ w for w in (min_norm_weights(gramian), aggregation.MGDAWeighting()(gramian)))
        assert library / exact - 1 > least
    J = family(3, "conflicting")
    torch.testing.assert_close(methods.make("mgda")(J), min_norm_weights(J @ J.T) @ J)
    torch.testing.assert_close(methods.make("mgda", solver="frank-wolfe")(J), aggregation.MGDA()(J))
    with pytest.raises(ValueError, match="solver is 'frank-wolfe' or 'exact', got 'fast'"):
        methods.make("mgda", solver="fast")


# --- where there is no solution


def test_pareto_stationary_points_give_no_step():
    ways = {"opposite": [[1.0, 0], [-2, 0]], "three": [[1.0, 0], [0, 1], [-1, -1]], "nearly": [[1.0, 0], [-1, 1e-9]]}
    for name in ("nash_mtl", "fairgrad", "mgda_ub", "upgrad"):
        for way, rows in ways.items():
            update = methods.make(name)(torch.tensor(rows, dtype=torch.float64))
            assert update.norm() < 2e-9, (name, way)
    close = torch.tensor([[1.0, 0], [-1, 1e-4]], dtype=torch.float64)
    for name in ("nash_mtl", "fairgrad", "upgrad"):
        assert (close @ methods.make(name)(close) > 0).all()  # near such a point they still help both


def test_zero_gradients_take_no_part_in_a_bargain():
    J = torch.tensor([[3.0, -4, 1], [0, 0, 0], [2, 5, -3]], dtype=torch.float64)
    for alpha in (1.0, 2.0):
        weights = alpha_fair_weights(unit_gram(J), alpha)
        assert weights[1] == 0
        torch.testing.assert_close(weights[[0, 2]], alpha_fair_weights(unit_gram(J[[0, 2]]), alpha))
    assert torch.equal(min_norm_weights(unit_gram(J)), torch.tensor([0.0, 1, 0], dtype=torch.float64))


def test_failures_are_errors(monkeypatch):
    """Nothing stands in for a solution that was not found."""
    gramian = unit_gram(family(3, "random"))
    monkeypatch.setattr(nash_mtl, "_newton", lambda *_: None)
    with pytest.raises(SolverError, match="no weights with G w = w.*0.5. found for the cosines"):
        alpha_fair_weights(gramian, 2.0)

    def failing(*_):
        raise RuntimeError("Maximum number of iterations reached.")

    monkeypatch.setattr(mgda, "nnls", failing)
    with pytest.raises(SolverError, match="no shortest vector found for gradients with the norms"):
        min_norm_weights(gramian)


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_a_gram_matrix_with_negative_eigenvalues_is_solved(alpha):
    """Two equal gradients and nearly their opposite, rounded as float32 rounds: Newton's equations are indefinite."""
    equal, opposite = 1 + 1e-6, -1 + 1e-7
    gramian = torch.tensor([[1, equal, opposite], [equal, 1, opposite], [opposite, opposite, 1]], dtype=torch.float64)
    assert torch.linalg.eigvalsh(gramian).min() < -1e-7
    assert nash_mtl._newton(gramian.numpy(), np.ones(3), 1 / alpha) is None
    weights = alpha_fair_weights(gramian, alpha)
    torch.testing.assert_close(weights / weights[0], torch.tensor([1.0, 1, 2]).double(), rtol=1e-3, atol=0)


def test_as_printed():
    """Without the factor |G| Nash-MTL's update has length sqrt(K), FairGrad's grows with scale^((1 - a)/(1 + a))."""
    J = family(3, "conflicting")
    for scale in (1e-3, 1.0, 1e3):
        update = methods.make("nash_mtl", normalise=False)(scale * J)
        assert update.norm().item() == pytest.approx(3**0.5)
        weights = methods.make("fairgrad", normalise=False).weighting(scale * J)
        torch.testing.assert_close(scale**2 * J @ J.T @ weights, weights**-0.5)
    for name in ("nash_mtl", "fairgrad"):
        one, other = (methods.make(name, normalise=n)(J) for n in (True, False))
        torch.testing.assert_close(one / one.norm(), other / other.norm())
        assert torch.equal(methods.make(name, normalise=False)(0 * J), torch.zeros(200, dtype=torch.float64))
    torch.testing.assert_close(methods.make("fairgrad", alpha=1.0)(J), methods.make("nash_mtl")(J))
    with pytest.raises(ValueError, match="alpha is positive, got 0"):
        methods.make("fairgrad", alpha=0)


# --- the table of solvers


def test_the_table_of_solvers_measures_gaps_that_can_fail(monkeypatch):
    monkeypatch.setattr(solvers, "measure", lambda solve, G: 0.5)
    rows = solvers.measured()
    assert len(rows) == 24 and all(row["milliseconds"] == 0.5 for row in rows)
    assert [row["tasks"] for row in solvers.measured(["CAGrad"])] == [*solvers.TASKS, *solvers.TASKS]
    for row in rows:
        small = 1e-6 if row["supplier"] == "mtl_core" else 1e-3
        if row["solver"] != "Frank-Wolfe":
            assert -1e-12 < row["gap"] < small, row
    assert max(row["gap"] for row in rows if row["solver"] == "Frank-Wolfe") > 0.5
    for problem, solver, _, _, gap in solvers.solvers():  # a wrong solution has a gap
        gramian = unit_gram(solvers.matrix(9))
        wrong = torch.ones(9, 9, dtype=torch.float64) if problem == "UPGrad" else torch.full((9,), 1 / 9).double()
        wrong = wrong + torch.linspace(0, 1, 9).double()
        assert gap(gramian, wrong) > 1e-2, solver


def test_measure_takes_the_median():
    calls = []
    found = solvers.measure(calls.append, None, budget=0.01)
    assert 4 <= len(calls) <= 51 and 0 <= found < 5


@pytest.mark.parametrize("name", ["mgda_ub", "nash_mtl", "fairgrad", "upgrad", "imtl_g", "aligned_mtl"])
def test_a_matrix_that_asks_for_gradients_is_combined_as_any_other(name):
    """Weights are solved for outside the graph."""
    J = family(2, "conflicting")
    torch.testing.assert_close(methods.make(name)(J.clone().requires_grad_()).detach(), methods.make(name)(J))


def test_pcgrad_for_all_tasks_at_once_is_the_librarys_loop():
    """In few dimensions a gradient comes to oppose itself on the way, and is not projected off itself."""
    for seed in range(60):
        J = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        torch.manual_seed(seed)
        found = methods.make("pcgrad").weighting(J)
        torch.manual_seed(seed)
        wanted = aggregation.PCGradWeighting()(J @ J.T)
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("K", SIZES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("c", [1e-20, 1e-9])
def test_cagrad_in_a_ball_too_small_to_matter_is_the_mean(K, kind, c):
    """Where rounding swallows the radius, a search between two ends of the same sign once stopped with an error."""
    J = family(K, kind)
    found, mean = methods.make("cagrad", c=c)(J), J.mean(0)
    assert (found - mean).norm() <= (1.01 * c + 1e-12) * mean.norm()
