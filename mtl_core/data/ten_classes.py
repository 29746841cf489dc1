"""Fashion-MNIST as ten tasks, one for each class: is it one? A stand-in for CIFAR-10, which only a user can bring."""

import numpy as np
import torch

from .attributes import CLASSES
from .composites import PARTS, read_source, split_positions
from .files import Root
from .problem import Problem, Split
from .profiles import sizes
from .two_digits import binary

COUNTS = {
    "tiny": {"train": 1_440, "validation": 160, "test": 400},
    "small": {"train": 20_000, "validation": 4_000, "test": 10_000},
    "paper": {"train": 54_000, "validation": 6_000, "test": 10_000},
}


def load(
    root: Root = None,
    profile: str = "tiny",
    seed: int = 0,
    *,
    train: int | None = None,
    validation: int | None = None,
    test: int | None = None,
) -> Problem:
    """The problem: inputs (N, 1, 28, 28) uint8, ten binary tasks named by the classes.

    profile  "tiny" is the embedded set; "small" and "paper" read the full one.
    seed     changes nothing.
    train, validation, test  numbers of images in place of the profile's.

    Train and validation are 9 to 1 of the official train split, stratified by class.
    Errors: ValueError for an option out of range; `DataError` where the full set is missing or damaged.
    """
    given = {"train": train, "validation": validation, "test": test}
    chosen = sizes(COUNTS, profile, given, "images", COUNTS["tiny" if profile == "tiny" else "paper"])
    source, checksum = read_source("fashion_mnist", root, profile)

    def made(part: str, positions: np.ndarray) -> Split:
        images, of = source.parts[PARTS[part]], positions[: chosen[part]]
        labels = torch.from_numpy(images.labels[of])
        targets = tuple((labels == number).float() for number in range(len(CLASSES)))
        return Split(torch.from_numpy(images.images[of][:, None]), targets)

    return Problem(
        tuple(binary(name) for name in CLASSES),
        **{part: made(part, positions) for part, positions in split_positions(source).items()},
        source={
            "name": "ten_classes",
            "profile": profile,
            "origin": "embedded mini set" if profile == "tiny" else "full Fashion-MNIST, raw files",
            "sha256" if profile == "tiny" else "md5": {"fashion_mnist": checksum},
            "synthetic": False,
            "counts": chosen,
        },
    )
