"""Two digits in one image, five tasks: the digit problem of RotoGrad's paper, rebuilt from MNIST.

A digit is at the top left, another at the bottom right of one canvas, as in the images of Sener & Koltun (2018).
The tasks are those of the paper: either digit, whether their product is odd, their sum, and the number of active
pixels, which has little to do with the digits. Sizes, scales and the threshold of an active pixel are ours, so
only gaps and orders can be compared with printed tables.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .._extras import require
from ..tasks import Task
from .composites import OFFSET, PARTS, Images, draw_pairs, overlay, pairs_sha256, read_source
from .files import Root
from .problem import Problem, Split, classification
from .profiles import sizes

ACTIVE = 128  # an active pixel is at least as bright, of 255
SUM = (9.0, 4.06)  # mean and standard deviation of the sum of two digits
PIXELS = (200.0, 43.5)  # of the number of active pixels, over composites of the train split
COUNTS = {  # composites
    "tiny": {"train": 2_000, "validation": 320, "test": 800},
    "small": {"train": 20_000, "validation": 4_000, "test": 10_000},
    "paper": {"train": 54_000, "validation": 6_000, "test": 10_000},
}
NAMES = ("left digit", "right digit", "odd product", "sum", "active pixels")


def tasks(deviation: float = PIXELS[1]) -> tuple[Task, ...]:
    """The five tasks: cross-entropy and accuracy in percent (both digits), binary cross-entropy and F1 in percent (odd
    product), mean squared error of z-scored targets and its root in digits or pixels (sum, active pixels).

    deviation  of the number of active pixels, by which its targets are divided.
    """
    return (
        classification(NAMES[0], 10),
        classification(NAMES[1], 10),
        binary(NAMES[2]),
        Task(NAMES[3], 1, _squared, {"RMSE": lambda: _Root(SUM[1])}),
        Task(NAMES[4], 1, _squared, {"RMSE (pixels)": lambda: _Root(deviation)}),
    )


def binary(name: str) -> Task:
    """A yes or no: binary cross-entropy of one logit, F1 in percent of "yes"; logits (B, 1), targets (B,) float."""
    return Task(name, 1, _binary, {"F1": _F1})


def load(
    root: Root = None,
    profile: str = "tiny",
    seed: int = 0,
    *,
    train: int | None = None,
    validation: int | None = None,
    test: int | None = None,
) -> Problem:
    """The problem: inputs (N, 1, 36, 36) uint8, the five `tasks`.

    profile  "tiny" composes the embedded set; "small" and "paper" need full MNIST.
    seed     decides the train pairs; validation and test pairs are the same for every seed.
    train, validation, test  numbers of composites in place of the profile's.

    Source images are split first, 9 to 1 and stratified by class; test composites come from the official test split.
    Errors: ValueError for an option out of range; `DataError` where the full set is missing or damaged.
    """
    counts = sizes(COUNTS, profile, {"train": train, "validation": validation, "test": test}, "composites")
    digits, checksum = read_source("mnist", root, profile)
    origin = (
        {"origin": "embedded mini set", "sha256": {"mnist": checksum}}
        if profile == "tiny"
        else {"origin": "full MNIST, raw files", "md5": {"mnist": checksum}}
    )
    drawn = draw_pairs(digits, digits, counts, seed, stream="two digits ")
    return Problem(
        tasks(),
        **{split: _compose(digits.parts[PARTS[split]], pairs) for split, pairs in drawn.items()},
        source={
            "name": "two_digits",
            "profile": profile,
            **origin,
            "synthetic": False,
            "rebuilt": True,
            "note": "Rebuilt: real MNIST images are paired and overlaid by our own rule; the paper's images, sizes and "
            "target scales are not published.",
            "overlap": "pixel-wise maximum",
            "offset": OFFSET,
            "seed": seed,
            "counts": counts,
            "pairs_sha256": pairs_sha256(digits, digits, drawn),
        },
    )


def _compose(digits: Images, drawn: np.ndarray) -> Split:
    inputs = overlay([digits.images[chosen] for chosen in drawn.T], OFFSET)
    left, right = (torch.from_numpy(digits.labels[chosen]).long() for chosen in drawn.T)
    pixels = (inputs >= ACTIVE).sum((1, 2, 3))
    scored = [(values - mean) / deviation for values, (mean, deviation) in ((left + right, SUM), (pixels, PIXELS))]
    return Split(inputs, (left, right, *(values.float() for values in (left * right % 2, *scored))))


def _binary(predictions: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(predictions.squeeze(1), targets)


def _squared(predictions: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(predictions.squeeze(1), targets)


class _F1:
    """F1 in percent of the class "yes", predicted where the logit is positive."""

    higher_is_better = True

    def __init__(self) -> None:
        # two seconds to import
        self.metric = require("torchmetrics.classification", extra="metrics").BinaryF1Score()

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        # torchmetrics takes logits that happen to lie in [0, 1] for probabilities
        self.metric.update((predictions.squeeze(1) > 0).int(), targets.int())

    def compute(self) -> Tensor:
        return 100 * self.metric.compute()


class _Root:
    """Root mean squared error times the target's standard deviation."""

    higher_is_better = False

    def __init__(self, scale: float) -> None:
        self.metric = require("torchmetrics", extra="metrics").MeanSquaredError(squared=False)
        self.scale = scale

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        self.metric.update(predictions.squeeze(1), targets)

    def compute(self) -> Tensor:
        return self.scale * self.metric.compute()
