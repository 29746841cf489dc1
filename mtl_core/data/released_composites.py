"""Multi-Fashion+MNIST as Lin et al. released it: the pickle of Pareto Multi-Task Learning (NeurIPS 2019).

The user brings it, see `python -m mtl_core.data status`, to

    ROOT/multi_fashion_and_mnist/multi_fashion_and_mnist.pickle

It holds train images, train labels, test images, test labels, and is read by `pickles`, which takes nothing but arrays.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch

from . import pickles
from .cifar10 import source, split_off
from .files import Root
from .held import Held, Survey, place
from .problem import Problem, Split, classification

NAME, SIZE = "multi_fashion_and_mnist", 36
FILE = f"{NAME}.pickle"
LARGEST = 140_000 * (SIZE**2 + 2) * 8 + 100_000  # bytes of such a file with 8-byte numbers


def problem(root: Root, profile: str, counts: dict[str, int]) -> Problem:
    """The problem: inputs (N, 1, 36, 36) float32 as stored, tasks "digit" and "garment" of ten classes each.

    The release has no validation images: they are held out of the train ones, the same for every run, a tenth
    of a part of the set. As in Recon's code, pixels are not scaled.
    `DataError` where the file is missing, damaged or anything but arrays of that shape, or has too few images.
    """
    held = Held(NAME, place(root, CHECKS[NAME]))
    parts = read(held)
    there = {part: len(labels) for part, (_, labels) in parts.items()}
    held.partial = there != CHECKS[NAME].published
    split = split_off(held, counts, there, NAME)

    def made(part: str, positions: np.ndarray) -> Split:
        images, labels = (array[positions] for array in parts[part])
        images, labels = images.astype(np.float32), labels.astype(np.int64)  # torch takes no other byte order
        return Split(torch.from_numpy(images).reshape(-1, 1, SIZE, SIZE), torch.from_numpy(labels).unbind(1))

    return Problem(
        (classification("digit", 10), classification("garment", 10)),
        **{name: made("test" if name == "test" else "train", positions) for name, positions in split.items()},
        source=source(held, NAME, profile, split)
        | {"origin": f"{FILE}, which the user brought; it has no published checksum"},
    )


def read(held: Held) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """ "train" and "test" -> images (N, …) of 36 x 36 numbers, labels (N, 2). `DataError` where they are not."""
    content = held.read(FILE, LARGEST)
    with held.damage(FILE, "a pickle of four numpy arrays: train images and labels, test images and labels"):
        found = pickles.read(content)
        if not isinstance(found, list) or len(found) != 4 or not all(isinstance(x, np.ndarray) for x in found):
            raise ValueError("it holds something else")
        parts = {"train": (found[0], found[1]), "test": (found[2], found[3])}
        for part, (images, labels) in parts.items():
            shape = tuple(side for side in images.shape[1:] if side != 1)
            if shape not in ((SIZE, SIZE), (SIZE**2,)) or labels.shape != (len(images), 2) or not len(images):
                raise ValueError(f"{part} has images {images.shape} and labels {labels.shape}")
            if not (np.isfinite(images).all() and images.min() >= 0 and images.max() <= 255):
                raise ValueError(f"{part} has pixels that are not 0 to 255")
            if not np.isin(labels, range(10)).all():
                raise ValueError(f"{part} has labels that are not 0 to 9")
    return parts


def _survey(held: Held, progress: Callable[[Iterable], Iterable]) -> dict[str, int]:
    return {part: len(labels) for part, (_, labels) in read(held).items()}


CHECKS = {NAME: Survey(NAME, FILE, _survey, {"train": 120_000, "test": 20_000})}
