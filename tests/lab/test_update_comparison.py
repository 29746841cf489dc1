"""Every method's update at the same steps: angles and lengths by hand, one training for all, identities as listed."""

from itertools import combinations

import pytest
import torch
from engine import small_model, small_problem
from torch import nn

from mtl_core import methods
from mtl_core.gradients import task_gradients
from mtl_core.methods import METHODS, Convention, Method
from mtl_lab.landscapes.descent import trajectories
from mtl_lab.landscapes.problems import LANDSCAPES
from mtl_lab.probes.update_comparison import IDENTITIES, Updates, arguments, compare, paths


def batches(problem, steps, size=16):
    return [problem.train.batch(slice(size * (i % 3), size * (i % 3 + 1))) for i in range(steps)]


def compared(K, steps, names=None, rate=0.1, model=None, **more):
    problem = small_problem(K)
    more |= {"names": names, "learning_rate": rate}
    return compare(model or small_model(K), problem.tasks, batches(problem, steps), **more)


@pytest.fixture
def made_up(monkeypatch):
    """Register a method for the length of a test."""

    def register(name, make, **more):
        spec = Method(name, "Made up", "gradient aggregation", make, "sum", "this test", **more)
        monkeypatch.setitem(METHODS, name, spec)

    return register


class Calls(nn.Module):
    """An aggregation that keeps what it was shown."""

    def __init__(self, refuses_at=None):
        super().__init__()
        self.matrices, self.after, self.refuses_at = [], [], refuses_at

    def forward(self, matrix):
        self.matrices.append(matrix.clone())
        if len(self.matrices) == self.refuses_at:
            raise ValueError("not this step")
        return matrix.sum(0)

    def update(self, losses):
        self.after.append(losses.clone())


# --- numbers from vectors that are known


def of_vectors(names, vectors, tasks):
    matrix = torch.tensor([*vectors, *tasks], dtype=torch.float64)
    return Updates(names, (matrix @ matrix.T)[None], {})


UPDATES = {"sum": [1, 1, 0], "twice": [2, 2, 0], "left": [-1, 1, 0], "up": [0, 0, 3], "none": [0, 0, 0]}
KNOWN = of_vectors(list(UPDATES), UPDATES.values(), [[2, 0, 0], [-1, 1, 0]])


def test_lengths_angles_and_harm():
    assert KNOWN.tasks == 2
    torch.testing.assert_close(KNOWN.lengths()[0], torch.tensor([1, 2, 1, 3 / 2**0.5, 0], dtype=torch.float64))
    angles = KNOWN.angles()[0]
    torch.testing.assert_close(angles[:4], torch.tensor([0.0, 0, 90, 90], dtype=torch.float64), rtol=0, atol=1e-5)
    assert angles[4].isnan()
    assert KNOWN.between()[0, 1, 2].item() == pytest.approx(90)
    torch.testing.assert_close(KNOWN.outside()[0, :4], torch.tensor([0, 0, 0, 1.0], dtype=torch.float64))
    assert KNOWN.harms()[0].tolist() == [[False, False], [False, False], [True, False], [False, False], [False, False]]


def test_coincidences_and_groups():
    assert KNOWN.coincide("vector") == [] and KNOWN.coincide("direction") == [("sum", "twice")]
    near = of_vectors(["a", "b", "c"], [[1, 0], [1, 1e-6], [1, 1e-3]], [[1, 0], [0, 1]])
    assert near.coincide("vector") == [("a", "b")] and near.coincide("vector", 1e-2) == [("a", "b", "c")]
    two = Updates(near.names, torch.cat([near.gram, near.gram[:, [0, 2, 1, 3, 4]][:, :, [0, 2, 1, 3, 4]]]), {})
    assert two.coincide("vector") == []  # at every step, or not at all
    with pytest.raises(ValueError, match="same is 'vector' or 'direction', got 'length'"):
        near.coincide("length")
    turned = of_vectors(list("abcd"), [[1, 0], [1, 0.1], [1, 1], [0.1, 1]], [[1, 0], [0, 1]])
    assert turned.groups(1) == [["a"], ["b"], ["c"], ["d"]]
    assert turned.groups(10) == [["a", "b"], ["c"], ["d"]] and turned.groups(45) == [["a", "b"], ["c", "d"]]


