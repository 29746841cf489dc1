"""Forty attributes of a garment and a digit: what the answers are functions of, correlation, splits, options."""

import numpy as np
import pytest
import torch

from mtl_core import data
from mtl_core.data import attributes, embedded


@pytest.fixture(scope="module")
def problem():
    return data.load("attributes")


def answers(problem, split="train"):
    targets = getattr(problem, split).targets
    return {task.name: t.numpy().astype(bool) for task, t in zip(problem.tasks, targets, strict=True)}


def test_forty_tasks_with_different_names_and_answers(problem):
    assert len(problem.tasks) == attributes.LARGEST == 40
    found = answers(problem)
    assert len({tuple(values) for values in found.values()}) == 40, "no two tasks are one"
    assert problem.train.inputs.shape == (2000, 1, 36, 36) and problem.train.inputs.dtype == torch.uint8
    assert problem.source["rebuilt"] and not problem.source["synthetic"] and "by construction" in problem.source["note"]


def test_answers_are_those_of_the_source_images(problem):
    """Both images are looked up among the embedded ones by the corners that the other does not cover."""
    garments, digits = embedded.arrays("fashion_mnist"), embedded.arrays("mnist")
    found = answers(problem, "test")
    for i in range(20):
        image = problem.test.inputs[i, 0].numpy()
        strips = [np.s_[:8, :28], np.s_[28:, 8:]]
        (g,) = np.flatnonzero((garments["test_images"][:, :8] == image[strips[0]]).all((1, 2)) &
                              (garments["test_images"][:, :, :8] == image[:28, :8]).all((1, 2)))[:1]  # fmt: skip
        d = np.flatnonzero((digits["test_images"][:, 20:] == image[strips[1]]).all((1, 2)))
        garment = garments["test_labels"][g]
        assert found[attributes.CLASSES[garment]][i]
        assert found["footwear"][i] == (garment in (5, 7, 9))
        if len(d) == 1:
            digit = digits["test_labels"][d[0]]
            assert found[f"digit {digit}"][i] and found["even"][i] == (digit % 2 == 0)
            assert found["footwear and even"][i] == (garment in (5, 7, 9) and digit % 2 == 0)


def test_the_tasks_are_correlated_by_construction(problem):
    found = answers(problem)
    assert (found["footwear"] >= found["sandal"]).all(), "a sandal is footwear"
    assert not (found["footwear"] & found["for the upper body"]).any()
    assert (found["footwear and even"] == found["footwear"] & found["even"]).all()
    rates = [values.mean() for values in found.values()]
    assert min(rates) > 0.05 and max(rates) < 0.55
    correlation = np.corrcoef([*found.values()]) - np.eye(40)
    assert correlation.max() > 0.7 and correlation.min() < -0.3
    assert abs(np.corrcoef(found["footwear"], found["even"])[0, 1]) < 0.1, "the two images are paired at random"


def test_fewer_tasks_are_the_first_ones_on_the_same_images(problem):
    few = data.load("attributes", tasks=7)
    assert [task.name for task in few.tasks] == [task.name for task in problem.tasks][:7] == attributes.names(7)
    assert torch.equal(few.train.inputs, problem.train.inputs)
    for a, b in zip(few.train.targets, problem.train.targets, strict=False):
        assert torch.equal(a, b)
    for wrong in (0, 41, 2.5):
        with pytest.raises(ValueError, match="1 to 40"):
            data.load("attributes", tasks=wrong)


def test_the_seed_decides_the_train_pairs_alone(problem):
    other = data.load("attributes", seed=1)
    assert not torch.equal(other.train.inputs, problem.train.inputs)
    assert torch.equal(other.test.inputs, problem.test.inputs)


def test_ten_classes_are_ten_tasks_of_single_images():
    problem, kept = data.load("ten_classes"), embedded.arrays("fashion_mnist")
    assert [task.name for task in problem.tasks] == [*attributes.CLASSES]
    assert [len(getattr(problem, part)) for part in ("train", "validation", "test")] == [1440, 160, 400]
    assert (torch.stack(problem.train.targets).sum(0) == 1).all(), "each image is of one class"
    assert torch.equal(problem.test.inputs[:, 0], torch.from_numpy(kept["test_images"]))
    assert torch.equal(torch.stack(problem.test.targets).argmax(0), torch.from_numpy(kept["test_labels"]))
    few = data.load("ten_classes", train=100)
    assert torch.equal(few.train.inputs, problem.train.inputs[:100]) and len(few.test) == 400
