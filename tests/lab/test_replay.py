"""A replayed training is that of `training.fit`, and observing it changes nothing."""

from dataclasses import replace

import pytest
import torch

from mtl_core.training import loop, schedule
from mtl_lab.probes.replay import _batches, replay
from mtl_lab.runs import build
from mtl_lab.runs.run import Run

SCHEDULE = {"epochs": 2, "batch_size": 64, "learning_rate": 0.05}
RUN = Run("multi_fashion_mnist", {"profile": "tiny", "train": 160}, model="lenet", schedule=SCHEDULE, seed=3)


def test_it_is_the_training_of_fit():
    problem = build.load_problem(RUN)
    model = build.build_model(RUN, problem)
    history = loop.fit(model, problem, "equal", schedule.Schedule(**RUN.schedule), seed=RUN.seed)
    seen = [s.losses for s in replay(RUN, 4)]
    for epoch in (0, 1):  # 160 examples make two batches of 64
        expected = torch.tensor(list(history.epochs[epoch]["train_loss"].values()))
        mean = torch.stack(seen[2 * epoch : 2 * epoch + 2]).mean(0).float()
        torch.testing.assert_close(mean, expected, rtol=1e-6, atol=0)


def test_losses_after_the_step_and_gradients():
    problem = build.load_problem(RUN)
    inputs, targets = problem.train.batch(next(_batches(len(problem.train), 64, RUN.seed, 1)))
    model = build.build_model(RUN, problem)
    optimizer, _ = schedule.Schedule(**RUN.schedule).make(model.parameters())
    losses = [task.loss(o, t) for task, o, t in zip(problem.tasks, model(inputs), targets, strict=True)]
    gradients = [torch.autograd.grad(x, list(model.trunk.parameters()), retain_graph=True) for x in losses]
    sum(losses).backward()
    optimizer.step()
    after = [task.loss(o, t).item() for task, o, t in zip(problem.tasks, model(inputs), targets, strict=True)]
    (seen,) = replay(RUN, 1)
    assert seen.after.tolist() == pytest.approx(after, rel=1e-6)
    assert seen.after.sum() < seen.losses.sum()
    expected = torch.stack([torch.cat([g.flatten() for g in parts]) for parts in gradients])
    torch.testing.assert_close(seen.gradients.matrix, expected, rtol=1e-4, atol=1e-7)


def test_losses_after_the_step_leave_running_statistics_unchanged():
    run = replace(RUN, model="resnet18", model_options={"width": 4})
    problem = build.load_problem(run)
    model = build.build_model(run, problem)
    once = replace(run, schedule=run.schedule | {"epochs": 1})
    history = loop.fit(model, problem, "equal", schedule.Schedule(**once.schedule), seed=run.seed)
    mean = torch.stack([s.losses for s in replay(run, 2)]).mean(0).float()
    expected = torch.tensor(list(history.epochs[0]["train_loss"].values()))
    torch.testing.assert_close(mean, expected, rtol=1e-5, atol=0)
    kept = {}
    for count in (1, 2):
        for _ in (walk := replay(run, count)):
            trunk = walk.gi_frame.f_locals["model"].trunk
        kept[count] = trunk.state_dict()["bn1.num_batches_tracked"].item()
    assert kept == {1: 1, 2: 2}


def test_batches():
    batches = list(_batches(10, 4, 0, 5))
    assert len(batches) == 5 and all(len(b) == 4 for b in batches)
    assert len(set(torch.cat(batches[:2]).tolist())) == 8 and not torch.equal(batches[0], batches[2])
    assert list(_batches(10, 4, 0, 0)) == []
    with pytest.raises(ValueError, match="a batch of 4 needs as many examples; there are 3"):
        list(_batches(3, 4, 0, 1))
