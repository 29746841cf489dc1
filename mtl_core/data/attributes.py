"""Forty yes-or-no tasks on real pixels: attributes of a garment and a digit in one image, correlated by construction.

The images are those of `multi_fashion_mnist`, with the garment at the top left and the digit at the bottom right. Each
task asks whether the class of one of the two, or of both, lies in a set of classes: footwear, has a loop, even,
footwear and even. All forty answers follow from two classes out of ten, so an image has one of 100 patterns of answers,
and tasks contain and exclude each other more than attributes of faces do. It is a stand-in for sets with forty tasks
which only a user can bring, and says nothing of those.
"""

import numpy as np
import torch

from .composites import OFFSET, PARTS, draw_pairs, overlay, pairs_sha256, read_source
from .files import Root
from .problem import Problem, Split
from .profiles import sizes
from .two_digits import binary

COUNTS = {  # composites
    "tiny": {"train": 2_000, "validation": 320, "test": 800},
    "small": {"train": 20_000, "validation": 4_000, "test": 10_000},
    "paper": {"train": 54_000, "validation": 6_000, "test": 10_000},
}
CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
GARMENT = {  # name -> classes of Fashion-MNIST for which the answer is yes
    **{name: (number,) for number, name in enumerate(CLASSES)},
    "footwear": (5, 7, 9),
    "for the upper body": (0, 2, 4, 6),
    "has long sleeves": (2, 4, 6),
    "covers the legs": (1, 3),
    "open in front": (4, 6),
}
DIGIT = {  # name -> digits
    **{f"digit {number}": (number,) for number in range(10)},
    "even": (0, 2, 4, 6, 8),
    "prime": (2, 3, 5, 7),
    "above four": (5, 6, 7, 8, 9),
    "has a loop": (0, 6, 8, 9),
    "has a straight line": (1, 4, 7),
}
BOTH = [  # yes where both answers are: the two images have to be read
    (garment, digit)
    for garment in ("footwear", "for the upper body")
    for digit in ("even", "prime", "above four", "has a loop", "has a straight line")
]
LARGEST = len(GARMENT) + len(DIGIT) + len(BOTH)


def names(tasks: int = LARGEST) -> list[str]:
    """The first `tasks` names: of garments and digits in turn, sets before single classes, then both together."""
    sides = [[*of][10:] + [*of][:10] for of in (GARMENT, DIGIT)]
    mixed = [name for pair in zip(*sides, strict=True) for name in pair]
    return [*mixed, *(f"{garment} and {digit}" for garment, digit in BOTH)][:tasks]


def load(
    root: Root = None,
    profile: str = "tiny",
    seed: int = 0,
    *,
    tasks: int = LARGEST,
    train: int | None = None,
    validation: int | None = None,
    test: int | None = None,
) -> Problem:
    """The problem: inputs (N, 1, 36, 36) uint8, the first `tasks` of 40 binary tasks (`names`).

    profile  "tiny" composes the embedded sets; "small" and "paper" need both full sets.
    seed     decides the train pairs; validation and test pairs are the same for every seed.
    tasks    K, 1 to 40; the images do not depend on it.
    train, validation, test  numbers of composites in place of the profile's.

    Source images are split first, as in `composites`. Of each task's answers 9 % (both of two sets) to 50 % are yes.
    Errors: ValueError for an option out of range; `DataError` where the full sets are missing or damaged.
    """
    if not isinstance(tasks, int) or not 1 <= tasks <= LARGEST:
        raise ValueError(f"tasks is a number of attributes, 1 to {LARGEST}, got {tasks!r}")
    counts = sizes(COUNTS, profile, {"train": train, "validation": validation, "test": test}, "composites")
    (garments, one), (digits, other) = (read_source(name, root, profile) for name in ("fashion_mnist", "mnist"))
    drawn = draw_pairs(garments, digits, counts, seed, stream="attributes ")

    def made(split: str, pairs: np.ndarray) -> Split:
        parts = [source.parts[PARTS[split]] for source in (garments, digits)]
        images = [part.images[chosen] for part, chosen in zip(parts, pairs.T, strict=True)]
        answers = _answers(*(part.labels[chosen] for part, chosen in zip(parts, pairs.T, strict=True)))
        return Split(overlay(images, OFFSET), tuple(torch.from_numpy(answers[name]).float() for name in names(tasks)))

    return Problem(
        tuple(binary(name) for name in names(tasks)),
        **{split: made(split, pairs) for split, pairs in drawn.items()},
        source={
            "name": "attributes",
            "profile": profile,
            "origin": "embedded mini sets" if profile == "tiny" else "full MNIST and Fashion-MNIST, raw files",
            ("sha256" if profile == "tiny" else "md5"): {"fashion_mnist": one, "mnist": other},
            "synthetic": False,
            "rebuilt": True,
            "note": "Real images of MNIST and Fashion-MNIST, paired by our own rule. The tasks are sets of their "
            "classes, correlated by construction.",
            "offset": OFFSET,
            "seed": seed,
            "counts": counts,
            "pairs_sha256": pairs_sha256(garments, digits, drawn),
        },
    )


def _answers(garments: np.ndarray, digits: np.ndarray) -> dict[str, np.ndarray]:
    """Name -> (N,) bool, of the classes (N,) of garments and digits."""
    found = {n: np.isin(of, yes) for of, table in ((garments, GARMENT), (digits, DIGIT)) for n, yes in table.items()}
    return found | {f"{garment} and {digit}": found[garment] & found[digit] for garment, digit in BOTH}
