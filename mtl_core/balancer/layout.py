"""What a balancer keeps from step to step: tasks, parameters, who reaches what, and the memory of J and the update."""

from collections.abc import Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from mtl_core.balancer import inputs
from mtl_core.balancer.graph import Graph

ALL = -1  # in place of a task: the sum over tasks
Gradients = dict[int, Tensor]  # by number of the parameter


def add(total: dict, more: Mapping) -> None:
    for i, g in more.items():
        total[i] = total[i] + g if i in total else g


def uses(tensor: Tensor) -> int:
    """How many tensors share this one's memory, itself included."""
    return torch._C._storage_Use_Count(tensor.untyped_storage()._cdata)


ALONE = uses(torch.empty(1))


def unflatten(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Views of `flat`, one after the other, in the shapes of `like`."""
    return [part.view_as(p) for part, p in zip(flat.split([p.numel() for p in like]), like, strict=False)]


def vector(like: Sequence[Tensor], *rows: int) -> Tensor:
    """Zeros (*rows, D) for what has the sizes of `like`: of the widest of their data types, at least float32."""
    dtype = torch.float32
    for t in like:
        dtype = torch.promote_types(dtype, t.dtype)
    return torch.zeros(*rows, sum(t.numel() for t in like), dtype=dtype, device=like[0].device if like else None)


class Matrix:
    """J (K, D), and a vector (D,) for the update; `columns` are the numbers of the parameters that they are about.

    last  the columns of the last layer. A layer is a module that owns parameters.
    """

    def __init__(self, parameters: Sequence[Tensor], names: Sequence[str], columns: list[int], tasks: int):
        self.columns, self.column, self.names = columns, set(columns), [names[i] for i in columns]
        self.shared = [parameters[i] for i in columns]
        self.values, self.update = vector(self.shared, tasks), vector(self.shared)
        self.rows = [unflatten(row, self.shared) for row in self.values]
        self.sizes: dict[str, int] = {}
        layers = [name.rpartition(".")[0] or name for name in self.names]
        for layer, p in zip(layers, self.shared, strict=True):
            self.sizes[layer] = self.sizes.get(layer, 0) + p.numel()
        self.last = {i for i, layer in zip(columns, layers, strict=True) if layer == layers[-1]}

    def write(self, places: list[Tensor], found: Gradients) -> None:
        """Move gradients into `places`, by column, zero where there is none; what is no column stays in `found`."""
        given = [found.pop(i, None) for i in self.columns]
        if copies := [(place, g) for place, g in zip(places, given, strict=True) if g is not None]:
            torch._foreach_copy_(*[list(tensors) for tensors in zip(*copies, strict=True)])  # type: ignore[arg-type]
        for place, g in zip(places, given, strict=True):
            if g is None:
                place.zero_()

    def layers(self, tasks: int) -> dict[str, Tensor]:
        """Layer -> (K, D_l) views of J."""
        parts = self.values[:tasks].split([*self.sizes.values()], 1) if self.sizes else ()
        return dict(zip(self.sizes, parts, strict=True))

    def free_update(self) -> Tensor:
        """The vector for the update, with arbitrary numbers; a new one while somebody holds a view of the last.

        A fresh one of the size of ResNet18 costs the operating system's page faults, three times a product with J.
        """
        if uses(self.update) > ALONE:
            self.update = vector(self.shared)
        return self.update


class Layout:
    """Tasks and parameters, by name, and which of the parameters are columns of J.

    by_task  a parameter that is no column of J is weighted by task: gradients of its tasks are kept apart.
    draws    the method draws from torch's generator: processes agree on its state.
    like     device and data type of the losses.
    reached  by parameter: bits of the tasks that have ever reached it; now: number -> those of this step.
    window   task -> gradients, and losses: task -> loss, added up since the last step.
    walked   tasks and trainable parameters of graphs that have been looked at.
    """

    def __init__(self, parameters, shared, ignore, by_task: bool, draws: bool):
        self.names, self.parameters = inputs.named_parameters(parameters)
        first = self.parameters[0]
        self.like = first.new_empty((), dtype=torch.promote_types(first.dtype, torch.float32))
        self.index = {p: i for i, p in enumerate(self.parameters)}
        self.ignored, self.shared = self._chosen(ignore), None if shared is None else self._chosen(shared)
        if strange := [str(item) for item in (self.shared or set()) - set(self.index)]:
            raise ValueError(f"shared is some of the balancer's parameters; not among them: {', '.join(strange)}")
        self.by_task, self.draws, self.tasks = by_task, draws, list[str]()
        self.reached, self.now = [0] * len(self.parameters), dict[int, int]()
        self.window, self.losses = dict[int, Gradients](), dict[int, Tensor]()
        self.walked: set = set()
        self.matrix = Matrix(self.parameters, self.names, [], 0)

    def _chosen(self, given) -> set:
        """The parameters that names, layers' names, tensors and modules stand for; names that are unknown so far."""
        found: set = set()
        for item in [given] if isinstance(given, (str, nn.Module, Tensor)) else given:
            if isinstance(item, str):
                found |= {p for p, i in self.index.items() if f"{self.names[i]}.".startswith(f"{item}.")} or {item}
            else:
                found |= set(item.parameters()) if isinstance(item, nn.Module) else {item}
        return found

    def check(self, graph: Graph) -> None:
        """ValueError where the graph reaches what was not given, or does not tell what is shared."""
        if graph.spans and self.shared is None:
            raise ValueError("a compiled or custom function hides what tasks share: name that in shared=")
        if strangers := [leaf for leaf in graph.leaves if leaf not in self.index and leaf not in self.ignored]:
            names = dict(zip(strangers, inputs.names_in_process(strangers), strict=True))
            ignored = tuple(f"{item}." for item in self.ignored if isinstance(item, str))
            self.ignored |= {leaf for leaf, name in names.items() if f"{name}.".startswith(ignored)}
            if unknown := ", ".join([name for leaf, name in names.items() if leaf not in self.ignored][:6]):
                raise ValueError(f"the losses reach {unknown}: give the module that holds all, or name it in ignore=")

    def lay_out(self, reached: Mapping[int, int]) -> None:
        """The columns of J: what has ever been reached by two tasks, or what is shared by order, and is trained."""
        self.now = dict(self.now) if self.losses else {}
        for i, bits in reached.items():
            self.reached[i] |= bits
            self.now[i] = self.now.get(i, 0) | bits
        columns = []
        for i, (p, bits) in enumerate(zip(self.parameters, self.reached, strict=True)):
            if p.requires_grad and bits and (bits & (bits - 1) if self.shared is None else p in self.shared):
                columns.append(i)
        if self.matrix.columns != columns or len(self.matrix.rows) < len(self.tasks):
            self.matrix = Matrix(self.parameters, self.names, columns, len(self.tasks))

    def clear(self) -> None:
        self.window.clear()
        self.losses.clear()

    def slices(self, columns: list[int]) -> dict[int, slice]:
        """Number of a parameter -> its columns."""
        ends = [0, *accumulate(self.parameters[i].numel() for i in columns)]
        return {i: slice(*ends[n : n + 2]) for n, i in enumerate(columns)}
