"""The embedded sets: real data that the package carries, a small part of each full set.

Of MNIST and of Fashion-MNIST each 1,600 images of the official train split (160 a class) and 400 of the official test
split (40 a class); of QM9 500 molecules. Of Meta-World's MT10 what its scripted policies did. Licences and attribution
are in NOTICES; `embed` builds the files.
"""

import hashlib
from pathlib import Path

import numpy as np

from .errors import data_error
from .files import read_npz

CHECKSUMS = {  # SHA-256
    "mnist": "fcbd823ec75c92e95e019453bfa5890068309ebb902f9363006988df9a5075f8",
    "fashion_mnist": "a38d6ee719d0eba62f39d3b6e19ef614d3eaac7f4dd0fa712a0d0f931af7b4e0",
    "qm9": "3029a6c4c888d11364c94aae35adab374db976603200bd3e212bd6f9c5ab1cd3",
    "mt10": "73a904b83f3771f4570c581786fb178fc4128466648e1ea882f1f77e9bfe1f29",
}
FOLDER = Path(__file__).parent / "embedded"


def arrays(name: str) -> dict[str, np.ndarray]:
    """The embedded part of "mnist", "fashion_mnist", "qm9" or "mt10".

    Images: with PART "train" and "test", PART_images (N, 28, 28) uint8, PART_labels (N,) int64, PART_index (N,) int64,
    the positions in the official split, ascending. QM9: as `qm9_files.read`, without descriptors. MT10: `mt10.record`.
    `DataError` where the file is missing or damaged.
    """
    path = FOLDER / f"{name}.npz"
    remedy = "the installation of this package is damaged or incomplete: install it again"
    if not path.is_file():
        raise data_error(name, f"the embedded file {name}.npz", FOLDER, "no such file", remedy)
    data = path.read_bytes()
    if (sha256 := hashlib.sha256(data).hexdigest()) != CHECKSUMS[name]:
        found = f"SHA-256 {sha256}, {len(data)} bytes"
        raise data_error(name, f"{name}.npz with SHA-256 {CHECKSUMS[name]}", FOLDER, found, remedy)
    return read_npz(name, path, data, remedy)
