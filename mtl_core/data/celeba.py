"""CelebA: faces and forty yes-or-no attributes (Liu et al., ICCV 2015), read from disk.

All three papers use it, at 64 x 64 pixels. The lists are torchvision's, with its checksums, the images JPEG files; the
user brings them, see `python -m mtl_core.data status`, to

    ROOT/celeba/{list_attr_celeba.txt,list_eval_partition.txt} and img_align_celeba/ or img_align_celeba.zip
"""

import hashlib
import os
import re
import zipfile
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from .._extras import require
from ..seeds import numpy_generator
from ..tasks import Task
from . import decoded
from .cifar10 import source
from .files import Root
from .held import Held, Survey, place
from .problem import Problem, classification
from .profiles import sizes
from .streamed import Example, Streamed
from .two_digits import binary

ATTRIBUTES, PARTITION, IMAGES = "list_attr_celeba.txt", "list_eval_partition.txt", "img_align_celeba"
SIZE = (218, 178)  # of the aligned images
PUBLISHED = {"train": 162_770, "validation": 19_867, "test": 19_962}
COUNTS = {
    "tiny": {"train": 256, "validation": 64, "test": 64},
    "small": {"train": 10_000, "validation": 2_000, "test": 2_000},
    "paper": PUBLISHED,
}


def load(
    root: Root = None,
    profile: str = "tiny",
    seed: int = 0,
    *,
    train: int | None = None,
    validation: int | None = None,
    test: int | None = None,
    size: int = 64,
    logits: int = 1,
) -> Problem:
    """The problem: inputs (N, 3, size, size) float32 in [0, 1], forty tasks named by the attributes.

    profile  how many images of each official split at most; every profile reads the user's files.
    seed     changes nothing.
    train, validation, test  numbers of images in place of the profile's.
    size     pixels that the images of 218 x 178 are resized to, without a crop, as in the papers' code.
    logits   1: binary cross-entropy and F1, as in RotoGrad and SAM-GS; 2: cross-entropy and accuracy, as in Recon.

    Lists are judged now, an image when it is read: `check` reads all.
    Errors: ValueError for an option out of range; `DataError` for files that are missing, damaged or not torchvision's.
    """
    given = {"train": train, "validation": validation, "test": test}
    chosen = sizes(COUNTS, profile, given, "images", PUBLISHED)
    if logits not in (1, 2) or size < 1:
        raise ValueError(f"logits is 1 or 2, size at least 1, got {logits} and {size}")
    held = Held("celeba", place(root, CHECKS["celeba"]))
    files, names, labels, parts = lists(held)
    images = _images(held)
    split = {}
    for part, positions in parts.items():
        if given[part] and len(positions) < chosen[part]:
            raise held.error(PARTITION, f"{chosen[part]:,} {part} images", f"{len(positions):,}")
        order = numpy_generator(0, "split", f"celeba {part}").permutation(positions)
        split[part] = order[: chosen[part]]

    def read(number: int) -> Example:
        pixels = torch.from_numpy(images(files[number])).movedim(2, 0)[None].float() / 255
        resized = torch.nn.functional.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
        answers = torch.from_numpy(labels[number])
        return resized[0].clamp(0, 1), *((answers if logits == 2 else answers.float()).unbind())

    def task(name: str) -> Task:
        return binary(name) if logits == 1 else classification(name, 2)

    return Problem(
        tuple(task(name) for name in names),
        **{part: Streamed(positions, read) for part, positions in split.items()},
        source=source(held, "celeba", profile, split) | {"size": size},
    )


def lists(held: Held) -> tuple[list[str], list[str], np.ndarray, dict[str, np.ndarray]]:
    """Files of the images, names of the attributes, labels (N, 40) int64 of 0 and 1, split -> positions.

    `DataError` about a list that is missing, damaged or at odds with the other one.
    """
    md5 = {file: md5 for _, md5, file in require("torchvision.datasets", extra="vision").CelebA.file_list}
    table, partition = (held.read(file, 1 << 26, md5[file]) for file in (ATTRIBUTES, PARTITION))
    with held.damage(ATTRIBUTES, "a number, 40 names, and a line of 40 times 1 or -1 for each image"):
        first, header, *rows = table.decode().splitlines()
        words, names = [row.split() for row in rows], header.split()
        values = np.array([row[1:] for row in words], dtype=np.int64)
        files = [row[0] for row in words]
        if int(first) != len(files) or len(set(names)) != 40 or values.shape != (len(files), 40):
            raise ValueError(f"{first} images announced, {len(files)} lines, {len(set(names))} names")
        if not (np.abs(values) == 1).all():
            raise ValueError("an attribute that is neither 1 nor -1")
        if wrong := [file for file in files if not re.fullmatch(r"\d{6}\.jpg", file)]:
            raise ValueError(f"{wrong[0]!r} is no image's name")
    with held.damage(PARTITION, "a line of file and 0, 1 or 2 for each image of the attributes"):
        pairs = [line.split() for line in partition.decode().splitlines()]
        number = np.array([int(part) for _, part in pairs])
        if [file for file, _ in pairs] != files or not set(number.tolist()) <= {0, 1, 2}:
            raise ValueError("other files or numbers")
        parts = {part: np.flatnonzero(number == n) for n, part in enumerate(PUBLISHED)}
        if empty := [part for part, positions in parts.items() if not len(positions)]:
            raise ValueError(f"no image is of {', '.join(empty)}")
    return files, names, (values + 1) // 2, parts


def _images(held: Held) -> Callable[[str], np.ndarray]:
    """Function from an image's file to its pixels (218, 178, 3) uint8, read from the folder or else the archive."""
    archive, opened = f"{IMAGES}.zip", dict[int, Any]()
    if not (held.folder / IMAGES).is_dir() and not (held.folder / archive).is_file():
        raise held.error(IMAGES, f"this folder, or {archive}", "neither")

    def content(file: str) -> bytes:
        name = f"{IMAGES}/{file}"
        if (held.folder / IMAGES).is_dir():
            return held.read(name, decoded.LARGEST)
        with held.damage(
            archive, f"an archive with {name}"
        ):  # read by name into memory, so it chooses no place to write
            if (process := os.getpid()) not in opened:  # workers of a DataLoader would share one place in the file
                opened[process] = zipfile.ZipFile(held.folder / archive)
            with opened[process].open(name) as member:
                data = member.read(decoded.LARGEST + 1)
            if len(data) > decoded.LARGEST:
                raise OSError(f"{name} holds more than {decoded.LARGEST:,} bytes")
        held.hold(name, hashlib.sha256(data).hexdigest())
        return data

    return lambda file: decoded.image(held, f"{IMAGES}/{file}", content(file), ("RGB",), SIZE, exact=True)


def _survey(held: Held, progress: Callable[[Iterable], Iterable]) -> dict[str, int]:
    files, _, _, parts = lists(held)
    read = _images(held)
    for file in progress(files):
        read(file)
    return {part: len(positions) for part, positions in parts.items()}


CHECKS = {"celeba": Survey("celeba", ATTRIBUTES, _survey, PUBLISHED)}
