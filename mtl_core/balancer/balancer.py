r"""One step of any method in anybody's training loop: `Balancer(method, net).backward(losses)`.

It takes the place of `sum(losses).backward()`, for any architecture. The gradients of the K losses with respect to the
D parameters that tasks share are the rows of J, (K, D); the method makes one vector of them, which is *added* to the
parameters' `.grad`, as PyTorch's own backward adds. What one task alone reaches gets that task's gradient.
"""

import copy
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from types import SimpleNamespace

import torch
from torch import Tensor

from mtl_core import _inputs
from mtl_core.balancer.layout import Layout
from mtl_core.balancer.rule import Rule
from mtl_core.balancer.step import Step
from mtl_core.conflict import cosines
from mtl_core.gradients import TaskGradients, add, all_finite, explained, layer_of, reached, together, views, write
from mtl_core.linalg import gram
from mtl_core.methods._gramian import ByGram
from mtl_core.methods.task_state import move_columns, selected


class Balancer(Rule):
    r"""A method of multi-task learning for any loop: give it the losses, it fills every `.grad`.

    method      name in `methods.METHODS`, with its `options`; or an instance, such as any `Aggregator` of TorchJD.
    net         a module, its `named_parameters()`, or parameters (then layers are named by position).
    shared      the parameters that J is about: names, layers, parameters or modules. None: those that two or more
                tasks have ever reached. All others get the plain sum of their tasks' gradients, weighted where the
                convention weights heads, and under a loss weighting.
    ignore      what losses may reach and the balancer leaves alone; given as `shared` is. `torch.Tensor` in it is every
                leaf other than an nn.Parameter, such as inputs that require grad.
    convention  name in `methods.CONVENTIONS` or a `Convention`: scale, clip, heads. Scale and clip apply to the
                method's update, never to what `.grad` held before.
    every       weights are computed in each n-th step; between, the last ones are used, and the shared part is walked
                once. Methods without weights refuse n > 1 unless `project`.
    project     give such a method the weights w whose $J^\top w$ is nearest to its update; `residual` is the length of
                the rest over that of the update.
    spec        registry entry of an instance that is not of a registered class.

    One task alone in a step is plain training, whatever the method. An absent task (missing, or None) keeps its state.
    A task whose gradient of the shared parameters is exactly zero counts as absent for an aggregation. In several
    processes (an open process group of torch.distributed) each calls with its part of the batch, on the plain module;
    J and the own gradients are summed over them. Peak memory: J and about the joint step; SAM-GS, MoCo and DB-MTL keep
    a second J, DB-MTL a third for a moment. Hooks of tensors fire once for each task, `post_accumulate_grad` hooks do
    not; a double backward is not supported.

    weights    task -> weight in the last step; empty where the method has none.
    cosines    (task, task) -> cosine of their gradients in the last step; empty where J was not computed.
    gradients  J of the last step and its layers (`TaskGradients`), or None. Valid until the next call.
    losses     (K,) of the tasks in the last step, detached, of the whole batch.
    passes     how often the last step walked what is shared.
    observers  functions that get `gradients` at the end of each step; with one, J is always computed.

    ValueError: a loss other than a scalar with a graph, a reached parameter not given, sparse gradients, a
    feature rotation (use `RotoGrad`), a wrapped module. NonFiniteGradientError, with the tasks' names, before any state
    moves and any `.grad` changes; where the weights come from the losses alone, one pass is made of their sum, and the
    losses alone are looked at: a gradient that is not finite under a loss that is shows in the next step's losses.
    """

    def __init__(
        self, method, net, shared=None, ignore=(), convention="plain", every=1, project=False, spec=None, **options
    ):
        super().__init__(method, spec, convention, every, project, options)
        self._layout = Layout(net, shared, ignore, self.by_task)
        self.tasks = self._layout.tasks
        if isinstance(weights := options.get("weights"), Mapping):
            self.tasks += weights
        self.observers: list[Callable[[TaskGradients], object]] = []
        self._aside: dict[int, tuple[Tensor, dict[int, Tensor]]] = {}  # task -> its loss and gradients so far
        self._reached: set[int] = set()  # parameters that this step's losses reach
        self._waits: tuple[list[int], dict[int, float]] | None = None  # tasks whose losses after the step must come
        self._last: tuple[list[int], Tensor | None, bool] = ([], None, False)  # tasks, weights, whether J is theirs
        self.losses, self.passes = self._layout.like.new_zeros(0), 0

    # --- the calls of a loop

    def backward(self, losses, features=None, scaler=None, counts: Mapping | None = None) -> None:
        """Add the step's gradients to every `.grad`.

        losses    {task: scalar} or a sequence ("task 0", …); a missing task or None is absent.
        features  for methods of the level "features": the tensor (or several, in a list or dict) through which all
                  losses reach the shared parameters, of the same examples for all tasks.
        scaler    a `torch.amp.GradScaler`; the losses are not scaled yet. What overflows becomes infinity in `.grad`,
                  no state moves, and the scaler skips the step.
        counts    {task: number of examples or labels here} where processes have unequal parts; 0 is an absent task.
        """
        try:
            losses = _inputs.by_name(losses)
            step = None if self._again(losses, counts, scaler) else self._read(losses, counts, scaler)
            if step is None or self._again(losses, counts, scaler):  # its graph has been looked at now
                return
            one = len({*step.tasks, *self._aside}) == 1
            known = one or self.spec.level == "losses" or self.stale(step.tasks)
            if (known or self.spec.level != "parameters") and not self._aside and (one or not self.observers):
                self._in_one_pass(step, features, known, one)
            else:
                self._from_matrix(step, features, known)
        finally:
            self._aside.clear()

    def accumulate(self, losses, scaler=None, counts: Mapping | None = None) -> None:
        """Add gradients by task and losses aside, a second J; the next `backward` uses the sums.

        Divide the losses yourself. What was set aside is gone once this call or `backward` raises an error.
        ValueError for a method of the level "features", whose batches do not add up.
        """
        if self.spec.level == "features":
            raise ValueError(f"{self.spec.name} reads gradients at the features, which do not add up over batches")
        try:
            step = self._read(losses, counts, scaler)
            values, new = dict(zip(step.tasks, step.values, strict=True)), dict(step.each())
            for k, loss in values.items():
                before, found = self._aside.get(k, (torch.zeros_like(loss), dict[int, Tensor]()))
                add(found, new.get(k, {}))
                self._aside[k] = (before + loss, found)
        except BaseException:
            self._aside.clear()
            raise

    def after_step(self, losses) -> None:
        """The losses of the same batch after the optimizer's step, for a method that learns from them (FAMO)."""
        if self._waits is None:
            return
        (tasks, shares), self._waits = self._waits, None
        given, values = _inputs.by_name(losses), self._layout.like.new_zeros(len(tasks))
        for n, k in enumerate(tasks):
            if share := shares.get(k, 1.0):
                if (loss := given.get(self.tasks[k])) is None:
                    raise ValueError(f"after_step needs the losses of the step's tasks; missing: {self.tasks[k]}")
                values[n] = share * loss.detach()
        _inputs.add_up(values)
        with selected(self.method, tasks, self.tasks):
            self.method.update(values)  # type: ignore[operator]

    # --- what the last step left

    @property
    def waits(self) -> bool:
        """The method learns from the losses after the step: give them to `after_step`."""
        return self._waits is not None

    @property
    def weights(self) -> dict[str, float]:
        tasks, weights, _ = self._last
        return {} if weights is None else dict(zip([self.tasks[k] for k in tasks], weights.tolist(), strict=True))

    @property
    def cosines(self) -> dict[tuple[str, str], float]:
        found = self.gradients
        if found is None or not found.names:
            return {}
        return dict(zip(combinations(found.tasks, 2), cosines(found.matrix).tolist(), strict=True))

    @property
    def gradients(self) -> TaskGradients | None:
        tasks, _, has_matrix = self._last
        if not has_matrix:
            return None
        columns = self._layout.columns
        matrix, names = columns.matrix[: len(tasks)], [self.tasks[k] for k in tasks]
        return TaskGradients(matrix, columns.layers(matrix), columns.names, names)

    def state_dict(self) -> dict:
        """What a run needs to go on: tasks, who reached what, the method's state. Save it between steps."""
        return {
            "tasks": list(self.tasks),
            "steps": self.steps,
            "columns": self._layout.columns.names,
            "reached": dict(zip(self._layout.names, self._layout.reached, strict=True)),
            "kept": {self.tasks[k]: float(weight) for k, weight in self.kept.items()},
            "method": self.method.state_dict(),
        }

    def load_state_dict(self, state: Mapping) -> None:
        """Go on from a `state_dict()`, in a fresh balancer of the same method and parameters, by their names."""
        layout, number = self._layout, {name: i for i, name in enumerate(self._layout.names)}
        if missing := [name for name in state["reached"] if name not in number]:
            raise ValueError(f"the state is of other parameters; not known here: {', '.join(missing[:6])}")
        self.tasks[:], self.steps = state["tasks"], state["steps"]
        layout.seen.clear()
        layout.reached = [state["reached"].get(name, 0) for name in number]
        layout.set_columns([number[name] for name in state["columns"]])
        self.kept = {self.tasks.index(name): layout.like.new_tensor(w) for name, w in state["kept"].items()}
        self.method.load_state_dict(state["method"])
        self._waits, self._last = None, ([], None, False)

    # --- a step, in one of three ways

    def _again(self, losses, counts, scaler) -> bool:
        """Differentiate a loss weighting through a graph that has been looked at; False where more is asked."""
        given = {name: loss for name, loss in losses.items() if loss is not None}
        whole = not counts or counts.keys() <= given.keys() and all(0 < x < math.inf for x in counts.values())
        layout, more = self._layout, (scaler, self._aside, self.observers, self._waits, self._layout.ignored)
        tasks = layout.seen.get(layout.key(given), [])
        if not (self.direct and whole) or any(more) or len(tasks) < 2 or _inputs.several():
            return False
        self._last = ([], None, False)
        for name, loss in given.items():
            _inputs.check_loss(name, loss, None)
        order = sorted(zip(tasks, given.values(), strict=True), key=lambda task: task[0])
        with torch.enable_grad():
            values = together([loss for _, loss in order], layout.like)
        if not math.isfinite(sum(values.tolist())):
            return False
        step = SimpleNamespace(tasks=sorted(tasks), values=values.detach(), losses=[*given], shares={}, random=None)
        self._end(step, self.weigh(step, None, [], through=values)[0], True)
        return True

    def _read(self, losses, counts, scaler) -> Step:
        if self._waits is not None:
            warnings.warn(f"{self.spec.name} waits for after_step(losses), and none came", stacklevel=3)
        self._waits, self._last, self.learns = None, ([], None, False), False
        step = Step(self._layout, losses, counts, scaler, self.spec.random)
        if step.moved:  # an instance that comes with its state keeps it
            moves = [(step.moved[i], new) for i, new in self._layout.places().items() if i in step.moved]
            move_columns(self.method, moves, step.columns.width)
        self._reached = step.now | (self._reached if self._aside else set())
        return step

    def _in_one_pass(self, step: Step, features, known: bool, one: bool) -> None:
        """The weights come without J: walk what is shared once, from the weighted sum.

        known  the weights come without any gradient; otherwise from those at the features or of the last layer.
        """
        at, roots, weights, K = self._layout.at, [loss for _, loss in step.losses], None, len(step.tasks)
        before = None if step.scale is None else copy.deepcopy(self.method)  # an overflow is seen only in the sum
        streams: Sequence = []
        read, local = None, step.values
        if not known:
            streams = self._streams(step, features)
            read, local = step.probe(streams, self.spec.level == "features", own=True)
            step.join(None)  # before anything is judged, so that all processes judge alike
        factor = self.convention.factor(self.spec.native_scale, K)
        joint = known and (one or self.by_task)  # what is not shared is weighted, too
        plain = joint and step.scale is None and not step.shares and (one or self.convention.clip is None)
        rest = [*dict.fromkeys(i for k in step.tasks for i in step.alone[k])] if known else []
        finite, product, sizes = self._finite(step, read)
        if finite:
            weights, _, K = self.weigh(step, read, sizes, product)
            factor = self.convention.factor(self.spec.native_scale, K)
        shares = torch.ones_like(step.values) if weights is None else weights
        starts = step.starts(dict(zip(step.tasks, shares, strict=True)))
        if plain:
            with explained():
                targets = [self._layout.parameters[i] for i in [*at, *rest]]
                torch.autograd.backward(roots, [start * factor for start in starts], inputs=targets)  # type: ignore
            return self._end(step, weights, True)
        if joint:
            found = step.gradients(roots, [*at, *rest], starts, False)
        else:
            own = step.gradients(roots, rest, step.starts(), True)
            if known or self.spec.level == "last layer":
                found = step.gradients(roots, at, starts, False) + own
            else:
                total = shares.to(local) @ local * (1.0 if step.scale is None else step.scale)
                found = step.gradients(streams, at, views(total, streams), False)
        write(step.places[: len(at)], found[: len(at)])
        step.keep(-1, {i: g for i, g in zip(rest, found[len(at) :], strict=True) if g is not None})
        update = step.flat[: -len(step.rest) or None]
        step.join(update, own=known)
        if before is not None and not (finite and step.flat.sum().isfinite()):
            finite, self.method = False, before
        self._deliver(step, weights, factor if joint else None, update, factor, finite)

    def _from_matrix(self, step: Step, features, known: bool) -> None:
        """J first, then what the method makes of it."""
        at_features, weights, update, read = self.spec.level == "features" and not known, None, None, None
        if at_features:
            read, _ = step.probe(self._streams(step, features), True, own=False)
        rows = step.fill(self._aside)
        K, columns = len(rows), step.columns
        step.join(rows)
        self._last = (step.tasks, None, True)
        finite, product, sizes = self._finite(step, rows, self.spec.level == "parameters")
        if finite:
            if at_features:
                finite, product, sizes = self._finite(step, read)
            elif self.spec.level == "last layer" and columns.names:
                read = [*columns.layers(rows).values()][-1]
            weights, update, K = self.weigh(step, rows if read is None else read, sizes, product)
        if update is not None and self.project:
            weights = self.nearest(step.tasks, rows, update)
        elif update is None:
            update = step.flat[: rows.shape[1]]
            if weights is not None and columns.names:
                torch.mv(rows.T, weights.to(rows), out=update)
        self._deliver(step, weights, None, update, self.convention.factor(self.spec.native_scale, K), finite)

    # --- what the ways share

    def _streams(self, step: Step, features) -> Sequence:
        """What `probe` takes gradients at: the features, or the parameters of the last layer that tasks share."""
        columns = step.columns
        if not columns.names:
            return []
        if self.spec.level == "last layer":
            layer = [*columns.sizes][-1]
            return [i for i, name in zip(self._layout.at, columns.names, strict=True) if layer_of(name) == layer]
        if features is None:
            name = self.spec.name
            raise ValueError(f"{name} reads gradients at the features: backward(losses, features=what all heads read)")
        streams = features.values() if isinstance(features, Mapping) else features
        streams = [features] if isinstance(features, Tensor) else [*streams]
        if strange := [type(z).__name__ for z in streams if not isinstance(z, Tensor)]:
            raise ValueError(f"features is a tensor, or several in a list or dict; got also a {strange[0]}")
        streams = [z for z in streams if z.requires_grad]
        above, _ = reached([loss for _, loss in step.losses], stop=streams)
        inner = [z for z in streams if {*reached([z], stop=[s for s in streams if s is not z])[0]} & {*streams}]
        single = [z for z in streams if not (bits := above.get(z, 0)) & (bits - 1)]
        if inner or single or {*columns.parameters} & {*above}:
            what = "of the same examples, through which all losses reach what they share, none computed from another"
            raise ValueError(f"{self.spec.name} needs features {what}; or take a method of the level 'parameters'")
        return streams

    def _finite(self, step: Step, read: Tensor | None = None, weighed=True) -> tuple[bool, Tensor | None, list]:
        """Whether losses, `read` and own gradients are finite, in one host synchronisation; J Jᵀ of `read`, (K, K) on
        the host, where the method is weighed by it; by task, a number that is 0 where its gradient is 0, perhaps.

        NonFiniteGradientError, with the tasks' names, where they are not; under a scaler, False.
        """
        if read is None and math.isfinite(sum(step.values.tolist())):
            return True, None, []
        K, parts = len(step.values), [step.values]
        by_gram = weighed and read is not None and isinstance(self.method, ByGram)
        if read is not None:
            own = sum((g.sum() for g in step.apart.values()), step.rest.sum())
            parts += [gram(read).flatten() if by_gram else read.sum(1), own.reshape(1)]
        numbers = torch.cat([part.double() for part in parts]).cpu()
        product = numbers[K:-1].view(K, K) if by_gram else None
        sizes = (numbers[K:-1] if product is None else product.diagonal()).tolist()
        if math.isfinite(numbers.sum()):
            return True, product, sizes
        parts_of = {f"the loss of {self.tasks[k]!r}": loss for k, loss in zip(step.tasks, step.values, strict=True)}
        whole = read is not None and read.data_ptr() == step.columns.matrix.data_ptr()
        for where, view in (step.columns.layers(read) if whole else {f"the {self.spec.level}": read}).items():  # type: ignore
            for k, g in zip(step.tasks, view, strict=True) if view is not None else ():
                parts_of[f"the gradient of {self.tasks[k]!r} at {where}"] = g
        mine: list = [(self._layout.owner(i), i, step.places[n]) for i, n in self._layout.slot.items() if step.places]
        for k, i, g in [*mine[len(self._layout.at) :], *((k, i, g) for (k, i), g in step.apart.items())]:
            whose = "the tasks" if k is None else repr(self.tasks[k])
            parts_of[f"the gradient of {whose} at {self._layout.names[i]}"] = g
        # Finite after all where numbers have a sum or square beyond the range
        return all_finite(parts_of, refuse=step.scale is None), None, [0.0] * K

    def _deliver(self, step: Step, weights, joint: float | None, update: Tensor, factor: float, finite: bool) -> None:
        """Scale and clip the update, weigh own gradients, add both to `.grad`.

        joint  what gradients of own parameters are multiplied by; None: by their task's weight, where it counts.
        """
        layout, places, columns = self._layout, step.places, len(self._layout.at)
        total: float | Tensor = factor
        if (clip := self.convention.clip) is not None and len(step.tasks) > 1:
            total = factor * (clip / (factor * torch.linalg.vector_norm(update) + 1e-6)).clamp(max=1)
        mine = step.flat[: len(update)]  # any other update is J's, or the method's, which may keep it
        if isinstance(total, Tensor) or total != 1 or update.data_ptr() != mine.data_ptr():
            torch.mul(update.to(mine), total, out=mine)
        if joint is not None:
            step.rest.mul_(joint)
        elif self.by_task:
            own = torch.ones_like(step.values) if weights is None else weights * factor
            of_task = dict(zip(step.tasks, own, strict=True))
            for i in [*layout.slot][columns:]:
                if (k := layout.owner(i)) in of_task:
                    places[layout.slot[i]].mul_(of_task[k])
            for (k, i), g in step.apart.items():
                places[layout.slot[i]].add_(g * of_task[k])
        for i in [i for i in layout.slot if i in self._reached]:
            p, g = layout.parameters[i], places[layout.slot[i]]
            if step.scale is not None:
                g = g * step.scale if finite else torch.full_like(g, math.inf)
            g = g.to(p)  # where there is no `.grad`, the gradient becomes it: nothing is copied
            p.grad = g if p.grad is None else p.grad.add_(g)
        self._end(step, weights, finite)

    def _end(self, step: Step | SimpleNamespace, weights: Tensor | None, finite: bool) -> None:
        self._last, self.losses = (step.tasks, weights, self._last[2]), step.values
        self.passes = len(step.losses) if self._last[2] else 1
        self.steps += finite
        self._waits = (step.tasks, step.shares) if self.learns and finite else None
        for observer in self.observers if finite and self._last[2] else ():
            observer(self.gradients)  # type: ignore[arg-type]
