"""Composites: two images of MNIST or Fashion-MNIST overlaid in one, the first at the top left."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from ..seeds import numpy_generator
from . import embedded, mnist_files
from .files import Root

SIZE, IMAGE = 36, 28  # pixels: side of the canvas for every offset, side of a source image
OFFSET = 8  # rows and columns between the two images' corners, at most: fewer pixels, more overlap
HELD_OUT = 10  # one source image in ten of the official train split is for validation
PARTS = {"train": "train", "validation": "train", "test": "test"}  # split -> official split of its source images


class Images(NamedTuple):
    """Source images of one official split: images (N, 28, 28) uint8, labels (N,), positions in that split (N,)."""

    images: np.ndarray
    labels: np.ndarray
    positions: np.ndarray


class Source(NamedTuple):
    """A data set of source images: its name, and its `Images` of the official "train" and "test" split."""

    name: str
    parts: dict[str, Images]


def read_source(name: str, root: Root, profile: str) -> tuple[Source, str | dict[str, str]]:
    """The source images of "mnist" or "fashion_mnist", and their checksum: SHA-256 of the embedded file where the
    profile is "tiny", else MD5 of each raw file. `DataError` where files are missing or damaged."""
    if profile == "tiny":
        arrays = embedded.arrays(name)
        parts = {p: Images(*(arrays[f"{p}_{key}"] for key in ("images", "labels", "index"))) for p in ("train", "test")}
        return Source(name, parts), embedded.CHECKSUMS[name]
    full, md5 = mnist_files.read(name, root)
    return Source(
        name, {p: Images(images, labels, np.arange(len(labels))) for p, (images, labels) in full.items()}
    ), md5


def split_positions(source: Source) -> dict[str, np.ndarray]:
    """Split -> positions of its source images. Train and validation are stratified by class, 9 to 1, the same for
    every seed."""
    labels = source.parts["train"].labels
    generator = numpy_generator(0, "split", source.name)
    classes, sizes = np.unique(labels, return_counts=True)
    share = sizes // HELD_OUT
    rest = len(labels) // HELD_OUT - share.sum()
    share[np.argsort(-(sizes % HELD_OUT), kind="stable")[:rest]] += 1  # largest remainders
    held_out = np.zeros(len(labels), dtype=bool)
    for label, count in zip(classes, share, strict=True):
        held_out[generator.choice(np.flatnonzero(labels == label), count, replace=False)] = True
    test = np.arange(len(source.parts["test"].labels))
    return {"train": np.flatnonzero(~held_out), "validation": np.flatnonzero(held_out), "test": test}


def draw_pairs(
    first: Source, second: Source, counts: Mapping[str, int], seed: int, stream: str = ""
) -> dict[str, np.ndarray]:
    """Split -> (N, 2) positions of the source images of each composite; each image is used equally often, up to one.

    The seed decides the train pairs alone. `stream` is put before the split's name in the name of its random stream.
    """
    available, pairs = [split_positions(first), split_positions(second)], {}
    for split, count in counts.items():
        generator = numpy_generator(seed if split == "train" else 0, "pairing", f"{stream}{split}")
        pairs[split] = np.stack([_passes(positions[split], count, generator) for positions in available], axis=1)
    return pairs


def _passes(positions: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """`count` positions: permutation after permutation of all, so that each is used equally often."""
    permutations = [generator.permutation(positions) for _ in range(-(-count // len(positions)))]
    return np.concatenate(permutations)[:count]


def official_positions(first: Source, second: Source, split: str, pairs: np.ndarray) -> np.ndarray:
    """The `pairs` (N, 2) of a split as int64 positions in the official split."""
    columns = [source.parts[PARTS[split]].positions[pairs[:, side]] for side, source in enumerate((first, second))]
    return np.stack(columns, axis=1).astype("<i8")


def pairs_sha256(first: Source, second: Source, pairs: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Split -> SHA-256 of its `official_positions`: the identity of a set of composites."""
    return {
        split: hashlib.sha256(official_positions(first, second, split, drawn).tobytes()).hexdigest()
        for split, drawn in pairs.items()
    }


def overlay(images: Sequence[np.ndarray], offset: int) -> torch.Tensor:
    """Composites (N, 1, 36, 36) uint8 of two stacks of images (N, 28, 28): their pixel-wise maximum, the second image
    `offset` pixels below and to the right of the first."""
    canvas = np.zeros((len(images[0]), SIZE, SIZE), dtype=np.uint8)
    canvas[:, :IMAGE, :IMAGE] = images[0]
    window = canvas[:, offset : offset + IMAGE, offset : offset + IMAGE]
    np.maximum(window, images[1], out=window)
    return torch.from_numpy(canvas[:, None])
