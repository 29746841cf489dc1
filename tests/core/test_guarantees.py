"""What the map of methods says is proved: what it says on a matrix, and counterexamples to two published statements.

A theorem about a limit is not tested by one step; the inequality that its proof rests on is. `CHECKS` holds those,
`ELSEWHERE` names the tests that hold a promise already, `NOT_IN_A_STEP` says why nothing is checked.
"""

import pathlib

import pytest
import torch
import yaml
from test_methods_properties import family, harm, update
from torch import nn

from mtl_core import methods
from mtl_core.balancer import Balancer
from mtl_core.methods import METHODS
from mtl_core.models import MultiTaskModel

ROOT = pathlib.Path(__file__).resolve().parents[2]
NOTES = yaml.safe_load((ROOT / "notebooks" / "methods" / "methods.yml").read_text(encoding="utf-8"))
MATRICES = [family(kind, K) for kind in ("random", "aligned", "conflicting", "rank deficient") for K in (2, 3, 9)]


# --- the counterexamples


class Affine(nn.Module):
    """Features z = A θ, so that dz/dθ = A."""

    def __init__(self, A):
        super().__init__()
        self.A, self.theta = A, nn.Parameter(A.new_zeros(A.shape[1]))

    def forward(self, inputs):
        return (self.A @ self.theta)[None]


class Along(nn.Module):
    """Loss Z_k z."""

    def __init__(self, direction):
        super().__init__()
        self.direction = direction

    def forward(self, features):
        return features @ self.direction


def changes(name, A, Z, rate=1e-3):
    """What a step of plain descent along the method's update changes in each loss, over the rate."""
    A, Z = torch.tensor(A, dtype=torch.float64), torch.tensor(Z, dtype=torch.float64)
    assert torch.linalg.matrix_rank(A) == 2 and METHODS[name].level == "features"
    model = MultiTaskModel(Affine(A), [Along(row) for row in Z])
    balancer, z = Balancer(name, model), model.features(None)
    balancer.backward([output.sum() for output in model.outputs(z)], features=z)
    with torch.no_grad():
        assert model.trunk.theta.grad.norm() > 1e-3
        model.trunk.theta -= rate * model.trunk.theta.grad
        after = torch.stack([output.sum() for output in model(None)])
    return (after - balancer.losses) / rate


def test_mgda_ub_raises_a_loss_although_the_trunks_jacobian_has_full_rank():
    """Sener & Koltun 2018, Theorem 1 (b), says that the step lowers all losses."""
    change = changes("mgda_ub", [[1.0, 0.0], [-5.0, 5.0]], [[1.0, 0.0], [0.0, 1.0]])
    assert change[0] > 1 and change[1] < -1
    assert (changes("mgda_ub", [[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]) < 0).all()  # of features themselves


def test_aligned_mtl_ub_raises_the_mean_although_the_trunks_jacobian_has_full_rank():
    """Senushkin et al. 2023, Theorem 3, says that the step goes down for the mean."""
    change = changes("aligned_mtl_ub", [[1.0, -3.0], [0.0, 1.0]], [[-1.0, 0.0], [2.0, 2.0]])
    assert change.mean() > 0.1
    assert changes("aligned_mtl_ub", [[1.0, 0.0], [0.0, 1.0]], [[-1.0, 0.0], [2.0, 2.0]]).mean() < -0.1


# --- what a step promises


def descends_the_mean_by(share):
    """d·ḡ >= share(J) |ḡ|²: what makes the limit a stationary point of the mean."""

    def check(name):
        for J in MATRICES:
            mean = J.mean(0)
            assert update(name, J) @ mean >= (share(J) - 1e-6) * mean @ mean

    return check


def inverse_condition(J):
    values = torch.linalg.svdvals(J)
    values = values[values > 1e-9 * values[0]]
    return values[-1] / values[0]


def sum_or_opposite(name):
    """Two tasks: downhill for the sum, and still only where the two are opposite."""
    for seed in range(50):
        J = family("norms apart", 2, D=3, seed=seed)
        assert update(name, J) @ J.sum(0) > 1e-9 * (J @ J.T).min().abs()
    assert update(name, torch.tensor([[1.0, 2.0], [-3.0, -6.0]])).norm() < 1e-5


def moves_each_coordinate(name):
    """Wherever any gradient has an entry that is not zero."""
    for K in (1, 2, 9):
        J = family("opposite", K) * (torch.arange(60) % 3 > 0)
        J[2:, 1] = 0
        assert ((update(name, J) != 0) == (J != 0).any(0)).all()


def still_only_where(shortest):
    """At the features, with a trunk's Jacobian of full rank: still only where `shortest`(J) = 0 at the parameters."""

    def check(name):
        g = MATRICES[0][0]
        for Z in (*MATRICES, torch.stack([g, -g]), torch.stack([g, -2 * g]), torch.stack([g, 0 * g])):
            Z = Z[:, :12]
            A = torch.randn(12, 12, generator=torch.Generator().manual_seed(len(Z)), dtype=torch.float64)
            assert bool((update(name, Z) @ A).norm() < 1e-6) == bool(shortest(Z @ A).norm() < 1e-6)

    return check


def vanishes_elsewhere(name):
    """Three unit gradients within 80 degrees, so that one step helps all, whose plane nearly holds the origin."""
    turns = torch.deg2rad(torch.tensor([0.0, 40.0, 80.0], dtype=torch.float64))
    lengths = []
    for lift in (1e-1, 1e-2, 1e-3):
        J = torch.stack([turns.cos(), turns.sin(), lift * torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)], 1)
        lengths.append(update(name, J).norm())
        assert update("exact mgda", J).norm() > 0.7
        assert update(name, torch.stack([J[0], -2 * J[0]])).norm() < 1e-9  # a stationary point
    assert lengths[1] < 0.2 * lengths[0] and lengths[2] < 0.2 * lengths[1]


