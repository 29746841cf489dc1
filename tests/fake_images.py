"""Small sets of random images in the raw format of MNIST, for the tests of the data package."""

import hashlib
import struct

import numpy as np
import pytest

from mtl_core.data import DataError, mnist_files


def idx(array: np.ndarray) -> bytes:
    """The bytes of an idx file that holds `array`."""
    header = struct.pack(f">I{array.ndim}I", 0x0800 + array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def fake_set(train=200, test=50, seed=0) -> dict[str, bytes]:
    """The four raw files of a set of random images; the classes have unequal sizes."""
    generator, made = np.random.default_rng(seed), {}
    for part, count in (("train", train), ("t10k", test)):
        made[f"{part}-images-idx3-ubyte"] = idx(generator.integers(0, 256, (count, 28, 28)))
        made[f"{part}-labels-idx1-ubyte"] = idx(np.sort(np.arange(count) ** 2 % 97 % 10))
    return made


def sha256s(raw: dict[str, bytes]) -> dict[str, str]:
    """The checksum table of such a set."""
    return {file: hashlib.sha256(content).hexdigest() for file, content in raw.items()}


def write_fake_sets(root) -> dict[str, dict[str, str]]:
    """Write a fake MNIST and a fake Fashion-MNIST into `root`; returns their checksum tables."""
    table = {}
    for seed, name in enumerate(mnist_files.CHECKSUMS):
        raw, folder = fake_set(seed=seed), mnist_files.raw_folder(name, root)
        table[name] = sha256s(raw)
        folder.mkdir(parents=True)
        for file, content in raw.items():
            (folder / file).write_bytes(content)
    return table


def need_full_sets():
    """Skip the test, saying why, where the full sets are not in the root."""
    try:
        for name in mnist_files.CHECKSUMS:
            mnist_files.verify(name)
    except DataError as error:
        pytest.skip(f"set MTL_DATA: {error}")
