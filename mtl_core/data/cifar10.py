"""CIFAR-10 as ten tasks, one for each class: is it one? As in RotoGrad's paper (Krizhevsky 2009 for the images).

The files are torchvision's, with its checksums; the user brings them, see `python -m mtl_core.data status`, to
ROOT/cifar-10-batches-py/, or as the archive ROOT/cifar-10-python.tar.gz. They are pickles, and read by `pickles`.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch

from .._extras import require
from ..seeds import numpy_generator
from . import pickles
from .downloads import members
from .errors import damage_as_data_error
from .files import Root, data_root
from .held import AGAIN, Held, Survey, place
from .problem import Problem, Split
from .profiles import sizes
from .two_digits import binary

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FOLDER, ARCHIVE = "cifar-10-batches-py", "cifar-10-python.tar.gz"
COUNTS = {
    "tiny": {"train": 500, "validation": 100, "test": 200},
    "small": {"train": 10_000, "validation": 1_000, "test": 2_000},
    "paper": {"train": 45_000, "validation": 5_000, "test": 10_000},
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
    """The problem: inputs (N, 3, 32, 32) uint8, ten binary tasks named by the `CLASSES`.

    profile  how many images at most; every profile reads the user's files. Validation images are held out of the train
             ones, the same for every run; a part of the set gives them a tenth.
    seed     changes nothing.
    train, validation, test  numbers of images in place of the profile's.

    Errors: ValueError for an option out of range; `DataError` for files that are missing, damaged or not torchvision's.
    """
    chosen = sizes(COUNTS, profile, {"train": train, "validation": validation, "test": test}, "images", COUNTS["paper"])
    held = _held(root)
    parts = read(held)
    split = split_off(held, chosen, {name: len(labels) for name, (_, labels) in parts.items()}, "cifar10")

    def made(part: str, positions: np.ndarray) -> Split:
        images, labels = (torch.from_numpy(array[positions]) for array in parts[part])
        return Split(images, tuple((labels == number).float() for number in range(len(CLASSES))))

    return Problem(
        tuple(binary(name) for name in CLASSES),
        **{name: made("test" if name == "test" else "train", positions) for name, positions in split.items()},
        source=source(held, "cifar10", profile, split),
    )


def split_off(held: Held, chosen: dict[str, int], there: dict[str, int], name: str) -> dict[str, np.ndarray]:
    """Split -> positions of its images, of one fixed permutation; `DataError` where a whole set has too few.

    Of a part of a set, each split is what there is.
    """
    order = {part: numpy_generator(0, "split", f"{name} {part}").permutation(n) for part, n in there.items()}
    first = chosen["validation"]
    if held.partial:
        first = max(1, min(first, there["train"] // 10))
    elif first + chosen["train"] > there["train"] or chosen["test"] > there["test"]:
        wanted = f"{first + chosen['train']:,} train and {chosen['test']:,} test images"
        raise held.error("", wanted, ", ".join(f"{n:,} {part}" for part, n in there.items()))
    train = order["train"][first:][: chosen["train"]]
    return {"train": train, "validation": order["train"][:first], "test": order["test"][: chosen["test"]]}


def source(held: Held, name: str, profile: str, split: dict[str, np.ndarray]) -> dict:
    """What a record says of where the images come from."""
    return {
        "name": name,
        "profile": profile,
        "origin": "files that the user brought, with torchvision's checksums"
        if not held.partial
        else "a part of the set, held to a manifest",
        "synthetic": False,
        "rebuilt": False,
        "complete": not held.partial,
        "files_sha256": held.identity(),
        "counts": {part: len(positions) for part, positions in split.items()},
    }


def read(held: Held) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """ "train" and "test" -> images (N, 3, 32, 32) uint8, labels (N,) int64. `DataError` about the first wrong file."""
    library, parts = require("torchvision.datasets", extra="vision").CIFAR10, {}
    for part, files in (("train", library.train_list), ("test", library.test_list)):
        images, labels = [], []
        for file, md5 in files:
            content = held.read(file, 1 << 26, md5)
            with held.damage(file, "a batch of CIFAR-10"):
                batch = pickles.read(content)
                pixels, numbers = batch["data"], np.array(batch["labels"])
                if not isinstance(pixels, np.ndarray):
                    raise ValueError(f"pixels are a {type(pixels).__name__}, expected an array")
                if pixels.dtype != np.uint8 or pixels.shape != (len(numbers), 3072) or numbers.ndim != 1:
                    raise ValueError(f"pixels {pixels.dtype} {pixels.shape} for {numbers.shape} labels")
                if numbers.dtype.kind not in "iu" or not 0 <= numbers.min() <= numbers.max() < len(CLASSES):
                    raise ValueError(f"labels are integers from 0 to {len(CLASSES) - 1}, found others")
            images.append(pixels.reshape(-1, 3, 32, 32))
            labels.append(numbers.astype(np.int64))
        parts[part] = np.concatenate(images), np.concatenate(labels)
    return parts


def _held(root: Root) -> Held:
    archive, folder = data_root(root) / ARCHIVE, place(root, CHECKS["cifar10"])
    if folder.is_dir() or not archive.is_file():
        return Held("cifar10", folder)
    with damage_as_data_error("cifar10", "the archive of CIFAR-10", archive, AGAIN):
        library = require("torchvision.datasets", extra="vision").CIFAR10
        wanted = {f"{FOLDER}/{file}" for file, _ in [*library.train_list, *library.test_list]}
        packed = {name.partition("/")[2]: content for name, content in members(archive, wanted).items()}
        return Held("cifar10", archive, packed=packed)


def _survey(held: Held, progress: Callable[[Iterable], Iterable]) -> dict[str, int]:
    return {part: len(labels) for part, (_, labels) in read(held).items()}


CHECKS = {"cifar10": Survey(FOLDER, "data_batch_1", _survey, {"train": 50_000, "test": 10_000})}
