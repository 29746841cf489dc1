"""Synthetic scenes with the tasks of NYUv2 (rooms) or CityScapes (streets), for where those cannot be had.

Boxes with textures, light and noise, rendered when they are loaded (`scene_layouts`, `scene_renderer`). They have the
real sets' tasks, classes and marks of missing labels, and nothing else of them: no number measured on scenes says what
it would be on photographs.
"""

import numpy as np
import torch

from ..seeds import numpy_generator
from . import dense, scene_layouts
from .files import Root
from .problem import Problem, Split
from .profiles import sizes
from .scene_renderer import render

KINDS = {
    "indoor": (scene_layouts.indoor, scene_layouts.INDOOR),
    "street": (scene_layouts.street, scene_layouts.STREET),
}
COUNTS = {  # images
    "tiny": {"train": 240, "validation": 80, "test": 160},
    "small": {"train": 2_500, "validation": 400, "test": 800},
    "paper": {"train": 2_500, "validation": 400, "test": 800},
}
SPLITS = ("train", "validation", "test")


def load(
    root: Root = None,
    profile: str = "tiny",
    seed: int = 0,
    *,
    kind: str = "indoor",
    height: int = 36,
    over: str | None = None,
    train: int | None = None,
    validation: int | None = None,
    test: int | None = None,
) -> Problem:
    """Synthetic scenes as a problem: inputs (N, 3, H, W) uint8, a third wider than high, and targets as
    `dense` describes them.

    kind    "indoor": tasks "semantic" (13 classes), "depth" in m, "normals" in the camera's frame (x right, y down,
            z forward); "street": "semantic" (7 classes), "depth", which here is inverse depth in 1/m, a disparity up
            to focal length times baseline, and without a label in the sky.
    height  pixels from top to bottom, a multiple of 3 from 12.
    over    what depth and normals are averaged over, `dense.OVER`; else as their tasks have it.
    seed    decides the train images; validation and test images are the same for every seed. `root` is not read.
    train, validation, test  numbers of images in place of the profile's; more images begin with the same ones.

    Some 6 % of things have no class, 1 % of pixels and half of all windows and screens no depth and no normal.
    Errors: ValueError for an option out of range.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {' or '.join(KINDS)}, got {kind!r}")
    if not isinstance(height, int) or height < 12 or height % 3:
        raise ValueError(f"height is a number of rows, a multiple of 3 from 12, got {height!r}")
    counts = sizes(COUNTS, profile, dict(zip(SPLITS, (train, validation, test), strict=True)), "images")
    options = {} if over is None else {"over": over}
    tasks = [dense.segmentation(len(KINDS[kind][1])), dense.depth(**options)]
    if kind == "indoor":
        tasks.append(dense.normals(**options))
    return Problem(
        tuple(tasks),
        **{name: _split(kind, name, seed if name == "train" else 0, counts[name], height) for name in SPLITS},
        source={
            "name": "scenes",
            "kind": kind,
            "profile": profile,
            "origin": "rendered by mtl_core.data.scenes",
            "synthetic": True,
            "note": "Synthetic: rendered boxes with the tasks of NYUv2 (indoor) or CityScapes (street), no photograph.",
            "classes": list(KINDS[kind][1]),
            "size": [height, height * 4 // 3],
            "seed": seed,
            "counts": counts,
        },
    )


def image(kind: str, split: str, index: int, seed: int = 0, height: int = 36) -> tuple[np.ndarray, ...]:
    """Image `index` of a split alone: (3, H, W) uint8, classes (H, W), inverse depth (H, W), normals (3, H, W)."""
    return _render(kind, _generators(kind, split, seed, index + 1)[index], height)


def _generators(kind: str, split: str, seed: int, count: int) -> list[np.random.Generator]:
    """One for each image, which depends on its number and on nothing that others draw."""
    return numpy_generator(seed, "pairing", f"scenes {kind} {split}").spawn(count)


def _render(kind: str, random: np.random.Generator, height: int) -> tuple[np.ndarray, ...]:
    return render(KINDS[kind][0](random), random, height, height * 4 // 3)


def _split(kind: str, name: str, seed: int, count: int, height: int) -> Split:
    shape = (height, height * 4 // 3)
    inputs, classes = np.empty((count, 3, *shape), np.uint8), np.empty((count, *shape), np.int64)
    inverse, normals = np.empty((count, 1, *shape), np.float32), np.empty((count, 3, *shape), np.float32)
    for k, random in enumerate(_generators(kind, name, seed, count)):
        inputs[k], classes[k], inverse[k, 0], normals[k] = _render(kind, random, height)
    targets = [classes, inverse]
    if kind == "indoor":
        depth = np.divide(1, inverse, out=np.zeros_like(inverse), where=inverse > 0)
        targets = [classes, depth, normals]
    return Split(torch.from_numpy(inputs), tuple(torch.from_numpy(t) for t in targets))
