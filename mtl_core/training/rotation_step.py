"""One optimisation step of a feature rotation (RotoGrad and its kin), and the parameters that it trains."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from mtl_core.old_gradients import TaskGradients, trunk_gradients
from mtl_core.methods.rotograd import RotoGrad, RotoGradNorm


class RotationStep:
    """As `steps.Step`, for a method that walks trunk and heads itself. It becomes the model's `rotations`.

    method     RotoGrad or one of its family, made with the trunk and heads of `model`.
    observed   also compute the matrix of task gradients, K more backward passes; with normalised losses, theirs.
    autocast   a context for the forward pass; processes: the `Processes` among which a batch is shared.
    ValueError: a method made with another trunk or heads; a model that has rotations of an earlier fit.
    """

    def __init__(self, model, tasks, spec, method: RotoGrad, convention, observed=False, autocast=None, processes=None):
        if getattr(method, "trunk", None) is not model.trunk or list(method.heads) != list(model.heads):
            raise ValueError("a feature rotation must be made with the trunk and heads of the model that is trained")
        if model.rotations is not None and model.rotations is not method.rotation:
            raise ValueError("the model has rotations of an earlier fit; train a fresh model")
        model.rotations = method.rotation
        self.model, self.tasks, self.method, self.observed = model, tasks, method.train(), observed
        self.convention = convention = convention.of(spec.name)
        self.factor = convention.factor(spec.native_scale, len(tasks))
        self.autocast, self.processes = autocast or nullcontext(), processes
        self.gradients: TaskGradients | None = None
        self.backward_passes = 1 + len(tasks) * observed

    def __call__(self, inputs: Tensor, targets: Sequence[Tensor]) -> Tensor:
        """Set every `.grad`; the detached losses (K,). NonFiniteGradientError where they are not finite."""
        method, processes = self.method, self.processes
        method.zero_grad(set_to_none=True)
        with self.autocast:
            outputs = method(inputs)
        weight = 1.0 if processes is None else processes.weight
        losses = [
            weight * task.loss(output.float() if output.dtype == torch.bfloat16 else output, target)
            for task, output, target in zip(self.tasks, outputs, targets, strict=True)
        ]
        values = method.backward(losses, join=processes and processes.join, retain_graph=self.observed)
        observed: list[Tensor] = []
        if self.observed:
            assert method.features is not None and method.feature_gradients is not None  # backward has kept them
            self.gradients = trunk_gradients(self.model, method.features, method.feature_gradients, self.gradients)
            method.features = method.feature_gradients = None  # their graph is freed
            observed = [self.gradients.matrix]
        if processes is not None:  # RotoGradNorm's weights have learnt from the joined norms already
            parameters = [*method.model_parameters(), *method.rotation_parameters()]
            processes.join_all([p.grad for p in parameters if p.grad is not None] + observed)
        self._scale([p.grad for p in method.trunk.parameters() if p.grad is not None])
        return values

    def _scale(self, trunk: list[Tensor]) -> None:
        total = self.factor
        if self.convention.clip is not None and trunk:
            total *= self.convention.clip_factor(total * torch.nn.utils.get_total_norm(trunk).item())
        if total != 1:
            torch._foreach_mul_(trunk, total)


def parameter_groups(method: RotoGrad, learning_rate: float) -> list[dict]:
    """For the optimizer: trunk and heads; rotations and task weights, `rotation_rate` times as fast, without decay."""
    learned = list(method.rotation_parameters())
    if isinstance(method, RotoGradNorm):
        learned += method.weight_parameters()
    groups: list[dict] = [{"params": list(method.model_parameters())}]
    if learned:
        groups.append({"params": learned, "lr": learning_rate * method.rotation_rate, "weight_decay": 0.0})
    return groups
