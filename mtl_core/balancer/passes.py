"""One step: its losses checked, who reaches what, and the backward passes, into J or in one sum."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd.graph import get_gradient_edge

from mtl_core.balancer import inputs
from mtl_core.balancer.graph import Graph, gradients, walk
from mtl_core.balancer.layout import ALL, Gradients, Layout, Matrix, add, unflatten, vector
from mtl_core.random_state import random_state


class Step:
    """One call's losses, checked and agreed on with other processes. Tasks and parameters are numbered as in `layout`.

    again    False: graphs of the same tasks and the same trainable parameters are not walked again.

    tasks    of this step, in any process; values their losses (K,), joined over the processes.
    stacked  those losses, with their graph where this is the only process.
    losses   (task, loss) of this process, in the order of the graph's bits.
    shares   where there are several processes: task -> this one's share of its examples.
    scale    of a scaler: gradients are freed of it as they come.
    random   for a method that draws, in all processes but the first: torch's random state there.
    by_task  a parameter that is no column of J is weighted by task: gradients of its tasks are kept apart.
    alone    for each of `losses`, the parameters that it alone reaches; common: those that others reach too.
    direct   for each of `losses`, those of `common` that its own part uses directly.
    own      task, or `ALL` unless `by_task` -> gradients of what is no column of J.
    """

    def __init__(self, layout: Layout, losses, counts, scaler, again: bool):
        given, counts, like = inputs.by_name(losses), counts or {}, layout.like
        if bad := [n for n, x in counts.items() if n not in {*given, *layout.tasks} or not 0 <= x < float("inf")]:
            raise ValueError(f"counts are finite numbers from 0, of tasks that have losses; not so: {bad}")
        names = [name for name in dict.fromkeys([*layout.tasks, *given]) if counts.get(name, 1) > 0]
        given = {name: given[name] for name in names if given.get(name) is not None}
        scaler = scaler if scaler is not None and scaler.is_enabled() else None
        self.scale = None if scaler is None else scaler.scale(torch.ones_like(like))
        for name, loss in given.items():
            inputs.check_loss(name, loss, scaler)
        several = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
        self.by_task, self.own = layout.by_task, dict[int, Gradients]()
        self.graph, self.common, self.alone = Graph(), list[Tensor](), [list[Tensor]() for _ in given]
        reached: dict[int, list[str]] = {}
        key = (*given, None, *[i for i, p in enumerate(layout.parameters) if p.requires_grad])
        if walks := again or several or scaler or layout.ignored or key not in layout.walked:
            self.graph = walk([*given.values()])
            layout.check(self.graph)
            layout.walked.add(key)
            masks = set(self.graph.leaves.values())
            of_mask = {mask: [name for k, name in enumerate(given) if mask >> k & 1] for mask in masks}
            for leaf, mask in self.graph.leaves.items():
                if leaf not in layout.ignored:
                    reached[layout.index[leaf]] = of_mask[mask]
                    (self.common if mask & (mask - 1) else self.alone[mask.bit_length() - 1]).append(leaf)
            self.common.sort(key=layout.index.__getitem__)
        self.direct = [[p for p in leaves if p not in layout.ignored] for leaves in self.graph.direct]
        values, shares, self.random = given, dict[str, float](), None
        if several:
            random = random_state(like.device) if layout.draws and not distributed.get_rank() else None
            values, shares, reached, random = inputs.agree(given, counts, reached, random)
            self.random = random if distributed.get_rank() else None
        if not values:
            raise ValueError("no task has a loss in this step: skip it, or give at least one")
        layout.tasks += [name for name in values if name not in layout.tasks]
        number = {name: k for k, name in enumerate(layout.tasks)}
        if walks:
            layout.lay_out({i: sum(1 << number[name] for name in names) for i, names in reached.items()})
        self.layout, self.matrix, self.tasks = layout, layout.matrix, sorted(number[name] for name in values)
        self.losses = [(number[name], loss) for name, loss in given.items()]
        self.shares = {number[name]: share for name, share in shares.items()}
        numbers = [values[layout.tasks[k]] for k in self.tasks]
        self.stacked = (like.new_tensor(numbers) if several else torch.stack(numbers)).to(like)
        self.values, self.one = self.stacked.detach(), torch.ones_like(like)

    # --- passes

    def each(self) -> Iterator[tuple[int, Gradients, Sequence]]:
        """For each loss: task, its gradients, those at the edges of the cut (none where there is no cut).

        What is shared is freed after the last loss. Clear the gradients: the next pass uses their memory again.
        """
        for j, (k, loss) in enumerate(self.losses):
            again = j + 1 < len(self.losses)
            if self.graph.nested:
                leaves, at_edges = self.alone[j] + self.common, tuple[Tensor | None, ...]()
                found = self._by_number(leaves, gradients([loss], leaves, [self._start(j)], again))
            else:
                at_edges, found = self.head(j)
                add(found, self._by_number(self.common, gradients(self.graph.edges[j], self.common, at_edges, again)))
            yield k, found, at_edges

    def fill(self, keep: bool) -> list:
        """J of this step and of what was added aside; to `keep`, the gradients at the cut, by loss."""
        values, aside, at_cut = dict(zip(self.tasks, self.values, strict=True)), self.layout.window, []
        add(values, self.layout.losses)
        self.tasks = sorted(values)
        self.values = torch.stack([values[k] for k in self.tasks])
        rows, absent = (
            dict(zip(self.tasks, self.matrix.rows, strict=False)),
            set(self.tasks) - {k for k, _ in self.losses},
        )
        for k, found, at_edges in chain(((k, {}, []) for k in absent), self.each()):
            add(found, aside.get(k, {}))
            self.matrix.write(rows[k], found)
            self._keep(k, found)
            at_cut += [at_edges] if keep and k not in absent else []
        return at_cut

    def cuts(self) -> bool:
        """What is shared can be walked once: there is a cut, and all below it are columns of J."""
        return not self.graph.nested and all(self.layout.index[p] in self.matrix.column for p in self.common)

    def head(self, j: int) -> tuple[tuple[Tensor | None, ...], Gradients]:
        """What lies above the cut, of the j-th loss, is walked and freed: the gradients at its edges, and of leaves."""
        edges, leaves = self.graph.edges[j], self.alone[j] + self.direct[j]
        found = gradients([self.losses[j][1]], [*edges, *leaves], [self._start(j)])
        return found[: len(edges)], self._by_number(leaves, found[len(edges) :])

    def roots(self) -> list:
        """As `head` for each loss, where the losses themselves are the cut: nothing lies above."""
        self.common, self.by_task = [p for own in self.alone for p in own] + self.common, False
        self.graph.edges = [[loss] for _, loss in self.losses]  # type: ignore[list-item]
        return [([self._start(j)], {}) for j in range(len(self.losses))]

    def trunk(self, heads: list, weights: Iterable[Tensor], update: Tensor) -> None:
        """Walk what lies below the cut once, from the weighted sum of the gradients there, which `heads` holds."""
        starts, total, weight_of = dict[Any, Tensor](), dict[int, Tensor](), dict(zip(self.tasks, weights, strict=True))
        for (k, _), edges, (at_edges, above) in zip(self.losses, self.graph.edges, heads, strict=True):
            weight = weight_of[k]
            add(starts, {edge: weight.to(g) * g for edge, g in zip(edges, at_edges, strict=True) if g is not None})
            add(total, {i: weight * above.pop(i) for i in [*above] if i in self.matrix.column})
            self._keep(k, above)
        add(total, self._by_number(self.common, gradients([*starts], self.common, [*starts.values()])))
        self.matrix.write(unflatten(update, self.matrix.shared), total)
        self._keep(ALL, total)

    def _keep(self, k: int, found: Gradients) -> None:
        add(self.own.setdefault(k if self.by_task else ALL, {}), found)
        found.clear()

    def _start(self, j: int) -> Tensor:
        """What the backward pass of the j-th loss starts from: the scaler's scale times this process's share."""
        k, loss = self.losses[j]
        start = self.one if self.scale is None else self.scale
        return (start * self.shares[k] if self.shares else start).to(loss)

    def _by_number(self, leaves: Sequence[Tensor], found: Sequence[Tensor | None]) -> Gradients:
        total: Gradients = {}
        for p, g in zip(leaves, found, strict=True):
            if g is not None:
                i = self.layout.index[p]
                if g.layout != torch.strided:
                    raise ValueError(f"{self.layout.names[i]} has a sparse gradient: make it dense, or give ignore=")
                total[i] = g if self.scale is None else g / self.scale
        return total

    def join(self, shared: Tensor) -> None:
        """Add the processes up: what is shared, and the own gradients."""
        if not self.shares:
            return
        distributed.all_reduce(shared)
        slots = []
        for i, bits in sorted(self.layout.now.items()):
            if i not in self.matrix.column:
                slots += [(k, i) for k in self.tasks if bits >> k & 1] if self.by_task else [(ALL, i)]
        like, own = [self.layout.parameters[i] for _, i in slots], dict[int, Gradients]()
        flat = vector(like)
        for (k, i), part in zip(slots, unflatten(flat, like), strict=True):
            own.setdefault(k, {})[i] = part.copy_(self.own.get(k, {}).get(i, part))
        distributed.all_reduce(flat)
        self.own = own

    def own_norm(self) -> Tensor:
        return torch.nn.utils.get_total_norm([g for found in self.own.values() for g in found.values()])

    # --- what methods read beside J

    def at_features(self, name: str, features, cotangents: Sequence[Sequence]) -> Tensor:
        """Z (K, B d), the gradients of the losses at the features, from those at the edges of each loss's cut.

        ValueError where the losses reach what they share on other ways, too. (K, 0) where nothing is shared.
        """
        if not self.matrix.columns:
            return self.values.new_empty(len(self.tasks), 0)
        if features is None:
            raise ValueError(f"{name} reads gradients at the features: backward(losses, features=what all heads read)")
        streams = features.values() if isinstance(features, Mapping) else features
        streams = [z for z in ([features] if isinstance(features, Tensor) else streams) if z.requires_grad]
        keys = [tuple(get_gradient_edge(z)[:2]) for z in streams]
        passed = {tuple(edge[:2]) for edges in self.graph.edges for edge in edges}
        if self.graph.nested or any(self.direct) or passed - set(keys):
            what = "of the same examples, through which all losses reach what they share, none computed from another"
            raise ValueError(f"{name} needs features {what}; or take a method of the level 'parameters'")
        matrix = self.values.new_zeros(len(self.tasks), sum(z.numel() for z in streams))
        for (k, _), edges, found in zip(self.losses, self.graph.edges, cotangents, strict=True):
            at = {tuple(edge[:2]): g for edge, g in zip(edges, found, strict=True) if g is not None}
            for place, key in zip(unflatten(matrix[self.tasks.index(k)], streams), keys, strict=True):
                place.copy_(at.get(key, place))
        matrix = matrix if self.scale is None else matrix / self.scale
        return torch.cat([z.to(matrix) for z in inputs.gathered(matrix.cpu())], 1) if self.shares else matrix

    def at_last_layer(self, heads: list) -> Tensor:
        """(K, D_l): the gradients of the last layer that tasks share, from what `head` gave for each loss."""
        last = Matrix(self.layout.parameters, self.layout.names, sorted(self.matrix.last), len(self.tasks))
        for (k, _), edges, (at_edges, above) in zip(self.losses, self.graph.edges, heads, strict=True):
            found = self._by_number(last.shared, gradients(edges, last.shared, at_edges, True))
            add(found, {i: g for i, g in above.items() if i in last.column})
            last.write(last.rows[self.tasks.index(k)], found)
        if self.shares:
            distributed.all_reduce(last.values)
        return last.values
