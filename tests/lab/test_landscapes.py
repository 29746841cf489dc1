"""Two-dimensional problems: their optima, their Pareto sets, and the batched paths against the one-at-a-time ones."""

import math
from itertools import product

import pytest
import torch

from mtl_core import methods
from mtl_lab.landscapes import closed_forms, problems
from mtl_lab.landscapes.descent import side_by_side, trajectories
from mtl_lab.landscapes.problems import LANDSCAPES

OPTIONS = {"static": {"weights": [0.3, 1.7]}, "dwa": {"window": 2}}
RANDOM = [name for name in closed_forms.names() if methods.find(name).random and name not in ("pcgrad", "gradvac")]
OF_LOSSES = [name for name in closed_forms.names() if methods.find(name).kind == methods.KINDS[0] and name != "equal"]


def points(count, seed=0, spread=4.0):
    """Random points: on an axis of symmetry the round-off of a solver decides where a path goes."""
    return spread * torch.randn(count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def descend(landscape, start, steps=4000, rate=0.01):
    """Plain descent of the sum, by torch alone."""
    point = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([point], lr=rate)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.998)
    for _ in range(steps):
        optimizer.zero_grad()
        landscape.losses(point).sum().backward()
        optimizer.step()
        schedule.step()
    return point.detach()


@pytest.mark.parametrize("landscape", LANDSCAPES.values(), ids=list(LANDSCAPES))
def test_gradients_and_optima_are_those_of_the_losses(landscape):
    batch = points(6).reshape(2, 3, 2)
    losses, gradients = landscape.gradients(batch)
    for index, k in product([(0, 0), (1, 2)], range(2)):
        point = batch[index].clone().requires_grad_()
        loss = landscape.losses(point)[k]
        loss.backward()
        assert losses[index][k] == loss
        torch.testing.assert_close(gradients[index][k], point.grad)
    for x, y in landscape.optima:
        end = descend(landscape, (x + 0.1, y + 0.1), steps=700)
        assert end.tolist() == pytest.approx((x, y), abs=2e-4)


def test_the_published_problems_have_their_known_values():
    """Independent numbers: a torch-free restatement of the paper's formulas, and its optima."""
    one, two = LANDSCAPES["samgs_1"], LANDSCAPES["samgs_2"]
    assert one.losses(torch.tensor(one.optima[0])).tolist() == pytest.approx([-15.09164, -15.09164], abs=1e-4)
    at_first, at_second = (two.losses(torch.tensor(o, dtype=torch.float64)).tolist() for o in two.optima)
    assert at_first == pytest.approx([-50.29376, -23.84023], abs=1e-4) and at_second == pytest.approx(at_first[::-1])

    def valley(x, y):  # theta_2 > 0: only the logarithms are open
        first = math.log(max(abs(0.5 * (-x - 7) - math.tanh(-y)), 5e-6)) + 6
        second = math.log(max(abs(0.5 * (-x + 3) + math.tanh(-y) + 2), 5e-6)) + 6
        return [math.tanh(y / 2) * first, math.tanh(y / 2) * second]

    for x, y in [(-8.0, 5.0), (3.0, 7.5), (1.25, 0.5)]:
        for landscape in (one, two):
            assert landscape.losses(torch.tensor([x, y], dtype=torch.float64)).tolist() == pytest.approx(valley(x, y))


def test_sam_gs_takes_the_released_codes_path():
    """Checkpoints of the released class (float32) at steps 500 and 1,000 from its own starts."""
    expected = {
        (-8, 5): ((-7.45392, 4.36494), (-6.9765, 3.5984)),
        (-3, 7.5): ((-3.51363, 6.93528), (-4.0182, 6.2893)),
        (0, 10): ((0, 9.36504), (0, 8.3621)),
        (-10, -3): ((-9.49707, -3.43388), (-8.9931, -3.7698)),
    }
    paths = trajectories(LANDSCAPES["samgs_1"], list(expected), "sam_gs", steps=1000, every=500)
    assert paths.steps.tolist() == [0, 500, 1000]
    for i, checkpoints in enumerate(expected.values()):
        for t, point in enumerate(checkpoints, 1):
            assert paths.points[t, i].tolist() == pytest.approx(point, abs=3e-4)


