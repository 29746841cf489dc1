r"""One step of any method in anybody's training loop: `Balancer(method, net).backward(losses)`.

It stands where `sum(losses).backward()` stood, for any architecture. The gradients of the K losses with respect to the
D parameters that tasks share are the rows of J, (K, D); the method makes one vector of them, which is *added* to the
parameters' `.grad`, as PyTorch's own backward adds. What one task alone reaches gets that task's gradient.
"""

import copy
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, combinations

import torch
from torch import Tensor, distributed, nn

from mtl_core import _inputs
from mtl_core.conflict import cosines
from mtl_core.gradients import (
    Columns,
    NonFiniteGradientError,
    TaskGradients,
    explained,
    gradients,
    reached,
    vector,
    views,
    write,
)
from mtl_core.linalg import gram
from mtl_core.methods._state import NotPositive
from mtl_core.methods.backward import task_weights
from mtl_core.methods.conventions import named
from mtl_core.methods.registry import AGGREGATION, WEIGHTING, instance
from mtl_core.methods.task_state import move_columns, selected
from mtl_core.random_state import drawing_from, random_state

ALL = -1  # in place of a task: the sum over tasks


@dataclass
class _Step:
    """The losses of one call, and what is known of them. Tasks and parameters have their numbers in the balancer.

    losses  (task, loss) of this process; tasks: those of all processes, in order; values: their losses (K,), joined.
    shares  where there are several processes: task -> this one's share of its examples.
    scale   of a scaler: the backward passes start from it, and their gradients are divided by it.
    random  where there are several processes: the random state that the method draws from in this one.
    alone   task -> parameters that are no columns of J and that it reaches.
    own     (task, or `ALL` unless they are weighted by task; parameter) -> gradient.
    """

    losses: list[tuple[int, Tensor]]
    tasks: list[int]
    values: Tensor
    shares: dict[int, float]
    scale: Tensor | None
    random: dict | None
    alone: dict[int, list[int]]
    own: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.plain = self.starts()

    def starts(self, weights: Mapping[int, Tensor] | None = None) -> list[Tensor | None]:
        """What the backward passes start from: each loss's weight, times the scaler's scale, times our share."""
        if weights is None and self.scale is None and not self.shares:
            return [None] * len(self.losses)  # ones
        scale = 1.0 if self.scale is None else self.scale
        weight_of = weights or dict.fromkeys(self.tasks, torch.ones_like(self.values[0]))
        return [(scale * weight_of[k] * self.shares.get(k, 1.0)).to(loss) for k, loss in self.losses]


