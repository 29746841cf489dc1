"""Tables, losses and metrics of PASCAL_MT that other sets do not share."""

import torch
from torch import Tensor, nn

from ..tasks import Task
from .dense import VOID, labelled

PARTS = {  # ASTMT's six parts of the 24 that PASCAL-Part names
    **dict.fromkeys(("hair", "head", "lear", "lebrow", "leye", "mouth", "nose", "rear", "rebrow", "reye"), 1),
    **dict.fromkeys(("neck", "torso"), 2),
    **dict.fromkeys(("luarm", "ruarm"), 3),
    **dict.fromkeys(("lhand", "llarm", "rhand", "rlarm"), 4),
    **dict.fromkeys(("luleg", "ruleg"), 5),
    **dict.fromkeys(("lfoot", "llleg", "rfoot", "rlleg"), 6),
}
# The classes of PASCAL-Context whose names NYUv2 has as well, and tvmonitor: normals were distilled from a network that
# learnt on NYUv2, and are only used there.
NORMAL_CLASSES = (
    *(3, 4, 6, 9, 10, 11, 13, 15, 17, 18, 22, 23, 29, 30, 33, 34, 36, 37, 38, 39, 41, 43, 46, 49, 50, 51, 53, 55, 56),
    *(59, 61, 62, 65, 66, 68, 69, 72, 73, 78, 83, 84, 85, 87, 88, 95, 96, 101, 104, 105, 107, 111, 113, 115, 122, 124),
    *(135, 141, 142, 143, 146, 150, 154, 157, 158, 159, 165, 172, 174, 181, 183, 184, 191, 193, 195, 197, 199, 202),
    *(213, 215, 216, 219, 220, 223, 225, 228, 230, 232, 233, 238, 239, 242, 243, 246, 250, 251, 252, 255, 260, 261),
    *(263, 269, 272, 273, 275, 281, 283, 284, 285, 286, 287, 288, 290, 291, 292, 293, 295, 304, 307, 309, 310, 314),
    *(315, 319, 323, 329, 330, 331, 336, 342, 345, 349, 350, 351, 352, 355, 357, 368, 370, 371, 374, 379, 380, 383),
    *(384, 397, 401, 403, 405, 407, 408, 411, 412, 413, 414, 417, 419, 421, 423, 427, 429, 430, 432, 440, 441, 442),
    *(443, 444, 446, 454, 457),
)
THRESHOLDS = tuple(step / 20 for step in range(1, 20))


def saliency() -> Task:
    """Saliency: class-balanced binary cross-entropy; IoU in percent, the mean over images at the best threshold."""
    return Task("saliency", 1, balanced_cross_entropy, {"IoU": _BestJaccard}, lambda targets: labelled(targets).sum())


def balanced_cross_entropy(predictions: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of logits (B, 1, H, W), targets (B, H, W), weighted against their shares.

    A yes weighs as the share of the noes in the batch, a no as that of the yeses, as in BMTAS's code. 0 where no pixel
    has a label.
    """
    valid = labelled(targets)
    logits, answers = predictions[:, 0][valid], targets[valid].to(predictions.dtype)
    if not len(answers):
        return predictions.sum() * 0
    noes = 1 - answers.mean()
    weights = torch.where(answers > 0, noes, 1 - noes)
    return nn.functional.binary_cross_entropy_with_logits(logits, answers, weights)


def angles_l1(predictions: Tensor, targets: Tensor) -> Tensor:
    """The distance, summed over x, y and z, of predicted direction and target: the mean over labelled pixels."""
    valid = labelled(targets)
    distance = (nn.functional.normalize(predictions, dim=1) - targets).abs().sum(1)
    return (distance * valid).sum() / valid.sum().clamp(min=1)


class _BestJaccard:
    """IoU of what is salient: the mean over images at each of `THRESHOLDS`, and of these the largest."""

    higher_is_better = True

    def __init__(self) -> None:
        self.images: list[Tensor] = []

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        for logits, answers in zip(predictions[:, 0], targets, strict=True):
            valid = answers != VOID
            found = logits[valid].sigmoid()[None] > torch.tensor(THRESHOLDS, device=logits.device)[:, None]
            yes = answers[valid] > 0
            both, either = (found & yes).sum(1), (found | yes).sum(1)
            self.images.append(torch.where(either > 0, both / either.clamp(min=1), 1.0).cpu())

    def compute(self) -> Tensor:
        return 100 * torch.stack(self.images).mean(0).max()
