"""Builds the files of the embedded sets from the full sets; for developers, `python -m mtl_core.data embed`."""

import hashlib
import io
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..seeds import numpy_generator
from . import mnist_files, mt10, qm9_files
from .embedded import CHECKSUMS, FOLDER
from .files import Root, write_atomically
from .qm9_descriptors import select

SEED = 0
PER_CLASS = {"train": 160, "test": 40}  # images
MOLECULES = 500


def choose(labels: np.ndarray, per_class: int, generator: np.random.Generator) -> np.ndarray:
    """Positions of `per_class` examples of each class, drawn without replacement, ascending."""
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.sort(np.concatenate([generator.choice(m, per_class, replace=False) for m in members]))


def build(name: str, root: Root = None) -> dict[str, Any]:
    """The arrays of `embedded.arrays(name)`, drawn again from the full set in the root, or simulated again."""
    if name == "mt10":
        return mt10.record()
    if name == "qm9":
        molecules = qm9_files.read(root)
        positions = np.arange(len(molecules["index"]))
        generator = numpy_generator(SEED, "split", "embedded qm9")
        return select(molecules, np.sort(generator.choice(positions, MOLECULES, replace=False)))
    parts, _ = mnist_files.read(name, root)
    built: dict[str, np.ndarray] = {}
    for part, (images, labels) in parts.items():
        index = choose(labels, PER_CLASS[part], numpy_generator(SEED, "split", f"embedded {name} {part}"))
        built |= {f"{part}_images": images[index], f"{part}_labels": labels[index], f"{part}_index": index}
    return built


def embed(root: Root = None, names: Iterable[str] = tuple(CHECKSUMS)) -> dict[str, str]:
    """Write the embedded files anew; returns name -> SHA-256, which belongs in `embedded.CHECKSUMS`."""
    sums = {}
    for name in names:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **build(name, root))
        write_atomically(FOLDER / f"{name}.npz", buffer.getvalue())
        sums[name] = hashlib.sha256(buffer.getvalue()).hexdigest()
    return sums
