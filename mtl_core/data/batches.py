"""What a training reads: batches of examples in memory, of a DataLoader, or of one source for each task."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mtl_core.data.problem import Split
from mtl_core.data.streamed import Streamed

Batch = list[tuple[Any, dict[str, Tensor]]]  # inputs, and task -> targets of those


def batches(source: Any, names: Sequence[str], size: int, order=None) -> Iterator[Batch]:
    """The batches of one pass: lists of (inputs, {task: targets}), of one entry where all tasks share the inputs.

    source  a `Split`: batches of `size`, shuffled by the generator `order`, and then without an incomplete last one;
            a `Streamed`: the same, read from disk and augmented by random numbers of `order`;
            an iterable of (inputs, targets) or (inputs, target, target, …), such as a DataLoader;
            or {task: iterable of (inputs, targets)}, which ends with the shortest.

    ValueError where a batch has not one target for each task.
    """
    if isinstance(source, Split):
        index = torch.arange(len(source)) if order is None else torch.randperm(len(source), generator=order)
        for part in index.split(size):
            if order is None or len(part) == size:
                inputs, targets = source.batch(part.to(source.inputs.device))
                yield [(inputs, dict(zip(names, targets, strict=True)))]
    elif isinstance(source, Streamed):
        for inputs, targets in source.batches(size, order):
            yield [(inputs, dict(zip(names, targets, strict=True)))]
    elif isinstance(source, Mapping):
        for of_tasks in zip(*source.values(), strict=False):
            yield [(inputs, {name: target}) for name, (inputs, target) in zip(source, of_tasks, strict=True)]
    else:
        for batch in source:
            inputs, *given = batch
            targets = given[0] if len(given) == 1 and not isinstance(given[0], Tensor) else given
            if len(targets) != len(names):
                raise ValueError(f"a batch is (inputs, targets) with one target for each of {', '.join(names)}")
            yield [(inputs, dict(zip(names, targets, strict=True)))]


def moved(batch: Batch, device, part=lambda tensor: tensor) -> Batch:
    """The batch on `device`, and of each tensor what `part` takes."""

    def there(tensor):
        return part(tensor).to(device) if isinstance(tensor, Tensor) else tensor

    return [(there(inputs), {name: there(target) for name, target in targets.items()}) for inputs, targets in batch]
