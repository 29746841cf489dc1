"""The training loop: resuming, pairing, divergence, what is read and when."""

import io
import math
from dataclasses import replace

import pytest
import torch

from mtl_core import methods, models
from mtl_core.data.problem import Problem, Split, classification
from mtl_core.training import loop
from mtl_core.training.schedule import Schedule
from mtl_lab.runs.conflict_log import ConflictLog

torch.set_num_threads(1)


def conflicting_problem(K=2, examples=96, seed=0):
    """Random pictures whose labels disagree: task gradients conflict, nothing to download."""
    draw = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (examples, 1, 20, 20), dtype=torch.uint8, generator=draw)
    labels = tuple(torch.randint(0, 4, (examples,), generator=draw) for _ in range(K))
    split = Split(images, labels)
    tasks = tuple(classification(f"task {k}", 4) for k in range(K))
    return Problem(tasks, split, split, split, {"synthetic": True})


PROBLEM = conflicting_problem()
SCHEDULE = Schedule(epochs=3, batch_size=32, learning_rate=0.05, decay="cosine")
OPTIONS = {"static": {"weights": [0.3, 0.7]}}
OPTIONS |= {name: {"rotation_size": 8} for name, spec in methods.METHODS.items() if spec.kind == "feature rotation"}


def new_model(seed=0):
    return models.build("lenet", PROBLEM.tasks, seed=seed, size=20, features=8)


def train(method="equal", schedule=SCHEDULE, problem=PROBLEM, model=None, **more):
    model = model or new_model()
    options = {"method_options": OPTIONS.get(method, {})} | more
    return model, loop.fit(model, problem, method, schedule, **options)


def outcome(history):
    """What must not depend on interruptions: everything but the clock."""
    epochs = [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in history.epochs]
    return epochs, history.diverged, history.steps, history.trunk_backward_passes


class Cut(Exception):
    """The end of a run, before its time."""


@pytest.mark.parametrize("method", list(methods.METHODS))
def test_a_cut_off_run_ends_where_the_undisturbed_one_ends(method):
    convention = "samgs" if method == "sam_gs" else "plain"
    optimizer = Schedule(epochs=3, batch_size=32, learning_rate=0.01, optimizer="adam", decay="cosine")

    def run(**more):
        log = ConflictLog(2)
        model, history = train(method, optimizer, convention=convention, observers=[log], **more)
        return model, history, log

    kept = io.BytesIO()

    def cut(training):
        if len(training.history.epochs) == 2:
            torch.save(training.state(), kept)
            raise Cut

    whole, wanted, wanted_log = run()
    with pytest.raises(Cut):
        run(after_epoch=cut)
    torch.rand(7)  # whatever else drew from the generator in between
    kept.seek(0)
    resumed, found, log = run(start=torch.load(kept, weights_only=True))
    assert outcome(found) == outcome(wanted)
    assert log.summary() == wanted_log.summary()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_rows_are_paired():
    """All methods start at the same weights and see the same batches."""
    seen = {}
    for method in ("equal", "mgda", "graddrop"):
        batches = []

        class Recorded(Split):
            def batch(self, index, batches=batches):
                batches.append(index)
                return super().batch(index)

            def to(self, device):
                return self

        problem = Problem(
            PROBLEM.tasks,
            Recorded(PROBLEM.train.inputs, PROBLEM.train.targets),
            PROBLEM.validation,
            PROBLEM.test,
            PROBLEM.source,
        )
        _, history = train(method, problem=problem)
        seen[method] = torch.cat([b for b in batches if isinstance(b, torch.Tensor)])
    assert torch.equal(seen["equal"], seen["mgda"]) and torch.equal(seen["equal"], seen["graddrop"])
    assert sorted(seen["equal"][:96].tolist()) == list(range(96)), "each example once an epoch"
    assert not torch.equal(seen["equal"][:96], seen["equal"][96:192]), "each epoch in another order"


def test_the_global_generator_is_put_back():
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    train("graddrop")
    assert torch.equal(torch.rand(3), wanted)


def test_another_seed_gives_another_run_and_the_same_seed_the_same():
    first, again, other = (train("graddrop", seed=s)[1] for s in (1, 1, 2))
    assert outcome(first) == outcome(again)
    assert outcome(first) != outcome(other)


@pytest.mark.parametrize("method", ["mgda", "sam_gs"])
def test_observing_changes_nothing(method):
    plain, observed = train(method)[1], train(method, observers=[ConflictLog(2)])[1]
    assert outcome(plain) == outcome(observed)


