r"""Gradients by task: which loss reaches which parameter, and J, the matrix (K, D) of the gradients of what is shared.

Row k of J is the gradient of loss k with respect to the D numbers in the shared parameters. One backward pass for each
task writes it into memory that all steps use again. `torch.func` is not used, so BatchNorm, autocast and recurrent
layers work as in ordinary training.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import get_gradient_edge

REMEDIES = {
    "donated buffer": "the backward pass that torch.compile has made runs once, and each task needs one: set "
    "torch._functorch.config.donated_buffer = False before, or take a method of the level 'losses'",
    "backward through the graph a second time": "the graph of these losses has been walked and freed: compute the "
    "losses again; accumulate() adds batches up; another backward pass before this one needs retain_graph=True",
    "use_reentrant": "reentrant activation checkpoints cannot tell the tasks apart: use_reentrant=False can",
}


class NonFiniteGradientError(FloatingPointError):
    """A loss or a gradient holds NaN or infinity; the message names the tasks and layers."""


def all_finite(parts: Mapping[str, Tensor], refuse: bool = True) -> bool:
    """Whether no part holds NaN or infinity; with `refuse`, NonFiniteGradientError with the names of those that do."""
    # A finite sum is the fast answer; one that is not may have overflowed
    bad = [name for name, part in parts.items() if not (part.sum().isfinite() or part.isfinite().all())]
    if bad and refuse:
        more = f" and {len(bad) - 6} more" if len(bad) > 6 else ""
        what = f"expected finite losses and gradients; NaN or infinity in {'; '.join(bad[:6])}{more}"
        remedy = "Lower the learning rate, clip the gradients, or look at that task's inputs"
        raise NonFiniteGradientError(f"{what}. {remedy}")
    return not bad


@dataclass
class TaskGradients:
    """J of one step, for observers. It is valid until the next step.

    matrix  J, (K, D): `J[k]` is the gradient of task k with respect to the shared parameters, one after the other.
    layers  layer -> (K, D_l) view of `matrix`. A layer is one module that owns parameters.
    names   names of the shared parameters, in the order of J's columns.
    tasks   names of the tasks, in the order of J's gradients.
    """

    matrix: Tensor
    layers: dict[str, Tensor]
    names: list[str]
    tasks: list[str]


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """What users meet in a backward pass becomes a ValueError that says what to do."""
    try:
        yield
    except RuntimeError as error:
        remedy = next((remedy for words, remedy in REMEDIES.items() if words in str(error)), None)
        raise error if remedy is None else ValueError(remedy) from error


def gradients(outputs, inputs, starts, retain: bool) -> tuple[Tensor | None, ...]:
    """Gradients of outputs with respect to inputs, None for an input that is not reached."""
    if not inputs:
        return ()
    with explained():
        return torch.autograd.grad(outputs, inputs, starts, retain_graph=retain, allow_unused=True)


LEAF = type(get_gradient_edge(torch.ones((), requires_grad=True)).node)  # what adds to a leaf's `.grad`


def reached(losses: Sequence[Tensor], stop: Sequence[Tensor] = ()) -> tuple[dict[Tensor, int], bool]:
    """Leaf tensor -> bits of the losses that reach it: exact where it is one loss, else two bits or more.

    Visits each edge of the graphs at most twice, whatever the number of losses.

    stop    tensors that count as leaves: what lies behind is not looked at.
    second  whether a compiled or custom function gives different losses different outputs: then its parameters look
            shared, and nothing in the graph tells whether they are.
    """
    masks, leaves, used = dict[Any, int](), dict[Tensor, int](), dict[Any, dict[int, int]]()
    ends = {tuple(get_gradient_edge(tensor)[:2]): tensor for tensor in stop}
    for k, loss in enumerate(losses):
        edge, bit = get_gradient_edge(loss), 1 << k
        todo = [(edge.node, edge.output_nr)]
        while todo:
            node, number = todo.pop()
            if node is None:
                continue
            if ends and (end := ends.get((node, number))) is not None:
                leaves[end] = leaves.get(end, 0) | bit
                continue
            if isinstance(node, BackwardCFunction):
                if node.name() == "CheckpointFunctionBackward":  # hides its parameters, which would get nothing
                    raise ValueError(REMEDIES["use_reentrant"])
                outputs = used.setdefault(node, {})
                outputs[k] = outputs.get(k, 0) | 1 << number
            mask = masks.get(node, 0)
            if mask & bit:
                continue
            masks[node] = mask | bit
            if type(node) is LEAF:
                leaves[node.variable] = mask | bit  # type: ignore[attr-defined]
            elif not mask & (mask - 1):  # else two losses have been here: all below is marked as shared
                todo += node.next_functions  # type: ignore[arg-type]
    return leaves, any(len(set(outputs.values())) > 1 for outputs in used.values())


def together(scalars: Sequence[Tensor], like: Tensor) -> Tensor:
    """(K,): scalars in one vector of the data type and on the device of `like`."""
    return torch.stack([x.to(like) for x in scalars])


def uses(tensor: Tensor) -> int:
    """How many tensors share this one's memory, itself included."""
    return torch._C._storage_Use_Count(tensor.untyped_storage()._cdata)