def lowers_every_loss_on_the_features(name):
    """Two gradients that are not opposite, or any number without a conflict, and no rotation."""
    pairs = [family("norms apart", 2, D=3, seed=seed) for seed in range(20)]
    for J in [*pairs, *(family("norms apart", K, D=3).abs() for K in (3, 9))]:
        model = methods.METHODS[name].make(Affine(torch.eye(3, dtype=J.dtype)), [Along(row) for row in J], 3)
        model.backward([output.sum() + 1 for output in model(None)])
        assert (J @ model.trunk.theta.grad > 0).all()


def positive_weights(name):
    """A minimum of a function with positive slopes in every loss: no point below it in all losses."""
    losses = torch.tensor([0.1, 1.0, 1.3], dtype=torch.float64, requires_grad=True)
    methods.make(name, mu=0.5)(losses).backward()
    assert (losses.grad > 0).all()


CHECKS = {
    "pcgrad": sum_or_opposite,
    "graddrop": moves_each_coordinate,
    "cagrad": descends_the_mean_by(lambda J: 1 - METHODS["cagrad"].defaults["c"][0]),
    "aligned_mtl": descends_the_mean_by(inverse_condition),
    "mgda_ub": still_only_where(lambda J: update("exact mgda", J)),
    "aligned_mtl_ub": still_only_where(lambda J: J.mean(0)),
    "imtl_g": vanishes_elsewhere,
    "scale_only": lowers_every_loss_on_the_features,
    "stch": positive_weights,
}
ELSEWHERE = {
    "equal": "test_parity",
    "static": "test_parity",
    "log_sum": "test_scale_invariant_weightings",
    "geometric_mean": "test_scale_invariant_weightings",
    "uncertainty": "test_where_learnt_weights_settle_when_losses_stand_still",
    "imtl_l": "test_where_learnt_weights_settle_when_losses_stand_still",
    "mgda": "test_no_task_is_harmed_where_that_is_promised",
    "nash_mtl": "test_no_task_is_harmed_where_that_is_promised",
    "fairgrad": "test_no_task_is_harmed_where_that_is_promised",
    "upgrad": "test_no_task_is_harmed_where_that_is_promised",
    "moco": "test_moco_tends_to_the_shortest_convex_combination",
}
NOT_IN_A_STEP = {
    "rlw": "a limit under noise",
    "famo": "a limit of small steps",
    "rotate_only": "a limit of two learning rates",
    "rotograd": "a limit of two learning rates",
}