# --- one common training


def test_the_network_follows_the_plain_sum_and_all_methods_get_its_gradients(made_up):
    spy, problem, model, twin = Calls(), small_problem(3), small_model(3), small_model(3)
    made_up("spy", lambda: spy, needs=("gradients", "losses after the step"))
    comparison = compared(3, 4, ["equal", "rotograd", "spy", "mgda"], model=model)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    for step, (inputs, targets) in enumerate(batches(problem, 4)):
        features = twin.features(inputs)
        losses = [t.loss(o, y) for t, o, y in zip(problem.tasks, twin.outputs(features), targets, strict=True)]
        J = task_gradients(losses, list(twin.trunk.parameters()))
        torch.testing.assert_close(spy.matrices[step], J)
        torch.testing.assert_close(comparison.gram[step, 4:, 4:], J @ J.T)
        expected = 3 * methods.make("mgda")(J)  # a mean, brought to a sum
        torch.testing.assert_close(comparison.lengths()[step, 3], expected.norm() / J.sum(0).norm())
        optimizer.zero_grad()
        sum(losses).backward()
        optimizer.step()
        after = [t.loss(o, y) for t, o, y in zip(problem.tasks, twin(inputs), targets, strict=True)]
        torch.testing.assert_close(spy.after[step], torch.stack(after))
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    assert comparison.names == ["equal", "rotograd", "spy", "mgda"] and not comparison.reasons
    torch.testing.assert_close(comparison.lengths()[:, [0, 2]], torch.ones(4, 2, dtype=torch.float64))
    assert (comparison.angles()[:, 0] < 1e-5).all()


def test_clipping_is_part_of_a_convention():
    conventions = [Convention("x", clip=clip) for clip in (None, 0.1)]
    free, clipped = (compared(3, 1, ["equal", "rotograd"], convention=c) for c in conventions)
    assert (free.gram[0].diagonal()[:2] > 0.01).all()
    assert clipped.gram[0].diagonal()[:2].tolist() == pytest.approx([0.01, 0.01], rel=1e-4)


def test_a_rotation_learns_while_the_network_follows_the_plain_sum():
    start = compared(2, 1, ["rotate_only"])
    assert start.angles()[0, 0] < 1e-4  # at the identity it is the plain sum
    slow, fast = (compared(2, 30, ["rotate_only"], rate=rate) for rate in (1e-3, 1.0))
    assert slow.angles()[-1, 0] < 0.05 < 0.5 < fast.angles()[-1, 0]


def test_random_numbers_of_one_method_change_no_other():
    alone, among = compared(3, 3, ["rlw"]), compared(3, 3, ["graddrop", "pcgrad", "rlw"])
    torch.testing.assert_close(alone.lengths()[:, 0], among.lengths()[:, 2])
    weights = torch.linalg.solve(alone.gram[:, 1:, 1:], alone.gram[:, 1:, 0])
    assert weights.std(0).min() > 0.01  # and the random numbers differ from step to step
    other = compared(3, 3, ["rlw"], seed=1)
    assert (other.lengths() - alone.lengths()).abs().max() > 0.01


def test_a_method_that_refuses_is_left_out_with_the_reason(made_up):
    def impossible(size):
        return None

    made_up("late", lambda: Calls(refuses_at=3))
    made_up("never", impossible)
    comparison = compared(2, 4, ["pcgrad", "late", "never", "mgda"])
    without = compared(2, 4, ["pcgrad", "mgda"])
    assert comparison.names == ["pcgrad", "mgda"] and comparison.reasons["late"] == "not this step"
    assert "missing 1 required positional argument: 'size'" in comparison.reasons["never"]
    torch.testing.assert_close(comparison.gram, without.gram)
    with pytest.raises(ValueError, match="nothing to compare: not this step"):
        compared(2, 4, ["late"])
    with pytest.raises(ValueError, match="there were no batches"):
        compared(2, 0)


