r"""Per-task gradients of the shared parameters, in one (K, D) matrix.

The graph is cut at the features z. Each head is walked once and gives
$Z_k = \partial L_k / \partial z$ and its own gradient; the trunk is walked K times, from $Z_k$ to
$g_k = (\partial z / \partial \theta)^\top Z_k$, which is row k of J. One forward and K trunk backward
passes are the floor for any method that needs all of J. `torch.func` is not used, so BatchNorm,
autocast and recurrent layers work as in ordinary training.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mtl_core.models.multi_task import MultiTaskModel


from mtl_core.gradients import NonFiniteGradientError


@dataclass
class TaskGradients:
    """What one step's backward passes left.

    matrix    J, (K, D) float: row k is the gradient of loss k with respect to the shared parameters,
              flattened in registration order.
    layers    layer name -> (K, D_l) view into `matrix`. A layer is one module that owns parameters,
              its weight before its bias.
    names     names of the shared parameters, in the order of J's columns.
    owners    name of a trunk parameter that one task alone reaches -> that task. Its `.grad` and that
              of the heads is already set, to that task's raw gradient.
    features  the K gradients Z_k with respect to the features.
    task_parameters  for each task, the parameters named in `owners`.
    """

    matrix: Tensor
    layers: dict[str, Tensor]
    names: list[str]
    owners: dict[str, int]
    features: list[Tensor] = field(default_factory=list, repr=False)
    _shared: list[nn.Parameter] = field(default_factory=list, repr=False)
    _views: list[list[Tensor]] = field(default_factory=list, repr=False)
    task_parameters: list[list[nn.Parameter]] = field(default_factory=list, repr=False)
    _combined: Tensor | None = field(default=None, repr=False)

    def combine(self, weights: Tensor) -> Tensor:
        r"""$\sum_k w_k g_k$, weights (K,) -> (D,), in a vector that the next step uses again."""
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
    model: MultiTaskModel,
    features: Tensor | Sequence[Tensor],
    out: TaskGradients | None = None,
    check_finite: bool = True,
) -> TaskGradients:
    """Gradients of K losses: J for the shared parameters, `.grad` for the heads and the layers of single tasks.

    losses    K scalars; loss k was computed by head k from `features` (or from `features[k]`).
    model     a trunk and K heads.
    features  what `model.features(inputs)` returned: one tensor, or K where the trunk forks.
    out       the result of an earlier step with the same model: its buffer is used again.

    The graph of the losses is freed. Parameters with `requires_grad=False` take no part; a shared
    parameter that no loss reaches has zero columns. With K = 1 every trunk parameter counts as
    shared. ValueError where the number of losses, heads or features differ or a loss does not reach
    the features; NonFiniteGradientError where J, a task's own layer or a loss is not finite, before
    any method sees it.
    """
    if isinstance(features, Tensor):
        streams, distinct = [features] * len(losses), [features]
    else:
        streams = distinct = list(features)
    if not len(losses) == len(model.heads) == len(streams):
        raise ValueError(
            f"{len(losses)} losses, {len(model.heads)} heads and {len(streams)} feature tensors: all three must be the "
            "number of tasks"
        )
    if out is None:
        out = _layout(model, distinct, len(losses))

    out.features = [_head(loss, model.heads[k], streams[k], k) for k, loss in enumerate(losses)]
    _walk_trunk(streams, out)
    if check_finite:
        _check_finite(losses, out)
    return out


def trunk_gradients(
    model: MultiTaskModel, features: Tensor, gradients: Sequence[Tensor] | Tensor, out: TaskGradients | None = None
) -> TaskGradients:
    """J from K gradients at the features, each of the features' shape; no `.grad` is set, the trunk's graph is freed.

    For methods that walk the heads themselves. Arguments else, and `out`, as in `task_gradients`.
    """
    if out is None:
        out = _layout(model, [features], len(gradients))
    out.features = list(gradients)
    _walk_trunk([features] * len(gradients), out)
    return out


def _walk_trunk(streams: Sequence[Tensor], out: TaskGradients) -> None:
    """Pull each task's gradient at its features through the trunk, into J; the last pass frees the graph."""
    last = len(streams) - 1
    for k, (stream, gradient) in enumerate(zip(streams, out.features, strict=True)):
        of_task = out.task_parameters[k]
        gradients = _pull(stream, out._shared + of_task, gradient, k < last)
        _write(out._views[k], gradients[: len(out._shared)])
        for p, g in zip(of_task, gradients[len(out._shared) :], strict=True):
            p.grad = g
        del gradients  # before the next pass: its memory is used again


