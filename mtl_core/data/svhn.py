"""SVHN, two house numbers' digits side by side: the five tasks of `two_digits` on photographs.

Netzer et al. (2011) for the images. RotoGrad's paper has such a set, but not how it was made, so it is rebuilt by our
own rule. The files are torchvision's, with its checksums; the user brings them, see `python -m mtl_core.data status`,
to ROOT/svhn/{train,test}_32x32.mat.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch

from .._extras import require
from ..seeds import numpy_generator
from . import two_digits
from .cifar10 import source, split_off
from .files import Root
from .held import Held, Survey, place
from .matlab import arrays
from .problem import Problem, Split
from .profiles import sizes

COUNTS = {  # pairs
    "tiny": {"train": 500, "validation": 100, "test": 200},
    "small": {"train": 20_000, "validation": 3_000, "test": 10_000},
    "paper": {"train": 66_257, "validation": 7_000, "test": 26_032},
}
PUBLISHED = {"train": 73_257, "test": 26_032}


def load(
    root: Root = None,
    profile: str = "tiny",
    seed: int = 0,
    *,
    train: int | None = None,
    validation: int | None = None,
    test: int | None = None,
) -> Problem:
    """The problem: inputs (N, 3, 32, 64) uint8, the five `two_digits.tasks`.

    profile  how many pairs at most; every profile reads the user's files. Images are split before they are paired, and
             each is once at the left and once at the right; a part of the set gives a tenth to validation.
    seed     decides the train pairs; validation and test pairs are the same for every seed.
    train, validation, test  numbers of pairs in place of the profile's.

    Active pixels are those whose mean colour is at least `two_digits.ACTIVE`, z-scored over the train pairs.
    Errors: ValueError for an option out of range; `DataError` for files that are missing, damaged or not torchvision's.
    """
    given = {"train": train, "validation": validation, "test": test}
    chosen = sizes(COUNTS, profile, given, "pairs", COUNTS["paper"])
    held = Held("svhn", place(root, CHECKS["svhn"]))
    parts = read(held)
    split = split_off(held, chosen, {name: len(labels) for name, (_, labels) in parts.items()}, "svhn")
    pairs = {}
    for name, positions in split.items():
        images, labels = parts["test" if name == "test" else "train"]
        second = numpy_generator(seed if name == "train" else 0, "pairing", f"svhn {name}").permutation(positions)
        both = torch.from_numpy(np.concatenate([images[positions], images[second]], axis=3))
        pairs[name] = both, *(torch.from_numpy(labels[side]) for side in (positions, second))
    active = {
        name: (both.float().mean(1) >= two_digits.ACTIVE).sum((1, 2)).float() for name, (both, *_) in pairs.items()
    }
    deviation, mean = torch.std_mean(active["train"], correction=0)

    def made(name: str) -> Split:
        both, left, right = pairs[name]
        total = (left + right - two_digits.SUM[0]) / two_digits.SUM[1]
        odd = (left * right % 2).float()
        return Split(both, (left, right, odd, total.float(), (active[name] - mean) / deviation.clamp(min=1)))

    return Problem(
        two_digits.tasks(float(deviation.clamp(min=1))),
        **{name: made(name) for name in split},
        source=source(held, "svhn", profile, split)
        | {"rebuilt": True, "seed": seed, "note": "Real images, paired by our own rule: the paper's is not published."},
    )


def read(held: Held) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """ "train" and "test" -> images (N, 3, 32, 32) uint8, digits (N,) int64. `DataError` about the first wrong file."""
    library, parts = require("torchvision.datasets", extra="vision").SVHN, {}
    for part in ("train", "test"):
        _, file, md5 = library.split_list[part]
        found = arrays(held, file, held.read(file, 1 << 28, md5), 1 << 29)
        with held.damage(file, "images X (32, 32, 3, N) and labels y (N, 1)"):
            images, labels = found["X"], found["y"].reshape(-1)
            if images.dtype != np.uint8 or images.shape != (32, 32, 3, len(labels)):
                raise ValueError(f"images {images.dtype} {images.shape} for {len(labels)} labels")
            if labels.dtype.kind not in "iu" or not 1 <= labels.min() <= labels.max() <= 10:
                raise ValueError("labels are integers from 1 to 10, found others")
        # its class 10 is the digit 0
        parts[part] = np.ascontiguousarray(images.transpose(3, 2, 0, 1)), labels.astype(np.int64) % 10
    return parts


def _survey(held: Held, progress: Callable[[Iterable], Iterable]) -> dict[str, int]:
    return {part: len(labels) for part, (_, labels) in read(held).items()}


CHECKS = {"svhn": Survey("svhn", "train_32x32.mat", _survey, PUBLISHED)}
