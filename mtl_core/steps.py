"""One optimisation step: forward, task gradients, and the method's combination of them in every `.grad`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mtl_core import methods
from mtl_core.gradients import NonFiniteGradientError, TaskGradients, task_gradients


class Step:
    """One optimisation step of a method: forward, gradients, combination. Reuses the gradient buffer.

    row, method  registry row and instance; convention as in `methods.conventions`.
    observed     always compute the matrix of task gradients, also for loss weightings, which
                 otherwise need a single backward pass of their scalar.
    """

    def __init__(self, model, tasks, row, method, convention, observed=False):
        self.model, self.tasks, self.row, self.method, self.convention = model, tasks, row, method, convention
        plain = convention.clip is None and convention.factor(row.native_scale, len(tasks)) == 1
        self.scalar = row.kind == "loss weighting" and plain and not observed
        self.gradients: TaskGradients | None = None
        self.backward_passes = 1 if self.scalar else len(tasks)

    def __call__(self, inputs: Tensor, targets: Sequence[Tensor]) -> Tensor:
        """Set every `.grad`; the detached losses (K,). NonFiniteGradientError where they are not finite."""
        features = self.model.features(inputs)
        outputs = self.model.outputs(features)
        losses = [task.loss(output, target) for task, output, target in zip(self.tasks, outputs, targets, strict=True)]
        values = torch.stack(losses)
        if self.scalar:
            if not torch.isfinite(values).all():
                bad = [t.name for t, finite in zip(self.tasks, values.isfinite(), strict=True) if not finite]
                raise NonFiniteGradientError(f"the loss of {', '.join(bad)} is not finite")
            self.model.zero_grad(set_to_none=True)
            self.method(values).backward()
        else:
            self.gradients = task_gradients(losses, self.model, features, out=self.gradients)
            methods.combine(self.method, self.row, self.convention, self.gradients, values.detach(), self.model.heads)
        return values.detach()