@pytest.mark.parametrize("name", ["ravines", "samgs_1", "samgs_2"])
@pytest.mark.parametrize("method", [name for name in closed_forms.names() if name not in RANDOM])
def test_ten_batched_paths_are_the_one_at_a_time_paths(name, method):
    """Step by step, from ten starts."""
    landscape, starts = LANDSCAPES[name], points(10)
    if method == "log_sum" and name.startswith("samgs"):
        with pytest.raises(ValueError, match="positive losses"):
            trajectories(landscape, starts - torch.tensor([0.0, 9.0]), method, steps=1)
        return
    steps, near = 8, 1e-6
    together = trajectories(landscape, starts, method, options=OPTIONS.get(method), steps=steps)
    alone = trajectories(landscape, starts, method, options=OPTIONS.get(method), steps=steps, one_by_one=True)
    assert together.points.shape == (steps + 1, 10, 2) and together.losses.shape == (steps + 1, 10, 2)
    assert (together.points[-1] != together.points[0]).any(-1).all(), "every path moves"
    for t in range(steps + 1):
        torch.testing.assert_close(together.points[t], alone.points[t], rtol=0, atol=near, msg=f"step {t}")
    torch.testing.assert_close(together.losses, alone.losses, rtol=0, atol=10 * near)


@pytest.mark.parametrize("name", ["ravines", "samgs_1"])
def test_methods_side_by_side_are_each_as_alone(name):
    """Bit for bit, random methods and those with state too, beside any others and twice."""
    landscape, starts = LANDSCAPES[name], points(5).reshape(5, 1, 2)
    left_out = "log_sum" if name.startswith("samgs") else ""  # needs positive losses
    pairs = [(method, OPTIONS.get(method, {})) for method in closed_forms.names() if method != left_out]
    pairs += [("graddrop", {}), ("sam_gs", {"gamma": 0.9})]
    for (method, options), paths in zip(pairs, side_by_side(landscape, starts, pairs, steps=12, every=5), strict=True):
        alone = trajectories(landscape, starts, method, options=options, steps=12, every=5)
        assert torch.equal(paths.points, alone.points), method
        assert torch.equal(paths.steps, alone.steps) and torch.equal(paths.losses, alone.losses)
        assert paths.points.shape == (4, 5, 1, 2)


def test_side_by_side_refuses_methods_without_a_batched_rule():
    for method, message in (("db_mtl", "no batched rule"), ("rotograd", "a landscape has none")):
        with pytest.raises(ValueError, match=message):
            side_by_side(LANDSCAPES["bowls"], points(2), [("equal", {}), (method, {})], steps=1)


ARGUMENTS = [{"gamma": 0.0}, {"gamma": 1.0}, {"beta1": 0.5}, {"beta2": 0.5}]
ARGUMENTS += [{"variant": name, "gamma": gamma} for name in ("printed", "reinforcement") for gamma in (0.1, 0.9)]


@pytest.mark.parametrize("options", ARGUMENTS)
def test_batched_arguments_are_the_methods(options):
    """Unclipped, from points where one norm is a fiftieth of the other."""
    landscape, starts = LANDSCAPES["uneven_bowls"], torch.tensor([[-1.9, 0.1], [1.5, 1.2]], dtype=torch.float64)
    fixed = {"steps": 8, "learning_rate": 1e-3, "convention": "plain"}
    default = trajectories(landscape, starts, "sam_gs", **fixed)
    paths = [trajectories(landscape, starts, "sam_gs", options=options, one_by_one=one, **fixed) for one in (0, 1)]
    torch.testing.assert_close(paths[0].points, paths[1].points)
    assert (paths[0].points - default.points).abs().max() > 1e-3


CASES = {
    "opposite": [[1.0, 0.0], [-2.0, 0.0]],
    "equal": [[1.0, 2.0], [1.0, 2.0]],
    "one zero": [[0.0, 0.0], [1.0, 1.0]],
    "one inside": [[1.0, 0.0], [3.0, 0.5]],
    "right angle": [[1.0, 0.0], [0.0, 1.0]],
    "zero": [[0.0, 0.0]] * 2,
    "cancel": [[1.0, -1.0], [-1.0, 1.0]],
}


