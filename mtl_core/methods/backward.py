"""From task gradients to every `.grad`: what a method gives, under a convention."""

import torch
from torch import Tensor, nn
from torchjd import aggregation

from mtl_core.methods.conventions import CONVENTIONS, Convention
from mtl_core.methods.registry import Method


def combine(method: nn.Module, row: Method, convention: Convention, gradients, losses: Tensor, heads) -> None:
    """One step of `method` on the task gradients: sets every `.grad` as `convention` says.

    gradients  `TaskGradients` with the raw gradients of heads and task-specific layers already set.
    losses     (K,) detached.
    heads      the K heads, whose gradients are weighted where the convention (or a loss weighting) says so.

    Methods that are a weighted sum of the rows write it into a reused vector: a fresh one of the size
    of ResNet18 costs the operating system's page faults, three times the product itself.
    """
    matrix, convention = gradients.matrix, convention.of(row.name)
    factor = convention.factor(row.native_scale, len(matrix))
    weights = task_weights(method, row, convention, _read(gradients, row), losses)
    if matrix.shape[1]:
        if weights is None:
            found = method(matrix, losses) if "losses" in row.needs else method(matrix)
        else:
            found = gradients.combine(weights)
        total = factor
        if convention.clip is not None:
            total *= convention.clip_factor(factor * torch.linalg.vector_norm(found).item())
        kept = {tensor.untyped_storage().data_ptr() for tensor in (matrix, *method.buffers())}
        if found.untyped_storage().data_ptr() in kept:  # J or the method's own state: not ours to write
            found = found * total
        elif total != 1:
            found.mul_(total)
        gradients.assign(found)
    if weights is not None:
        own = gradients.own_parameters
        weigh_heads(row, convention, weights * factor, [[*h.parameters(), *own[k]] for k, h in enumerate(heads)])


def task_weights(
    method: nn.Module, row: Method, convention: Convention, matrix: Tensor, losses: Tensor
) -> Tensor | None:
    """The weights (K,) of the tasks where the method has them, else None; its own parameters learn from the step.

    matrix  (K, ...) gradients of the row's level; a loss weighting of the level "losses" does not look at it.
    """
    if row.kind == "loss weighting" and row.level == "losses":
        with torch.enable_grad():
            values = losses.detach().requires_grad_()
            method(values).backward()
        weights = values.grad
    elif row.kind == "loss weighting":
        weights = method(matrix, losses)
    elif type(method).forward is aggregation.WeightedAggregator.forward and matrix.shape[1]:
        return method.weighting(matrix)
    elif row.level != "parameters":
        raise ValueError(f"a method of the level {row.level!r} weighs the tasks: expected a WeightedAggregator of "
                         f"torchjd, got {type(method).__name__}; register it at the level 'parameters'")  # fmt: skip
    else:
        return None
    if row.own:
        method.learn(convention.own_optimizer)
    return weights


def update(method: nn.Module, row: Method, matrix: Tensor, losses: Tensor | None = None) -> Tensor:
    """What a method of any kind makes of J, (K, D) -> (D,), before scale and clip: for figures and comparisons.

    matrix  J, or for a method of another level the gradients there; its own parameters learn as under `plain`.
    losses  (K,), ones where None.
    """
    losses = matrix.new_ones(len(matrix)) if losses is None else losses
    weights = task_weights(method, row, CONVENTIONS["plain"], matrix, losses)
    if weights is not None:
        return weights.to(matrix) @ matrix
    return method(matrix, losses) if "losses" in row.needs else method(matrix)


def weigh_heads(row: Method, convention: Convention, weights: Tensor, parameters) -> None:
    """Multiply the gradients of task k's own `parameters[k]` by weight k, where weights reach the heads."""
    if row.kind != "loss weighting" and convention.heads != "weighted":
        return
    for weight, own in zip(weights.tolist(), parameters, strict=True):
        if weight != 1:
            for p in own:
                if p.grad is not None:
                    p.grad.mul_(weight)


def _read(gradients, row: Method) -> Tensor:
    """The task gradients of the row's level, (K, ...)."""
    if row.level == "features":
        if gradients.own:
            raise ValueError(no_common_features(row))
        return feature_matrix(gradients.features)
    if row.level == "last layer" and gradients.layers:
        return list(gradients.layers.values())[-1]
    return gradients.matrix


def feature_matrix(gradients) -> Tensor:
    """Z, (K, B·d): the K gradients at the features, batch and features in one row; at least float32."""
    wide = torch.promote_types(gradients[0].dtype, torch.float32)
    return torch.stack([gradient.flatten().to(wide) for gradient in gradients])


def no_common_features(row: Method) -> str:
    """The message where a trunk hands each task features of its own (Recon): their gradients have no common space."""
    return f"{row.name} needs features that all tasks share: choose a method of the level 'parameters'"
