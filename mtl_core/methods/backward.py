"""From task gradients to every `.grad`: what a method gives, under a convention."""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torchjd import aggregation

from mtl_core.old_gradients import TaskGradients
from mtl_core.methods._state import LearnedParameters
from mtl_core.methods.conventions import CONVENTIONS, Convention
from mtl_core.methods.registry import WEIGHTING, Method


def combine(
    method: nn.Module,
    spec: Method,
    convention: Convention,
    gradients: TaskGradients,
    losses: Tensor,
    heads: Iterable[nn.Module],
) -> None:
    """One step of `method` on the task gradients: sets every `.grad` as `convention` says.

    spec       the method's entry in the registry.
    gradients  the task gradients; those of heads and task-specific layers are already set, raw.
    losses     (K,) detached.
    heads      the K heads, whose gradients are weighted where the convention (or a loss weighting) says so.

    Methods that are a weighted sum of the gradients write it into a reused vector: a fresh one of the size
    of ResNet18 costs the operating system's page faults, three times the product itself.
    """
    matrix, convention = gradients.matrix, convention.of(spec.name)
    factor = convention.factor(spec.native_scale, len(matrix))
    weights = task_weights(method, spec, convention, gradients_read(gradients, spec), losses)
    if matrix.shape[1]:
        # The method's update, times the convention's factor, clipped:  s \Delta \min(1, c / \|s \Delta\|)
        update = _vector(method, spec, matrix, losses) if weights is None else gradients.combine(weights)
        total = factor
        if convention.clip is not None:
            total *= convention.clip_factor(factor * torch.linalg.vector_norm(update).item())
        kept = {tensor.untyped_storage().data_ptr() for tensor in (matrix, *method.buffers())}
        if update.untyped_storage().data_ptr() in kept:  # J or the method's own state: not ours to write
            update = update * total
        elif total != 1:
            update.mul_(total)
        gradients.assign(update)
    if weights is not None:
        parameters = [[*head.parameters(), *gradients.task_parameters[k]] for k, head in enumerate(heads)]
        weigh_heads(spec, convention, weights * factor, parameters)


def task_weights(
    method: nn.Module, spec: Method, convention: Convention, matrix: Tensor | None, losses: Tensor
) -> Tensor | None:
    """The weights (K,) of the tasks where the method has them, else None; its own parameters learn from the step.

    matrix  (K, ...) gradients of the method's level; a loss weighting of the level "losses" does not look at it.
    """
    weights: Tensor
    if spec.kind == WEIGHTING and spec.level == "losses":
        # The weight of task k is the scalar's slope in its loss:  w_k = \partial f(L) / \partial L_k
        with torch.enable_grad():
            values = losses.detach().requires_grad_()
            method(values).backward()
        assert values.grad is not None
        weights = values.grad
    elif spec.kind == WEIGHTING:
        weights = method(matrix, losses)
    elif type(method).forward is aggregation.WeightedAggregator.forward and matrix is not None and matrix.shape[1]:
        return cast(aggregation.WeightedAggregator, method).weighting(matrix)
    elif spec.level != "parameters":
        raise ValueError(
            f"a method of the level {spec.level!r} weighs the tasks: expected a WeightedAggregator of torchjd, got "
            f"{type(method).__name__}; register it at the level 'parameters'"
        )
    else:
        return None
    if spec.learns:
        cast(LearnedParameters, method).learn(convention.own_optimizer)
    return weights


def update(method: nn.Module, spec: Method, matrix: Tensor, losses: Tensor | None = None) -> Tensor:
    """What a method of any kind makes of J, (K, D) -> (D,), before scale and clip: for figures and comparisons.

    matrix  J, or for a method of another level the gradients there; its own parameters learn as under `plain`.
    losses  (K,), ones where None.
    """
    losses = matrix.new_ones(len(matrix)) if losses is None else losses
    weights = task_weights(method, spec, CONVENTIONS["plain"], matrix, losses)
    return _vector(method, spec, matrix, losses) if weights is None else weights.to(matrix) @ matrix


def _vector(method: nn.Module, spec: Method, matrix: Tensor, losses: Tensor) -> Tensor:
    """The update (D,) of a method that has no weights."""
    return method(matrix, losses) if "losses" in spec.needs else method(matrix)


def weigh_heads(
    spec: Method, convention: Convention, weights: Tensor, parameters: Iterable[Iterable[nn.Parameter]]
) -> None:
    """Multiply the gradients of task k's own `parameters[k]` by weight k, where weights reach the heads."""
    if spec.kind != WEIGHTING and convention.heads != "weighted":
        return
    for weight, of_task in zip(weights.tolist(), parameters, strict=True):
        if weight != 1:
            for p in of_task:
                if p.grad is not None:
                    p.grad.mul_(weight)


def gradients_read(gradients: TaskGradients, spec: Method) -> Tensor:
    """The task gradients of the method's level, (K, ...)."""
    if spec.level == "features":
        if gradients.owners:
            raise ValueError(no_common_features(spec))
        return feature_matrix(gradients.features)
    if spec.level == "last layer" and gradients.layers:
        return list(gradients.layers.values())[-1]
    return gradients.matrix


def feature_matrix(gradients: Sequence[Tensor]) -> Tensor:
    """Z, (K, B·d): the K gradients at the features, each one vector of batch and features; at least float32."""
    wide = torch.promote_types(gradients[0].dtype, torch.float32)
    return torch.stack([gradient.flatten().to(wide) for gradient in gradients])


def no_common_features(spec: Method) -> str:
    """The message where a trunk hands each task features of its own (Recon): their gradients have no common space."""
    return f"{spec.name} needs features that all tasks share: choose a method of the level 'parameters'"