class Balancer:
    r"""A method of multi-task learning for any loop: give it the losses, it fills every `.grad`.

    method      name in `methods.METHODS`, with its `options`; or an instance, such as any `Aggregator` of TorchJD.
    net         a module, its `named_parameters()`, or parameters (then layers are named by position).
    shared      the parameters that J is about: names, layers, parameters or modules. None: those that two or more
                tasks have ever reached. All others get the plain sum of their tasks' gradients, weighted where the
                convention weights heads, and under a loss weighting.
    ignore      what losses may reach and the balancer leaves alone; given as `shared` is.
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
    a second J. Hooks of tensors fire once for each task, `post_accumulate_grad` hooks do not; there is no double
    backward.

    weights    task -> weight in the last step; empty where the method has none.
    cosines    (task, task) -> cosine of their gradients in the last step; empty where J was not computed.
    gradients  J of the last step and its layers (`TaskGradients`), or None. Valid until the next call.
    losses     (K,) of the tasks in the last step, detached, of the whole batch.
    passes     how often the last step walked what is shared.
    observers  functions that get `gradients` at the end of each step; with one, J is always computed.

    ValueError: a loss that is no scalar with a graph, a reached parameter that was not given, sparse gradients, a
    feature rotation (use `RotoGrad`), a wrapped module. NonFiniteGradientError, with the tasks' names, before any state
    moves and any `.grad` changes.
    """

    def __init__(
        self, method, net, shared=None, ignore=(), convention="plain", every=1, project=False, spec=None, **options
    ):
        self.spec, self.method = instance(method, spec, options)
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"every counts steps, a whole number from 1; got {every!r}")
        if every > 1 and not project and self.spec.kind == AGGREGATION and not hasattr(self.method, "weighting"):
            raise ValueError(f"{self.spec.name} has no weights to keep between steps: every=1, or project=True")
        self.convention = named(convention).of(self.spec.name)
        self.every, self.project, self.steps = every, project, 0
        self._by_task = self.spec.kind == WEIGHTING or self.convention.heads == "weighted"
        self._names, self._parameters = _inputs.named_parameters(net)
        self._index = {p: i for i, p in enumerate(self._parameters)}
        first = self._parameters[0]
        self._like = first.new_empty((), dtype=torch.promote_types(first.dtype, torch.float32))  # as losses are
        self._ignored, self._shared = self._chosen(ignore), None if shared is None else self._chosen(shared)
        if strange := [str(item) for item in (self._shared or set()) - set(self._index)]:
            raise ValueError(f"shared is some of the balancer's parameters; not among them: {', '.join(strange)}")
        self.tasks = [*options["weights"]] if isinstance(options.get("weights"), Mapping) else list[str]()
        self.observers: list[Callable[[TaskGradients], object]] = []
        self.residual: float | None = None
        self._reached = [0] * len(self._parameters)  # by parameter, the bits of the tasks that have ever reached it
        self._at, self._columns = list[int](), Columns([], [], 0)  # the columns of J: numbers of parameters, memory
        self._now: set[int] = set()  # parameters that this step's losses reach
        self._window: dict[int, dict[int, Tensor]] = {}  # task -> gradients by parameter, added up by `accumulate`
        self._window_losses: dict[int, Tensor] = {}
        self._kept: dict[int, Tensor] = {}  # task -> its weight in the last step that computed weights
        self._waits: tuple[list[int], dict[int, float]] | None = None  # tasks whose losses after the step must come
        self.losses, self.passes = self._like.new_zeros(0), 0
        self._learns = False  # the method waits for them after this step
        self._last: tuple[list[int], Tensor | None, bool] = ([], None, False)  # tasks, weights, whether J is theirs

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
        step = self._read(losses, counts, scaler)
        try:
            one = len({*step.tasks, *self._window}) == 1
            known = one or self.spec.level == "losses" or self._stale(step.tasks)
            direct = known or self.spec.level in ("features", "last layer")
            if direct and not self._window and (one or not self.observers):
                self._in_one_pass(step, features, known, one)
            else:
                self._from_matrix(step, features, known)
        finally:
            self._window.clear()
            self._window_losses.clear()

    def accumulate(self, losses, scaler=None, counts: Mapping | None = None) -> None:
        """Add gradients by task and losses aside, a second J; the next `backward` uses the sums.

        Divide the losses yourself. ValueError for a method of the level "features", whose batches do not add up.
        """
        if self.spec.level == "features":
            raise ValueError(f"{self.spec.name} reads gradients at the features, which do not add up over batches")
        self._add_aside(self._read(losses, counts, scaler))

    def after_step(self, losses) -> None:
        """The losses of the same batch after the optimizer's step, for a method that learns from them (FAMO)."""
        if self._waits is None:
            return
        (tasks, shares), self._waits = self._waits, None
        given, values = _inputs.by_name(losses), self._like.new_zeros(len(tasks))
        for n, k in enumerate(tasks):
            if share := shares.get(k, 1.0):
                if (loss := given.get(self.tasks[k])) is None:
                    raise ValueError(f"after_step needs the losses of the step's tasks; missing: {self.tasks[k]}")
                values[n] = share * loss.detach()
        if shares:
            _inputs.add_up(values)
        with selected(self.method, tasks, len(self.tasks)):
            self.method.update(values)

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
        matrix, names = self._columns.matrix[: len(tasks)], [self.tasks[k] for k in tasks]
        columns = self._columns
        return TaskGradients(matrix, columns.layers(matrix), columns.names, names) if has_matrix else None

    def state_dict(self) -> dict:
        """What a run needs to go on: tasks, who reached what, the method's state. Save it between steps."""
        return {
            "tasks": list(self.tasks),
            "steps": self.steps,
            "columns": self._columns.names,
            "reached": dict(zip(self._names, self._reached, strict=True)),
            "kept": {self.tasks[k]: float(weight) for k, weight in self._kept.items()},
            "method": self.method.state_dict(),
        }

    def load_state_dict(self, state: Mapping) -> None:
        """Go on from a `state_dict()`, in a fresh balancer of the same method and parameters, by their names."""
        number = {name: i for i, name in enumerate(self._names)}
        if missing := [name for name in state["reached"] if name not in number]:
            raise ValueError(f"the state is of other parameters; not known here: {', '.join(missing[:6])}")
        self.tasks[:], self.steps = state["tasks"], state["steps"]
        self._reached = [state["reached"].get(name, 0) for name in self._names]
        self._set_columns([number[name] for name in state["columns"]])
        self._kept = {self.tasks.index(name): torch.tensor(weight) for name, weight in state["kept"].items()}
        self.method.load_state_dict(state["method"])
        self._waits, self._last = None, ([], None, False)

    # --- who reaches what

    def _chosen(self, given) -> set:
        """The parameters that names, layers' names, tensors and modules stand for; names that are unknown so far."""
        found: set = set()
        for item in [given] if isinstance(given, (str, nn.Module, Tensor)) else given:
            if isinstance(item, str):
                found |= {p for p, i in self._index.items() if f"{self._names[i]}.".startswith(f"{item}.")} or {item}
            else:
                found |= set(item.parameters()) if isinstance(item, nn.Module) else {item}
        return found

    def _known(self, leaves: Mapping[Tensor, int]) -> dict[int, int]:
        """Number of a parameter -> bits, without what is ignored. ValueError for what was not given."""
        if strangers := [leaf for leaf in leaves if leaf not in self._index and leaf not in self._ignored]:
            names = dict(zip(strangers, _inputs.names_in_process(strangers), strict=True))
            ignored = tuple(f"{item}." for item in self._ignored if isinstance(item, str))
            self._ignored |= {leaf for leaf, name in names.items() if f"{name}.".startswith(ignored)}
            if unknown := ", ".join([name for leaf, name in names.items() if leaf not in self._ignored][:6]):
                raise ValueError(f"the losses reach {unknown}: give the module that holds all, or name it in ignore=")
        return {self._index[leaf]: bits for leaf, bits in leaves.items() if leaf not in self._ignored}

    def _read(self, losses, counts, scaler) -> _Step:
        """Check the losses and agree on them with other processes; see who reaches what, and lay J out."""
        if self._waits is not None:
            warnings.warn(f"{self.spec.name} waits for after_step(losses), and none came", stacklevel=3)
        self._waits, self._last, self._learns = None, ([], None, False), False
        given, counts = _inputs.by_name(losses), counts or {}
        if bad := [n for n, x in counts.items() if n not in {*given, *self.tasks} or not 0 <= x < float("inf")]:
            raise ValueError(f"counts are finite numbers from 0, of tasks that have losses; not so: {bad}")
        given = {name: loss for name, loss in given.items() if loss is not None and counts.get(name, 1) > 0}
        scaler = scaler if scaler is not None and scaler.is_enabled() else None
        for name, loss in given.items():
            _inputs.check_loss(name, loss, scaler)
        leaves, second = reached([*given.values()])
        if second and self._shared is None:
            raise ValueError("a compiled or custom function hides what tasks share: name that in shared=")
        names = [*given]
        now = {
            i: [name for k, name in enumerate(names) if bits >> k & 1]
            for i, bits in sorted(self._known(leaves).items())
        }
        values, shares, random = given, dict[str, float](), None
        if _inputs.several():
            mine = random_state(self._like.device) if self.spec.random and not distributed.get_rank() else None
            values, shares, now, random = _inputs.agree(given, counts, now, mine)
        if not values:
            raise ValueError("no task has a loss in this step: skip it, or give at least one")
        self.tasks += [name for name in values if name not in self.tasks]
        number = {name: k for k, name in enumerate(self.tasks)}
        self._now = {*now, *(self._now if self._window else ())}
        for i, reaching in now.items():
            for name in reaching:
                self._reached[i] |= 1 << number[name]
        self._set_columns([i for i, p in enumerate(self._parameters) if p.requires_grad and self._is_column(i)])
        tasks, columns = sorted(number[name] for name in values), {*self._at}
        alone: dict[int, list[int]] = {k: [] for k in tasks}
        for i, reaching in now.items():
            if i not in columns:  # of two or more tasks, any may reach it
                for k in [number[name] for name in reaching] if len(reaching) == 1 else tasks:
                    alone[k].append(i)
        in_order = [values[self.tasks[k]] for k in tasks]
        stacked = self._like.new_tensor(in_order) if shares else torch.stack([x.detach() for x in in_order])
        scale = None if scaler is None else scaler.scale(torch.ones_like(self._like))
        mine = [(number[name], loss) for name, loss in given.items()]
        weight_of = {number[name]: share for name, share in shares.items()}
        return _Step(mine, tasks, stacked.to(self._like), weight_of, scale, random, alone)

    def _is_column(self, i: int) -> bool:
        bits = self._reached[i]
        return bool(bits and (bits & (bits - 1) if self._shared is None else self._parameters[i] in self._shared))

    def _set_columns(self, numbers: list[int]) -> None:
        """Make these parameters the columns of J; what the method keeps by column moves along."""
        if numbers != self._at or len(self._columns.rows) < len(self.tasks):
            old, self._at = self._slices(), numbers
            parameters = [self._parameters[i] for i in numbers]
            self._columns = Columns([self._names[i] for i in numbers], parameters, len(self.tasks))
            if old and old != (new := self._slices()):  # an instance that comes with its state keeps it
                moves = [(old[i], place) for i, place in new.items() if i in old]
                move_columns(self.method, moves, self._columns.matrix.shape[1])

    def _slices(self) -> dict[int, slice]:
        """Number of a parameter -> its columns."""
        ends = [0, *accumulate(self._parameters[i].numel() for i in self._at)]
        return {i: slice(*ends[n : n + 2]) for n, i in enumerate(self._at)}

    # --- a step, in one of two ways

    def _in_one_pass(self, step: _Step, features, known: bool, one: bool) -> None:
        """The weights come without J: walk what is shared once, from the weighted sum.

        known  the weights come without any gradient; otherwise from those at the features or of the last layer.
        """
        read, local, K, shared = None, None, len(step.tasks), self._columns.parameters
        before = None if step.scale is None else copy.deepcopy(self.method)  # an overflow is seen only in the sum
        if not known:
            streams = self._streams(step, features)
            read, local = self._probe(step, streams, own=True)
        weights, finite = None, self._finite(step, read)
        if finite:
            weights, _, K = self._weigh(step, read, finite)
        factor = self.convention.factor(self.spec.native_scale, K)
        weight_of = dict(zip(step.tasks, torch.ones_like(step.values) if weights is None else weights, strict=True))
        roots = [loss for _, loss in step.losses]
        numbers = [*dict.fromkeys(i for k in step.tasks for i in step.alone[k])] if known else []
        own = [self._parameters[i] for i in numbers]
        joint = known and (one or self._by_task)  # what is not shared is weighted, too
        of_own: Mapping[int, float | Tensor] = {}
        if joint and step.scale is None and not step.shares and (one or self.convention.clip is None):
            with explained():
                starts = [start * factor for start in step.starts(weight_of)]
                torch.autograd.backward(roots, starts, inputs=[*shared, *own])
            return self._end(step, weights, True)
        update = self._columns.free_update()
        if joint:
            found = self._gradients(step, roots, [*shared, *own], step.starts(weight_of), False)
            self._keep(step, ALL, numbers, found[len(shared) :])
            of_own = {ALL: factor}
        else:
            plain = self._gradients(step, roots, own, step.plain, True)
            self._keep(step, ALL, numbers, plain)
            if known or self.spec.level == "last layer":
                found = self._gradients(step, roots, shared, step.starts(weight_of), False)
            else:
                total = (
                    torch.stack([*weight_of.values()]).to(local) @ local * (1.0 if step.scale is None else step.scale)
                )
                found = self._gradients(step, streams, shared, views(total, streams), False)
            of_own = self._weights_of_own(step, weights, factor)
        write(views(update, shared), found[: len(shared)])
        self._join(step, update)
        if before is not None and not (finite and (update.sum() + self._own_norm(step)).isfinite()):
            finite, self.method = [], before
        self._deliver(step, weights, of_own, update, factor, bool(finite))

    def _from_matrix(self, step: _Step, features, known: bool) -> None:
        """J first, then what the method makes of it."""
        read, at_features = None, self.spec.level == "features" and not known
        if at_features:
            read, _ = self._probe(step, self._streams(step, features), own=False)
        self._fill(step)
        K = len(step.tasks)
        rows = self._columns.matrix[:K]
        self._join(step, rows)
        self._last = (step.tasks, None, True)
        finite = self._finite(step, rows)
        weights, update = None, None
        if finite and at_features:
            finite = self._finite(step, read)
        elif self.spec.level == "last layer" and self._at:
            read = [*self._columns.layers(rows).values()][-1]
        else:
            read = rows
        if finite:
            weights, update, K = self._weigh(step, read, finite)
        if update is not None and self.project:
            weights = self._nearest(step.tasks, rows, update)
        elif update is None:
            update = self._columns.free_update()
            if weights is not None and self._at:
                torch.mv(rows.T, weights.to(rows), out=update)
        factor = self.convention.factor(self.spec.native_scale, K)
        self._deliver(step, weights, self._weights_of_own(step, weights, factor), update, factor, bool(finite))

    # --- passes

    def _gradients(self, step: _Step, outputs, inputs: Sequence[Tensor], starts, retain: bool) -> list[Tensor | None]:
        """Gradients with respect to inputs, freed of the scaler's scale; None for what is not reached."""
        found = [*gradients(outputs, inputs, starts, retain)]
        for p, g in zip(inputs, found, strict=True):
            if g is not None and g.layout != torch.strided:
                raise ValueError(f"{self._names[self._index[p]]} has a sparse gradient: make it dense, or give ignore=")
        return found if step.scale is None else [None if g is None else g / step.scale for g in found]

    def _of_task(self, step: _Step, n: int, inputs: Sequence[Tensor], retain: bool) -> list[Tensor | None]:
        """Gradients of the n-th loss."""
        return self._gradients(step, [step.losses[n][1]], inputs, step.plain[n : n + 1], retain)

    def _keep(self, step: _Step, k: int, numbers: Sequence[int], found: Sequence[Tensor | None]) -> None:
        for i, g in zip(numbers, found, strict=True):
            if g is not None:
                key = (k if self._by_task else ALL, i)
                step.own[key] = step.own[key] + g if key in step.own else g

    def _fill(self, step: _Step) -> None:
        """J of this step and of what was added aside, row by row."""
        shared = self._columns.parameters
        if self._window:
            self._add_aside(step)
            step.tasks = sorted(self._window)
            step.values = torch.stack([self._window_losses[k] for k in step.tasks])
            for row, k in zip(self._columns.rows, step.tasks, strict=False):
                found = self._window[k]
                write(row, [found.pop(i, None) for i in self._at])
                self._keep(step, k, [*found], [*found.values()])
            return
        rows = dict(zip(step.tasks, self._columns.rows, strict=False))
        for n, (k, _) in enumerate(step.losses):
            numbers = step.alone[k]
            inputs = [*shared, *[self._parameters[i] for i in numbers]]
            found = self._of_task(step, n, inputs, n + 1 < len(step.losses))
            write(rows.pop(k), found[: len(shared)])
            self._keep(step, k, numbers, found[len(shared) :])
        for row in rows.values():  # of tasks that other processes have
            write(row, [None] * len(shared))

    def _add_aside(self, step: _Step) -> None:
        try:
            for n, (k, _) in enumerate(step.losses):
                numbers = [*self._at, *step.alone[k]]
                found = self._of_task(step, n, [self._parameters[i] for i in numbers], n + 1 < len(step.losses))
                total = self._window.setdefault(k, {})
                for i, g in zip(numbers, found, strict=True):
                    if g is not None:
                        total[i] = total[i] + g if i in total else g
            for k, value in zip(step.tasks, step.values, strict=True):
                self._window.setdefault(k, {})
                self._window_losses[k] = self._window_losses[k] + value if k in self._window_losses else value
        except BaseException:
            self._window.clear()
            self._window_losses.clear()
            raise

    def _streams(self, step: _Step, features) -> list[Tensor]:
        """What `_probe` takes gradients at: the features, or the parameters of the last layer that tasks share."""
        if not self._at:
            return []
        if self.spec.level == "last layer":
            layer = [*self._columns.sizes][-1]
            return [
                p
                for name, p in zip(self._columns.names, self._columns.parameters, strict=True)
                if name.startswith(layer)
            ]
        if features is None:
            name = self.spec.name
            raise ValueError(f"{name} reads gradients at the features: backward(losses, features=what all heads read)")
        streams = features.values() if isinstance(features, Mapping) else features
        streams = [z for z in ([features] if isinstance(features, Tensor) else streams) if z.requires_grad]
        above, _ = reached([loss for _, loss in step.losses], stop=streams)
        inner = any(
            {*reached([z], stop=[other for other in streams if other is not z])[0]} & {*streams} for z in streams
        )
        single = [z for z in streams if not (bits := above.get(z, 0)) & (bits - 1)]
        if inner or single or {*self._columns.parameters} & {*above}:
            what = "of the same examples, through which all losses reach what they share, none computed from another"
            raise ValueError(f"{self.spec.name} needs features {what}; or take a method of the level 'parameters'")
        return streams

    def _probe(self, step: _Step, streams: list[Tensor], own: bool) -> tuple[Tensor, Tensor]:
        """(K, …): the gradients of the losses at `streams`, of the whole batch; and as they are in this process."""
        matrix, row = vector(streams, len(step.tasks)), {k: n for n, k in enumerate(step.tasks)}
        for n, (k, _) in enumerate(step.losses):
            numbers = step.alone[k] if own else []
            found = self._of_task(step, n, [*streams, *[self._parameters[i] for i in numbers]], True)
            write(views(matrix[row[k]], streams), found[: len(streams)])
            self._keep(step, k, numbers, found[len(streams) :])
        if not step.shares:
            return matrix, matrix
        if self.spec.level == "features":
            return torch.cat([z.to(matrix) for z in _inputs.gathered(matrix.cpu())], 1), matrix
        return _inputs.add_up(matrix.clone()), matrix

    def _join(self, step: _Step, shared: Tensor) -> None:
        """Add the processes up: what is shared, and the own gradients."""
        if not step.shares:
            return
        _inputs.add_up(shared)
        pairs = [(k if self._by_task else ALL, i) for k, numbers in step.alone.items() for i in numbers]
        slots = sorted({*pairs, *step.own})
        like = [self._parameters[i] for _, i in slots]
        flat = vector(like)
        for key, part in zip(slots, views(flat, like), strict=True):
            step.own[key] = part.copy_(step.own.get(key, part))
        _inputs.add_up(flat)

    def _own_norm(self, step: _Step) -> Tensor:
        return torch.nn.utils.get_total_norm([*step.own.values()])

    def _finite(self, step: _Step, read: Tensor | None = None) -> list[float]:
        """Losses, and the sum of `read` by task, in one host synchronisation, where they and own gradients are finite.

        Else NonFiniteGradientError, with the tasks' names; an empty list under a scaler.
        """
        sums = [] if read is None else [read.sum(1).to(step.values), self._own_norm(step).reshape(1).to(step.values)]
        numbers = torch.cat([step.values, *sums]).tolist()
        if all(map(math.isfinite, numbers)):
            return numbers
        parts = {f"the loss of {self.tasks[k]!r}": loss for k, loss in zip(step.tasks, step.values, strict=True)}
        whole = read is not None and read.data_ptr() == self._columns.matrix.data_ptr()
        for where, view in (self._columns.layers(read) if whole else {f"the {self.spec.level}": read}).items():
            for k, g in zip(step.tasks, view, strict=True) if view is not None else ():
                parts[f"the gradient of {self.tasks[k]!r} at {where}"] = g
        for (k, i), g in step.own.items():
            parts[f"the gradient of {repr(self.tasks[k]) if k != ALL else 'the tasks'} at {self._names[i]}"] = g
        bad = [name for name, part in parts.items() if not part.isfinite().all()]
        if not bad:  # numbers whose sum is beyond the range
            return numbers
        if step.scale is not None:
            return []
        more = f" and {len(bad) - 6} more" if len(bad) > 6 else ""
        raise NonFiniteGradientError(
            f"expected finite losses and gradients; NaN or infinity in {'; '.join(bad[:6])}{more}. Lower the learning "
            "rate, clip the gradients, or look at that task's inputs"
        )

    # --- the method

    def _stale(self, tasks: list[int]) -> bool:
        """Weights of an earlier step are used in this one."""
        return self.steps % self.every > 0 and all(k in self._kept for k in tasks)

    def _weigh(self, step: _Step, read, numbers: list[float]) -> tuple[Tensor | None, Tensor | None, int]:
        """(weights, None, K), or (None, update, K) where the method has none; its state learns from the step.

        A task whose gradient is exactly zero is absent for an aggregation; K counts those that are not.

        read     J or what the method reads in its place; its sums by task follow the losses in `numbers`.
        """
        spec, values, total = self.spec, step.values, len(step.tasks)
        reads = spec.kind == AGGREGATION and read is not None and read.shape[1]
        rows = [n for n in range(total) if not reads or numbers[total + n] or read[n].any()]
        tasks, K, update = [step.tasks[n] for n in rows], max(len(rows), 1), None
        if len(rows) < total:
            values, read = values[rows], read[rows]
        weights: Tensor | None
        if len(tasks) < 2:
            weights = torch.ones_like(values)
        elif self._stale(tasks):
            weights = torch.stack([self._kept[k] for k in tasks]).to(values)
        elif spec.level != "losses" and read is not None and not read.shape[1]:
            return None, None, K  # nothing is shared
        else:
            with drawing_from(step.random, values.device), selected(self.method, tasks, len(self.tasks)):
                try:
                    weights = task_weights(self.method, spec, self.convention, read, values)
                    if weights is None:
                        update = self.method(read, values) if "losses" in spec.needs else self.method(read)
                except NotPositive as error:
                    bad = ", ".join(repr(self.tasks[tasks[k]]) for k in error.tasks)
                    raise ValueError(
                        f"{error.what} needs positive losses, or None for absent tasks; got {bad}"
                    ) from error
            self._keep_weights(tasks, weights)
            self._learns = "losses after the step" in spec.needs
        if weights is not None and len(rows) < total:  # the others' heads get their own gradients
            some, weights = weights, torch.ones_like(step.values)
            weights[rows] = some.to(weights)
        return weights, update, K

    def _keep_weights(self, tasks: list[int], weights: Tensor | None) -> None:
        if self.every > 1 and weights is not None:
            self._kept |= dict(zip(tasks, weights.detach().clone(), strict=True))

    def _nearest(self, tasks: list[int], matrix: Tensor, update: Tensor) -> Tensor:
        r"""w with $J^\top w$ nearest to the update; what remains of it, as a share, is `residual`."""
        weights = torch.linalg.pinv(gram(matrix), hermitian=True) @ (matrix @ update).double()
        length = torch.linalg.vector_norm(update).item()
        self.residual = torch.linalg.vector_norm(update - matrix.T @ weights.to(matrix)).item() / (length or 1.0)
        self._keep_weights(tasks, weights)
        return weights

    # --- into .grad

    def _weights_of_own(self, step: _Step, weights: Tensor | None, factor: float) -> dict[int, Tensor]:
        return dict(zip(step.tasks, weights * factor, strict=True)) if self._by_task and weights is not None else {}

    def _deliver(self, step: _Step, weights, of_own: Mapping, update: Tensor, factor: float, finite: bool) -> None:
        """Scale and clip the update, weigh own gradients that are apart by task, add both to `.grad`."""
        total: float | Tensor = factor
        if (clip := self.convention.clip) is not None and len(step.tasks) > 1:
            total = factor * (clip / (factor * torch.linalg.vector_norm(update) + 1e-6)).clamp(max=1)
        kept = {t.untyped_storage().data_ptr() for t in (self._columns.matrix, *self.method.buffers())}
        if update.untyped_storage().data_ptr() in kept:  # J or the method's own state: not ours to write
            update = update * total
        elif isinstance(total, Tensor) or total != 1:
            update.mul_(total)
        shared = self._columns.parameters
        parts = zip(self._at, shared, views(update, shared), strict=True)
        places = [(p, g) for i, p, g in parts if i in self._now]
        for (k, i), g in step.own.items():  # new ones: autograd may give the same memory twice
            places.append((self._parameters[i], g * of_own.get(k, 1.0)))
        for p, g in places:
            if step.scale is not None:
                g = g * step.scale if finite else torch.full_like(g, math.inf)
            g = g.detach().to(p)  # where there is no `.grad`, the gradient becomes it: nothing is copied
            p.grad = g if p.grad is None else p.grad.add_(g)
        self._end(step, weights, finite)

    def _end(self, step: _Step, weights: Tensor | None, finite: bool) -> None:
        self._last, self.losses = (step.tasks, weights, self._last[2]), step.values
        self.passes = len(step.losses) if self._last[2] else 1
        self.steps += finite
        self._waits = (step.tasks, step.shares) if self._learns and finite else None
        for observer in self.observers if finite and self._last[2] else ():
            observer(self.gradients)  # type: ignore[arg-type]
