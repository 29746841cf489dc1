"""Multi-Fashion+MNIST, rebuilt: a digit at the top left and a garment at the bottom right of one image.

The set of Lin et al. (2019, Pareto Multi-Task Learning) that Recon uses was published as a pickle; the
program that made it was not. So this is a set of the same kind and size, not that set: accuracies printed in
papers are context, only gaps and orders can be compared.
"""

from typing import Any

import numpy as np
import torch

from . import released_composites
from .composites import (
    IMAGE,
    OFFSET,
    PARTS,
    SIZE,
    Source,
    draw_pairs,
    official_positions,
    overlay,
    pairs_sha256,
    read_source,
)
from .files import Root
from .problem import Problem, Split, classification
from .profiles import sizes

COUNTS = {  # composites
    "tiny": {"train": 2_000, "validation": 320, "test": 800},
    "small": {"train": 40_000, "validation": 4_000, "test": 20_000},
    "paper": {"train": 108_000, "validation": 12_000, "test": 20_000},
}


def load(
    root: Root = None,
    profile: str = "tiny",
    seed: int = 0,
    *,
    offset: int = OFFSET,
    train: int | None = None,
    validation: int | None = None,
    test: int | None = None,
    released: bool = False,
) -> Problem:
    """The problem: inputs (N, 1, 36, 36) uint8, tasks "digit" and "garment" of ten classes each.

    profile  "tiny" composes the embedded sets; "small" and "paper" need both full sets.
    seed     decides the train pairs; validation and test pairs are the same for every seed.
    offset   rows and columns between the two images' corners, 0 to 8: fewer pixels, more overlap.
    train, validation, test  numbers of composites in place of the profile's.
    released  read the pickle of Lin et al. in place of composites, which the user brings; see `released_composites`.

    Source images are split first, 9 to 1 and stratified by class, the same for every seed; test composites
    come from the official test splits. So no source image is in two splits.
    Errors: ValueError for an option out of range; `DataError` where the full sets are missing or damaged.
    """
    if not 0 <= offset <= SIZE - IMAGE:
        raise ValueError(f"offset is 0 to {SIZE - IMAGE} pixels, got {offset}")
    counts = sizes(COUNTS, profile, {"train": train, "validation": validation, "test": test}, "composites")
    if released:
        if offset != OFFSET:
            raise ValueError(f"the released images have their own offsets, got offset={offset}")
        return released_composites.problem(root, profile, counts)
    digits, garments, origin = _sources(root, profile)
    drawn = draw_pairs(digits, garments, counts, seed)
    return Problem(
        (classification("digit", 10), classification("garment", 10)),
        **{split: _compose(digits, garments, split, pairs, offset) for split, pairs in drawn.items()},
        source={
            "name": "multi_fashion_mnist",
            "profile": profile,
            **origin,
            "synthetic": False,
            "rebuilt": True,
            "note": "Rebuilt: the generator of the original pickle is not published. Real images of MNIST "
            "and Fashion-MNIST are paired and overlaid by our own rule; the pairs are not the original's.",
            "offset": offset,
            "overlap": "pixel-wise maximum",
            "seed": seed,
            "counts": counts,
            "pairs_sha256": pairs_sha256(digits, garments, drawn),
        },
    )


def pairs(
    root: Root = None,
    profile: str = "tiny",
    seed: int = 0,
    *,
    train: int | None = None,
    validation: int | None = None,
    test: int | None = None,
) -> dict[str, np.ndarray]:
    """Which source images made the composites of `load` with these arguments.

    Split name -> (N, 2) int64: positions of digit and garment in their official split (train for "train" and
    "validation"). A bootstrap resamples these source images, not the composites that share them.
    """
    counts = sizes(COUNTS, profile, {"train": train, "validation": validation, "test": test}, "composites")
    digits, garments, _ = _sources(root, profile)
    drawn = draw_pairs(digits, garments, counts, seed)
    return {split: official_positions(digits, garments, split, drawn[split]) for split in counts}


def _sources(root: Root, profile: str) -> tuple[Source, Source, dict[str, Any]]:
    (digits, digit_sum), (garments, garment_sum) = (
        read_source(name, root, profile) for name in ("mnist", "fashion_mnist")
    )
    sums = {"mnist": digit_sum, "fashion_mnist": garment_sum}
    if profile == "tiny":
        return digits, garments, {"origin": "embedded mini sets", "sha256": sums}
    return digits, garments, {"origin": "full MNIST and Fashion-MNIST, raw files", "md5": sums}


def _compose(digits: Source, garments: Source, split: str, drawn: np.ndarray, offset: int) -> Split:
    sides = [(source.parts[PARTS[split]], drawn[:, side]) for side, source in enumerate((digits, garments))]
    inputs = overlay([part.images[chosen] for part, chosen in sides], offset)
    return Split(inputs, tuple(torch.from_numpy(part.labels[chosen]) for part, chosen in sides))
