r"""Per-task gradients of the shared parameters, in one (K, D) matrix.

The graph is cut at the features z. Each head is walked once and gives
$Z_k = \partial L_k / \partial z$ and its own gradient; the trunk is walked K times, from $Z_k$ to
$g_k = (\partial z / \partial \theta)^\top Z_k$, the rows of J. One forward and K trunk backward
passes are the floor for any method that needs all of J. `torch.func` is not used, so BatchNorm,
autocast and recurrent layers work as in ordinary training.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


class NonFiniteGradientError(FloatingPointError):
    """A task gradient holds NaN or infinity; the message names the tasks and layers."""


@dataclass
class TaskGradients:
    """What one step's backward passes left.

    matrix    J, (K, D) float: row k is the gradient of loss k with respect to the shared parameters,
              flattened in registration order.
    layers    layer name -> (K, D_l) view into `matrix`. A layer is one module that owns parameters,
              its weight before its bias.
    names     names of the shared parameters, in the order of J's columns.
    own       names of the trunk's parameters that one task alone reaches, and that task. Their
              `.grad` and that of the heads is already set, to the task's own raw gradient.
    features  the K gradients Z_k with respect to the features.
    own_parameters  for each task, the parameters named in `own`.
    """

    matrix: Tensor
    layers: dict[str, Tensor]
    names: list[str]
    own: dict[str, int]
    features: list[Tensor] = field(default_factory=list, repr=False)
    _shared: list[nn.Parameter] = field(default_factory=list, repr=False)
    _rows: list[list[Tensor]] = field(default_factory=list, repr=False)
    own_parameters: list[list[nn.Parameter]] = field(default_factory=list, repr=False)
    _combined: Tensor | None = field(default=None, repr=False)

    def combine(self, weights: Tensor) -> Tensor:
        """w @ J, (K,) -> (D,), into a vector that the next step uses again."""
        if self._combined is None:
            self._combined = torch.empty_like(self.matrix[0])
        return torch.mv(self.matrix.T, weights.to(self.matrix), out=self._combined)

    def assign(self, update: Tensor) -> None:
        """Make `update` (D,) the shared parameters' `.grad`, as views of it: nothing is copied."""
        if update.shape != self.matrix.shape[1:]:
            raise ValueError(f"the update must have shape {tuple(self.matrix.shape[1:])}, got {tuple(update.shape)}")
        for p, part in zip(self._shared, update.split([p.numel() for p in self._shared]), strict=True):
            p.grad = part.view_as(p)


def task_gradients(
    losses: Sequence[Tensor],
    model: nn.Module,
    features: Tensor | Sequence[Tensor],
    out: TaskGradients | None = None,
    check_finite: bool = True,
) -> TaskGradients:
    """Gradients of K losses: rows of J for the shared parameters, `.grad` for heads and own layers.

    losses    K scalars; loss k was computed by head k from `features` (or from `features[k]`).
    model     holds `trunk` and `heads` (`mtl_core.models.MultiTaskModel`).
    features  what `model.features(inputs)` returned: one tensor, or K where the trunk forks.
    out       the result of an earlier step with the same model: its buffer is used again.

    The graph of the losses is freed. Parameters with `requires_grad=False` take no part; a shared
    parameter that no loss reaches has zero columns. With K = 1 every trunk parameter counts as
    shared. ValueError where the number of losses, heads or features differ or a loss does not reach
    the features; NonFiniteGradientError where J, a task's own layer or a loss is not finite, before
    any method sees it.
    """
    forked = not isinstance(features, Tensor)
    streams = list(features) if forked else [features] * len(losses)
    if not len(losses) == len(model.heads) == len(streams):
        raise ValueError(f"{len(losses)} losses, {len(model.heads)} heads and {len(streams)} feature tensors: "
                         "all three must be the number of tasks")  # fmt: skip
    if out is None:
        out = _layout(model, streams if forked else [features], len(losses))

    out.features = [_head(loss, model.heads[k], streams[k], k) for k, loss in enumerate(losses)]
    _walk_trunk(streams, out)
    if check_finite:
        _check_finite(losses, out)
    return out


def trunk_gradients(model: nn.Module, features: Tensor, gradients, out: TaskGradients | None = None) -> TaskGradients:
    """J from K gradients at the features, each of the features' shape; no `.grad` is set, the trunk's graph is freed.

    For methods that walk the heads themselves. Arguments else, and `out`, as in `task_gradients`.
    """
    if out is None:
        out = _layout(model, [features], len(gradients))
    out.features = list(gradients)
    _walk_trunk([features] * len(gradients), out)
    return out


def _walk_trunk(streams: Sequence[Tensor], out: TaskGradients) -> None:
    """Pull each task's gradient at its features through the trunk, into its row; the last pass frees the graph."""
    last = len(streams) - 1
    for k, (stream, gradient) in enumerate(zip(streams, out.features, strict=True)):
        own = out.own_parameters[k]
        found = _pull(stream, out._shared + own, gradient, k < last)
        _write(out._rows[k], found[: len(out._shared)])
        for p, g in zip(own, found[len(out._shared) :], strict=True):
            p.grad = g
        del found  # before the next pass: its memory is used again


