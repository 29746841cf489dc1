"""From task gradients to the weights of the tasks."""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torchjd import aggregation

from mtl_core.gradients import explained
from mtl_core.methods._gramian import ByGram, OnGram
from mtl_core.methods._state import LearnedParameters
from mtl_core.methods.conventions import Convention
from mtl_core.methods.registry import WEIGHTING, Method


def task_weights(
    method: nn.Module, spec: Method, convention: Convention, matrix: Any, losses: Tensor, product=None, through=None
) -> Tensor | None:
    """The weights (K,) of the tasks where the method has them, else None; its own parameters learn from the step.

    matrix   (K, ...) gradients of the method's level; a loss weighting of the level "losses" does not look at it.
    product  J Jᵀ of the matrix, (K, K) float64 on the host, where it is known.
    through  the losses with their graph: differentiate to its leaves, whose `.grad` is added to.
    """
    if spec.kind == WEIGHTING and spec.level == "losses":
        # The weight of task k is the scalar's slope in its loss:  w_k = \partial f(L) / \partial L_k
        with torch.enable_grad(), explained():
            values = losses.detach().requires_grad_() if through is None else through
            values.retain_grad()
            method.zero_grad()  # what a step that failed has left
            scalar = method(values)
            scalar.backward()
        weights = values.grad
    elif spec.kind == WEIGHTING:
        weights = method(matrix, losses)
    elif isinstance(method, ByGram):
        return cast(OnGram, method.weighting).forward(matrix, product)
    elif type(method).forward is aggregation.WeightedAggregator.forward:
        return cast(aggregation.WeightedAggregator, method).weighting(matrix)
    elif spec.level != "parameters":
        expected = f"expected a WeightedAggregator of torchjd, got {type(method).__name__}"
        remedy = "register it at the level 'parameters'"
        raise ValueError(f"a method of the level {spec.level!r} weighs the tasks: {expected}; {remedy}")
    else:
        return None
    if spec.learns:
        cast(LearnedParameters, method).learn(convention.own_optimizer)
    return weights
