"""Dense tasks: a label for every pixel. Segmentation, depth and surface normals, their losses and metrics.

Targets of a task in a `Split`, and what marks a pixel without a label:

    segmentation  (N, H, W) int64, classes from 0;   VOID (-1)
    depth         (N, 1, H, W) float;                0
    normals       (N, 3, H, W) float, unit vectors;  the zero vector

Predictions are (N, outputs, H, W). Each loss is the mean over the labelled pixels of a batch, each task's `labels`
counts those, and a batch without any is a batch without the task.

A metric is taken `over` one of three things, and the papers differ in which (`OVER`): with "image" or "batch" it is
computed for each image or batch, and all of these weigh alike, however few labels they have; with "global" it is
computed once, from all labelled pixels of the split. Recon's code takes depth and normals over images; the code of
MTAN, CAGrad, Nash-MTL and SAM-GS over batches, of which the last may be smaller; all take segmentation globally, from
one confusion matrix. Only "batch" depends on how a split is cut into batches.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mtl_core._extras import require  # torchmetrics takes two seconds to import
from mtl_core.data.problem import CLASS_LOSSES
from mtl_core.tasks import Task

VOID = -1  # the class of a pixel that has none
OVER = ("image", "batch", "global")


def segmentation(classes: int, name: str = "semantic", over: str = "global") -> Task:
    """A segmentation task: cross-entropy; mIoU and pixel accuracy in percent.

    mIoU is the mean over classes of TP / (TP + FP + FN); a class that is neither in the targets nor in the
    predictions is left out of the mean, as there is nothing to divide by.
    """

    def jaccard():
        return _library("classification").MulticlassJaccardIndex(classes, validate_args=False)

    def accuracy():
        return _library("classification").MulticlassAccuracy(classes, average="micro", validate_args=False)

    metrics = {
        "mIoU": _metric(over, jaccard, _classes, True, _percent),
        "pixel accuracy": _metric(over, accuracy, _classes, True, _percent),
    }
    return Task(name, classes, cross_entropy, metrics, _count)


def depth(name: str = "depth", over: str = "image") -> Task:
    """A depth or disparity task: mean absolute error; the same in the targets' unit, and |error| / |target|."""
    metrics = {
        "absolute error": _metric(over, lambda: _library().MeanAbsoluteError(), _pair, False),
        "relative error": _metric(over, lambda: _library().MeanAbsolutePercentageError(), _pair, False),
    }
    return Task(name, 1, absolute_error, metrics, _count)


def normals(name: str = "normals", over: str = "image") -> Task:
    """A task of surface normals: 1 - cosine; mean and median angle in degrees, percent of pixels within 11.25, 22.5
    and 30 degrees.

    Predictions of any length are taken as directions. The median of an even number of angles is the lower one of the
    middle two, as torch has it; over "global" it keeps the angle of every pixel of the split, 4 bytes each.
    """

    def within(limit: float):
        def read(predictions, targets):
            return ((_angles(predictions, targets)[0] < limit).float(),)

        return _metric(over, lambda: _library().MeanMetric(), read, True, _percent)

    metrics = {
        "mean angle": _metric(over, lambda: _library().MeanMetric(), _angles, False),
        "median angle": _metric(over, lambda: _library().CatMetric(), _angles, False, torch.median),
        **{f"within {limit}°": within(limit) for limit in (11.25, 22.5, 30)},
    }
    return Task(name, 3, one_minus_cosine, metrics, _count)


# --- losses


def cross_entropy(predictions: Tensor, targets: Tensor) -> Tensor:
    """Mean over the pixels that are not VOID; 0 where all are."""
    _check(predictions, targets)
    return nn.functional.cross_entropy(predictions, targets, ignore_index=VOID, reduction="sum") / _at_least_one(
        targets
    )


CLASS_LOSSES[cross_entropy] = VOID  # a Problem holds its labels to the range of classes


def absolute_error(predictions: Tensor, targets: Tensor) -> Tensor:
    """Mean |prediction - target| over the pixels whose target is not 0; 0 where there is none."""
    _check(predictions, targets)
    return ((predictions - targets).abs() * labelled(targets)[:, None]).sum() / _at_least_one(targets)


def one_minus_cosine(predictions: Tensor, targets: Tensor) -> Tensor:
    """1 - the mean product of the predicted direction and the target, over pixels with a target; 0 without any."""
    _check(predictions, targets)
    cosines = (nn.functional.normalize(predictions, dim=1) * targets).sum(1)
    return ((1 - cosines) * labelled(targets)).sum() / _at_least_one(targets)


def labelled(targets: Tensor) -> Tensor:
    """(N, H, W) bool: which pixels have a label."""
    return (targets != 0).any(1) if targets.is_floating_point() else targets != VOID


def _count(targets: Tensor) -> Tensor:
    return labelled(targets).sum()


def _at_least_one(targets: Tensor) -> Tensor:
    return _count(targets).clamp(min=1)


def _check(predictions: Tensor, targets: Tensor) -> None:
    """ValueError where shapes do not fit: torch would stretch one of them over the other."""
    shape = (
        targets.shape if targets.is_floating_point() else (len(targets), *predictions.shape[1:2], *targets.shape[1:])
    )
    if predictions.dim() != 4 or predictions.shape != shape:
        got = f"got predictions {tuple(predictions.shape)} and {targets.dtype} targets {tuple(targets.shape)}"
        raise ValueError(f"expected predictions (N, C, H, W), and targets (N, C, H, W) or of classes (N, H, W); {got}")


# --- metrics


def _metric(over: str, make: Callable, read: Callable, higher_is_better: bool, last: Callable = lambda x: x):
    if over not in OVER:
        raise ValueError(f"a metric is taken over {', '.join(OVER)}; got {over!r}")
    return lambda: _Over(over, make(), read, higher_is_better, last)


class _Over:
    """A torchmetrics metric of all labelled pixels of a split, or its mean over the split's batches or images.

    read  (predictions (n, C), targets (n,) or (n, C)) of n labelled pixels -> what the metric's update takes.
    last  what becomes of the metric's value.
    """

    def __init__(self, over, metric, read, higher_is_better, last):
        self.over, self.metric, self.read, self.last = over, metric, read, last
        self.higher_is_better = higher_is_better
        self.values: list[Tensor] = []

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        _check(predictions, targets)
        size = 1 if self.over == "image" else len(targets)
        for p, t in zip(predictions.split(size), targets.split(size), strict=True):
            valid = labelled(t)
            if valid.any():
                t = t.movedim(1, -1) if t.is_floating_point() else t
                self.metric.update(*self.read(p.movedim(1, -1)[valid], t[valid]))
                if self.over != "global":
                    self.values.append(self.last(self.metric.compute()))
                    self.metric.reset()

    def compute(self) -> Tensor:
        """Not a number where no pixel has a label."""
        return self.last(self.metric.compute()) if self.over == "global" else torch.tensor(self.values).mean()


def _library(part: str = ""):
    return require(f"torchmetrics.{part}".rstrip("."), extra="metrics")


def _classes(predictions, targets):
    return predictions.argmax(1), targets


def _pair(predictions, targets):
    return predictions.contiguous(), targets.contiguous()


def _angles(predictions, targets):
    cosines = (nn.functional.normalize(predictions, dim=1) * targets).sum(1)
    return (cosines.clamp(-1, 1).acos().rad2deg(),)


def _percent(value):
    return 100 * value