def test_arguments_that_have_no_default():
    assert arguments(METHODS["static"], 3) == {"weights": [1.0, 1.5, 2.0]}
    assert arguments(METHODS["rotograd"], 3, 50) == {"rotation_size": 50} and arguments(METHODS["mgda"], 3, 50) == {}


# --- who does the same


def listed(same, *where):
    return {i.names for i in IDENTITIES if i.where in where and (same == "direction" or i.same == "vector")}


@pytest.mark.parametrize("K, where", [(2, ("anywhere", "two tasks")), (3, ("anywhere",))])
def test_all_take_part_and_coincide_as_listed(K, where):
    comparison = compared(K, 10)
    M = len(METHODS)
    assert comparison.names == list(METHODS) and comparison.reasons == {}
    assert comparison.gram.shape == (10, M + K, M + K)
    assert torch.isfinite(comparison.gram).all()
    waiting = {("equal", "dwa")}  # the sum, until there are two windows of losses
    for same in ("vector", "direction"):
        assert set(comparison.coincide(same)) == listed(same, *where) | waiting, same
    assert compared(K, 52, ["equal", "dwa"]).coincide("direction") == []


def test_on_a_landscape_the_features_are_the_parameters():
    landscape, run = LANDSCAPES["uneven_bowls"], {"steps": 12, "convention": "plain"}
    chosen = [n for n in METHODS if any(n in i.names for i in IDENTITIES)]
    paths_of, reasons = paths(landscape, landscape.starts[:2], chosen, **run)
    rotations = {n for n in chosen if METHODS[n].kind == "feature rotation"}
    assert rotations and set(paths_of) == set(chosen) - rotations and set(reasons) == rotations
    assert all("a landscape has none" in reason for reason in reasons.values())
    distances = {(a, b): paths_of[a].points - paths_of[b].points for a, b in combinations(paths_of, 2)}
    same = {pair for pair, distance in distances.items() if distance.abs().max() < 1e-9}
    assert same == listed("vector", "two tasks", "anywhere", "features are the parameters")


def test_a_method_that_cannot_descend_leaves_the_others_their_paths():
    landscape, run = LANDSCAPES["samgs_1"], {"steps": 3, "optimizer": "sgd", "learning_rate": 0.01}
    paths_of, reasons = paths(landscape, [(3.0, -8.0)], ["equal", "log_sum", "mgda"], **run)
    assert reasons == {"log_sum": "the sum of logs needs positive losses"} and list(paths_of) == ["equal", "mgda"]
    for name, path in paths(landscape, [(3.0, -8.0)], ["equal", "mgda"], **run)[0].items():
        alone = trajectories(landscape, [(3.0, -8.0)], name, **run)
        assert torch.equal(path.points, alone.points) and torch.equal(path.points, paths_of[name].points)


def test_identities_name_methods():
    for identity in IDENTITIES:
        assert set(identity.names) <= set(METHODS) and len(identity.names) > 1
        assert identity.same in ("vector", "direction")
        assert identity.where in ("anywhere", "two tasks", "features are the parameters")


def test_losses_after_the_step_are_those_of_the_same_dropout_masks():
    """Of a step that moves nothing they are the losses before it."""
    problem, model, seen = small_problem(2), small_model(2), []
    model.trunk.append(nn.Dropout(0.5))
    model.trunk[-1].register_forward_hook(lambda _, __, out: seen.append(out.detach().clone()))
    compare(model, problem.tasks, batches(problem, 2), names=["equal", "famo"], learning_rate=0.0)
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[-2], seen[-1])
    assert not torch.equal(seen[0], seen[-1]), "and others at the next step"
