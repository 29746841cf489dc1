"""Loss weightings that adapt: they move within ten steps, obey the convention's optimizer, and go where they should."""

import math

import pytest
import torch
from engine import after, small_model, small_problem, step_of, take
from torch.nn import functional as F

from mtl_core import methods
from mtl_core.methods import CONVENTIONS, METHODS, Convention
from mtl_core.methods._state import check_positive
from mtl_core.methods.backward import task_weights

OWN = [n for n, spec in METHODS.items() if spec.learns]
ADAPTIVE = [*OWN, "famo", "dwa"]
PLAIN = CONVENTIONS["plain"]


def make(name):
    return methods.make(name, **({"window": 2} if name == "dwa" else {}))


def weights_in_training(name, convention=PLAIN, steps=10, observed=False):
    problem, model, method = small_problem(3), small_model(3), make(name)
    balancer, batch = step_of(name, model, convention, observed, method), problem.train.batch(slice(0, 48))
    optimizer, found = torch.optim.SGD(model.parameters(), 0.1), []
    for _ in range(steps):
        take(balancer, model, problem.tasks, batch)
        optimizer.step()
        after(balancer, model, problem.tasks, batch)
        if METHODS[name].learns:
            found.append(getattr(method, method.learned).detach().clone())
        elif name == "famo":
            found.append(method._w.detach().clone())
        else:
            found.append(method._compute_weights(torch.ones(3, dtype=torch.float64)))
    return torch.stack(found)


@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.parametrize("name", ADAPTIVE)
def test_adaptive_weights_move_within_ten_steps(name, observed):
    found = weights_in_training(name, observed=observed)
    assert found.dtype == torch.float64 and (found[-1] - found[0]).abs().max() > 1e-3
    assert (found[-1][:, None] - found[-1]).abs().max() > 1e-4  # and not all alike


@pytest.mark.parametrize("name", OWN)
def test_the_conventions_optimizer_moves_them(name):
    still = weights_in_training(name, Convention("x", own_optimizer=None))
    start = 1.0 if name == "gradnorm" else 0.0
    assert torch.equal(still, torch.full_like(still, start))  # as in code that gives them to no optimizer
    slow, fast = (weights_in_training(name, Convention("x", own_optimizer=("sgd", rate))) for rate in (0.001, 0.002))
    if name != "gradnorm":  # which rescales its weights
        torch.testing.assert_close(2 * slow[0], fast[0], rtol=1e-9, atol=0)
        adam = weights_in_training(name)
        assert (adam[0] - start).abs().max() == pytest.approx(0.025, rel=1e-6)  # Adam's first step is the rate


def test_gradients_of_own_parameters_do_not_pile_up():
    for observed in (False, True):
        found = weights_in_training("imtl_l", Convention("x", own_optimizer=("sgd", 0.01)), 3, observed)
        problem, model = small_problem(3), small_model(3)
        s, optimizer = torch.zeros(3, dtype=torch.float64), torch.optim.SGD(model.parameters(), 0.1)
        for step in range(3):
            inputs, targets = problem.train.batch(slice(0, 48))
            losses = torch.stack([F.cross_entropy(o, t) for o, t in zip(model(inputs), targets, strict=True)])
            optimizer.zero_grad()
            (s.exp() * losses).sum().backward()
            optimizer.step()
            s = s - 0.01 * (s.exp() * losses.detach() - 1)
            torch.testing.assert_close(found[step], s, rtol=1e-9, atol=1e-12)


def settle(name, losses, steps=3000, rule=("sgd", 0.05)):
    method, J = make(name), torch.eye(len(losses), dtype=torch.float64)
    losses, convention = torch.tensor(losses, dtype=torch.float64), Convention("x", own_optimizer=rule)
    for _ in range(steps):
        weights = task_weights(method, METHODS[name], convention, J, losses)
    return weights