@pytest.mark.parametrize("name", CHECKS)
def test_promise(name):
    CHECKS[name](name)


def test_every_promise_of_the_map_is_looked_at():
    promised = {name for name, entry in NOTES.items() if entry["guarantee"] != "–"}
    assert sorted([*CHECKS, *ELSEWHERE, *NOT_IN_A_STEP]) == sorted(promised)
    written = "".join(path.read_text(encoding="utf-8") for path in pathlib.Path(__file__).parent.glob("test_*.py"))
    assert [test for test in ELSEWHERE.values() if f"def {test}(" not in written] == []


BREAKS = {
    "pcgrad": "broken",
    "graddrop": "norm_equalised",
    "cagrad": "aligned_mtl",
    "aligned_mtl": "moco",
    "mgda_ub": "aligned_mtl",
    "aligned_mtl_ub": "mgda_ub",
    "imtl_g": "norm_equalised",
    "scale_only": "rotate_only",
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_check_can_fail(name):
    """Another rule breaks the promise."""
    with pytest.raises(AssertionError):
        CHECKS[name](BREAKS[name])


# --- where the library's solver falls short of the theorem


def test_the_librarys_frank_wolfe_vector_may_harm_a_task():
    """No loss rises along the exact vector; this one stops early."""
    early = methods.make("mgda", solver="frank-wolfe")
    worst = [harm(J, early(J)) for J in (family("conflicting", 40), family("opposite", 9))]
    assert min(worst) > 1e-4


@pytest.mark.parametrize("factor", [1.0, 1e-2, 1e-4, 1e-6, 1e-9])
def test_cagrad_moves_however_short_one_gradient_is(factor):
    """It goes as far from the mean as it may, and no other direction there gains more for the task that gains least."""
    J, c = family("random", 3), METHODS["cagrad"].defaults["c"][0]
    J = torch.cat([J[:2], factor * J[2:]])
    mean, found = J.mean(0), update("cagrad", J)
    radius = c * mean.norm()
    assert (found - mean).norm() == pytest.approx(radius.item(), rel=1e-6)
    others = torch.randn(2000, len(mean), generator=torch.Generator().manual_seed(0)).to(J)
    others = mean + radius * (0.1 * others + (found - mean)) / (0.1 * others + (found - mean)).norm(dim=1, keepdim=True)
    assert (others @ J.T).amin(1).max() <= (J @ found).min() + 1e-9 * J.norm(dim=1).min()


def test_cagrad_leaves_a_task_without_gradient_aside():
    J = family("random", 3)
    beside = torch.cat([J[:2], 0 * J[2:]])
    alone = J[:2] * 2 / 3  # the same mean of three
    assert torch.allclose(update("cagrad", beside), update("cagrad", alone), atol=1e-9)


def test_nash_mtl_can_end_where_another_point_is_better_for_one_task_and_as_good_for_the_other():
    """Its Theorem 5.5 promises a Pareto-optimal limit for convex losses; weakly so is what holds.

    Both losses are convex and 2-smooth, both are zero at (0.3, 0); the steps are the theorem's, min_k 1 / (L K w_k).
    """

    def losses(theta):
        outside = (theta.norm() - 1).clamp(min=0) ** 2
        return torch.stack([outside, (theta - torch.tensor([0.3, 0.0], dtype=torch.float64)).square().sum()])

    for start in ((2.0, 1.5), (-2.0, 1.0), (0.1, 3.0)):
        theta = torch.tensor(start, dtype=torch.float64)
        for _ in range(20):
            if losses(theta)[0] < 1e-20:  # rounding alone decides whether the next step ends inside of the circle
                break
            J = torch.autograd.functional.jacobian(losses, theta)
            weights = methods.make("nash_mtl", normalise=False).weighting(J)
            theta = theta - 1 / (2 * 2 * weights.max()) * (weights @ J)
        first, second = losses(theta).tolist()
        assert first < 1e-20 and second > 0.5, "on the unit circle, far from the point that is best for both"
