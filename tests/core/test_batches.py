"""What fit and evaluate read: batches of a DataLoader, of one source for each task, and with missing labels."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mtl_core.data.problem import Problem, Split, regression
from mtl_core.models import MultiTaskModel
from mtl_core.tasks import Task
from mtl_core.training import Schedule, evaluate, fit

NAMES = ("a", "b")
TASKS = tuple(regression(name, "") for name in NAMES)


def model():
    torch.manual_seed(0)
    return MultiTaskModel(nn.Sequential(nn.Linear(6, 8), nn.Tanh()), [nn.Linear(8, 1) for _ in NAMES])


def data(examples=64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(examples, 6, generator=generator), *torch.randn(2, examples, generator=generator)


def masked(predictions, targets):
    there = ~targets.isnan()
    return (predictions.squeeze(1)[there] - targets[there]).square().sum() / there.sum().clamp(min=1)


LABELLED = Task("a", 1, masked, labels=lambda targets: (~targets.isnan()).sum())


def test_a_masked_loss_is_a_mean_over_its_own_labels():
    x, y, _ = data(1000)
    y[10:500], y[:10] = torch.nan, y[:10] + 10
    net = MultiTaskModel(nn.Linear(6, 4), [nn.Linear(4, 1)])
    found = evaluate(net, [LABELLED], Split(x, (y,)), batch_size=500)["a"]["loss"]
    assert found == pytest.approx(masked(net(x)[0].detach(), y).item(), rel=1e-5)


@pytest.mark.parametrize("method", ["equal", "pcgrad", "famo", "mgda_ub", "rotograd"])
def test_a_loader_trains_as_the_same_batches_in_memory(method):
    x, *ys = data()
    batches = [(part, targets) for part, *targets in DataLoader(TensorDataset(x, *ys), 16)]
    options = {"rotation_size": 4} if method == "rotograd" else {}
    ends = []
    for source in (DataLoader(TensorDataset(x, *ys), 16), batches):
        net, start = model(), model()
        problem = Problem(TASKS, source, source, source, {"synthetic": True})
        history = fit(net, problem, method, Schedule(1, 16), method_options=options)
        assert history.diverged is None and history.steps == 4
        assert not torch.equal(net.trunk[0].weight, start.trunk[0].weight)
        ends.append(net.trunk[0].weight)
    assert torch.allclose(*ends)


def test_each_task_has_a_source_of_its_own():
    x, *ys = data()
    source = {"a": [(x[:5], ys[0][:5]), (x[5:9], ys[0][5:9])], "b": [(x[20:27], ys[1][20:27])] * 3}
    history = fit(model(), Problem(TASKS, source, source, source, {"synthetic": True}), "pcgrad", Schedule(1, 16))
    assert history.steps == 2 and set(history.epochs[0]["train_loss"]) == set(NAMES)


def test_a_batch_has_a_target_for_each_task():
    x, y, _ = data()
    source = DataLoader(TensorDataset(x, y), 16)
    with pytest.raises(ValueError, match="one target for each of a, b"):
        fit(model(), Problem(TASKS, source, source, source, {"synthetic": True}), "equal", Schedule(1, 16))


@pytest.mark.parametrize("method", ["equal", "pcgrad", "famo", "rotograd"])
def test_a_batch_without_any_label_is_passed_over(method):
    """Two of eight batches of one example: the epoch's loss is that of the others."""
    x, *ys = data(8)
    for y in ys:
        y[:2] = torch.nan
    tasks = [replace(task, loss=masked, labels=LABELLED.labels) for task in TASKS]
    split, whole, net, start = Split(x, tuple(ys)), Split(x, data(8)[1:]), model(), model()
    options = {"rotation_size": 4} if method == "rotograd" else {}
    history = fit(
        net,
        Problem(tasks, split, whole, whole, {"synthetic": True}),
        method,
        Schedule(1, 1, learning_rate=1e-9),
        method_options=options,
    )
    assert history.diverged is None and history.steps == 8
    for name, y, output in zip(NAMES, ys, start(x), strict=True):
        assert history.epochs[0]["train_loss"][name] == pytest.approx(masked(output, y).item(), rel=1e-4)
