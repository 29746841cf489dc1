"""What a balancer asks of its method: weights or an update, for the tasks that are there; and how often."""

from types import SimpleNamespace

import torch
from torch import Tensor

from mtl_core.balancer.step import Step
from mtl_core.linalg import gram
from mtl_core.methods._state import NotPositive
from mtl_core.methods.backward import task_weights
from mtl_core.methods.conventions import named
from mtl_core.methods.registry import AGGREGATION, WEIGHTING, Method, instance
from mtl_core.methods.task_state import selected
from mtl_core.random_state import drawing_from


class Rule:
    """A method under a convention. Arguments as in `Balancer`.

    by_task  gradients of what is no column of J are weighted, too.
    kept     task -> its weight in the last step that computed weights.
    learns   the method waits for the losses after this step.
    """

    def __init__(self, method, spec: Method | None, convention, every: int, project: bool, options: dict):
        self.spec, self.method = instance(method, spec, options)
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"every counts steps, a whole number from 1; got {every!r}")
        if every > 1 and not project and self.spec.kind == AGGREGATION and not hasattr(self.method, "weighting"):
            raise ValueError(f"{self.spec.name} has no weights to keep between steps: every=1, or project=True")
        self.convention = named(convention).of(self.spec.name)
        self.every, self.project, self.steps = every, project, 0
        self.by_task = self.spec.kind == WEIGHTING or self.convention.heads == "weighted"
        as_is = self.convention.clip is None and self.convention.scale in ("raw", self.spec.native_scale) and every == 1
        self.direct = as_is and self.spec.kind == WEIGHTING and self.spec.level == "losses"
        self.tasks: list[str] = []
        self.residual: float | None = None
        self.learns = False
        self.kept: dict[int, Tensor] = {}

    def stale(self, tasks: list[int]) -> bool:
        """Weights of an earlier step are used in this one."""
        return self.steps % self.every > 0 and all(k in self.kept for k in tasks)

    def weigh(self, step: Step | SimpleNamespace, read, sizes, product: Tensor | None = None, through=None) -> tuple:
        """(weights, None, K), or (None, update, K) where the method has none; its state learns from the step.

        A task whose gradient is exactly zero is absent for an aggregation; K counts those that are not.

        read     J or what the method reads in its place; sizes: (K,), 0 for a task whose gradient may be zero.
        product  J Jᵀ of `read`, on the host, where it is known.
        through  the losses with their graph: a loss weighting is differentiated through it, into `.grad`.
        """
        spec, method, values, all_tasks = self.spec, self.method, step.values, range(len(step.tasks))
        reads = spec.kind == AGGREGATION and read is not None and read.shape[1]
        rows = [n for n in all_tasks if not reads or sizes[n] or read[n].any()]
        tasks, K, update = [step.tasks[n] for n in rows], max(len(rows), 1), None
        if len(rows) < len(all_tasks):
            values, read, product = values[rows], read[rows], None
        weights: Tensor | None
        if len(tasks) < 2:
            weights = torch.ones_like(values)
        elif self.stale(tasks):
            weights = torch.stack([self.kept[k] for k in tasks]).to(values)
        elif spec.kind == AGGREGATION and read is not None and not read.shape[1]:
            return None, None, K  # nothing is shared
        else:
            try:
                with drawing_from(step.random, values.device), selected(method, tasks, self.tasks):
                    weights = task_weights(method, spec, self.convention, read, values, product, through)
                    if weights is None:
                        update = method(read, values) if "losses" in spec.needs else method(read)
            except NotPositive as error:
                bad = ", ".join(repr(self.tasks[tasks[k]]) for k in error.tasks)
                raise ValueError(f"{error.what} needs positive losses, or None for absent tasks; got {bad}") from error
            self.keep(tasks, weights)
            self.learns = "losses after the step" in spec.needs
        if weights is not None and len(rows) < len(all_tasks):  # the others' heads get their own gradients
            some, weights = weights, torch.ones_like(step.values)
            weights[rows] = some.to(weights)
        return weights, update, K

    def keep(self, tasks: list[int], weights: Tensor | None) -> None:
        if self.every > 1 and weights is not None:
            self.kept |= dict(zip(tasks, weights.detach().clone(), strict=True))

    def nearest(self, tasks: list[int], matrix: Tensor, update: Tensor) -> Tensor:
        r"""w with $J^\top w$ nearest to the update; what remains of it, as a share, is `residual`."""
        weights = torch.linalg.pinv(gram(matrix), hermitian=True) @ (matrix @ update).double()
        length = torch.linalg.vector_norm(update).item()
        self.residual = torch.linalg.vector_norm(update - matrix.T @ weights.to(matrix)).item() / (length or 1.0)
        self.keep(tasks, weights)
        return weights
