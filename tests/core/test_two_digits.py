"""The digit problem: targets follow from the images, no source image in two splits, metrics by hand."""

import numpy as np
import pytest
import torch

from mtl_core import data
from mtl_core.data import two_digits
from mtl_core.data.embedded import arrays
from mtl_core.data.problem import higher_is_better

torch.set_num_threads(1)
SMALL = {"train": 200, "validation": 60, "test": 80}


@pytest.fixture(scope="module")
def problem():
    return data.load("two_digits", **SMALL)


def test_sizes_types_and_source(problem):
    for name, count in SMALL.items():
        split = getattr(problem, name)
        assert split.inputs.shape == (count, 1, 36, 36) and split.inputs.dtype == torch.uint8
        assert [t.dtype for t in split.targets] == [torch.int64] * 2 + [torch.float32] * 3
        assert all(t.shape == (count,) for t in split.targets)
    assert [task.name for task in problem.tasks] == list(two_digits.NAMES)
    assert [task.outputs for task in problem.tasks] == [10, 10, 1, 1, 1]
    assert problem.source["synthetic"] is False and problem.source["rebuilt"] is True
    assert len(problem.source["pairs_sha256"]["train"]) == 64 and problem.source["counts"] == SMALL


def test_targets_follow_from_the_image(problem):
    for split in (problem.train, problem.test):
        left, right, odd, total, pixels = split.targets
        assert torch.equal(odd, ((left % 2 == 1) & (right % 2 == 1)).float())
        torch.testing.assert_close(total * two_digits.SUM[1] + two_digits.SUM[0], (left + right).float())
        counted = (split.inputs >= 128).sum((1, 2, 3)).float()
        torch.testing.assert_close(pixels * two_digits.PIXELS[1] + two_digits.PIXELS[0], counted)


def sources(split, part):
    """Positions in the mini set whose digit is at the top left, and at the bottom right, of each composite."""
    images = arrays("mnist")[f"{part}_images"]
    found = []
    for canvas in split.inputs[:, 0].numpy():
        seen = []
        for offset in (0, 8):  # a source image is nowhere brighter than the composite it is part of
            window = canvas[offset : offset + 28, offset : offset + 28]
            fits = (images <= window).all((1, 2))
            seen.append(np.flatnonzero(fits))
        first = {a: np.pad(images[a], ((0, 8), (0, 8))) for a in seen[0]}
        second = {b: np.pad(images[b], ((8, 0), (8, 0))) for b in seen[1]}
        pairs = [(a, b) for a in first for b in second if np.array_equal(np.maximum(first[a], second[b]), canvas)]
        assert len(pairs) == 1
        found.append(pairs[0])
    return np.array(found)


def test_digits_are_where_they_should_be_and_splits_share_no_source(problem):
    labels = arrays("mnist")["train_labels"]
    train, validation = sources(problem.train, "train"), sources(problem.validation, "train")
    for split, found in ((problem.train, train), (problem.validation, validation)):
        assert np.array_equal(labels[found[:, 0]], split.targets[0]) and np.array_equal(
            labels[found[:, 1]], split.targets[1]
        )
    assert not set(train.flatten()) & set(validation.flatten())


def test_seeds_draw_the_train_pairs_alone(problem):
    same, other = data.load("two_digits", **SMALL), data.load("two_digits", seed=1, **SMALL)
    assert torch.equal(problem.train.inputs, same.train.inputs)
    assert not torch.equal(problem.train.inputs, other.train.inputs)
    assert torch.equal(problem.test.inputs, other.test.inputs)
    assert torch.equal(problem.validation.inputs, other.validation.inputs)
    assert problem.source["pairs_sha256"]["train"] != other.source["pairs_sha256"]["train"]
    assert problem.source["pairs_sha256"]["test"] == other.source["pairs_sha256"]["test"]


def test_target_scales_are_near_those_of_the_data():
    targets = data.load("two_digits").train.targets
    for k in (3, 4):
        assert abs(targets[k].mean()) < 0.05 and abs(targets[k].std() - 1) < 0.05


def test_losses_and_metrics_by_hand():
    tasks = {task.name: task for task in two_digits.tasks()}
    logits, odd = torch.tensor([[0.4], [0.9], [-0.2], [0.1]]), torch.tensor([1.0, 0.0, 1.0, 1.0])
    assert tasks["odd product"].loss(logits, odd).item() == pytest.approx(
        np.mean([np.log1p(np.exp(-0.4)), np.log1p(np.exp(0.9)), np.log1p(np.exp(0.2)), np.log1p(np.exp(-0.1))])
    )
    f1 = tasks["odd product"].metrics["F1"]()
    f1.update(logits[:2], odd[:2])
    f1.update(logits[2:], odd[2:])
    assert float(f1.compute()) == pytest.approx(100 * 2 / 3), "two of three found, two of three right"
    values, targets = torch.tensor([[1.0], [0.0]]), torch.tensor([0.0, 2.0])
    for name, scale in (("sum", two_digits.SUM[1]), ("active pixels", two_digits.PIXELS[1])):
        assert tasks[name].loss(values, targets).item() == pytest.approx(2.5)
        (make,) = tasks[name].metrics.values()
        metric = make()
        metric.update(values, targets)
        assert float(metric.compute()) == pytest.approx(scale * 2.5**0.5)
    assert [list(higher_is_better(t).values()) for t in tasks.values()] == [[True], [True], [True], [False], [False]]


def test_missing_files_are_refused(tmp_path):
    with pytest.raises(data.DataError, match="mnist"):
        data.load("two_digits", root=tmp_path, profile="small")
