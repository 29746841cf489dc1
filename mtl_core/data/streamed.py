"""Examples on disk: what a `Problem` has in place of a `Split` where a set does not fit into memory."""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

Example = tuple[Tensor, ...]  # input, then one target for each task


class Streamed(Dataset):
    """Examples that are read when a batch needs them.

    numbers  a sequence of numbers or names of the examples, in the order in which they are evaluated.
    read     (number or name) -> (input, target, …).
    augment  (example, generator) -> example; only while training.
    most     examples that are evaluated at once, as in the published code; a larger batch is for training alone.
    """

    def __init__(
        self,
        numbers: Any,
        read: Callable[[Any], Example],
        augment: Callable[[Example, torch.Generator], Example] | None = None,
        most: int = 8,
    ):
        self.numbers, self.read, self.augment, self.most = numbers, read, augment, most
        self.tasks: Sequence[int] | None = None  # those whose targets a batch has; None: all

    def __len__(self) -> int:
        return len(self.numbers)

    def only(self, tasks: Sequence[int]) -> "Streamed":
        """The same examples, in batches with the targets of these tasks alone."""
        made = copy.copy(self)
        made.tasks = tasks
        return made

    def __getitem__(self, position: int) -> Example:
        """The example at `position`, as it is on disk."""
        return self.read(self.numbers[position])

    def batches(self, size: int, order: torch.Generator | None = None) -> Iterator[tuple[Tensor, tuple[Tensor, ...]]]:
        """One pass as (inputs, targets), stacked `size` at a time; to evaluate, `most` at a time if that is less.

        order  the generator of a training: it shuffles and decides what `augment` does, and an incomplete last batch is
               left out. So a training that goes on from a checkpoint, which holds the generator, sees the same images.

        ValueError where there are fewer examples than one batch of a training needs.
        """
        if order is not None and len(self) < size:
            raise ValueError(f"a batch of {size} needs as many examples; there are {len(self)}")
        positions = torch.arange(len(self)) if order is None else torch.randperm(len(self), generator=order)
        size = min(size, self.most) if order is None else size
        for part in positions.split(size):
            if order is None or len(part) == size:
                examples = [self[int(position)] for position in part]
                if order is not None and self.augment is not None:
                    examples = [self.augment(example, order) for example in examples]
                inputs, *targets = (torch.stack(tensors) for tensors in zip(*examples, strict=True))
                yield inputs, tuple(targets if self.tasks is None else (targets[k] for k in self.tasks))
