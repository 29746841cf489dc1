"""Paths of the registered methods on a landscape of two tasks and two parameters.

All starts and all seeds of a study advance together, in float64. `trajectories` knows a batched rule for the methods
of `closed_forms`; any other method of the registry runs one path at a time through `training.step`, as a
network would. A test compares the two step by step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtl_core import methods, seeds
from mtl_core.gradients import NonFiniteGradientError
from mtl_core.methods.conventions import CONVENTIONS, OPTIMIZERS, Convention
from mtl_lab.landscapes import closed_forms
from mtl_lab.landscapes.problems import Landscape


@dataclass(frozen=True)
class Paths:
    """What `trajectories` returns: steps (T,), points (T, ..., 2), losses (T, ..., 2)."""

    steps: Tensor
    points: Tensor
    losses: Tensor


def trajectories(
    landscape: Landscape,
    starts,
    method: str,
    *,
    options: Mapping | None = None,
    steps: int | None = None,
    every: int = 1,
    optimizer: str | None = None,
    learning_rate: float | None = None,
    convention: str | None = None,
    one_by_one: bool = False,
) -> Paths:
    """Descend from every start (..., 2) with a registered method; keep step 0, each `every`-th step and the last.

    options     arguments of the method. steps, optimizer, learning_rate, convention: None takes the landscape's own.
    one_by_one  every path by itself through `training.step`, as for a method without a batched rule; path i draws
                from the stream `method` of seed i. All paths together draw from that of seed 0.

    ValueError where the method, the optimizer or the convention is unknown, or a path leaves the finite numbers.
    """
    given = {"steps": steps, "optimizer": optimizer, "learning_rate": learning_rate, "convention": convention}
    starts, training, kept = _checked(landscape, starts, given, every)
    row, options, convention = _row(method), dict(options or {}), CONVENTIONS[training["convention"]]
    if one_by_one or not closed_forms.knows(row.name, options):
        try:
            flat = [_alone(landscape, start, row, options, convention, training, kept, seed)
                    for seed, start in enumerate(starts.reshape(-1, 2))]  # fmt: skip
        except NonFiniteGradientError as error:
            raise ValueError(_left(method, landscape)) from error
        return _paths(landscape, kept, torch.stack(flat, 1).reshape(len(kept), *starts.shape), method)
    return _paths(
        landscape, kept, _together(landscape, starts, [(row, options, convention)], training, kept)[0], method
    )


def side_by_side(
    landscape: Landscape,
    starts,
    rows: Sequence[tuple[str, Mapping]],
    *,
    steps: int | None = None,
    every: int = 1,
    convention: str | None = None,
) -> list[Paths]:
    """What `trajectories` gives for each (method, options), bit for bit, with one gradient of the landscape a step.

    All methods' points advance in one batch, each method with its own random stream. The gradient is most of a step,
    so that five methods take less than half of the time. ValueError as there, and where a method has no batched rule.
    """
    starts, training, kept = _checked(landscape, starts, {"steps": steps, "convention": convention}, every)
    for method, options in rows:
        if not closed_forms.knows(_row(method).name, options):
            raise ValueError(f"{method} has no batched rule with {dict(options)}: take trajectories")
    given = [(_row(method), options, CONVENTIONS[training["convention"]]) for method, options in rows]
    found = _together(landscape, starts, given, training, kept)
    return [_paths(landscape, kept, points, method) for points, (method, _) in zip(found, rows, strict=True)]


def _checked(landscape, starts, given, every):
    """Starts as a tensor, the landscape's training with what is given, and the steps to keep."""
    training = {**landscape.training, **{key: value for key, value in given.items() if value is not None}}
    if training["optimizer"] not in OPTIMIZERS:
        raise ValueError(f"optimizer is one of {', '.join(OPTIMIZERS)}; got {training['optimizer']!r}")
    if training["convention"] not in CONVENTIONS:
        raise ValueError(f"convention is one of {', '.join(CONVENTIONS)}; got {training['convention']!r}")
    starts = seeds.wobbled(torch.as_tensor(starts, dtype=torch.float64))
    if starts.shape[-1:] != (2,):
        raise ValueError(f"starts have shape (..., 2), got {tuple(starts.shape)}")
    return starts, training, sorted({*range(0, training["steps"] + 1, every), training["steps"]})


def _row(method):
    row = methods.find(method)
    if row.kind == "feature rotation":
        raise ValueError(f"{method} rotates the features of a network; a landscape has none")
    return row


def _left(method, landscape):
    return f"{method} left the finite numbers on {landscape.name}: take a smaller learning rate"


def _paths(landscape, kept, points, method):
    if not torch.isfinite(points).all():
        raise ValueError(_left(method, landscape))
    return Paths(torch.tensor(kept), points, landscape.losses(points).movedim(0, -1))


def _together(landscape, starts, given, training, kept):
    """The points (T, ..., 2) of each (row, options, convention) in `given`, all in one batch."""
    point = nn.Parameter(starts.reshape(-1, 2).repeat(len(given), 1, 1))  # (methods, starts, 2)
    optimizer = OPTIMIZERS[training["optimizer"]]([point], lr=training["learning_rate"])
    updates = [_update(row, options, convention) for row, options, convention in given]
    wanted, found = set(kept), []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.torch_seed(0, "method"))
        streams = [torch.get_rng_state()] * len(given)
        for step in range(training["steps"] + 1):
            if step in wanted:
                found.append(point.detach().clone())
            if step < training["steps"]:
                losses, gradients = landscape.gradients(point)
                each = []
                for k, update in enumerate(updates):
                    torch.set_rng_state(streams[k])
                    each.append(update(gradients[k], losses[k]))
                    streams[k] = torch.get_rng_state()
                point.grad = torch.stack(each)
                optimizer.step()
    return torch.stack(found, 1).reshape(len(given), len(kept), *starts.shape)


def _update(row, options, convention: Convention):
    """Function of gradients and losses: the method's updates, scaled and clipped as the convention says."""
    rule, convention = closed_forms.rule(row.name, methods.make(row.name, **options)), convention.of(row.name)
    factor = convention.factor(row.native_scale, 2)

    def update(gradients, losses):
        found = factor * rule(gradients, losses)
        if convention.clip is not None:
            norm = torch.linalg.vector_norm(found, dim=-1, keepdim=True)
            found *= (convention.clip / (norm + 1e-6)).clamp(max=1)
        return found

    return update


class _Point(nn.Module):
    """A trunk that is nothing but its two parameters."""

    def __init__(self, start):
        super().__init__()
        self.point = nn.Parameter(start.clone())

    def forward(self, inputs):
        return self.point.view(1, 2)


def _alone(landscape, start, row, options, convention, training, kept, seed):
    from mtl_core.models import MultiTaskModel
    from mtl_core.tasks import Task
    from mtl_core.training.step import Step

    model = MultiTaskModel(_Point(start), [nn.Identity(), nn.Identity()])
    tasks = [Task(f"L{k + 1}", 2, lambda output, target, k=k: landscape.losses(output[0])[k]) for k in range(2)]
    optimizer = OPTIMIZERS[training["optimizer"]](model.trunk.parameters(), lr=training["learning_rate"])
    found, wanted, inputs = [], set(kept), torch.empty(0)  # nothing is read
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.torch_seed(seed, "method"))
        step = Step(model, tasks, row, methods.make(row.name, **options), convention)
        for done in range(training["steps"] + 1):
            if done in wanted:
                found.append(model.trunk.point.detach().clone())
            if done < training["steps"]:
                step(inputs, [None, None])
                optimizer.step()
    return torch.stack(found)