@pytest.mark.parametrize("method", ["equal", "static", "log_sum"])
def test_a_loss_weighting_takes_one_backward_pass_and_the_same_steps(method):
    few, history = train(method)
    many, observed = train(method, observers=[ConflictLog(2)])
    assert (history.trunk_backward_passes, observed.trunk_backward_passes) == (9, 18)
    for a, b in zip(few.parameters(), many.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_diverged_run_is_kept_with_its_last_finite_epoch():
    model, history = train("mgda", Schedule(epochs=3, batch_size=32, learning_rate=1e12))
    assert history.diverged is not None and len(history.epochs) < 3
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("epoch", [1, 2])
def test_weights_that_blow_up_in_the_last_step_of_an_epoch_end_the_run(epoch, monkeypatch):
    """Its gradients were finite; validation shows it, and the epoch before is what remains."""
    wanted, _ = train(schedule=replace(SCHEDULE, epochs=epoch, decay="constant"))
    steps, batches = [], len(PROBLEM.train) // SCHEDULE.batch_size
    step = torch.optim.SGD.step

    def blow_up(self, *arguments):
        steps.append(step(self, *arguments))
        if len(steps) == (epoch + 1) * batches:
            with torch.no_grad():
                self.param_groups[0]["params"][-1].fill_(math.inf)

    monkeypatch.setattr(torch.optim.SGD, "step", blow_up)
    model, history = train(schedule=replace(SCHEDULE, decay="constant"))
    assert history.diverged["epoch"] == len(history.epochs) == epoch and history.diverged["step"] == batches
    assert "task 1, loss" in history.diverged["message"]
    assert all(map(torch.equal, model.parameters(), wanted.parameters())), "the weights of the last finite epoch"


def test_nan_in_the_first_batch_ends_at_the_initial_weights():
    images = PROBLEM.train.inputs.float()
    images[:] = math.nan
    bad = Problem(PROBLEM.tasks, Split(images, PROBLEM.train.targets), PROBLEM.validation, PROBLEM.test, PROBLEM.source)
    for method in ("equal", "pcgrad"):
        model, history = train(method, problem=bad)
        assert history.diverged["epoch"] == 0 and history.diverged["step"] == 0
        assert "task" in history.diverged["message"]
        for a, b in zip(model.parameters(), new_model().parameters(), strict=True):
            assert torch.equal(a, b)


def test_evaluate_counts_every_example_once():
    model = new_model().eval()
    inputs, targets = PROBLEM.test.batch(slice(None))
    with torch.no_grad():
        right = [(o.argmax(1) == t).double().mean().item() * 100 for o, t in zip(model(inputs), targets, strict=True)]
    found = loop.evaluate(model, PROBLEM.tasks, PROBLEM.test, batch_size=36)  # 96 = 36 + 36 + 24
    assert [found[f"task {k}"]["accuracy"] for k in range(2)] == pytest.approx(right, rel=1e-6)


def test_schedules():
    rates = []
    parameter = [torch.nn.Parameter(torch.zeros(1))]
    optimizer, scheduler = Schedule(epochs=4, learning_rate=1.0, decay=[1, 3]).make(parameter)
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([1, 0.1, 0.1, 0.01])
    for wrong in ({"epochs": 0}, {"epochs": 1, "optimizer": "lion"}, {"epochs": 1, "decay": "linear"}):
        with pytest.raises(ValueError, match="epochs|optimizer|decay"):
            Schedule(**wrong)
    with pytest.raises(ValueError, match="batch of 200"):
        train(schedule=Schedule(epochs=1, batch_size=200))


def test_a_cpu_run_wakes_no_gpu(monkeypatch):
    asked, fork = [], torch.random.fork_rng

    def recorded(devices=None, **more):
        asked.append(devices)
        return fork(devices, **more)

    monkeypatch.setattr(torch.random, "fork_rng", recorded)
    train(schedule=replace(SCHEDULE, epochs=1))
    assert asked and all(devices == [] for devices in asked)  # None would be every GPU


def test_problems_that_could_not_be_judged_are_refused():
    for tasks, said in (
        ((PROBLEM.tasks[0], PROBLEM.tasks[0]), "tasks need different names, got task 0, task 0"),
        ((PROBLEM.tasks[0], replace(PROBLEM.tasks[1], metrics={})), "judged by its metrics, task 1 has none"),
    ):
        with pytest.raises(ValueError, match=said):
            replace(PROBLEM, tasks=tasks)


def test_examples_that_could_not_be_judged_are_refused():
    """No examples have no metric; a label that is no class would be an assertion of the GPU, without its task."""
    inputs, (first, second) = PROBLEM.test.inputs, PROBLEM.test.targets
    classes = PROBLEM.tasks[0].outputs
    with pytest.raises(ValueError, match="test has no examples"):
        replace(PROBLEM, test=Split(inputs[:0], (first[:0], second[:0])))
    for label in (classes, -1):
        wrong = torch.cat([first[:-1], torch.tensor([label])])
        with pytest.raises(ValueError, match=f"task 0: expected classes 0 to {classes - 1}, test has labels from"):
            replace(PROBLEM, test=Split(inputs, (wrong, second)))
    without = torch.full_like(first, -100)  # what cross-entropy leaves out
    assert replace(PROBLEM, test=Split(inputs, (without, second)))


def test_a_model_with_rotations_is_not_trained_by_its_task_gradients():
    model, _ = train("rotograd", replace(SCHEDULE, epochs=1))
    with pytest.raises(ValueError, match="rotations of an earlier fit"):
        train("pcgrad", model=model)
