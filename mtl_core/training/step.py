"""One optimisation step: forward, task gradients, and the method's combination of them in every `.grad`."""

import weakref
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from mtl_core import methods
from mtl_core.old_gradients import NonFiniteGradientError, TaskGradients, _head, task_gradients
from mtl_core.methods import backward
from mtl_core.random_state import random_state, set_random_state


class Step:
    """One optimisation step of a method: forward, gradients, combination. Reuses the gradient buffer.

    spec, method  registry entry and instance; convention as in `methods.conventions`.
    observed     always compute the matrix of task gradients, also for methods that need one pass through the trunk:
                 loss weightings (of their scalar, times the convention's factor) and methods that read the gradients
                 at the features.

    A method that learns from the losses after the step (FAMO) gets them behind the next `step()` of whichever torch
    optimizer holds the model's parameters: there is no call that a loop could forget.
    """

    def __init__(self, model, tasks, spec, method, convention, observed=False):
        self.model, self.tasks, self.spec, self.method = model, tasks, spec, method
        self.convention = convention = convention.of(spec.name)
        self.factor = convention.factor(spec.native_scale, len(tasks))
        weighting = spec.kind == "loss weighting" and spec.level == "losses" and convention.clip is None
        self.scalar = weighting and self.factor == 1 and not observed
        self.at_features = not self.scalar and not observed and (weighting or spec.level in ("last layer", "features"))
        if not self.scalar:
            _refuse_tied(model)
            if getattr(model, "rotations", None) is not None:
                raise ValueError(
                    "the model has rotations of an earlier fit, through which task gradients do not pass; "
                    "train a fresh model"
                )
        self.gradients: TaskGradients | None = None
        self.backward_passes = 1 if self.scalar or self.at_features else len(tasks)
        self.follows, self.pending = "losses after the step" in spec.needs, None
        if self.follows:
            _behind_optimizers(self)

    def __call__(self, inputs: Tensor, targets: Sequence[Tensor]) -> Tensor:
        """Set every `.grad`; the detached losses (K,). NonFiniteGradientError where they are not finite."""
        if self.follows:
            self.pending = inputs, targets, _random_state(inputs)
        features = self.model.features(inputs)
        losses = self._losses(self.model.outputs(features), targets)
        values = torch.stack(losses)
        if self.scalar:
            self._check(values, "the loss of")
            self.model.zero_grad(set_to_none=True)
            self.method(values).backward()
            if self.spec.learns:
                self.method.learn(self.convention.own_optimizer)
        elif self.at_features and self.spec.level == "losses":
            self._check(values, "the loss of")
            self.model.zero_grad(set_to_none=True)
            weights = backward.task_weights(self.method, self.spec, self.convention, None, values.detach())
            values.backward(weights * self.factor)
        elif self.at_features:
            self._through_features(losses, features)
        else:
            self.gradients = task_gradients(losses, self.model, features, out=self.gradients)
            methods.combine(self.method, self.spec, self.convention, self.gradients, values.detach(), self.model.heads)
        return values.detach()

    def _losses(self, outputs, targets) -> list[Tensor]:
        return [task.loss(output, target) for task, output, target in zip(self.tasks, outputs, targets, strict=True)]

    def _check(self, values: Tensor, what: str) -> None:
        """NonFiniteGradientError where `values` (K, ...) are not finite, with the tasks' names."""
        if not torch.isfinite(values).all():
            finite = values.detach().flatten(1).isfinite().all(1) if values.ndim > 1 else values.isfinite()
            bad = [task.name for task, fine in zip(self.tasks, finite, strict=True) if not fine]
            raise NonFiniteGradientError(f"{what} {', '.join(bad)} is not finite")

    def _through_features(self, losses, features) -> None:
        r"""The K heads once each, then the trunk once, from $\sum_k w_k Z_k$."""
        if not isinstance(features, Tensor):
            raise ValueError(backward.no_common_features(self.spec))
        model, values = self.model, torch.stack(losses).detach()
        self._check(values, "the loss of")
        feature_gradients = [
            _head(loss, head, features, k) for k, (loss, head) in enumerate(zip(losses, model.heads, strict=True))
        ]
        matrix = backward.feature_matrix(feature_gradients)
        self._check(matrix, "the gradient at the features of")
        trunk = [p for p in model.trunk.parameters() if p.requires_grad]
        if self.spec.level == "last layer":
            name = [n for n, p in model.trunk.named_parameters() if p.requires_grad][-1].rpartition(".")[0]
            last = [p for p in model.trunk.get_submodule(name).parameters(recurse=False) if p.requires_grad]
            parts = [
                torch.autograd.grad(features, last, gradient, retain_graph=True, allow_unused=True)
                for gradient in feature_gradients
            ]
            if any(part is None for of_task in parts for part in of_task):
                raise ValueError(
                    f"{self.spec.name} reads the trunk's last layer, {name!r}, and the features do not depend on all "
                    "of it: register the layers in their order"
                )
            matrix = torch.stack([torch.cat([part.flatten() for part in of_task]) for of_task in parts])
        weights = backward.task_weights(self.method, self.spec, self.convention, matrix, values) * self.factor
        for p in trunk:
            p.grad = None
        features.backward(
            sum(weight * gradient for weight, gradient in zip(weights.to(matrix), feature_gradients, strict=True))
        )
        if self.convention.clip is not None:
            torch.nn.utils.clip_grad_norm_(trunk, self.convention.clip)
        backward.weigh_heads(self.spec, self.convention, weights, [list(head.parameters()) for head in model.heads])

    def _after(self, optimizer) -> None:
        """Behind an optimizer's step: hand the method the losses of the same batch, if it was the model's."""
        if self.pending is None:
            return
        stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if any(id(p) in stepped for p in self.model.parameters()):
            batch, self.pending = self.pending, None
            self.method.update(self._probe(*batch))

    @torch.no_grad()
    def _probe(self, inputs, targets, random) -> Tensor:
        """The losses (K,) of a batch, as `convention.probe` says; the model and torch's random state as they were."""
        model, mode = self.model, self.convention.probe
        training = model.training
        model.train(training and mode != "evaluation")
        before, kept = _random_state(inputs), [buffer.clone() for buffer in model.buffers()]
        if mode == "frozen" and random is not None:
            _set_random_state(random, inputs)
        losses = torch.stack(self._losses(model(inputs), targets))
        if mode == "frozen":
            _set_random_state(before, inputs)
            for buffer, value in zip(model.buffers(), kept, strict=True):
                buffer.copy_(value)
        model.train(training)
        return losses


def _refuse_tied(model) -> None:
    """ValueError where a parameter is part of two heads, or of a head and the trunk: its gradient would be that of one.

    A sum of losses is another matter: autograd adds up what each loss gives.
    """
    seen = {p: "the trunk" for p in model.trunk.parameters()}
    for k, head in enumerate(model.heads):
        for name, p in head.named_parameters():
            if p in seen:
                raise ValueError(
                    f"{name} of head {k} is part of {seen[p]} too: put what tasks share into the trunk, "
                    "or take the plain sum, unobserved"
                )
        seen |= {p: f"head {k}" for p in head.parameters()}


def _behind_optimizers(step: Step) -> None:
    """Call `step._after` behind every optimizer's step, as long as `step` lives."""
    reference = weakref.ref(step)

    def after(optimizer, args, kwargs):
        if (alive := reference()) is not None:
            alive._after(optimizer)

    weakref.finalize(step, register_optimizer_step_post_hook(after).remove)


def _random_state(inputs: Tensor) -> dict:
    return random_state(inputs.device)


def _set_random_state(state: dict, inputs: Tensor) -> None:
    set_random_state(state, inputs.device)