@pytest.mark.parametrize("method", [name for name in closed_forms.names() if name not in OF_LOSSES])
def test_edges_of_the_closed_forms(method):
    """Each case, and a plain matrix after it, which meets what the case left in the method's state."""
    for name, case in CASES.items():
        one, many = methods.make(method), closed_forms.rule(method, methods.make(method))
        for matrix in (case, CASES["right angle"]):
            J = torch.tensor(matrix, dtype=torch.float64)
            torch.manual_seed(0)
            expected = J.sum(0) if method == "equal" else one(J)
            torch.manual_seed(0)
            update = many(J[None], torch.ones(1, 2))[0]
            torch.testing.assert_close(update, expected, rtol=1e-6, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("method", RANDOM)
def test_one_batched_path_of_a_random_method_is_that_path_alone(method):
    paths = [trajectories(LANDSCAPES["ravines"], points(1), method, steps=6, one_by_one=one).points for one in (0, 1)]
    torch.testing.assert_close(paths[0], paths[1], rtol=0, atol=1e-9)
    pair = trajectories(LANDSCAPES["ravines"], points(1).expand(2, 2), method, steps=6).points
    assert (pair[-1, 0] != pair[-1, 1]).any(), "each path has its random numbers"


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 8.0])
def test_fairgrad_for_two_tasks_at_every_angle_and_ratio(alpha):
    one = methods.make("fairgrad", alpha=alpha)
    angle, size = torch.meshgrid(torch.linspace(0, math.pi - 0.02, 9), torch.logspace(-5, 5, 7), indexing="ij")
    J = torch.zeros(angle.numel(), 2, 2, dtype=torch.float64)
    J[:, 0, 0] = 1
    J[:, 1] = (size * torch.stack([angle.cos(), angle.sin()])).flatten(1).T
    updates = closed_forms.rule("fairgrad", one)(J, torch.ones(len(J), 2))
    torch.testing.assert_close(updates, torch.stack([one(each) for each in J]), rtol=1e-6, atol=1e-12)