ALONE = uses(torch.empty(1))


def views(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Views of `flat`, one after the other, in the shapes of `like`."""
    return [*torch._utils._unflatten_dense_tensors(flat, like)] if like else []


def vector(like: Sequence[Tensor], *rows: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Zeros (*rows, D) for what has the sizes of `like`: of the widest of their data types and `dtype`."""
    for t in like:
        dtype = torch.promote_types(dtype, t.dtype)
    return torch.zeros(*rows, sum(t.numel() for t in like), dtype=dtype, device=like[0].device if like else None)


def layer_of(name: str) -> str:
    """The module that owns a parameter; the name of a parameter that stands alone."""
    return name.rpartition(".")[0] or name


class Columns:
    """The memory of a step: J, and one vector for all that goes to `.grad`.

    names, parameters  of the columns of J, those of a layer together; J has K rows.
    rest               parameters that are no columns; their gradients stand behind the update of the columns.
    """

    def __init__(self, names: list[str], parameters: Sequence[Tensor], K: int, rest: Sequence[Tensor] = ()):
        self.names, self.parameters, self.all = names, parameters, [*parameters, *rest]
        self.flat, self.K, self.width = vector(self.all), K, sum(p.numel() for p in parameters)
        self.sizes: dict[str, int] = {}
        for name, p in zip(names, parameters, strict=True):
            self.sizes[layer_of(name)] = self.sizes.get(layer_of(name), 0) + p.numel()

    @cached_property
    def matrix(self) -> Tensor:  # made where it is asked for: a loss weighting needs none
        return vector(self.parameters, self.K, dtype=self.flat.dtype).to(self.flat.device)

    @cached_property
    def rows(self) -> list[list[Tensor]]:
        return [views(row, self.parameters) for row in self.matrix]

    def layers(self, matrix: Tensor) -> dict[str, Tensor]:
        """Layer -> (K, D_l) views of J."""
        parts = matrix.split([*self.sizes.values()], 1) if self.sizes else ()
        return dict(zip(self.sizes, parts, strict=True))

    def places(self) -> tuple[Tensor, list[Tensor]]:
        """The vector, zero behind the columns, and its views; a new one while somebody holds a view of the last.

        A fresh one of the size of ResNet18 costs the operating system's page faults, three times a product with J.
        """
        if uses(self.flat) > ALONE:
            self.flat = vector(self.all)
        self.flat[self.width :].zero_()
        return self.flat, views(self.flat, self.all)


def add(total: dict, more: Mapping) -> None:
    """Add tensors up by their key."""
    for key, g in more.items():
        total[key] = total[key] + g if key in total else g


def write(places: list[Tensor], found: Sequence[Tensor | None]) -> None:
    """Copy gradients into `places`, zero where there is none."""
    given = [(place, g) for place, g in zip(places, found, strict=True) if g is not None]
    if given:
        torch._foreach_copy_([place for place, _ in given], [g for _, g in given])
    if len(given) < len(places):
        torch._foreach_zero_([place for place, g in zip(places, found, strict=True) if g is None])


def task_gradients(losses: Sequence[Tensor], parameters: Sequence[Tensor]) -> Tensor:
    """J (K, D): row k is the gradient of loss k with respect to `parameters`, zero where it reaches none.

    The graph is kept, and no `.grad` changes. For a training loop, `Balancer` does the same in memory that it reuses.
    """
    matrix = vector(parameters, len(losses))
    for row, loss in zip(matrix, losses, strict=True):
        write(views(row, parameters), gradients([loss], parameters, None, True))
    return matrix
