"""Every method trains by name, and meets NaN, one task and stationary points."""

import pytest
import torch
from engine import combined, conflicting, fresh, small_model, small_problem, step_of, take
from parity_table import ours, steps_of
from torch import nn

from mtl_core import methods
from mtl_core.data.problem import Problem, Split
from mtl_core.gradients import NonFiniteGradientError
from mtl_core.methods import CONVENTIONS, METHODS
from mtl_core.methods.backward import task_weights
from mtl_core.tasks import Task
from mtl_core.training import loop
from mtl_core.training.schedule import Schedule
from mtl_lab.figures import method_card

NAMES = [n for n, spec in METHODS.items() if spec.kind != "feature rotation"]
AGGREGATIONS = [n for n in NAMES if METHODS[n].kind == "gradient aggregation"]


def options(name, K):
    return {"static": {"weights": [1.0 + k / 2 for k in range(K)]}, "dwa": {"window": 2}}.get(name, {})


def one_task(problem):
    def first(split):
        return Split(split.inputs, split.targets[:1])

    return Problem(problem.tasks[:1], first(problem.train), first(problem.train), first(problem.train), problem.source)


def fit(name, epochs, K=2, rate=0.05, dropout=0.0, **more):
    problem, model = small_problem(max(K, 2)), small_model(K, batch_norm=True)
    if dropout:
        model.trunk.append(nn.Dropout(dropout))
    problem = one_task(problem) if K == 1 else problem
    schedule = Schedule(epochs=epochs, batch_size=16, learning_rate=rate)
    history = loop.fit(
        model,
        problem,
        name,
        schedule,
        method_options=options(name, K),
        seed=3,
        **more,
    )
    return model, history


@pytest.mark.parametrize("name", NAMES)
def test_trains(name):
    _, history = fit(name, 4, dropout=0.2)
    assert history.diverged is None and len(history.epochs) == 4
    first, last = (sum(history.epochs[e]["train_loss"].values()) for e in (0, -1))
    assert last < first
    cost = method_card.extra_passes(METHODS[name], 2)
    assert history.trunk_backward_passes == history.steps * (1 + cost["backward"])


@pytest.mark.parametrize("name", NAMES)
def test_state_of_a_used_method_loads_into_a_fresh_one(name, tmp_path):
    """Twelve steps with one instance, or six, a saved state, and six with another: the same updates."""
    steps = steps_of(3) + steps_of(3, seed=50)
    torch.manual_seed(1)
    expected = ours(name, steps)
    torch.manual_seed(1)
    used = fresh(name, 3, **({"window": 2} if name == "dwa" else {}))
    first = ours(name, steps[:6], method=used)
    torch.save(used.state_dict(), tmp_path / "state.pt")
    other = fresh(name, 3, **({"window": 2} if name == "dwa" else {}))
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    ours(name, steps[:6], method=used)  # the loaded state must be a copy
    torch.manual_seed(1)
    ours(name, steps[:6])  # torch's generator, which a checkpoint holds, where it was
    second = ours(name, steps[6:], method=other)
    for one, two in zip(expected, first + second, strict=True):
        assert (one == two).all()


STATEFUL = {"dwa", "uncertainty", "gradnorm", "imtl_l", "famo", "gradvac", "moco", "db_mtl", "autoscale", "sam_gs"}


def test_which_methods_have_a_state():
    """A fresh instance in the middle gives other updates exactly where there is a state to forget."""
    steps, found = steps_of(3) + steps_of(3, seed=50), set()
    for name in NAMES:
        torch.manual_seed(1)
        whole = ours(name, steps)
        torch.manual_seed(1)
        parts = ours(name, steps[:6]) + ours(name, steps[6:])
        if any((one != two).any() for one, two in zip(whole, parts, strict=True)):
            found.add(name)
    assert found == STATEFUL


