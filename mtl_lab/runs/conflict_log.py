"""An observer of training that logs how the task gradients conflict, for the record of a run."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from mtl_core.conflict import ConflictScores, cosines, magnitude_similarity
from mtl_core.gradients import TaskGradients
from mtl_core.linalg import gradient_norms


class ConflictLog:
    """An observer of `training.fit`: cosines and magnitudes over all shared parameters, scores per layer.

    num_tasks, thresholds  as for `ConflictScores`.

    restrict  layers to which a second cosine is restricted. A split network's cosine is over what is
              still shared; its fair companion is the unsplit network's cosine over the same layers.
    every     log each n-th step only, the first one included: logging a small network costs as much as a step.
              At least 1 (ValueError).

    Cosines are counted in 2,000 bins of width 0.001.
    """

    BINS = 2000

    def __init__(
        self,
        num_tasks: int,
        thresholds: Iterable[float] = (0.0, -0.1),
        restrict: Sequence[str] = (),
        every: int = 1,
    ):
        if every < 1:
            raise ValueError(f"every counts steps from 1, got {every}")
        self.num_tasks, self.thresholds, self.restrict = num_tasks, tuple(thresholds), list(restrict)
        self.every, self.steps = every, 0
        self.scores: ConflictScores | None = None  # made at the first step, when the layers are known
        self.bins = {name: torch.zeros(self.BINS, dtype=torch.int64) for name in ("all", "restricted")}
        self.negative = {"all": 0, "restricted": 0}
        self.similarity = 0.0

    def update(self, gradients: TaskGradients) -> None:
        self.steps += 1
        if not gradients.layers or (self.steps - 1) % self.every:
            return  # nothing is shared any more, or not this step's turn
        if self.scores is None:
            self.scores = ConflictScores(list(gradients.layers), self.num_tasks, self.thresholds)
        self.scores.update(gradients)
        self._count("all", gradients.matrix)
        if self.restrict:
            self._count("restricted", torch.cat([gradients.layers[name] for name in self.restrict], dim=1))
        self.similarity += magnitude_similarity(gradient_norms(gradients.matrix)).mean().item()

    def _count(self, name: str, matrix: Tensor) -> None:
        values = cosines(matrix).cpu()
        self.negative[name] += int((values < 0).sum())
        bins = ((values + 1) * (self.BINS / 2)).floor().long().clamp(0, self.BINS - 1)
        self.bins[name] += torch.bincount(bins, minlength=self.BINS)

    def summary(self) -> dict[str, Any]:
        """Plain numbers: iterations, share of negative cosines, histogram {bin: count}, scores and mirrors."""
        if self.scores is None:
            return {"iterations": 0}
        pairs = self.num_tasks * (self.num_tasks - 1) // 2
        total = self.scores.iterations * pairs
        result: dict[str, Any] = {
            "iterations": self.scores.iterations,
            "pairs": pairs,
            "layers": self.scores.layers,
            "magnitude_similarity": self.similarity / self.scores.iterations,
            "scores": {str(s): list(self.scores.scores(s).values()) for s in self.thresholds},
            "mirror": {str(s): list(self.scores.mirror(s).values()) for s in self.thresholds},
        }
        for name in ("all", "restricted") if self.restrict else ("all",):
            filled = {str(b): n for b, n in enumerate(self.bins[name].tolist()) if n}
            result[name] = {"negative_share": self.negative[name] / total, "histogram": filled}
        return result

    def state_dict(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "bins": self.bins,
            "negative": self.negative,
            "similarity": self.similarity,
            "layers": self.scores.layers if self.scores else None,
            "scores": self.scores.state_dict() if self.scores else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        # copies on the host, where _count works: a state may be loaded twice, and onto another device
        self.bins = {name: bins.cpu().clone() for name, bins in state["bins"].items()}
        self.negative, self.similarity, self.steps = dict(state["negative"]), state["similarity"], state["steps"]
        if state["layers"] is not None:
            self.scores = ConflictScores(state["layers"], self.num_tasks, self.thresholds)
            self.scores.load_state_dict(state["scores"])