def _pull(stream: Tensor, parameters: list, gradient: Tensor, again: bool) -> tuple:
    try:
        return torch.autograd.grad(stream, parameters, gradient, retain_graph=again, allow_unused=True)
    except RuntimeError as error:
        if "donated buffer" not in str(error):
            raise
        raise ValueError(
            "torch.compile has made a backward pass of the trunk that runs once; per-task gradients need K. Compile "
            "with torch._functorch.config.donated_buffer = False, or take a method of the level 'losses' or 'features'"
        ) from error


def _head(loss: Tensor, head: nn.Module, stream: Tensor, k: int) -> Tensor:
    """Set the head's gradients and return that of the features; the head's graph is freed."""
    parameters = [p for p in head.parameters() if p.requires_grad]
    feature_gradient, *gradients = torch.autograd.grad(loss, [stream, *parameters], allow_unused=True)
    if feature_gradient is None:
        raise ValueError(f"loss {k} does not depend on its features: compute it from the tensor that is "
                         "passed as `features`, not from a second forward pass")  # fmt: skip
    for p, g in zip(parameters, gradients, strict=True):
        p.grad = g
    return feature_gradient


def _write(row: list[Tensor], found: Sequence[Tensor | None]) -> None:
    for place, gradient in zip(row, found, strict=True):
        if gradient is None:
            place.zero_()
        else:
            place.copy_(gradient)


def _layout(model: nn.Module, streams: list[Tensor], K: int) -> TaskGradients:
    """Which parameters are shared, where each sits in J, and the buffer itself."""
    trunk = [(n, p) for n, p in model.trunk.named_parameters() if p.requires_grad]
    reached = [_reached(s) for s in streams]
    own = {}
    if len(streams) > 1:
        for name, p in trunk:
            tasks = [k for k, found in enumerate(reached) if p in found]
            if len(tasks) == 1:
                own[name] = tasks[0]
    shared = [(n, p) for n, p in trunk if n not in own]
    sizes = [p.numel() for _, p in shared]
    like = shared[0][1] if shared else (trunk[0][1] if trunk else streams[0])
    matrix = torch.zeros(K, sum(sizes), dtype=like.dtype, device=like.device)
    rows = [[part.view_as(p) for part, (_, p) in zip(row.split(sizes), shared, strict=True)] for row in matrix]
    ends, start = {}, 0
    for (name, _), size in zip(shared, sizes, strict=True):
        layer = name.rpartition(".")[0] or name
        ends[layer] = (ends.get(layer, (start, start))[0], start + size)
        start += size
    layers = {layer: matrix[:, a:b] for layer, (a, b) in ends.items()}
    by_task = [[p for n, p in trunk if own.get(n) == k] for k in range(K)]
    return TaskGradients(matrix, layers, [n for n, _ in shared], own, [], [p for _, p in shared], rows, by_task)


def _reached(output: Tensor) -> set[Tensor]:
    """The leaf parameters that autograd would reach from `output`."""
    found, seen, todo = set(), set(), [output.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(node.variable)
        todo += [parent for parent, _ in node.next_functions]
    return found


def _check_finite(losses, out: TaskGradients) -> None:
    """One host synchronisation where all is well: a sum is finite unless an entry is not, or it overflows."""
    own = []  # (name, task, gradient); `own` and `own_parameters` have one order
    for k, parameters in enumerate(out.own_parameters):
        names = [name for name, task in out.own.items() if task == k]
        own += [(name, k, p.grad) for name, p in zip(names, parameters, strict=True) if p.grad is not None]
    probes = [out.matrix.sum(), *(loss.detach() for loss in losses), *(z.sum() for z in out.features)]
    probes += [gradient.sum() for _, _, gradient in own]
    if torch.isfinite(torch.stack(probes)).all():
        return
    bad = [f"loss of task {k}" for k, loss in enumerate(losses) if not torch.isfinite(loss)]
    bad += [f"gradient of task {k} at the features" for k, z in enumerate(out.features) if not torch.isfinite(z).all()]
    for layer, view in out.layers.items():
        rows = (~torch.isfinite(view).all(dim=1)).nonzero().flatten().tolist()
        bad += [f"gradient of task {k} in layer {layer!r}" for k in rows]
    bad += [f"gradient of task {k}'s own {name!r}" for name, k, gradient in own if not torch.isfinite(gradient).all()]
    if bad:
        raise NonFiniteGradientError(
            f"expected finite losses and gradients, got NaN or infinity in: {'; '.join(bad[:6])}"
            + (f" and {len(bad) - 6} more" if len(bad) > 6 else "")
            + ". Lower the learning rate, clip the gradients, or look at the inputs of that task."
        )
