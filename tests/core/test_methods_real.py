"""Every method on the real two-task problem at `tiny`, through the one call that the book's tables make."""

from dataclasses import replace

import pytest
import torch

from mtl_core import models
from mtl_core.methods import METHODS
from mtl_core.training import loop, schedule
from mtl_lab.probes.update_comparison import arguments
from mtl_lab.runs import build, run

RUN = run.Run("multi_fashion_mnist", {"profile": "tiny", "train": 64}, model="lenet", schedule={"epochs": 2}, seed=1)
PROBLEM = build.load_problem(RUN)
PROBLEM = replace(PROBLEM, validation=PROBLEM.train)  # 64 pictures, which are quick to look at
SCHEDULE = schedule.Schedule(epochs=2, batch_size=32, learning_rate=0.01)
SIZE = 8  # features


def train(name, **more):
    model = models.build("lenet", PROBLEM.tasks, seed=1, size=36, features=SIZE)
    start = [p.detach().clone() for p in model.parameters()]
    history = loop.fit(model, PROBLEM, name, SCHEDULE, method_options=arguments(METHODS[name], 2, SIZE), seed=1, **more)
    moved = [not torch.equal(one, other) for one, other in zip(start, model.parameters(), strict=False)]
    return model.state_dict(), history, moved


@pytest.mark.parametrize("name", METHODS)
def test_trains(name):
    _, history, moved = train(name)
    assert history.diverged is None and history.steps == 4 and all(moved)


def test_the_problem_is_real():
    assert PROBLEM.source["synthetic"] is False and len(PROBLEM.tasks) == 2
