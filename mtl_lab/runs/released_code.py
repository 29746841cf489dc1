"""For a rerun of Recon: the skip connection of its released code, and the layer scores of each quarter of a run."""

import weakref

import numpy as np
from torch import nn

from mtl_core import models
from mtl_lab.runs.conflict_log import ConflictLog


class Skip(nn.Module):
    """The skip connection of the released residual block, called for one task after the other.

    Where the block forks inside, several tasks have one and the same `identity`: only the first of them receives it.
    """

    last = staticmethod(lambda: None)

    def forward(self, out, identity):
        # No trace has a length: torch.fx gives up here, and takes the module as a whole
        again, self.last = len(out) > 0 and self.last() is identity, weakref.ref(identity)
        return out if again else out + identity


def resnet18_released_skip(outputs, **options) -> models.MultiTaskModel:
    """`models.resnet18` with the skip connections of Recon's released code; the same network until layers are split."""
    model = models.resnet18(outputs, **options)
    for block in [m for m in model.trunk.modules() if hasattr(m, "conv2")]:
        block.__class__ = type("ReleasedBlock", (type(block),), {"forward": _forward, "__module__": __name__})
        block.skip = Skip()
    return model


def _forward(self, x):
    out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
    return self.relu(self.skip(out, x if self.downsample is None else self.downsample(x)))


class QuarterLog(ConflictLog):
    """A `ConflictLog` whose summary has `quarters`: threshold -> the scores in each quarter of the run, (4, layer).

    The quarters begin at whole blocks of `ConflictScores`, 50 steps.
    """

    def summary(self):
        quarters = {str(s): np.array_split(self.scores.at(s)[:, 0].sum(-1), 4) for s in self.thresholds}
        return super().summary() | {"quarters": {s: [q.sum(0).tolist() for q in v] for s, v in quarters.items()}}


models.MODELS["resnet18_released_skip"] = resnet18_released_skip
