"""Multi-Fashion+MNIST, rebuilt: a digit at the top left and a garment at the bottom right of one image.

The set of Lin et al. (2019, Pareto Multi-Task Learning) that Recon uses was published as a pickle; the
program that made it was not. So this is a set of the same kind and size, not that set: accuracies printed in
papers are context, only gaps and orders can be compared.
"""

import hashlib

import numpy as np
import torch

from ..seeds import numpy_generator
from ..tasks import Problem, Split, classification
from .embedded import CHECKSUMS as MINI_CHECKSUMS
from .embedded import mini
from .files import read

SIZE, IMAGE = 36, 28  # pixels: side of the canvas for every offset, side of a source image
SETS = ("mnist", "fashion_mnist")  # the digit's, the garment's
COUNTS = {  # composites
    "tiny": {"train": 2_000, "validation": 320, "test": 800},
    "small": {"train": 40_000, "validation": 4_000, "test": 20_000},
    "paper": {"train": 108_000, "validation": 12_000, "test": 20_000},
}
HELD_OUT = 10  # one source image in ten of the official train split is for validation


def load(
    root=None,
    profile: str = "tiny",
    seed: int = 0,
    *,
    offset: int = 8,
    train: int | None = None,
    validation: int | None = None,
    test: int | None = None,
) -> Problem:
    """The problem: inputs (N, 1, 36, 36) uint8, tasks "digit" and "garment" of ten classes each.

    profile  "tiny" composes the mini sets of the package; "small" and "paper" need both full sets.
    seed     draws the train pairs; validation and test pairs are the same for every seed.
    offset   rows and columns between the two images' corners, 0 to 8: fewer pixels, more overlap.
    train, validation, test  numbers of composites in place of the profile's.

    Source images are split first, 9 to 1 and stratified by class, the same for every seed; test composites
    come from the official test splits. So no source image is in two splits.
    Errors: ValueError for an option out of range; DataError where the full sets are missing or damaged.
    """
    if not 0 <= offset <= SIZE - IMAGE:
        raise ValueError(f"offset is 0 to {SIZE - IMAGE} pixels, got {offset}")
    counts = _counts(profile, train=train, validation=validation, test=test)
    sources, origin = _sources(root, profile)
    drawn = _draw(sources, counts, seed)
    splits = {name: _compose(sources, name, drawn[name], offset) for name in counts}
    return Problem(
        (classification("digit", 10), classification("garment", 10)),
        **splits,
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
            "pairs_sha256": {name: _identity(sources, name, drawn[name]) for name in counts},
        },
    )


def pairs(root=None, profile: str = "tiny", seed: int = 0, *, train=None, validation=None, test=None):
    """Which source images made the composites of `load` with these arguments.

    Split name -> (N, 2) int64: positions of digit and garment in their official split (train for "train" and
    "validation"). A bootstrap resamples these source images, not the composites that share them.
    """
    counts = _counts(profile, train=train, validation=validation, test=test)
    sources, _ = _sources(root, profile)
    drawn = _draw(sources, counts, seed)
    return {name: _official(sources, name, drawn[name]) for name in counts}


def _counts(profile, **given):
    if profile not in COUNTS:
        raise ValueError(f"unknown profile {profile!r}; the profiles are {', '.join(COUNTS)}")
    counts = {name: COUNTS[profile][name] if value is None else value for name, value in given.items()}
    for name, count in counts.items():
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} is a number of composites, at least 1, got {count!r}")
    return counts


def _sources(root, profile):
    """Per set and official split: images, labels, positions in that split; and where they come from."""
    sources, sums = {}, {}
    for name in SETS:
        if profile == "tiny":
            found, sums[name] = mini(name), MINI_CHECKSUMS[name]
            sources[name] = {
                part: tuple(found[f"{part}_{key}"] for key in ("images", "labels", "index"))
                for part in ("train", "test")
            }
        else:
            found, sums[name] = read(name, root)
            sources[name] = {part: (images, labels, np.arange(len(labels))) for part, (images, labels) in found.items()}
    if profile == "tiny":
        return sources, {"origin": "embedded mini sets", "sha256": sums}
    return sources, {"origin": "full MNIST and Fashion-MNIST, raw files", "md5": sums}


def _split_sources(labels, name):
    """Positions for train and for validation: one in ten held out of each class, a tenth in all."""
    generator = numpy_generator(0, "split", name)
    classes, sizes = np.unique(labels, return_counts=True)
    share = sizes // HELD_OUT
    rest = len(labels) // HELD_OUT - share.sum()
    share[np.argsort(-(sizes % HELD_OUT), kind="stable")[:rest]] += 1  # largest remainders
    held_out = np.zeros(len(labels), dtype=bool)
    for label, count in zip(classes, share, strict=True):
        held_out[generator.choice(np.flatnonzero(labels == label), count, replace=False)] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _passes(positions, count, generator):
    """`count` positions: permutation after permutation of all, so that each is used equally often."""
    permutations = [generator.permutation(positions) for _ in range(-(-count // len(positions)))]
    return np.concatenate(permutations)[:count]


def _draw(sources, counts, seed):
    """Split name -> (N, 2) positions in the arrays of `sources`."""
    available = {"train": [], "validation": [], "test": []}
    for name in SETS:
        inside, held_out = _split_sources(sources[name]["train"][1], name)
        for split, positions in (
            ("train", inside),
            ("validation", held_out),
            ("test", np.arange(len(sources[name]["test"][1]))),
        ):
            available[split].append(positions)
    drawn = {}
    for split, count in counts.items():
        generator = numpy_generator(seed if split == "train" else 0, "pairing", split)
        columns = [_passes(positions, count, generator) for positions in available[split]]
        drawn[split] = np.stack(columns, axis=1)
    return drawn


def _official(sources, split, drawn):
    part = "test" if split == "test" else "train"
    columns = [sources[name][part][2][drawn[:, column]] for column, name in enumerate(SETS)]
    return np.stack(columns, axis=1).astype("<i8")


def _identity(sources, split, drawn):
    return hashlib.sha256(np.ascontiguousarray(_official(sources, split, drawn)).tobytes()).hexdigest()


def _compose(sources, split, drawn, offset):
    part = "test" if split == "test" else "train"
    (digits, digit_labels, _), (garments, garment_labels, _) = (sources[name][part] for name in SETS)
    first, second = drawn.T
    canvas = np.zeros((len(drawn), SIZE, SIZE), dtype=np.uint8)
    canvas[:, :IMAGE, :IMAGE] = digits[first]
    place = canvas[:, offset : offset + IMAGE, offset : offset + IMAGE]
    np.maximum(place, garments[second], out=place)
    targets = (torch.from_numpy(digit_labels[first]), torch.from_numpy(garment_labels[second]))
    return Split(torch.from_numpy(canvas[:, None]), targets)
