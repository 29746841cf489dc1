"""Losses and metrics of dense tasks against numpy, on a split with holes, an absent class and a smaller last batch."""

import numpy as np
import pytest
import torch
from torch import nn

from mtl_core.data import Problem, dense
from mtl_core.data.problem import Split, higher_is_better
from mtl_core.metrics import delta_m
from mtl_core.models import MultiTaskModel
from mtl_core.training import Schedule, evaluate, fit

N, CLASSES, H, W, BATCH = 7, 5, 6, 8, 3  # batches of 3, 3 and 1
ABSENT = 3  # a class that is neither in targets nor in predictions


class Given(nn.Module):
    """A model whose outputs are its inputs, cut where a task ends."""

    def __init__(self, *widths):
        super().__init__()
        self.widths, self.unused = widths, nn.Parameter(torch.zeros(1))

    def forward(self, inputs):
        return inputs.split(self.widths, 1)


@pytest.fixture(scope="module")
def made():
    """Predictions (N, 5 + 1 + 3, H, W) and targets of the three tasks; image 1 has no label, others unlike many."""
    random = np.random.default_rng(0)
    predictions = random.normal(size=(N, CLASSES + 4, H, W)).astype(np.float32)
    predictions[:, ABSENT] = -99
    labels = random.choice([0, 1, 2, 4], size=(N, H, W))
    depth = random.uniform(0.5, 5, (N, 1, H, W)).astype(np.float32)
    normals = random.normal(size=(N, 3, H, W)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    holes = random.random((N, H, W)) < np.linspace(0.05, 0.9, N)[:, None, None]
    holes[1] = True
    labels[holes], depth[:, 0][holes] = dense.VOID, 0
    normals[0, :, :3, :3] = np.eye(3, dtype=np.float32)[:, :, None]  # along an axis: two zeros do not make a hole
    normals *= ~holes[:, None]
    return predictions, (labels, depth, normals)


def measured(predictions, targets, over, batch_size=BATCH):
    tasks = dense.segmentation(CLASSES, over=over), dense.depth(over=over), dense.normals(over=over)
    split = Split(torch.from_numpy(predictions), tuple(map(torch.from_numpy, targets)))
    return evaluate(Given(CLASSES, 1, 3), tasks, split, batch_size)


def pixels(predictions, targets):
    """task -> numbers of each labelled pixel, in numpy alone."""
    labels, depth, normals = targets
    valid = labels != dense.VOID
    scores, d, n = predictions[:, :CLASSES], predictions[:, CLASSES], predictions[:, CLASSES + 1 :].astype(float)
    scores = np.moveaxis(scores, 1, -1)[valid].astype(float)
    n = n / np.linalg.norm(n, axis=1, keepdims=True)
    cosine = (n * normals).sum(1)[valid]
    error = np.abs(d - depth[:, 0])[valid]
    return {
        "truth": labels[valid],
        "guess": scores.argmax(1),
        "nll": np.log(np.exp(scores).sum(1)) - scores[np.arange(len(scores)), labels[valid]],
        "error": error,
        "relative": error / depth[:, 0][valid],
        "cosine": cosine,
        "angle": np.degrees(np.arccos(cosine)),
    }


def expected(p):
    """The metrics of some pixels."""
    ious = []
    for c in range(CLASSES):
        union = ((p["truth"] == c) | (p["guess"] == c)).sum()
        if union:
            ious.append(((p["truth"] == c) & (p["guess"] == c)).sum() / union)
    angle = np.sort(p["angle"])
    return {
        "semantic": {"mIoU": 100 * np.mean(ious), "pixel accuracy": 100 * (p["truth"] == p["guess"]).mean()},
        "depth": {"absolute error": p["error"].mean(), "relative error": p["relative"].mean()},
        "normals": {
            "mean angle": angle.mean(),
            "median angle": angle[(len(angle) - 1) // 2],
            **{f"within {t}°": 100 * (angle < t).mean() for t in (11.25, 22.5, 30)},
        },
    }


def flat(values, without=("loss",)):
    return {(task, m): v for task, of_task in values.items() for m, v in of_task.items() if m not in without}


GROUPS = {"image": np.arange(N), "batch": np.arange(N) // BATCH, "global": np.zeros(N, int)}


@pytest.mark.parametrize("over", dense.OVER)
def test_losses_and_metrics_are_those_of_numpy(made, over):
    predictions, targets = made
    values, everything = measured(predictions, targets, over), pixels(predictions, targets)
    of_groups = []
    for group in np.unique(GROUPS[over]):
        part = GROUPS[over] == group
        if (targets[0][part] != dense.VOID).any():
            of_groups.append(flat(expected(pixels(predictions[part], tuple(t[part] for t in targets)))))
    assert len(of_groups) == {"image": N - 1, "batch": 3, "global": 1}[over]
    wanted = {key: np.mean([values[key] for values in of_groups]) for key in of_groups[0]}
    assert flat(values) == pytest.approx(wanted, rel=1e-4)
    losses = {"semantic": everything["nll"], "depth": everything["error"], "normals": 1 - everything["cosine"]}
    for task, of_pixels in losses.items():  # a mean over the pixels of the split, whatever the batches
        assert values[task]["loss"] == pytest.approx(of_pixels.mean(), rel=1e-4), task


def test_what_the_published_variants_change(made):
    """The three differ on one and the same split, and only "batch" depends on how it is cut into batches."""
    values = {(over, size): flat(measured(*made, over, size)) for over in dense.OVER for size in (1, BATCH, N)}
    for key in values["image", N]:
        means = [values[over, BATCH][key] for over in dense.OVER]
        assert len({round(mean, 3) for mean in means}) == 3, (key, means)
        for over in ("image", "global"):
            assert values[over, 1][key] == pytest.approx(values[over, BATCH][key], rel=1e-5)
        assert values["batch", 1][key] == pytest.approx(values["image", 1][key], rel=1e-5)
        assert values["batch", N][key] == pytest.approx(values["global", 1][key], rel=1e-5)


def test_pixels_without_a_label_move_nothing(made):
    predictions, targets = made
    tasks = dense.segmentation(CLASSES), dense.depth(), dense.normals()
    hole = targets[0] == dense.VOID
    other = np.where(hole[:, None], predictions + 3, predictions)
    for over in dense.OVER:
        assert measured(predictions, targets, over) == measured(other.astype(np.float32), targets, over)
    inputs = torch.from_numpy(predictions).requires_grad_()
    for task, output, target in zip(
        tasks, inputs.split((CLASSES, 1, 3), 1), map(torch.from_numpy, targets), strict=True
    ):
        assert task.labels(target) == (~hole).sum()
        (gradient,) = torch.autograd.grad(task.loss(output, target), inputs, retain_graph=True)
        gradient = gradient.abs().sum(1).numpy()
        assert (gradient[hole] == 0).all() and (gradient[~hole] > 0).any()
        nothing = task.loss(output[1:2], target[1:2])  # an image without any label: a finite loss, no gradient
        assert nothing == 0 and task.labels(target[1:2]) == 0
        assert torch.autograd.grad(nothing, inputs, retain_graph=True)[0].abs().sum() == 0


def test_normals_are_directions_of_any_length(made):
    predictions, targets = made
    longer = predictions.copy()
    longer[:, CLASSES + 1 :] *= 7
    a, b = (flat(measured(p, targets, "global")) for p in (predictions, longer))
    assert a == pytest.approx(b, rel=1e-4)


def test_directions_of_metrics():
    tasks = dense.segmentation(3), dense.depth(), dense.normals()
    better = {f"{task.name}: {m}": b for task in tasks for m, b in higher_is_better(task).items()}
    assert [m for m, b in better.items() if not b] == [
        "depth: absolute error",
        "depth: relative error",
        "normals: mean angle",
        "normals: median angle",
    ]
    assert len(better) == 9


def test_wrong_shapes_classes_and_options_are_refused():
    depth, normals, segmentation = dense.depth(), dense.normals(), dense.segmentation(3)
    ones = torch.ones
    for task, prediction, target in (
        (depth, ones(2, 1, 4, 4), ones(2, 4, 4)),
        (depth, ones(2, 4, 4), ones(2, 4, 4)),
        (depth, ones(2, 1, 4, 4), ones(2, 1, 8, 8)),
        (normals, ones(2, 3, 4, 4), ones(2, 1, 4, 4)),
        (segmentation, ones(2, 3, 4, 4), ones(2, 8, 8, dtype=torch.int64)),
    ):
        with pytest.raises(ValueError, match=r"expected predictions \(N, .*; got predictions \(2, .* targets \(2, "):
            task.loss(prediction, target)
        with pytest.raises(ValueError, match="expected predictions"):
            next(iter(task.metrics.values()))().update(prediction, target)
    with pytest.raises(ValueError, match="taken over image, batch, global; got 'images'"):
        dense.depth(over="images")
    split = Split(ones(2, 3, 4, 4), (torch.tensor([-1, 3]).repeat(2, 4, 2),))
    with pytest.raises(ValueError, match="semantic: expected classes 0 to 2, train has labels from 3 to 3"):
        Problem((segmentation,), split, split, split, {"synthetic": True})


def test_dense_tasks_train_and_their_relative_change_is_one_number(made):
    """`fit`, `evaluate` and `delta_m` as they are; two tasks have no label at all in one batch."""
    predictions, targets = made
    labels = targets[0].copy()
    labels[1] = 0
    targets = labels, *targets[1:]
    tasks = dense.segmentation(CLASSES), dense.depth(), dense.normals()
    split = Split(torch.from_numpy(predictions), tuple(map(torch.from_numpy, targets)))
    problem = Problem(tasks, split, split, split, {"synthetic": True})
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(CLASSES + 4, 8, 3, padding=1), nn.ReLU())
    model = MultiTaskModel(trunk, [nn.Conv2d(8, task.outputs, 1) for task in tasks])
    before = evaluate(model, tasks, split)
    history = fit(model, problem, "pcgrad", Schedule(epochs=12, batch_size=1, optimizer="adam", learning_rate=0.01))
    after = evaluate(model, tasks, split)
    assert history.diverged is None and history.steps == 12 * N
    assert all(after[name]["loss"] < 0.8 * before[name]["loss"] for name in ("semantic", "depth"))
    better = {(t.name, m): b for t in tasks for m, b in higher_is_better(t).items()}
    groups = {t.name: [(t.name, m) for m in t.metrics] for t in tasks}
    assert delta_m(flat(after), flat(before), better, groups=groups) > 0
