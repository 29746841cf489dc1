"""What a balancer keeps from step to step: tasks, parameters, who reaches what, and the columns of J."""

from collections.abc import Iterable, Mapping
from itertools import accumulate

import torch
from torch import Tensor, nn

from mtl_core import _inputs
from mtl_core.gradients import Columns


class Layout:
    """Tasks and parameters have numbers here; parameters are named by `net`.

    by_task  gradients of what is no column of J are weighted by task.
    like     device and data type of the losses.
    reached  by parameter: bits of the tasks that have ever reached it.
    at       the columns of J: numbers of parameters; columns: their names, and the memory of a step.
    slot     number of a parameter that was ever reached -> its place in that memory, columns first.
    """

    def __init__(self, net, shared, ignore, by_task: bool):
        self.names, self.parameters = _inputs.named_parameters(net)
        first = self.parameters[0]
        self.like = first.new_empty((), dtype=torch.promote_types(first.dtype, torch.float32))
        self.index = {p: i for i, p in enumerate(self.parameters)}
        self.ignored, self.shared = self._chosen(ignore), None if shared is None else self._chosen(shared)
        if strange := [str(item) for item in (self.shared or set()) - set(self.index)]:
            raise ValueError(f"shared is some of the balancer's parameters; not among them: {', '.join(strange)}")
        self.by_task, self.tasks, self.reached = by_task, list[str](), [0] * len(self.parameters)
        self.at, self.slot, self.columns = list[int](), dict[int, int](), Columns([], [], 0)
        self.seen: dict[tuple, list[int]] = {}  # `key` of a graph that has been looked at -> its tasks

    def _chosen(self, given) -> set:
        """The parameters that names, layers' names, tensors and modules stand for; names that are unknown so far."""
        found: set = set()
        for item in [given] if isinstance(given, (str, nn.Module, Tensor)) else given:
            if isinstance(item, str):
                found |= {p for p, i in self.index.items() if f"{self.names[i]}.".startswith(f"{item}.")} or {item}
            else:
                found |= set(item.parameters()) if isinstance(item, nn.Module) else {item}
        return found

    def known(self, leaves: Mapping[Tensor, int]) -> dict[int, int]:
        """Number of a parameter -> bits, in order, without what is ignored. ValueError for what was not given."""
        kinds = nn.Parameter if Tensor in self.ignored else Tensor
        strangers = [p for p in leaves if p not in self.index and p not in self.ignored and isinstance(p, kinds)]
        if strangers:
            names = dict(zip(strangers, _inputs.names_in_process(strangers), strict=True))
            ignored = tuple(f"{item}." for item in self.ignored if isinstance(item, str))
            self.ignored |= {leaf for leaf, name in names.items() if f"{name}.".startswith(ignored)}
            if unknown := ", ".join([name for leaf, name in names.items() if leaf not in self.ignored][:6]):
                more = "; inputs that require grad: ignore=[torch.Tensor]" * (type(strangers[0]) is Tensor)
                raise ValueError(f"the losses reach {unknown}: give the module that holds all, or ignore= it{more}")
        return {i: leaves[p] for p, i in self.index.items() if p in leaves and p not in self.ignored}

    def key(self, tasks: Iterable[str]) -> tuple:
        """What a graph is known by: its tasks, and the parameters that are trained."""
        return *tasks, *[p.requires_grad for p in self.parameters]

    def lay_out(self) -> dict[int, slice] | None:
        """Make what two tasks have ever reached, or what is shared by order, the columns; the old places if they move.

        What is not trained, or that no task has reached, is no column.
        """
        shared, trained = self.shared, [i for i, p in enumerate(self.parameters) if p.requires_grad]
        several = [i for i in trained if (bits := self.reached[i]) & (bits - 1) or shared is not None and bits]
        return self.set_columns([i for i in several if shared is None or self.parameters[i] in shared])

    def set_columns(self, numbers: list[int]) -> dict[int, slice] | None:
        moves = numbers != self.at
        old = self.places() if moves else None
        rest = [i for i, bits in enumerate(self.reached) if bits and i not in {*numbers}]
        slot = {i: n for n, i in enumerate([*numbers, *rest])}
        if slot != self.slot or moves or len(self.tasks) > self.columns.K:
            parameters = [self.parameters[i] for i in slot]
            columns, rest_of = parameters[: len(numbers)], parameters[len(numbers) :]
            self.columns = Columns([self.names[i] for i in numbers], columns, len(self.tasks), rest_of)
            self.at, self.slot = numbers, slot
        return old

    def owner(self, i: int) -> int | None:
        """The one task that has ever reached a parameter; None where there are several."""
        bits = self.reached[i]
        return None if bits & (bits - 1) else bits.bit_length() - 1

    def places(self) -> dict[int, slice]:
        """Number of a parameter -> its columns."""
        ends = [0, *accumulate(self.parameters[i].numel() for i in self.at)]
        return {i: slice(*ends[n : n + 2]) for n, i in enumerate(self.at)}
