"""Synthetic scenes: alike in every process, each image by itself, in range, with every class, learnable."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from mtl_core import data
from mtl_core.data import dense, scenes
from mtl_core.data.scene_renderer import Scene, render
from mtl_core.models import MultiTaskModel
from mtl_core.training import Schedule, evaluate, fit

SMALL = {"train": 60, "validation": 5, "test": 20}
HASH = """
import hashlib, sys
from mtl_core.data import scenes
sha = hashlib.sha256()
for kind in sorted(scenes.KINDS):
    for index in (3, 0):
        for array in scenes.image(kind, "train", index, seed=1)[:2]:
            sha.update(array.tobytes())
print(sha.hexdigest())
"""


@pytest.fixture(scope="module", params=["indoor", "street"])
def problem(request):
    return data.load("scenes", kind=request.param, **SMALL)


def test_another_process_renders_the_same_images():
    environment = os.environ | {"OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "7"}
    other = subprocess.run([sys.executable, "-c", HASH], env=environment, capture_output=True, text=True, check=True)
    sha = hashlib.sha256()
    for kind in sorted(scenes.KINDS):
        for index in (3, 0):
            for array in scenes.image(kind, "train", index, seed=1)[:2]:
                sha.update(array.tobytes())
    assert other.stdout.strip() == sha.hexdigest()


def test_an_image_depends_on_seed_split_and_index_alone(problem):
    kind = problem.source["kind"]
    rgb, classes, inverse, normals = scenes.image(kind, "train", 7)
    assert np.array_equal(rgb, problem.train.inputs[7]) and np.array_equal(classes, problem.train.targets[0][7])
    if kind == "street":
        assert np.array_equal(inverse, problem.train.targets[1][7, 0])
    else:
        depth = problem.train.targets[1][7, 0].numpy()
        assert np.array_equal(depth > 0, inverse > 0) and np.allclose(depth * inverse, inverse > 0)
        assert np.array_equal(normals, problem.train.targets[2][7])
    others = [("train", 8, 0), ("train", 7, 1), ("test", 7, 0)]
    assert not any(np.array_equal(rgb, scenes.image(kind, split, k, seed)[0]) for split, k, seed in others)


def test_a_seed_changes_train_images_only(problem):
    small = {"train": 3, "validation": 3, "test": 3, "kind": problem.source["kind"]}
    a, b = (data.load("scenes", seed=seed, **small) for seed in (0, 1))
    assert torch.equal(a.train.inputs, problem.train.inputs[:3]), "fewer images are the first of more"
    assert not torch.equal(a.train.inputs, b.train.inputs)
    for name in ("validation", "test"):
        assert torch.equal(getattr(a, name).inputs, getattr(b, name).inputs)


def test_ranges_and_marks_of_missing_labels(problem):
    kind, (inputs, targets) = problem.source["kind"], (problem.train.inputs, problem.train.targets)
    classes, depth = targets[:2]
    assert inputs.shape == (60, 3, 36, 48) and inputs.dtype == torch.uint8 and inputs.float().std() > 20
    assert classes.shape == (60, 36, 48) and classes.dtype == torch.int64
    count = len(scenes.KINDS[kind][1])
    assert count == {"indoor": 13, "street": 7}[kind] == problem.tasks[0].outputs == len(problem.source["classes"])
    shares = torch.bincount(classes[classes != dense.VOID], minlength=count) / classes.numel()
    assert shares.min() > 0.001 and shares.max() < 0.6 and len(shares) == count
    assert 0.001 < (classes == dense.VOID).float().mean() < 0.1

    assert depth.shape == (60, 1, 36, 48) and depth.dtype == torch.float32
    known, low, high = depth > 0, *{"indoor": (0.02, 8.5), "street": (1 / 200, 2)}[kind]
    assert depth.min() == 0 and depth[known].min() >= low and depth[known].max() <= high
    assert 0.005 < (~known).float().mean() < 0.4
    if kind == "street":
        assert not known[:, 0][classes == problem.source["classes"].index("sky")].any()
    else:
        glass = torch.isin(classes, torch.tensor([problem.source["classes"].index(name) for name in ("window", "tv")]))
        assert 0.1 < (~known[:, 0][glass]).float().mean() < 0.9 and (~known[:, 0][~glass]).float().mean() < 0.05
        normals = targets[2]
        assert normals.shape == (60, 3, 36, 48) and normals.dtype == torch.float32
        length = normals.norm(dim=1, keepdim=True)
        assert torch.allclose(length, known.float(), atol=1e-5), "unit vectors where there is depth"
        at = classes == problem.source["classes"].index("floor")
        assert (normals[:, 1][at & known[:, 0]] < 0).all(), "the floor faces up, y points down"


def test_depth_and_normals_agree_with_the_plane_of_a_box_that_one_can_calculate():
    """A camera at 1 m height that looks at the front of a cube from 3 m, straight ahead."""
    scene = Scene(
        planes=np.array([(0, 0, -1, 0), (0, 0, 0, 1)], float),
        boxes=np.array([(0, 4, 1, 1, 1, 1, 0)], float),
        classes=np.array([0, 1, 2]),
        items=np.array([0, 1, 2]),
        glass=(),
        camera=np.array([0, 0, 1.0]),
        forward=np.array([0, 1.0, 0]),
        focal=1.0,
        lamp=np.array([0, 0, 5.0]),
        reach=5.0,
    )
    _, classes, inverse, normals = render(scene, np.random.default_rng(0), 36, 48)
    known = inverse > 0
    # the cube spans 2 m at 3 m: 48 * 2 / 3 = 32 columns, and as many rows
    expected = np.full((36, 48), 1)
    expected[18:] = 0
    expected[2:34, 8:40] = 2
    cube = expected == 2
    assert np.array_equal(classes, expected)
    assert np.allclose(inverse[cube & known], 1 / 3) and np.allclose(normals[2][cube & known], -1)
    v = (np.arange(36) + 0.5 - 18)[:, None] / 48 * np.ones((1, 48))  # the ground, 1 m below, is at depth 1 / v
    ground = (expected == 0) & known
    assert np.allclose(inverse[ground], v[ground], atol=1e-6) and np.allclose(normals[1][ground], -1)
    assert known[cube].mean() > 0.95 and not known[expected == 1].any()


def test_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match="kind is indoor or street, got 'outdoor'"):
        data.load("scenes", kind="outdoor")
    for height in (35, 9, 36.0):
        with pytest.raises(ValueError, match=f"height is a number of rows, a multiple of 3 from 12, got {height}"):
            data.load("scenes", height=height)
    with pytest.raises(ValueError, match="taken over image, batch, global; got 'pixels'"):
        data.load("scenes", over="pixels")
    assert data.load("scenes", height=24, train=1, validation=1, test=1).train.inputs.shape == (1, 3, 24, 32)


def test_scenes_are_called_synthetic_and_bear_no_real_name(problem):
    source = problem.source
    assert source["synthetic"] is True and source["note"].startswith("Synthetic") and source["name"] == "scenes"
    assert [t.name for t in problem.tasks] == ["semantic", "depth", "normals"][: len(problem.tasks)]


def test_a_small_network_starts_to_learn_every_task(problem):
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, 12, 5, 2, 2), nn.ReLU(), nn.Conv2d(12, 12, 5, padding=2), nn.ReLU())
    heads = [nn.Sequential(nn.Conv2d(12, t.outputs, 3, padding=1), nn.Upsample(scale_factor=2)) for t in problem.tasks]
    model = MultiTaskModel(trunk, heads)
    before = evaluate(model, problem.tasks, problem.test)
    fit(model, problem, "equal", Schedule(epochs=6, batch_size=10, optimizer="adam", learning_rate=0.01))
    after = evaluate(model, problem.tasks, problem.test)
    assert all(after[task.name]["loss"] < 0.85 * before[task.name]["loss"] for task in problem.tasks)