def _pull(stream: Tensor, parameters: list[nn.Parameter], gradient: Tensor, again: bool) -> tuple:
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
        raise ValueError(
            f"loss {k} does not depend on its features: compute it from the tensor that is passed as `features`, "
            "not from a second forward pass"
        )
    for p, g in zip(parameters, gradients, strict=True):
        p.grad = g
    return feature_gradient


def _write(views: list[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """Copy one task's gradients into its row of J; zeros where the loss does not reach a parameter."""
    for view, gradient in zip(views, gradients, strict=True):
        if gradient is None:
            view.zero_()
        else:
            view.copy_(gradient)


def _layout(model: MultiTaskModel, streams: list[Tensor], K: int) -> TaskGradients:
    """Which parameters are shared, where each sits in J, and the buffer itself."""
    trunk = [(n, p) for n, p in model.trunk.named_parameters() if p.requires_grad]
    reached = [_reached(s) for s in streams]
    owners = {}
    if len(streams) > 1:
        for name, p in trunk:
            tasks = [k for k, leaves in enumerate(reached) if p in leaves]
            if len(tasks) == 1:
                owners[name] = tasks[0]
    shared = [(n, p) for n, p in trunk if n not in owners]
    sizes = [p.numel() for _, p in shared]
    like = shared[0][1] if shared else (trunk[0][1] if trunk else streams[0])
    matrix = torch.zeros(K, sum(sizes), dtype=like.dtype, device=like.device)
    views = [[part.view_as(p) for part, (_, p) in zip(g.split(sizes), shared, strict=True)] for g in matrix]
    ends: dict[str, tuple[int, int]] = {}
    start = 0
    for (name, _), size in zip(shared, sizes, strict=True):
        layer = name.rpartition(".")[0] or name
        ends[layer] = (ends.get(layer, (start, start))[0], start + size)
        start += size
    layers = {layer: matrix[:, a:b] for layer, (a, b) in ends.items()}
    by_task = [[p for n, p in trunk if owners.get(n) == k] for k in range(K)]
    return TaskGradients(matrix, layers, [n for n, _ in shared], owners, [], [p for _, p in shared], views, by_task)


def _reached(output: Tensor) -> set[Tensor]:
    """The leaf parameters that autograd would reach from `output`."""
    leaves: set[Tensor] = set()
    seen, todo = set(), [output.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.add(node.variable)
        todo += [parent for parent, _ in node.next_functions]
    return leaves


def _check_finite(losses: Sequence[Tensor], out: TaskGradients) -> None:
    """One host synchronisation where all is well: a sum is finite unless an entry is not, or it overflows."""
    single = []  # (name, task, gradient) of single tasks; `owners` and `task_parameters` have one order
    for k, parameters in enumerate(out.task_parameters):
        names = [name for name, task in out.owners.items() if task == k]
        single += [(name, k, p.grad) for name, p in zip(names, parameters, strict=True) if p.grad is not None]
    probes = [out.matrix.sum(), *(loss.detach() for loss in losses), *(z.sum() for z in out.features)]
    probes += [gradient.sum() for _, _, gradient in single]
    if torch.isfinite(torch.stack(probes)).all():
        return
    bad = [f"loss of task {k}" for k, loss in enumerate(losses) if not torch.isfinite(loss)]
    bad += [f"gradient of task {k} at the features" for k, z in enumerate(out.features) if not torch.isfinite(z).all()]
    for layer, view in out.layers.items():
        tasks = (~torch.isfinite(view).all(dim=1)).nonzero().flatten().tolist()
        bad += [f"gradient of task {k} in layer {layer!r}" for k in tasks]
    bad += [
        f"gradient of task {k}'s own {name!r}" for name, k, gradient in single if not torch.isfinite(gradient).all()
    ]
    if bad:
        raise NonFiniteGradientError(
            f"expected finite losses and gradients, got NaN or infinity in: {'; '.join(bad[:6])}"
            + (f" and {len(bad) - 6} more" if len(bad) > 6 else "")
            + ". Lower the learning rate, clip the gradients, or look at the inputs of that task."
        )