def test_gradvac_stays_finite_for_parallel_gradients():
    """Its target reaches a cosine of one there, which rounding may take above one."""
    J = torch.randn(400, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parallel = torch.stack([J, 3 * J], 1)
    for b in range(0, 400, 40):  # a method has one memory: one problem each
        one, many = methods.make("gradvac", beta=1.0), closed_forms.rule("gradvac", methods.make("gradvac", beta=1.0))
        for matrix in (parallel[b], parallel[b]):
            update = many(matrix[None], torch.ones(1, 2))[0]
            torch.testing.assert_close(update, one(matrix), rtol=1e-5, atol=1e-9)
    rule = closed_forms.rule("gradvac", methods.make("gradvac", beta=1.0))
    for _ in range(3):
        assert torch.isfinite(rule(parallel, torch.ones(400, 2))).all()


NAMESAKES = [("mgda_ub", "mgda"), ("imtl_g_features", "imtl_g"), ("aligned_mtl_ub", "aligned_mtl")]


@pytest.mark.parametrize("pair", NAMESAKES)
def test_a_point_is_its_own_feature(pair):
    """At the features these methods see what their namesakes see at the parameters."""
    landscape = LANDSCAPES["samgs_1"]
    at_features, at_parameters = (trajectories(landscape, points(2), m, steps=5, one_by_one=True).points for m in pair)
    torch.testing.assert_close(at_features, at_parameters, rtol=0, atol=1e-9)


def test_a_method_without_a_closed_form_runs_as_well():
    assert not closed_forms.knows("famo") and not closed_forms.knows("sam_gs", ["unheard_of"])
    landscape, starts = LANDSCAPES["bowls"], points(4).reshape(2, 2, 2)
    first, again = (trajectories(landscape, starts + 9, "db_mtl", steps=5) for _ in range(2))
    assert first.points.shape == (6, 2, 2, 2) and torch.equal(first.points, again.points)


@pytest.mark.parametrize("method", ["famo", "gradnorm", "mgda_ub", "dwa"])
def test_methods_of_every_kind_run_one_by_one(method):
    """Losses after the step, own parameters, gradients at the features, a memory of losses."""
    paths = trajectories(LANDSCAPES["bowls"], points(1), method, steps=4)
    assert (paths.points.diff(dim=0).norm(dim=-1) > 1e-3).all()


def test_a_random_method_leaves_torchs_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    for one_by_one in (True, False):
        trajectories(LANDSCAPES["bowls"], points(1), "graddrop", steps=2, one_by_one=one_by_one)
    assert torch.rand(1) == expected


def test_pareto_set_of_bowls_is_stationary_and_not_dominated():
    for name in ("bowls", "uneven_bowls", "ravines"):
        landscape = LANDSCAPES[name]
        losses, gradients = landscape.gradients(landscape.pareto)
        least = closed_forms.rule("mgda", methods.make("mgda"))(gradients, losses)
        assert least.norm(dim=-1).max() < 1e-9
        assert gradients[0, 0].norm() < 1e-12 and gradients[-1, 1].norm() < 1e-12, "from one minimum to the other"
        others = landscape.losses(points(400, spread=2.0)).T
        dominated = (others[:, None] < losses[None] - 1e-12).all(-1)
        assert not dominated.any()


def test_a_scaled_landscape_keeps_its_pareto_set_and_moves_its_optimum():
    """The paper's loss weighting: with alpha L_1 + L_2 the optimum sits at theta_1 = 7 (alpha - 1) / (alpha + 1)."""
    for alpha in (0.5, 2.0):
        landscape, expected = problems.scaled(LANDSCAPES["samgs_1"], (alpha, 1)), 7 * (alpha - 1) / (alpha + 1)
        end = descend(landscape, (expected + 0.1, -8.35), steps=500)
        assert end[0].item() == pytest.approx(expected, abs=1e-3)
        assert landscape.pareto is LANDSCAPES["samgs_1"].pareto and landscape.optima == ()


def test_hessians_of_bowls_are_their_curvatures():
    expected = torch.tensor([[[3.0, 2.6], [2.6, 3.0]], [[3.0, -2.6], [-2.6, 3.0]]], dtype=torch.float64)
    torch.testing.assert_close(LANDSCAPES["ravines"].hessians(points(1)[0]), expected)


def test_jittered_starts_are_named_by_seed():
    many = problems.jittered([(0, 1), (2, 3)], 50, 0.1)
    assert many.shape == (50, 2, 2) and torch.equal(many[:5], problems.jittered([(0, 1), (2, 3)], 5, 0.1))
    assert (many - torch.tensor([[0.0, 1.0], [2.0, 3.0]])).std().item() == pytest.approx(0.1, rel=0.2)


def test_conventions_reach_the_path():
    landscape, start = LANDSCAPES["bowls"], [(-3.5, 3.0)]
    clipped = trajectories(landscape, start, "equal", steps=1, learning_rate=0.5)
    free = trajectories(landscape, start, "equal", steps=1, learning_rate=0.5, convention="plain")
    moved = [(p.points[1] - p.points[0]).norm().item() for p in (clipped, free)]
    assert moved[0] == pytest.approx(0.5, abs=1e-5) and moved[1] > 0.6
    mean = trajectories(landscape, start, "mgda", steps=1, convention="plain")  # a mean, brought to a sum
    _, J = landscape.gradients(torch.tensor(start, dtype=torch.float64))
    expected = 2 * 0.02 * methods.make("mgda")(J[0])
    torch.testing.assert_close(mean.points[0, 0] - mean.points[1, 0], expected)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"method": "cagrat"}, "did you mean 'cagrad'"),
        ({"optimizer": "lion"}, "optimizer is one of adam, sgd"),
        ({"convention": "mine"}, "convention is one of"),
        ({"method": "rotograd"}, "a landscape has none"),
        ({"starts": [1.0, 2.0, 3.0]}, r"starts have shape \(..., 2\)"),
        ({"learning_rate": 1e6, "convention": "plain", "steps": 99}, "smaller learning rate"),
    ],
)
def test_what_is_refused(given, message):
    call = {"starts": [(1.0, 1.0)], "method": "equal", "steps": 1} | given
    with pytest.raises(ValueError, match=message):
        trajectories(LANDSCAPES["bowls"], **call)


def test_ill_made_landscapes_are_refused():
    with pytest.raises(ValueError, match="positive definite"):
        problems.bowls("x", "X", [(0, 0), (1, 1)], [((1, 0), (0, 1)), ((1, 0), (0, -1))], [], ())
    with pytest.raises(ValueError, match="two positive factors"):
        problems.scaled(LANDSCAPES["bowls"], (1, 0))
