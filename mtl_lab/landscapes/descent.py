"""Paths of the registered methods on a landscape of two tasks and two parameters.

All starts and all seeds of a study advance together, in float64. `trajectories` has a batched rule for the methods of
`closed_forms`; any other method of the registry runs one path at a time through `Balancer`, as a network would. A
test compares the two step by step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mtl_core import methods, seeds
from mtl_core.balancer import Balancer
from mtl_core.gradients import NonFiniteGradientError
from mtl_core.methods.conventions import CONVENTIONS, OPTIMIZERS, Convention
from mtl_lab.landscapes import closed_forms
from mtl_lab.landscapes.problems import Landscape


@dataclass(frozen=True)
class Paths:
    """Paths at T kept steps: steps (T,), points (T, ..., 2) in the plane, losses (T, ..., 2) of the two tasks."""

    steps: Tensor
    points: Tensor
    losses: Tensor


def trajectories(
    landscape: Landscape,
    starts,
    method: str,
    *,
    options: Mapping | None = None,
    one_by_one: bool = False,
    **training,
) -> Paths:
    """Descend from every start (..., 2) with a registered method; keep step 0, each `every`-th step and the last.

    options     arguments of the method.
    training    steps, optimizer, learning_rate, convention, of which None or none takes the landscape's; every (1).
    one_by_one  run every path by itself through `Balancer`, as for a method without a batched rule. Path i then
                uses the random stream `method` of seed i; batched paths share that of seed 0.

    ValueError: an unknown method, optimizer or convention, or a path that leaves the finite numbers.
    """
    starts, training, kept = _checked(landscape, starts, **training)
    spec, options, convention = _spec(method), dict(options or {}), CONVENTIONS[training["convention"]]
    if one_by_one or not closed_forms.knows(spec.name, options):
        flat = starts.reshape(-1, 2)
        try:
            paths = [
                _one_path(landscape, start, spec, options, convention, training, kept, seed)
                for seed, start in enumerate(flat)
            ]
        except NonFiniteGradientError as error:
            raise ValueError(_diverged(method, landscape)) from error
        points = torch.stack(paths, 1).reshape(len(kept), *starts.shape)
    else:
        (points,) = _batched(landscape, starts, [(spec, options, convention)], training, kept)
    return _paths(landscape, kept, points, method)


def side_by_side(
    landscape: Landscape, starts, methods_with_options: Sequence[tuple[str, Mapping]], **training
) -> list[Paths]:
    """The Paths of `trajectories` for each (method, options), bit for bit, with one landscape gradient a step for all.

    training  as for `trajectories`.

    All methods' points advance in one batch, each method with its own random stream. The gradient is most of the cost
    of a step, so that five methods take less than half the time. ValueError: as `trajectories`, and for a method
    without a batched rule.
    """
    starts, training, kept = _checked(landscape, starts, **training)
    for method, options in methods_with_options:
        if not closed_forms.knows(_spec(method).name, options):
            raise ValueError(f"{method} has no batched rule with {dict(options)}: take trajectories")
    convention = CONVENTIONS[training["convention"]]
    specs = [(_spec(method), options, convention) for method, options in methods_with_options]
    batches = _batched(landscape, starts, specs, training, kept)
    names = [method for method, _ in methods_with_options]
    return [_paths(landscape, kept, points, name) for points, name in zip(batches, names, strict=True)]


def _checked(landscape, starts, *, every=1, steps=None, optimizer=None, learning_rate=None, convention=None):
    """Starts as a tensor, the landscape's training with the changes that are not None, and the steps to keep."""
    changes = {"steps": steps, "optimizer": optimizer, "learning_rate": learning_rate, "convention": convention}
    training = {**landscape.training, **{key: value for key, value in changes.items() if value is not None}}
    if training["optimizer"] not in OPTIMIZERS:
        raise ValueError(f"optimizer is one of {', '.join(OPTIMIZERS)}; got {training['optimizer']!r}")
    if training["convention"] not in CONVENTIONS:
        raise ValueError(f"convention is one of {', '.join(CONVENTIONS)}; got {training['convention']!r}")
    starts = seeds.wobbled(torch.as_tensor(starts, dtype=torch.float64))
    if starts.shape[-1:] != (2,):
        raise ValueError(f"starts have shape (..., 2), got {tuple(starts.shape)}")
    return starts, training, sorted({*range(0, training["steps"] + 1, every), training["steps"]})


def _spec(method):
    spec = methods.find(method)
    if spec.kind == "feature rotation":
        raise ValueError(f"{method} rotates the features of a network; a landscape has none")
    return spec


def _diverged(method, landscape):
    return f"{method} left the finite numbers on {landscape.name}: take a smaller learning rate"


def _paths(landscape, kept, points, method):
    if not torch.isfinite(points).all():
        raise ValueError(_diverged(method, landscape))
    return Paths(torch.tensor(kept), points, landscape.losses(points).movedim(0, -1))


def _batched(landscape, starts, specs, training, kept):
    """The points (T, ..., 2) of each (spec, options, convention) in `specs`, all in one batch."""
    point = nn.Parameter(starts.reshape(-1, 2).repeat(len(specs), 1, 1))  # (methods, starts, 2)
    optimizer = OPTIMIZERS[training["optimizer"]]([point], lr=training["learning_rate"])
    rules = [_update_rule(spec, options, convention) for spec, options, convention in specs]
    steps_to_keep, points = set(kept), []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.torch_seed(0, "method"))
        streams = [torch.get_rng_state()] * len(specs)
        for step in range(training["steps"] + 1):
            if step in steps_to_keep:
                points.append(point.detach().clone())
            if step < training["steps"]:
                losses, gradients = landscape.gradients(point)
                updates = []
                for k, rule in enumerate(rules):
                    torch.set_rng_state(streams[k])
                    updates.append(rule(gradients[k], losses[k]))
                    streams[k] = torch.get_rng_state()
                point.grad = torch.stack(updates)
                optimizer.step()
    return torch.stack(points, 1).reshape(len(specs), len(kept), *starts.shape)


def _update_rule(spec, options, convention: Convention):
    """Function of gradients (B, 2, 2) and losses (B, 2): the method's updates (B, 2), scaled and clipped as the
    convention says."""
    rule, convention = closed_forms.rule(spec.name, methods.make(spec.name, **options)), convention.of(spec.name)
    factor = convention.factor(spec.native_scale, 2)

    def update(gradients, losses):
        updates = factor * rule(gradients, losses)
        if convention.clip is not None:
            norm = torch.linalg.vector_norm(updates, dim=-1, keepdim=True)
            updates *= (convention.clip / (norm + 1e-6)).clamp(max=1)
        return updates

    return update


def _one_path(landscape, start, spec, options, convention, training, kept, seed):
    """The points (T, 2) of one path: two parameters, trained as any network is."""
    point = nn.Parameter(start.clone())
    optimizer = OPTIMIZERS[training["optimizer"]]([point], lr=training["learning_rate"])
    points, steps_to_keep = [], set(kept)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.torch_seed(seed, "method"))
        method = methods.make(spec.name, **options)
        balancer = Balancer(method, [("point", point)], convention=convention, spec=spec)
        for done in range(training["steps"] + 1):
            if done in steps_to_keep:
                points.append(point.detach().clone())
            if done < training["steps"]:
                optimizer.zero_grad()
                features = point * 1.0  # what the two losses are computed from
                balancer.backward(list(landscape.losses(features)), features=features)
                optimizer.step()
                if balancer.waits:
                    balancer.after_step(list(landscape.losses(point)))
    return torch.stack(points)
