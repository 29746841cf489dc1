"""What goes into a step, checked: parameters with names, losses by task; and what several processes agree on."""

import gc
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn

WRAPPERS = {"torch.DistributedDataParallel", "torch.FullyShardedDataParallel", "torch.DataParallel"}


def named_parameters(given) -> tuple[list[str], list[Tensor]]:
    """Names and parameters of a module, of (name, parameter) pairs, or of parameters, which are named by position.

    Those of a layer come together."""
    if isinstance(given, nn.Module):
        for name, module in given.named_modules():
            if wrapper := [k.__name__ for k in type(module).__mro__ if f"{k.__module__[:6]}{k.__name__}" in WRAPPERS]:
                how = "give and call the plain module inside (wrapper.module); the balancer adds processes up"
                raise ValueError(f"{name or 'the model'} is wrapped in {wrapper[0]}: {how}")
        given = given.named_parameters()
    listed = enumerate(given if isinstance(given, Iterable) else ())
    pairs = [item if isinstance(item, tuple) else (str(n), item) for n, item in listed]
    found: dict[Tensor, str] = {}
    for name, p in pairs:
        whole = isinstance(p, Tensor) and p.is_leaf and p.layout == torch.strided and type(p).__name__ != "DTensor"
        if not whole or p.is_complex():
            raise ValueError(f"expected parameters, or a module; {name!r} is no leaf, or complex, sparse or a DTensor")
        found.setdefault(p, name)
    if not found:
        raise ValueError(f"{type(given).__name__} has no parameters: give a module, named_parameters() or parameters")
    layers = [name.rpartition(".")[0] or name for name in found.values()]
    together = sorted(zip(map(layers.index, layers), found.values(), found, strict=True), key=lambda entry: entry[0])
    return [name for _, name, _ in together], [p for _, _, p in together]


def names_in_process(leaves: Iterable[Tensor]) -> list[str]:
    """What leaves are called in whichever module of this process holds them; else their shapes. For messages: slow."""
    names = {leaf: "" for leaf in leaves}
    for module in [o for o in gc.get_objects() if issubclass(type(o), nn.Module)]:
        for name, p in module.named_parameters():
            if p in names and len(name) > len(names[p]):
                names[p] = name
    return [name or f"a tensor of shape {tuple(leaf.shape)}" for leaf, name in names.items()]


def by_name(losses) -> dict[str, Any]:
    """{task: loss} of a mapping, or of a sequence, whose tasks are "task 0", "task 1", …."""
    if isinstance(losses, Tensor):
        raise ValueError("expected losses by task, {task: scalar} or a list; got one tensor: take list(losses)")
    return dict(losses) if isinstance(losses, Mapping) else {f"task {k}": loss for k, loss in enumerate(losses)}


def check_loss(name: str, loss, scaler) -> None:
    """ValueError where a loss is not a real scalar with a graph, or `scaler.scale(...)` already."""
    problem = ""
    if not isinstance(loss, Tensor) or loss.shape or not loss.is_floating_point():
        what = f"{loss.dtype} of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        problem = f"is {what}: expected a real scalar; take its mean() or sum(), or index it"
    elif not loss.requires_grad:
        problem = "has no graph: it is a constant or detached, or nothing that it was computed from requires grad"
    elif scaler is not None:  # a product with the scaler's own tensor?
        other, scale = getattr(loss.grad_fn, "_saved_other", None), scaler._scale  # None before its first call
        if scale is not None and torch.is_tensor(other) and other.data_ptr() == scale.data_ptr():
            problem = "is scaled already: give the losses themselves and scaler=, which scales them and unscales J"
    if problem:
        raise ValueError(f"the loss of {name!r} {problem}. A task that is absent is None")


class ProcessLost(RuntimeError):
    """Another process ended in the middle of a step; nothing that it owed can be added up."""


def several() -> bool:
    """Whether this process is one of several of an open process group."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def add_up(tensor: Tensor) -> Tensor:
    """Add a tensor up over the processes, in place; where there is one alone, it is the sum already."""
    try:
        if several() and tensor.numel():
            distributed.all_reduce(tensor)
    except RuntimeError as error:
        raise ProcessLost(
            "a step could not be added up with the other processes; if one of them ended, start again: a fit with a "
            f"checkpoint goes on from its last epoch. What torch.distributed says: {error}"
        ) from error
    return tensor


def gathered(mine) -> list:
    """The object of each process, in order: pickled, so for a few kilobytes."""
    everyone: list = [None] * distributed.get_world_size()
    distributed.all_gather_object(everyone, mine)
    return everyone


def agree(losses: Mapping, counts: Mapping, reached: Mapping, random: dict | None) -> tuple[dict, dict, dict, Any]:
    """What all processes know of a step.

    Task -> loss of the joined batch; task -> this process's share of it; parameter's number -> names of the tasks that
    reach it somewhere; torch's random state in the first process, for methods that draw.
    """
    numbers = {name: (loss.item(), float(counts.get(name, 1))) for name, loss in losses.items()}
    everyone = gathered((numbers, reached, random))
    total, values, joined = dict[str, float](), dict[str, float](), dict[int, set[str]]()
    for of_process, reached, _ in everyone:
        for name, (value, count) in of_process.items():
            total[name] = total.get(name, 0.0) + count
            values[name] = values.get(name, 0.0) + count * value
        for i, names in reached.items():
            joined.setdefault(i, set()).update(names)
    shares = {name: numbers.get(name, (0.0, 0.0))[1] / n for name, n in total.items()}
    return {name: value / total[name] for name, value in values.items()}, shares, joined, everyone[0][2]