def test_where_learnt_weights_settle_when_losses_stand_still():
    losses = [0.5, 1.0, 4.0]
    expected = 1 / torch.tensor(losses, dtype=torch.float64)
    torch.testing.assert_close(settle("imtl_l", losses), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(settle("uncertainty", losses), expected / 2, rtol=1e-6, atol=0)


def test_gradnorm_brings_norms_to_one_scale():
    method, J = methods.make("gradnorm", alpha=0.0), torch.diag(torch.tensor([1.0, 2.0, 4.0]).double())
    for _ in range(3000):
        weights = task_weights(
            method,
            METHODS["gradnorm"],
            Convention("x", own_optimizer=("sgd", 1e-4)),
            J,
            torch.ones(3, dtype=torch.float64),
        )
    assert weights.sum().item() == pytest.approx(3)
    norms = weights * torch.tensor([1.0, 2.0, 4.0])
    torch.testing.assert_close(norms, norms.mean().expand(3), rtol=0.05, atol=0)  # it oscillates by the rate
    # a task that trains slowly gets more
    slow = methods.make("gradnorm")
    for losses in ([1.0, 1.0], [1.0, 0.1]):
        task_weights(slow, METHODS["gradnorm"], PLAIN, torch.eye(2), torch.tensor(losses))
    assert slow.weights[0] > 1 > slow.weights[1]


def test_gradnorm_keeps_weights_positive():
    method = methods.make("gradnorm")
    J = torch.diag(torch.tensor([1.0, 1e3]).double())
    for _ in range(40):
        task_weights(
            method, METHODS["gradnorm"], Convention("x", own_optimizer=("sgd", 1.0)), J, torch.ones(2).double()
        )
        assert (method.weights > 0).all() and method.weights.sum().item() == pytest.approx(2)


def test_dwa_by_hand():
    method, ones = methods.make("dwa", window=2, temperature=1.0), torch.ones(2, dtype=torch.float64)
    windows = [([1.0, 4.0], [3.0, 4.0]), ([1.0, 2.0], [1.0, 2.0])]  # means (2, 4), then (1, 2): ratios 1/2 and 1/2
    for window in windows:
        for losses in window:
            weights = task_weights(method, METHODS["dwa"], PLAIN, torch.eye(2), torch.tensor(losses).double())
            assert torch.equal(weights, ones)
    for losses in ([1.0, 1.0], [1.0, 1.0]):
        weights = task_weights(method, METHODS["dwa"], PLAIN, torch.eye(2), torch.tensor(losses).double())
        torch.testing.assert_close(weights, ones)  # equal ratios
    weights = task_weights(method, METHODS["dwa"], PLAIN, torch.eye(2), torch.tensor([1.0, 1.0]).double())
    expected = 2 * torch.softmax(torch.tensor([1.0, 0.5]).double(), 0)  # ratios 1/1 and 1/2
    torch.testing.assert_close(weights, expected, rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match="at least one step, got 0"):
        methods.make("dwa", window=0)


def test_famo_follows_the_slower_task():
    method = methods.make("famo", decay=0.0)
    before = torch.tensor([1.0, 1.0]).double()
    for _ in range(20):
        method(before)
        method.update(torch.tensor([0.5, 0.9]).double())  # task 0 improves faster
    logits = method._w.detach()
    assert logits[0] < -0.1 and logits[1] > 0.1
    weights = task_weights(method, METHODS["famo"], PLAIN, torch.eye(2), before)
    assert weights.sum().item() == pytest.approx(1)
    kept = method._w.detach().clone()
    method.update(torch.tensor([float("nan"), 1.0]).double())  # the next step reports it
    assert torch.equal(kept, method._w)
    with pytest.raises(ValueError, match="FAMO needs positive losses; not positive: task 1"):
        method.update(torch.tensor([1.0, 0.0]).double())
    assert methods.make("famo").lr == 0.025 and methods.make("famo", rate=0.5).lr == 0.5
    assert methods.make("famo").weight_decay == 1e-3 and methods.make("famo", **METHODS["famo"].presets["famo"])


def test_stch_is_a_smooth_maximum_for_any_number_of_tasks():
    for K in (1, 3):
        losses = torch.linspace(0.5, 1.0, K).double()
        value = methods.make("stch", mu=0.1)(losses)
        assert value.item() == pytest.approx(0.1 * math.log(sum(math.exp(x / 0.1) for x in losses.tolist())), rel=1e-12)
    sharp = task_weights(methods.make("stch", mu=1e-3), METHODS["stch"], PLAIN, torch.eye(2), torch.tensor([1.0, 2.0]))
    assert torch.equal(sharp, torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match="no argument 'weights'. It takes: mu$"):  # its preferences mean 1/K
        methods.make("stch", weights=[1.0, 2.0])


def test_geometric_mean_and_rlw():
    weights = task_weights(
        make("geometric_mean"), METHODS["geometric_mean"], PLAIN, torch.eye(2), torch.tensor([2.0, 8.0]).double()
    )
    torch.testing.assert_close(weights, torch.tensor([1.0, 0.25]).double())  # 4 / (2 * 2), 4 / (2 * 8)
    torch.manual_seed(0)
    drawn = torch.stack(
        [task_weights(make("rlw"), METHODS["rlw"], PLAIN, torch.eye(2), torch.ones(2)) for _ in range(400)]
    )
    torch.testing.assert_close(drawn.sum(1), torch.ones(400))
    assert (drawn > 0).all() and abs(drawn[:, 0].mean() - 0.5) < 0.05 and drawn[:, 0].std() > 0.1


@pytest.mark.parametrize("name", OWN)
def test_another_number_of_tasks_is_refused(name):
    method = make(name)
    for K in (2, 3):
        losses, J = torch.ones(K), torch.eye(K)
        if K == 3:
            with pytest.raises((ValueError, RuntimeError), match=r"shape \(2,\), got \(3,\)|must match"):
                task_weights(method, METHODS[name], PLAIN, J, losses)
        else:
            task_weights(method, METHODS[name], PLAIN, J, losses)


@pytest.mark.parametrize("name", ["imtl_l", "gradnorm", "famo", "dwa"])
def test_a_state_loaded_into_a_used_instance_replaces_what_it_had_learnt(name):
    """And it is a copy: the giver goes on first."""

    def step(method, losses):
        weights = task_weights(method, METHODS[name], PLAIN, torch.diag(torch.tensor([1.0, 3.0])), torch.tensor(losses))
        if name == "famo":
            method.update(torch.tensor([0.9 * losses[0], losses[1]]))
        return weights

    one, other = make(name), make(name)
    for method, losses in ((one, [1.0, 5.0]), (other, [7.0, 0.1])):
        for number in range(5):
            step(method, [losses[0] / (1 + number), losses[1]])
    other.load_state_dict(one.state_dict())
    first, second = ([step(method, [2.0, 4.0 - number]) for number in range(4)] for method in (one, other))
    assert torch.equal(torch.stack(first), torch.stack(second))


def test_positive_names_the_tasks():
    check_positive(torch.tensor([1.0, 1e-30]), "x")
    with pytest.raises(ValueError, match="^x needs positive losses; not positive: task 0, 2$"):
        check_positive(torch.tensor([0.0, 1.0, -1.0]), "x")
    with pytest.raises(ValueError, match="task 1"):
        check_positive(torch.tensor([1.0, float("nan")]), "x")
