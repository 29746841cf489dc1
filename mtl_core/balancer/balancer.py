r"""One step of any method in anybody's training loop: `Balancer(method, net).backward(losses)`.

It stands where `sum(losses).backward()` stood, for any architecture. The gradients of the K losses with respect to the
D parameters that tasks share are the rows of J, (K, D); the method makes one vector of them, which is *added* to the
parameters' `.grad`, as PyTorch's own backward adds. What one task alone reaches gets that task's gradient.
"""

import copy
import math
import warnings
from collections.abc import Callable, Mapping
from itertools import combinations

import torch
from torch import Tensor, distributed

from mtl_core.balancer import inputs
from mtl_core.balancer.graph import explained
from mtl_core.balancer.layout import Layout, add, unflatten
from mtl_core.balancer.passes import Step
from mtl_core.balancer.rule import Rule
from mtl_core.conflict import cosines
from mtl_core.gradients import NonFiniteGradientError, TaskGradients
from mtl_core.methods.task_state import move_columns, selected


class Balancer(Rule):
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
    observers  functions that get `gradients` at each step, before the method; with one, J is always computed.

    ValueError: a loss that is no scalar with a graph, a reached parameter that was not given, sparse gradients, a
    feature rotation (use `RotoGrad`), a wrapped module. NonFiniteGradientError, with the tasks' names, before any state
    moves and any `.grad` changes.
    """

    def __init__(
        self, method, net, shared=None, ignore=(), convention="plain", every=1, project=False, spec=None, **options
    ):
        super().__init__(method, spec, convention, every, project, options)
        self._layout = Layout(net, shared, ignore, self.by_task, self.spec.random)
        self.tasks = self._layout.tasks
        if isinstance(weights := options.get("weights"), Mapping):
            self.tasks += weights
        self.observers: list[Callable[[TaskGradients], object]] = []
        self._waits: tuple[list[int], dict[int, float]] | None = None  # tasks whose losses after the step must come
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
        layout, self.learns = self._layout, False
        try:
            step = self._read(losses, counts, scaler)
            one = len({*step.tasks, *layout.losses}) == 1
            early = one or self.spec.level == "losses" or self.stale(step.tasks)
            plain = not layout.losses and (one or not self.observers)
            joint = plain and early and (one or self.by_task)
            one_pass = plain and (early or self.spec.level in ("features", "last layer"))
            if joint or one_pass and step.cuts():
                self._in_one_pass(step, features, early, joint)
            else:
                self._from_matrix(step, features, early)
        finally:
            layout.clear()

    def accumulate(self, losses, scaler=None, counts: Mapping | None = None) -> None:
        """Add gradients by task and losses aside, a second J; the next `backward` uses the sums.

        Divide the losses yourself. ValueError for a method of the level "features", whose batches do not add up.
        """
        if self.spec.level == "features":
            raise ValueError(f"{self.spec.name} reads gradients at the features, which do not add up over batches")
        try:
            step = self._read(losses, counts, scaler, aside=True)
            add(self._layout.losses, dict(zip(step.tasks, step.values, strict=True)))
            for k, found, _ in step.each():
                add(self._layout.window.setdefault(k, {}), found)
        except BaseException:
            self._layout.clear()
            raise

    def after_step(self, losses) -> None:
        """The losses of the same batch after the optimizer's step, for a method that learns from them (FAMO)."""
        if self._waits is None:
            return
        (tasks, shares), self._waits = self._waits, None
        given, values = inputs.by_name(losses), self._layout.like.new_zeros(len(tasks))
        for n, k in enumerate(tasks):
            if share := shares.get(k, 1.0):
                if (loss := given.get(self.tasks[k])) is None:
                    raise ValueError(f"after_step needs the losses of the step's tasks; missing: {self.tasks[k]}")
                values[n] = share * loss.detach()
        if shares:
            distributed.all_reduce(values)
        with selected(self.method, tasks, len(self.tasks)):
            self.method.update(values)  # type: ignore[operator]

    # --- what the last step left

    @property
    def weights(self) -> dict[str, float]:
        tasks, weights, _ = self._last
        return {} if weights is None else dict(zip([self.tasks[k] for k in tasks], weights.tolist(), strict=True))

    @property
    def cosines(self) -> dict[tuple[str, str], float]:
        found = self.gradients
        names = [self.tasks[k] for k in self._last[0]]
        values = cosines(found.matrix).tolist() if found is not None and found.names else ()
        return dict(zip(combinations(names, 2), values, strict=False))

    @property
    def gradients(self) -> TaskGradients | None:
        tasks, _, has_matrix = self._last
        matrix, K = self._layout.matrix, len(tasks)
        return TaskGradients(matrix.values[:K], matrix.layers(K), matrix.names, {}) if has_matrix else None

    def state_dict(self) -> dict:
        """What a run needs to go on: tasks, who reached what, the method's state. Save it between steps."""
        names = self._layout.names
        return {
            "tasks": list(self.tasks),
            "steps": self.steps,
            "columns": [names[i] for i in self.columns],
            "reached": dict(zip(names, self._layout.reached, strict=True)),
            "kept": {self.tasks[k]: float(weight) for k, weight in self.kept.items()},
            "method": self.method.state_dict(),
        }

    def load_state_dict(self, state: Mapping) -> None:
        """Go on from a `state_dict()`, in a fresh balancer of the same method and parameters, by their names."""
        layout, number = self._layout, {name: i for i, name in enumerate(self._layout.names)}
        if missing := [name for name in state["reached"] if name not in number]:
            raise ValueError(f"the state is of other parameters; not known here: {', '.join(missing[:6])}")
        self.tasks[:], self.steps = state["tasks"], state["steps"]
        layout.reached = [state["reached"].get(name, 0) for name in number]
        layout.walked.clear()
        layout.clear()
        self.columns = layout.slices([number[name] for name in state["columns"]])
        self.kept = {self.tasks.index(name): torch.tensor(weight) for name, weight in state["kept"].items()}
        self.method.load_state_dict(state["method"])
        self._waits, self._last = None, ([], None, False)

    # --- a step, in one of three ways

    def _read(self, losses, counts, scaler, aside=False) -> Step:
        if self._waits is not None:
            warnings.warn(f"{self.spec.name} waits for after_step(losses), and none came", stacklevel=3)
        layout, self._waits, self._last = self._layout, None, ([], None, False)
        joint = self.spec.level == "losses" and self.convention.clip is None and not self.observers
        step = Step(layout, losses, counts, scaler, not joint or aside or bool(layout.losses))
        if step.matrix.columns != [*self.columns]:
            old, self.columns = self.columns, layout.slices(step.matrix.columns)
            moves = [(old[i], new) for i, new in self.columns.items() if i in old]
            move_columns(self.method, moves, step.matrix.values.shape[1])
        return step

    def _in_one_pass(self, step: Step, features, early: bool, joint: bool) -> None:
        """The shared part is walked once, from the weighted sum of the gradients at the cut.

        joint  of the losses themselves: the weights are known before, and apply to all that the losses reach.
        """
        K, weights, read = len(step.tasks), None, None
        before = None if step.scale is None else copy.deepcopy(self.method)  # an overflow is seen only in the sum
        heads = [] if joint else [step.head(j) for j in range(len(step.losses))]
        if not early and self.spec.level == "features":
            read = step.at_features(self.spec.name, features, [at_edges for at_edges, _ in heads])
        elif not early:
            read = step.at_last_layer(heads)
        if finite := self._finite(step, read):
            weights, _, K = self.weigh(step, read, finite)
        starts: Tensor = torch.ones_like(step.values) if weights is None else weights
        factor = self.convention.factor(self.spec.native_scale, K)
        if joint:
            starts, factor = starts * factor, 1.0
            clips = K > 1 and self.convention.clip is not None
            if step.scale is None and not step.shares and not self._layout.ignored and not clips:
                with explained():
                    step.stacked.backward(starts)
                return self._end(step, weights, True)
        update = step.matrix.free_update()
        step.trunk(step.roots() if joint else heads, starts, update)
        step.join(update)
        if before is not None and not (finite and (update.sum() + step.own_norm()).isfinite()):
            finite, self.method = [], before
        self._deliver(step, weights, update, factor, bool(finite))

    def _from_matrix(self, step: Step, features, early: bool) -> None:
        """J first, then what the method makes of it."""
        matrix, weights, update = step.matrix, None, None
        at_features = self.spec.level == "features" and not early
        cotangents = step.fill(at_features)
        K = len(step.tasks)
        read = rows = matrix.values[:K]
        step.join(rows)
        self._last = (step.tasks, None, True)
        finite = self._finite(step, rows)
        for observer in self.observers if finite else []:
            observer(self.gradients)  # type: ignore[arg-type]
        if finite and at_features:
            read = step.at_features(self.spec.name, features, cotangents)
            finite = self._finite(step, read)
        elif self.spec.level == "last layer" and matrix.columns:
            read = [*matrix.layers(K).values()][-1]
        if finite:
            weights, update, K = self.weigh(step, read, finite)
        if update is not None and self.project:
            weights = self.nearest(step.tasks, rows, update)
        elif update is None:
            update = matrix.free_update()
            if weights is not None and matrix.columns:
                torch.mv(rows.T, weights.to(rows), out=update)
        self._deliver(step, weights, update, self.convention.factor(self.spec.native_scale, K), bool(finite))

    # --- what the ways share

    def _finite(self, step: Step, read: Tensor | None = None) -> list[float]:
        """Losses, and the sum of `read` by task, in one host synchronisation, where they and own gradients are finite.

        Else NonFiniteGradientError, with the tasks' names; an empty list under a scaler.
        """
        sums = [] if read is None else [read.sum(1).to(step.values), step.own_norm().reshape(1).to(step.values)]
        numbers = torch.cat([step.values, *sums]).tolist()
        if all(map(math.isfinite, numbers)):
            return numbers
        parts = {f"the loss of {self.tasks[k]!r}": loss for k, loss in zip(step.tasks, step.values, strict=True)}
        whole = read is not None and read.data_ptr() == step.matrix.values.data_ptr()
        for where, view in (step.matrix.layers(len(step.tasks)) if whole else {f"the {self.spec.level}": read}).items():
            for k, g in zip(step.tasks, view, strict=True) if view is not None else ():
                parts[f"the gradient of {self.tasks[k]!r} at {where}"] = g
        for k, found in step.own.items():
            task = f" of {self.tasks[k]!r}" if k >= 0 else ""
            parts |= {f"the gradient{task} in {self._layout.names[i]}": g for i, g in found.items()}
        if not (bad := [what for what, t in parts.items() if not t.isfinite().all()]):
            return numbers  # finite parts whose sum overflows
        if step.scale is not None:
            return []
        where = f"{'; '.join(bad[:6])} ({len(bad)} in all)"
        raise NonFiniteGradientError(f"NaN or infinity in {where}: lower the learning rate, or look at the inputs")

    def _deliver(self, step: Step, weights: Tensor | None, update: Tensor, factor: float, finite: bool) -> None:
        """Scale and clip the update, weigh own gradients that are apart by task, add both to `.grad`."""
        total: float | Tensor = factor
        if (clip := self.convention.clip) is not None and len(step.tasks) > 1:
            total = factor * (clip / (factor * torch.linalg.vector_norm(update) + 1e-6)).clamp(max=1)
        kept = {t.untyped_storage().data_ptr() for t in (step.matrix.values, *self.method.buffers())}
        if update.untyped_storage().data_ptr() in kept:  # J or the method's own state: not ours to write
            update = update * total
        elif isinstance(total, Tensor) or total != 1:
            update.mul_(total)
        weight_of = dict(zip(step.tasks, weights * factor, strict=True)) if weights is not None and step.by_task else {}
        pairs = [*zip(step.matrix.columns, unflatten(update, step.matrix.shared), strict=True)]
        for k, found in step.own.items():  # new ones: autograd may give the same memory twice
            own = torch._foreach_mul([*found.values()], weight_of.get(k, 1.0)) if found else ()
            pairs += zip(found, own, strict=True)
        if (scale := step.scale) is not None:
            pairs = [(i, g.mul_(scale) if finite else g.fill_(math.inf)) for i, g in pairs]
        for p, g in [(self._layout.parameters[i], g) for i, g in pairs if i in self._layout.now]:
            g = g.detach().to(p)  # where there is no `.grad`, the gradient becomes it: nothing is copied
            p.grad = g if p.grad is None else p.grad.add_(g)
        self._end(step, weights, finite)

    def _end(self, step: Step, weights: Tensor | None, finite: bool) -> None:
        self._last = (step.tasks, weights, self._last[2])
        self.steps += finite
        self._waits = (step.tasks, step.shares) if self.learns and finite else None
