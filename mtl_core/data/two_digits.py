"""Two digits in one image, five tasks: the digit problem of RotoGrad's paper, rebuilt from MNIST.

A digit stands at the top left, another at the bottom right of one canvas, as in the images of Sener & Koltun (2018).
The tasks are those of the paper: either digit, whether their product is odd, their sum, and the number of active
pixels, which has little to do with the digits. Sizes, scales and the threshold of an active pixel are ours, so
only gaps and orders can be compared with printed tables.
"""

import hashlib

import numpy as np
import torch
from torch.nn import functional as F

from ..seeds import numpy_generator
from ..tasks import Problem, Split, Task, classification
from .embedded import CHECKSUMS as MINI_CHECKSUMS
from .embedded import mini
from .files import read
from .multi_fashion_mnist import IMAGE, SIZE, _passes, _split_sources

OFFSET = 8  # rows and columns between the digits' corners
ACTIVE = 128  # an active pixel is at least as bright, of 255
SUM = (9.0, 4.06)  # mean and standard deviation of the sum of two digits
PIXELS = (200.0, 43.5)  # of the number of active pixels, over composites of the train split
COUNTS = {  # composites
    "tiny": {"train": 2_000, "validation": 320, "test": 800},
    "small": {"train": 20_000, "validation": 4_000, "test": 10_000},
    "paper": {"train": 54_000, "validation": 6_000, "test": 10_000},
}
NAMES = ("left digit", "right digit", "odd product", "sum", "active pixels")


def tasks() -> tuple[Task, ...]:
    """The five tasks: cross-entropy and accuracy in percent (both digits), binary cross-entropy and F1 in percent (odd
    product), mean squared error of z-scored targets and its root in digits or pixels (sum, active pixels)."""
    return (
        classification(NAMES[0], 10),
        classification(NAMES[1], 10),
        Task(NAMES[2], 1, _binary, {"F1": _F1}),
        Task(NAMES[3], 1, _squared, {"RMSE": lambda: _Root(SUM[1])}),
        Task(NAMES[4], 1, _squared, {"RMSE (pixels)": lambda: _Root(PIXELS[1])}),
    )


def load(root=None, profile: str = "tiny", seed: int = 0, *, train: int | None = None, validation: int | None = None,
         test: int | None = None) -> Problem:  # fmt: skip
    """The problem: inputs (N, 1, 36, 36) uint8, the five `tasks`.

    profile  "tiny" composes the mini set of the package; "small" and "paper" need full MNIST.
    seed     draws the train pairs; validation and test pairs are the same for every seed.
    train, validation, test  numbers of composites in place of the profile's.

    Source images are split first, 9 to 1 and stratified by class; test composites come from the official test split.
    Errors: ValueError for an option out of range; DataError where the full set is missing or damaged.
    """
    if profile not in COUNTS:
        raise ValueError(f"unknown profile {profile!r}; the profiles are {', '.join(COUNTS)}")
    given = {"train": train, "validation": validation, "test": test}
    counts = {name: COUNTS[profile][name] if value is None else value for name, value in given.items()}
    for name, count in counts.items():
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"{name} is a number of composites, at least 1, got {count!r}")
    parts, origin = _sources(root, profile)
    inside, held_out = _split_sources(parts["train"][1], "mnist")
    where = {"train": inside, "validation": held_out, "test": np.arange(len(parts["test"][1]))}
    splits, identities = {}, {}
    for name, count in counts.items():
        generator = numpy_generator(seed if name == "train" else 0, "pairing", f"two digits {name}")
        drawn = np.stack([_passes(where[name], count, generator) for _ in range(2)], axis=1)
        images, labels, index = parts["test" if name == "test" else "train"]
        splits[name] = _compose(images, labels, drawn)
        identities[name] = hashlib.sha256(np.ascontiguousarray(index[drawn].astype("<i8")).tobytes()).hexdigest()
    return Problem(tasks(), **splits, source={
        "name": "two_digits", "profile": profile, **origin, "synthetic": False, "rebuilt": True,
        "note": "Rebuilt: real MNIST images are paired and overlaid by our own rule; the paper's images, sizes and "
                "target scales are not published.",
        "overlap": "pixel-wise maximum", "offset": OFFSET, "seed": seed, "counts": counts,
        "pairs_sha256": identities,
    })  # fmt: skip


def _sources(root, profile):
    if profile == "tiny":
        found = mini("mnist")
        parts = {part: tuple(found[f"{part}_{key}"] for key in ("images", "labels", "index"))
                 for part in ("train", "test")}  # fmt: skip
        return parts, {"origin": "embedded mini set", "sha256": {"mnist": MINI_CHECKSUMS["mnist"]}}
    found, sums = read("mnist", root)
    parts = {part: (images, labels, np.arange(len(labels))) for part, (images, labels) in found.items()}
    return parts, {"origin": "full MNIST, raw files", "md5": {"mnist": sums}}


def _compose(images, labels, drawn):
    first, second = drawn.T
    canvas = np.zeros((len(drawn), SIZE, SIZE), dtype=np.uint8)
    canvas[:, :IMAGE, :IMAGE] = images[first]
    place = canvas[:, OFFSET : OFFSET + IMAGE, OFFSET : OFFSET + IMAGE]
    np.maximum(place, images[second], out=place)
    left, right = (torch.from_numpy(labels[part]).long() for part in (first, second))
    pixels = torch.from_numpy((canvas >= ACTIVE).sum((1, 2)))
    scored = [(values - mean) / sd for values, (mean, sd) in ((left + right, SUM), (pixels, PIXELS))]
    targets = (left, right, *(t.float() for t in (left * right % 2, *scored)))
    return Split(torch.from_numpy(canvas[:, None]), targets)


def _binary(predictions, targets):
    return F.binary_cross_entropy_with_logits(predictions.squeeze(1), targets)


def _squared(predictions, targets):
    return F.mse_loss(predictions.squeeze(1), targets)


class _F1:
    """F1 in percent of the class "odd", predicted where the logit is positive."""

    higher_is_better = True

    def __init__(self):
        from torchmetrics.classification import BinaryF1Score  # two seconds to import

        self.metric = BinaryF1Score()

    def update(self, predictions, targets):
        # torchmetrics takes logits that happen to lie in [0, 1] for probabilities
        self.metric.update((predictions.squeeze(1) > 0).int(), targets.int())

    def compute(self):
        return 100 * self.metric.compute()


class _Root:
    """Root mean squared error times the target's standard deviation."""

    higher_is_better = False

    def __init__(self, scale):
        from torchmetrics import MeanSquaredError

        self.metric, self.scale = MeanSquaredError(squared=False), scale

    def update(self, predictions, targets):
        self.metric.update(predictions.squeeze(1), targets)

    def compute(self):
        return self.scale * self.metric.compute()
