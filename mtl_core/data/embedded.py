"""The mini sets that the package carries: real images, a small part of each official split.

Of MNIST and of Fashion-MNIST each 1,600 images of the official train split (160 a class) and 400 of the
official test split (40 a class). Licences and attribution are in NOTICES. `python -m mtl_core.data embed`
builds the files again from the full sets and prints the checksums that belong in `CHECKSUMS`.
The 500 molecules of QM9 are drawn in qm9.py.
"""

import hashlib
import io
from importlib.resources import files

import numpy as np

from ..seeds import numpy_generator
from .errors import data_error
from .files import read, write_atomically

SEED = 0  # of the choice below
PER_CLASS = {"train": 160, "test": 40}
CHECKSUMS = {  # SHA-256
    "mnist": "fcbd823ec75c92e95e019453bfa5890068309ebb902f9363006988df9a5075f8",
    "fashion_mnist": "a38d6ee719d0eba62f39d3b6e19ef614d3eaac7f4dd0fa712a0d0f931af7b4e0",
    "qm9": "3029a6c4c888d11364c94aae35adab374db976603200bd3e212bd6f9c5ab1cd3",
}
FOLDER = files("mtl_core.data") / "embedded"


def arrays(name: str, file: str, sha256: str) -> dict[str, np.ndarray]:
    """Arrays of the npz `file` that the package carries for data set `name`, once its SHA-256 is verified."""
    path = FOLDER / file
    advice = "the installation of this package is damaged or incomplete: install it again"
    if not path.is_file():
        raise data_error(name, f"the embedded file {file}", FOLDER, "no such file", advice)
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        found = f"SHA-256 {found}, {len(data)} bytes"
        raise data_error(name, f"{file} with SHA-256 {sha256}", FOLDER, found, advice)
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return dict(archive)


def mini(name: str) -> dict[str, np.ndarray]:
    """The mini set of "mnist" or "fashion_mnist".

    Keys, with PART "train" and "test": PART_images (N, 28, 28) uint8, PART_labels (N,) int64, PART_index (N,)
    int64, the positions in the official split, ascending. DataError where the file is missing or changed.
    """
    return arrays(name, f"{name}.npz", CHECKSUMS[name])


def choose(labels: np.ndarray, per_class: int, generator: np.random.Generator) -> np.ndarray:
    """Positions of `per_class` examples of each class, drawn without replacement, ascending."""
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.sort(np.concatenate([generator.choice(m, per_class, replace=False) for m in members]))


def build(name: str, root=None) -> dict[str, np.ndarray]:
    """The arrays of `mini(name)`, drawn again from the full set in the root."""
    if name == "qm9":
        from . import qm9  # which needs this module

        return qm9.build(root)
    parts, _ = read(name, root)
    built = {}
    for part, (images, labels) in parts.items():
        index = choose(labels, PER_CLASS[part], numpy_generator(SEED, "split", f"embedded {name} {part}"))
        built |= {f"{part}_images": images[index], f"{part}_labels": labels[index], f"{part}_index": index}
    return built


def embed(root=None) -> dict[str, str]:
    """Write the mini sets into the package from the full sets in the root; returns their SHA-256 sums."""
    sums = {}
    for name in CHECKSUMS:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **build(name, root))
        write_atomically(FOLDER / f"{name}.npz", buffer.getvalue())
        sums[name] = hashlib.sha256(buffer.getvalue()).hexdigest()
    return sums