@pytest.mark.parametrize("name", NAMES)
def test_one_task(name):
    model, history = fit(name, 2, K=1)
    assert history.diverged is None and history.epochs[1]["train_loss"]["t0"] < history.epochs[0]["train_loss"]["t0"]


def spoilt(bad, where):
    """Three tasks of which one has a loss, or a gradient, that is not finite."""

    def loss(output, target):
        value = nn.functional.cross_entropy(output, target)
        if where == "gradient":
            return value + (output * 0).sum().abs().sqrt()  # its slope at 0 is inf
        return value * bad if where == "loss" else value + bad  # the second has a finite gradient

    problem = small_problem(3)
    tasks = list(problem.tasks)
    tasks[1] = Task("spoilt", 3, loss, tasks[1].metrics)
    return tuple(tasks), problem.train


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "bad, where", [(float("nan"), "loss"), (float("inf"), "loss"), (0.0, "gradient"), (float("nan"), "loss alone")]
)
def test_what_is_not_finite_is_an_error_that_names_the_task(name, bad, where):
    tasks, train = spoilt(bad, where)
    for observed in (False, True):
        model = small_model(3)
        if where == "gradient" and METHODS[name].level == "losses" and not observed:
            continue  # a backward pass of one scalar does not see the tasks: the next step's loss reports it
        with pytest.raises(NonFiniteGradientError, match="of 'spoilt'"):
            take(step_of(name, model, observed=observed), model, tasks, train.batch(slice(0, 16)))


POSITIVE = {"log_sum", "geometric_mean", "famo", "gradnorm", "db_mtl"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [0.0, -1.0])
def test_losses_that_are_not_positive(name, bad):
    """A defined update, or an error that names the task."""
    if name in POSITIVE:
        with pytest.raises(ValueError, match="positive losses, or None for absent tasks; got 'task 1'$"):
            combined(name, conflicting(3), offsets=[1.0, bad, 2.0])
    else:
        assert torch.isfinite(combined(name, conflicting(3), offsets=[1.0, bad, 2.0])[0]).all()


@pytest.mark.parametrize("name", AGGREGATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_equal_parallel_and_opposite_gradients(name, dtype):
    g = torch.tensor([0.3, -0.7, 2.0], dtype=dtype)
    zero = torch.zeros_like(g)
    for rows in ([zero, zero], [g, zero], [zero, g, 2 * g], [g, g], [g, 3 * g], [g, -g], [g, -2 * g, zero], [zero]):
        J = torch.stack(rows)
        torch.manual_seed(0)
        method = fresh(name, len(J))
        for _ in range(3):
            update = method(J, J.new_ones(len(J))) if name == "db_mtl" else method(J)
            assert update.shape == g.shape and update.dtype == dtype and torch.isfinite(update).all(), rows
            if name not in ("graddrop", "sam_gs"):  # the others stay on the line on which all gradients lie
                assert (update - (update @ g) / (g @ g) * g).norm() <= 1e-5 * (1 + update.norm())
        if not J.any():
            assert not update.any()


OTHERS = {"graddrop", "broken"}  # the engine checks J before these see it


@pytest.mark.parametrize("name", [n for n in AGGREGATIONS if n not in OTHERS])
def test_a_direct_call_with_nan_or_infinity_is_refused(name):
    for bad in (float("nan"), float("inf")):
        J = conflicting(3)
        J[2, 1] = bad
        with pytest.raises(NonFiniteGradientError, match="task 2"):
            fresh(name, 3)(J)


def test_weights_are_none_for_what_is_not_a_weighted_sum():
    plain, J = CONVENTIONS["plain"], conflicting(3)
    without = [n for n in AGGREGATIONS if task_weights(fresh(n, 3), METHODS[n], plain, J, J.new_ones(3)) is None]
    assert set(without) == {"norm_equalised", "graddrop", "moco", "db_mtl", "sam_gs", "broken"}
    assert methods.find("scale_invariant") is methods.find("log_sum") and "scale_invariant" not in METHODS
