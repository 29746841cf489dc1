"""One step: its losses checked, who reaches what, and the backward passes, into J or in one sum."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from mtl_core import _inputs
from mtl_core.balancer.layout import Layout
from mtl_core.gradients import add, gradients, reached, together, vector, views, write
from mtl_core.random_state import random_state, same_state


class Step:
    """The losses of one call. Tasks and parameters have their numbers in `layout`.

    losses  (task, loss) of this process; tasks: those of all processes, in order; values: their losses (K,), joined.
    shares  where there are several processes: task -> this one's share of its examples.
    scale   of a scaler: the backward passes start from it, and their gradients are divided by it.
    random  of the first of several processes: the random state that the method draws from, if this one's is another.
    now     numbers of the parameters that the losses reach; alone: task -> those that are no columns of J.
    moved   where the columns of J were before, if they are others now.
    flat    what goes to `.grad`: the update of the columns, then the sums of gradients of what is no column of J.
    places  its views, by `layout.slot`.
    apart   (task, parameter) -> gradient of what is no column and has several tasks, where tasks weigh it differently.
    """

    def __init__(self, layout: Layout, losses, counts, scaler, draws: bool):
        given, counts = _inputs.by_name(losses), counts or {}
        if bad := [n for n, x in counts.items() if n not in {*given, *layout.tasks} or not 0 <= x < float("inf")]:
            raise ValueError(f"counts are finite numbers from 0, of tasks that have losses; not so: {bad}")
        given = {name: loss for name, loss in given.items() if loss is not None and counts.get(name, 1) > 0}
        scaler = scaler if scaler is not None and scaler.is_enabled() else None
        for name, loss in given.items():
            _inputs.check_loss(name, loss, scaler)
        several = _inputs.several()
        leaves, second = reached([*given.values()])
        if second and layout.shared is None:
            raise ValueError("a compiled or custom function hides what tasks share: name that in shared=")
        now = layout.known(leaves)
        of_mask = {mask: [name for k, name in enumerate(given) if mask >> k & 1] for mask in {*now.values()}}
        names, shares, random, values = {i: of_mask[mask] for i, mask in now.items()}, dict[str, float](), None, given
        if several:
            mine = random_state(layout.like.device) if draws and not torch.distributed.get_rank() else None
            values, shares, names, random = _inputs.agree(given, counts, names, mine)
        if not values:
            raise ValueError("no task has a loss in this step: skip it, or give at least one")
        layout.tasks += [name for name in values if name not in layout.tasks]
        number = {name: k for k, name in enumerate(layout.tasks)}
        for i, reaching in names.items():
            for name in reaching:
                layout.reached[i] |= 1 << number[name]
        self.moved = layout.lay_out()
        self.layout, self.columns = layout, layout.columns
        self.random = random if several and not same_state(random, random_state(layout.like.device)) else None
        self.losses = [(k, given[name]) for name, k in number.items() if name in given]
        self.tasks = sorted(number[name] for name in values)
        layout.seen |= {layout.key(given): [number[name] for name in given]} if len(layout.seen) < 1000 else {}
        listed = [values[layout.tasks[k]] for k in self.tasks]
        self.values = layout.like.new_tensor(listed) if several else together(listed, layout.like).detach()
        self.shares = {number[name]: share for name, share in shares.items()}
        self.scale = None if scaler is None else scaler.scale(torch.ones_like(layout.like))
        self.now, columns = {*names}, {*layout.at}
        self.alone: dict[int, list[int]] = {k: [] for k in self.tasks}
        self.apart, self.plain = dict[tuple[int, int], Tensor](), self.starts()
        for i, reaching in names.items():
            if i not in columns:  # where it is two or more tasks, any may reach it
                for k in [number[name] for name in reaching] if len(reaching) == 1 else self.tasks:
                    self.alone[k].append(i)
        self.flat, self.places = self.columns.places()

    def starts(self, weights: Mapping[int, Tensor] | None = None) -> list[Tensor | None]:
        """What the backward passes start from: each loss's weight, times the scaler's scale, times our share."""
        if weights is None and self.scale is None and not self.shares:
            return [None] * len(self.losses)  # ones
        weight_of = weights or dict.fromkeys(self.tasks, torch.ones_like(self.values[0]))
        scale = 1.0 if self.scale is None else self.scale
        return [(scale * weight_of[k] * self.shares.get(k, 1.0)).to(loss) for k, loss in self.losses]

    def gradients(self, outputs, numbers: Sequence, starts, retain: bool) -> list[Tensor | None]:
        """Gradients of parameters, by number, or of tensors, freed of the scale; None for what is not reached."""
        tensors = [self.layout.parameters[p] if isinstance(p, int) else p for p in numbers]
        found = [*gradients(outputs, tensors, starts, retain)]
        for i, g in zip(numbers, found, strict=True):
            if g is not None and g.layout != torch.strided:
                raise ValueError(f"{self.layout.names[i]} has a sparse gradient: make it dense, or give ignore=")
        return found if self.scale is None else [None if g is None else g / self.scale for g in found]

    def each(self) -> Iterator[tuple[int, dict[int, Tensor]]]:
        """(task, parameter -> gradient) of each loss, by a backward pass each."""
        for n, (k, loss) in enumerate(self.losses):
            numbers = [*self.layout.at, *self.alone[k]]
            found = self.gradients([loss], numbers, self.plain[n : n + 1], n + 1 < len(self.losses))
            yield k, {i: g for i, g in zip(numbers, found, strict=True) if g is not None}
            del found  # its memory is used again

    def fill(self, aside: Mapping[int, tuple[Tensor, dict[int, Tensor]]]) -> Tensor:
        """J (K, D) of this step and of what was added aside: task -> (loss, gradients)."""
        if aside:
            values = dict(zip(self.tasks, self.values, strict=True))
            add(values, {k: loss for k, (loss, _) in aside.items()})
            self.tasks = sorted(values)
            self.values = torch.stack([values[k] for k in self.tasks])
        rows = dict(zip(self.tasks, self.columns.rows, strict=False))
        for k, found in self.each():
            add(found, aside[k][1] if k in aside else {})
            self.keep(k, found, rows.pop(k))
        for k, row in rows.items():  # tasks that this batch, or this process, has not
            self.keep(k, aside[k][1] if k in aside else {}, row)
        return self.columns.matrix[: len(self.tasks)]

    def keep(self, k: int, found: dict[int, Tensor], row: list[Tensor] | None = None) -> None:
        """Move gradients to their places: into the row of J, or added to `flat`, or apart."""
        layout = self.layout
        if row is not None:
            write(row, [found.pop(i, None) for i in layout.at])
        if layout.by_task and k >= 0:  # else they are weighed already
            for i in [i for i in found if layout.owner(i) is None]:
                self.apart[k, i] = found.pop(i)
        if found:
            torch._foreach_add_([self.places[layout.slot[i]] for i in found], [*found.values()])

    def probe(self, streams: Sequence, gather: bool, own: bool) -> tuple[Tensor, Tensor]:
        """(K, …): gradients of the losses at streams, of the whole batch and of this process's part; `own` are kept.

        streams  tensors, whose examples are gathered from the processes, or numbers of parameters.
        """
        like = [self.layout.parameters[p] if isinstance(p, int) else p for p in streams]
        matrix, row = vector(like, len(self.tasks)), {k: n for n, k in enumerate(self.tasks)}
        for n, (k, loss) in enumerate(self.losses):
            numbers = self.alone[k] if own else []
            found = self.gradients([loss], [*streams, *numbers], self.plain[n : n + 1], True)
            write(views(matrix[row[k]], like), found[: len(like)])
            mine = zip(numbers, found[len(like) :], strict=True)
            self.keep(k, {i: g for i, g in mine if g is not None})
        if self.shares and gather:
            return torch.cat([z.to(matrix) for z in _inputs.gathered(matrix.cpu())], 1), matrix
        return (_inputs.add_up(matrix.clone()) if self.shares else matrix), matrix

    def join(self, shared: Tensor | None, own: bool = True) -> None:
        """Add the processes up: what is shared, and the gradients of the rest."""
        if self.shares and shared is not None:
            _inputs.add_up(shared)
        if self.shares and own:
            _inputs.add_up(self.rest)
            mixed = [i for i in self.layout.slot if i not in self.layout.at and self.layout.owner(i) is None]
            for k, i in [(k, i) for k in self.tasks for i in mixed if self.layout.by_task]:
                g = self.apart.get((k, i), torch.zeros_like(self.layout.parameters[i]))
                self.apart[k, i] = _inputs.add_up(g.clone())

    @property
    def rest(self) -> Tensor:
        """The part of `flat` behind the columns."""
        return self.flat[self.columns.width :]
