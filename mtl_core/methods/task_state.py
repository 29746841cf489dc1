"""State that a method keeps from step to step, by task and by column of J.

A step may lack a task, a task may join later, and the trainable set may change. A method that keeps tensors of which a
dimension counts tasks or columns names them in a class attribute; it then always sees the tasks of the step alone, and
need not know of the others:

    task_state = {"momentum": ("kd", 0.0)}

name -> (dimensions, k: tasks, d: columns of J; what a new task starts with). New columns start at zero; a start of
None means that no task can join. A tensor may be a buffer, a parameter or an attribute; empty or None is one that the
method has not made yet: it makes it at its next call, for the tasks that it sees. The optimizer of a parameter of its
own (an attribute `_optimizer`, its unread checkpoint `saved`) follows the parameter.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def selected(method: nn.Module, rows: Sequence[int], names: Sequence[str]) -> Iterator[None]:
    """Inside, the method has the state of the tasks `rows` alone, in that order; `names` are those of all tasks.

    ValueError where a task joins that the method has no start for.
    """
    before, whole = {}, list(rows) == list(range(len(names)))
    for holder, name, shape, start in _tensors(method):
        full = _get(holder, name).detach()
        if not whole or len(full) != len(names):
            before[id(holder), name] = full = _grown(full, name, shape, start, names)
            _set(holder, name, full if whole else full[_at(rows, shape)])
    try:
        yield
    finally:
        for holder, name, shape, start in [] if whole else _tensors(method):
            part = _get(holder, name).detach()  # empty before: the method has made it in this step
            full = before.get((id(holder), name), part[(slice(0),) * shape.count("k")])
            full = _grown(full, name, shape, start or 0.0, names)
            full[_at(rows, shape)] = part
            _set(holder, name, full)


def move_columns(method: nn.Module, moves: Sequence[tuple[slice, slice]], columns: int) -> None:
    """Bring what is kept by column to another layout: pairs of (old, new) slices, the other columns start at zero."""
    for holder, name, shape, _ in _tensors(method):
        if shape.endswith("d"):
            old = _get(holder, name)
            new = old.new_zeros(*old.shape[:-1], columns)
            for source, target in moves:
                new[..., target] = old[..., source]
            _set(holder, name, new)


def _tensors(method: nn.Module) -> list[tuple[Any, str, str, float | None]]:
    """(what holds it, name, dimensions, start) of every tensor that there is."""
    found: list = []
    for module in method.modules():
        found += [(module, name, *kept) for name, kept in getattr(type(module), "task_state", {}).items()]
        optimizer, saved = vars(module).get("_optimizer"), vars(module).get("saved") or {}  # no slow search
        states = saved.get("state", {}) if optimizer is None else optimizer.state
        for state in states.values():
            found += [(state, name, "k", 0.0) for name, value in state.items() if torch.is_tensor(value) and value.ndim]
    return [entry for entry in found if (t := _get(*entry[:2])) is not None and t.numel()]


def _get(holder: Any, name: str) -> Any:
    return holder[name] if isinstance(holder, dict) else getattr(holder, name)


def _set(holder: Any, name: str, value: Tensor) -> None:
    if isinstance(holder, dict):
        holder[name] = value
    elif isinstance(old := getattr(holder, name), nn.Parameter):
        new = nn.Parameter(value)  # autograd does not bear another shape in the old one
        setattr(holder, name, new)
        if (optimizer := getattr(holder, "_optimizer", None)) is not None:
            for group in optimizer.param_groups:
                group["params"] = [new if p is old else p for p in group["params"]]
            if old in optimizer.state:
                optimizer.state[new] = optimizer.state.pop(old)
    else:
        setattr(holder, name, value)


def _at(rows: Sequence[int], shape: str) -> tuple[Tensor, ...]:
    return torch.meshgrid(*[torch.as_tensor(rows)] * shape.count("k"), indexing="ij")


def _grown(full: Tensor, name: str, shape: str, start: float | None, names: Sequence[str]) -> Tensor:
    if len(full) == len(names):
        return full
    if start is None or len(full) > len(names):
        raise ValueError(f"{name} are for {len(full)} tasks: give one for each of {', '.join(names)}")
    new = full.new_full((len(names),) * shape.count("k") + full.shape[shape.count("k") :], start)
    new[tuple(slice(size) for size in full.shape[: shape.count("k")])] = full
    return new
