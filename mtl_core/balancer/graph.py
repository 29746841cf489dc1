"""The graphs of a step's losses: which task reaches which leaf, and gradients that cost no more than they must.

One walk from all losses marks each node with the tasks that reach it. What one task alone reaches (its head, its
decoder) lies above the cut: it is walked once and freed. What two or more reach lies below: it is walked once for each
task, from that task's gradients at the edges of the cut.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge, _engine_run_backward, get_gradient_edge

REMEDIES = {
    "donated buffer": "the backward pass that torch.compile has made runs once, and each task needs one: set "
    "torch._functorch.config.donated_buffer = False before, or take a method of the level 'losses'",
    "backward through the graph a second time": "the graph of these losses has been walked and freed: compute the "
    "losses again; accumulate() adds batches up; another backward pass before this one needs retain_graph=True",
    "use_reentrant": "reentrant activation checkpoints cannot tell the tasks apart: use_reentrant=False can",
}


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """What users meet in a backward pass becomes a ValueError that says what to do."""
    try:
        yield
    except RuntimeError as error:
        remedy = next((remedy for words, remedy in REMEDIES.items() if words in str(error)), None)
        raise error if remedy is None else ValueError(remedy) from error


def gradients(outputs: Sequence, inputs: Sequence, starts: Sequence, retain: bool = False) -> tuple[Tensor | None, ...]:
    """Gradients of outputs with respect to inputs, tensors or edges; None for an input that is not reached.

    An output whose start is None takes no part. What `torch.autograd.grad` calls, without its checks of shapes: with
    11 small heads they took 6 % of a step.
    """
    pairs = [(output, start) for output, start in zip(outputs, starts, strict=True) if start is not None]
    if not inputs or not pairs:
        return (None,) * len(inputs)
    roots, seeds = zip(*pairs, strict=True)
    with explained():
        return _engine_run_backward(roots, seeds, retain, False, tuple(inputs), True, accumulate_grad=False)


@dataclass
class Graph:
    """What `walk` saw. Task k is the k-th loss.

    leaves  leaf tensor -> bits of the tasks that reach it: exact where it is one task, else two bits or more.
    edges   for each task, where its own part meets nodes that others reach too.
    direct  for each task, leaves that others reach too and its own part uses directly (tied weights).
    nested  one of those nodes lies below another one (the maps of a U-Net): then there is no cut.
    spans   a compiled or custom node has outputs that not all of the tasks that reach it use.
    """

    leaves: dict[Tensor, int] = field(default_factory=dict)
    edges: list[list[GradientEdge]] = field(default_factory=list)
    direct: list[list[Tensor]] = field(default_factory=list)
    nested: bool = False
    spans: bool = False


def walk(losses: Sequence[Tensor]) -> Graph:
    """Visit each edge of the losses' graphs at most twice: O(edges), whatever the number of tasks."""
    roots = [get_gradient_edge(loss) for loss in losses]
    masks, children = dict[Any, int](), dict[Any, list]()
    for k, root in enumerate(roots):
        todo, bit = [root.node], 1 << k
        while todo:
            node = todo.pop()
            mask = masks.get(node, 0)
            if mask & bit:
                continue
            masks[node] = mask | bit
            if mask & (mask - 1):
                continue  # two tasks have been here: all below is shared, and marked so
            if node not in children:
                children[node] = [edge for edge in node.next_functions if edge[0] is not None]
            todo += [child for child, _ in children[node]]

    leaves, frontier = dict[Tensor, int](), [dict[tuple, None]() for _ in losses]
    for node, mask in masks.items():
        if hasattr(node, "variable"):
            leaves[node.variable] = mask  # type: ignore[attr-defined]
        if not mask & (mask - 1):
            for edge in children[node]:
                if (other := masks[edge[0]]) & (other - 1):
                    frontier[mask.bit_length() - 1][edge] = None
    for root, edges in zip(roots, frontier, strict=True):
        if masks[root.node] & (masks[root.node] - 1):  # a part of another task's loss, or the same
            edges[(root.node, root.output_nr)] = None
    nodes, spans = {node for edges in frontier for node, _ in edges}, False
    for custom in [node for node in nodes if isinstance(node, BackwardCFunction)]:
        used = {frozenset(number for node, number in edges if node is custom) for edges in frontier}
        spans |= len(used - {frozenset()}) > 1
    below: set = set()
    todo = [child for node in nodes for child, _ in children[node]] if len(nodes) > 1 else []
    while todo:
        node = todo.pop()
        if node not in below:
            below.add(node)
            todo += [child for child, _ in children[node]]
    inner = [[GradientEdge(*edge) for edge in edges if not hasattr(edge[0], "variable")] for edges in frontier]
    direct = [[node.variable for node, _ in edges if hasattr(node, "variable")] for edges in frontier]
    return Graph(leaves, inner, direct, bool(below & nodes), spans)
