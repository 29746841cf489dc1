r"""The updates of all methods of the registry at the same steps: same weights, same batch, same task gradients.

A network is trained with the plain sum. At each step every method gets what training would give it and computes how
it would move the trunk, an update of D numbers. Of a step only the Gram matrix of all updates is kept: angles, lengths
and coincidences follow from it. No method is named in the code, except in `IDENTITIES`.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mtl_core import methods, seeds
from mtl_core.gradients import reached, task_gradients, views
from mtl_core.methods import METHODS, ROTATION, Convention, Method, SolverError
from mtl_core.methods.backward import task_weights
from mtl_core.methods.conventions import CONVENTIONS
from mtl_core.methods.registry import arguments_of
from mtl_lab.landscapes import closed_forms, descent


@dataclass(frozen=True)
class Identity:
    """Methods with the same update by definition.

    same   what agrees: the "vector", or its "direction" alone.
    where  "anywhere", "two tasks", or "features are the parameters".
    why    the reason, in words for a page.
    """

    names: tuple[str, ...]
    same: str
    where: str
    why: str


FEATURES = "features are the parameters"
IDENTITIES = (
    Identity(("log_sum", "geometric_mean"), "direction", "anywhere", "the mean's logarithm is the sum of logs over K"),
    Identity(
        ("uncertainty", "imtl_l"),
        "direction",
        "anywhere",
        "the same loss up to a factor −2 and the sign of s, and Adam does not see either",
    ),
    Identity(("pcgrad", "upgrad"), "vector", "two tasks", "both project each gradient off the other"),
    Identity(
        ("norm_equalised", "imtl_g", "nash_mtl"),
        "direction",
        "two tasks",
        "equal projections and equal gains both mean the bisector of the two gradients",
    ),
    Identity(("imtl_g_features", "scale_only"), "direction", "two tasks", "the bisector at the features"),
    Identity(("mgda", "mgda_ub"), "vector", FEATURES, "one rule, one matrix"),
    Identity(("imtl_g", "imtl_g_features"), "vector", FEATURES, "one rule, one matrix"),
    Identity(("aligned_mtl", "aligned_mtl_ub"), "vector", FEATURES, "one rule, one matrix"),
)


def arguments(spec: Method, tasks: int, features: int = 0) -> dict:
    """The arguments of `make` that have no default: static weights 1, 1.5, 2, … and, given the number of `features`,
    the rotation size."""
    required = {name for name, p in arguments_of(spec.make).items() if p.default is p.empty}
    known = {"weights": [1 + k / 2 for k in range(tasks)], "rotation_size": features}
    return {name: value for name, value in known.items() if name in required - set(spec.defaults) and value}


def paths(landscape, starts, names: Iterable[str] | None = None, **training) -> tuple[dict, dict]:
    """(name -> Paths, name -> why it has none) of methods from the same starts (..., 2) of a landscape.

    names     methods; None for all of the registry.
    training  further arguments of `descent.trajectories`: steps, every, optimizer, learning_rate, convention.
    """
    options = {name: arguments(methods.find(name), 2) for name in (METHODS if names is None else names)}
    batched = {name: given for name, given in options.items() if closed_forms.knows(name, given)}
    try:
        paths_of = dict(zip(batched, descent.side_by_side(landscape, starts, batched.items(), **training), strict=True))
    except ValueError:  # one of them does not end: each by itself, so that the others have their paths
        paths_of = {}
    reasons = {}
    for name in options:
        if name in paths_of:
            continue
        try:
            paths_of[name] = descent.trajectories(landscape, starts, name, options=options[name], **training)
        except (ValueError, TypeError, SolverError) as error:
            reasons[name] = str(error)
    return {name: paths_of[name] for name in options if name in paths_of}, reasons


@dataclass(frozen=True)
class Updates:
    """Inner products of the methods' updates and the task gradients, over the steps of one training.

    names    the methods, in the registry's order.
    gram     (T, M + K, M + K) float64: inner products of the M updates and the K task gradients at each of T steps.
    reasons  method -> why it is not among `names`.
    """

    names: list[str]
    gram: Tensor
    reasons: Mapping[str, str]

    @property
    def tasks(self) -> int:
        return self.gram.shape[1] - len(self.names)

    def _sum(self) -> tuple[Tensor, Tensor]:
        """(T, M) inner products of the updates with the sum of the task gradients; (T, 1) the square of that sum."""
        products = self.gram[:, :, len(self.names) :].sum(2)
        return products[:, : len(self.names)], products[:, len(self.names) :].sum(1, keepdim=True)

    def _squares(self) -> Tensor:
        """(T, M) squared lengths of the updates."""
        return self.gram.diagonal(dim1=1, dim2=2)[:, : len(self.names)]

    def lengths(self) -> Tensor:
        """(T, M): length of the update over the length of the plain sum."""
        return (self._squares() / self._sum()[1]).sqrt()

    def angles(self) -> Tensor:
        """(T, M): angle between the update and the plain sum, in degrees; NaN where the update is zero."""
        products, square = self._sum()
        return _degrees(products / (self._squares() * square).sqrt())

    def between(self) -> Tensor:
        """(T, M, M): angles between the updates, in degrees; NaN where one of the two is zero."""
        M, lengths = len(self.names), self._squares().sqrt()
        return _degrees(self.gram[:, :M, :M] / (lengths[:, :, None] * lengths[:, None]))

    def outside(self) -> Tensor:
        """(T, M): share of the update's length that lies outside the span of this step's task gradients."""
        M = len(self.names)
        cross, gradients = self.gram[:, :M, M:], self.gram[:, M:, M:]
        inside = (cross @ torch.linalg.pinv(gradients, hermitian=True) * cross).sum(2)
        return (1 - inside / self._squares()).clamp(min=0).sqrt()

    def harms(self) -> Tensor:
        """(T, M, K) bool: whether, to first order, a step along the update raises that task's loss."""
        return self.gram[:, : len(self.names), len(self.names) :] < 0

    def coincide(self, same: str, tolerance: float = 2e-5) -> list[tuple[str, ...]]:
        """The largest groups of methods whose updates agree at every step, as a "vector" or in "direction".

        tolerance  of the difference, relative to the longer of the two. A zero update coincides only with zero ones.
        ValueError: `same` is another word.
        """
        if same not in ("vector", "direction"):
            raise ValueError(f"same is 'vector' or 'direction', got {same!r}")
        M, squares = len(self.names), self._squares()
        gram = self.gram[:, :M, :M]
        if same == "direction":
            lengths = squares.sqrt().masked_fill(squares == 0, 1)
            gram, squares = gram / (lengths[:, :, None] * lengths[:, None]), (squares > 0).double()
        apart = (squares[:, :, None] + squares[:, None] - 2 * gram).clamp(min=0)
        near = (apart <= tolerance**2 * torch.maximum(squares[:, :, None], squares[:, None])).all(0)
        groups = dict.fromkeys(tuple(neighbours.nonzero().flatten().tolist()) for neighbours in near)
        return [tuple(self.names[i] for i in group) for group in groups if len(group) > 1]

    def tree(self) -> np.ndarray:
        """Complete linkage (SciPy) of the methods by the median angle between their updates, in degrees."""
        from scipy.cluster import hierarchy
        from scipy.spatial.distance import squareform

        median = self.between().nan_to_num(90.0).quantile(0.5, dim=0)
        median = ((median + median.T) / 2).fill_diagonal_(0)
        return hierarchy.linkage(squareform(median.numpy(), checks=False), "complete")

    def groups(self, degrees: float) -> list[list[str]]:
        """Groups of methods within which no two median angles exceed `degrees`, the largest group first."""
        from scipy.cluster import hierarchy

        labels = hierarchy.fcluster(self.tree(), degrees, "distance")
        members = {}
        for name, label in zip(self.names, labels, strict=True):
            members.setdefault(label, []).append(name)
        return sorted(members.values(), key=lambda group: (-len(group), self.names.index(group[0])))


def _degrees(cosines: Tensor) -> Tensor:
    return torch.rad2deg(torch.acos(cosines.clamp(-1, 1)))


def compare(
    model: nn.Module,
    tasks: Sequence,
    batches: Iterable,
    *,
    learning_rate: float = 0.1,
    convention: str | Convention = "plain",
    names: Iterable[str] | None = None,
    seed: int = 0,
) -> Updates:
    """Train `model` in place with the plain sum and SGD; return the update that each method would make at each step.

    batches     (inputs, targets) of the steps.
    names       methods; None for all of the registry.
    convention  scale and clip of the updates, as in training.
    seed        every method has its own random stream, `method` of this seed, whatever the others use.

    A method's state follows the common steps: running means get all gradients, FAMO the losses after each step, and a
    rotation is trained at its own rate while the network follows the plain sum. A method that cannot be made for the
    model, or refuses a step, is left out with its reason. ValueError: a trunk with layers of single tasks, or nothing
    to compare.
    """
    convention = CONVENTIONS[convention] if isinstance(convention, str) else convention
    specs = [methods.find(name) for name in (METHODS if names is None else names)]
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    shadows, reasons, grams = {}, {}, []
    with torch.random.fork_rng(devices=[]):
        for inputs, targets in batches:
            random_state, updates = torch.get_rng_state(), {}
            step = CommonStep.of(model, tasks, inputs, targets)
            for spec in specs:
                if spec.name in reasons:
                    continue
                try:
                    if spec.name not in shadows:
                        shadows[spec.name] = ShadowMethod(spec, model, tasks, step, convention, learning_rate, seed)
                    updates[spec.name] = shadows[spec.name].update(step, inputs, targets)
                except (ValueError, TypeError, SolverError) as error:
                    reasons[spec.name] = str(error)
            optimizer.zero_grad()
            torch.autograd.backward(step.losses, inputs=list(model.heads.parameters()))
            trunk = [p for p in model.trunk.parameters() if p.requires_grad]
            for p, part in zip(trunk, views(step.read["parameters"].sum(0), trunk), strict=True):
                p.grad = part
            optimizer.step()
            torch.set_rng_state(random_state)  # the same dropout masks as before the step
            with torch.no_grad():
                after = torch.stack(_losses(model(inputs), targets, tasks))
            for name in updates:
                shadows[name].follow(after)
            matrix = torch.stack([*updates.values(), *step.read["parameters"]]).double()
            grams.append((list(updates), matrix @ matrix.T))
    names = [spec.name for spec in specs if spec.name not in reasons]
    if not grams or not names:
        raise ValueError(f"nothing to compare: {'; '.join(reasons.values()) or 'there were no batches'}")
    return Updates(names, torch.stack([_without_others(names, present, gram) for present, gram in grams]), reasons)


def _without_others(names, present, gram):
    """The Gram matrix of `names` and the task gradients, from that of all methods `present` at the step."""
    keep = [present.index(name) for name in names] + list(range(len(present), len(gram)))
    return gram[keep][:, keep]


def _losses(outputs, targets, tasks) -> list[Tensor]:
    return [task.loss(output, target) for task, output, target in zip(tasks, outputs, targets, strict=True)]


@dataclass(frozen=True)
class CommonStep:
    """What all methods read of a step.

    losses  K scalars with their graph, values (K,) without; features: those of the trunk.
    read    level of a method -> the gradients there, (K, ...): of the shared parameters, J; of the trunk's last layer;
            of the features, where all tasks share them.
    """

    losses: list[Tensor]
    values: Tensor
    features: Tensor | Sequence[Tensor]
    read: dict[str, Tensor]

    @classmethod
    def of(cls, model, tasks, inputs, targets) -> "CommonStep":
        features = model.features(inputs)
        losses = _losses(model.outputs(features), targets, tasks)
        named, (leaves, _) = [(n, p) for n, p in model.trunk.named_parameters() if p.requires_grad], reached(losses)
        if private := [name for name, p in named if (bits := leaves.get(p, 0)) and not bits & (bits - 1)]:
            raise ValueError(f"expected a trunk that all tasks share; {', '.join(private)} belong to single tasks")
        J = task_gradients(losses, [p for _, p in named])
        layer = named[-1][0].rpartition(".")[0]
        last = sum(p.numel() for name, p in named if name.rpartition(".")[0] == layer)
        read = {"parameters": J, "last layer": J[:, -last:]}
        if isinstance(features, Tensor):
            read["features"] = task_gradients(losses, [features])
        return cls(losses, torch.stack(losses).detach(), features, read)


class ShadowMethod:
    """Applies one method to the task gradients of another training, with a state and a random stream of its own."""

    def __init__(self, spec, model, tasks, step: CommonStep, convention, learning_rate, seed):
        self.spec, self.convention, self.rotates = spec, convention.of(spec.name), spec.kind == ROTATION
        torch.manual_seed(seeds.torch_seed(seed, "method"))
        width = step.features.shape[1] if isinstance(step.features, Tensor) else 0
        options = arguments(spec, len(tasks), width)
        if self.rotates:
            self.trained, self.model, self.tasks = model, copy.deepcopy(model), tasks
            self.method = methods.make(spec.name, trunk=self.model.trunk, heads=self.model.heads, **options).train()
            self.method.convention = self.convention
            rotations = self.method.parameter_groups(learning_rate)[1:]
            self.optimizer = torch.optim.SGD(rotations, lr=learning_rate) if rotations else None
        else:
            self.method = methods.make(spec.name, **options)
        self.random = torch.get_rng_state()

    def update(self, step: CommonStep, inputs, targets) -> Tensor:
        """(D,): the method's update of the trunk at this step. The method's own parameters are trained."""
        torch.set_rng_state(self.random)
        if self.rotates:
            self._copy_weights()
            self.method.zero_grad()
            self.method.backward(_losses(self.method(inputs), targets, self.tasks))
            if self.optimizer is not None:
                self.optimizer.step()
            trunk = [p for p in self.model.trunk.parameters() if p.requires_grad]
            update = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trunk])
        else:
            matrix = step.read["parameters"]
            read = step.read.get("parameters" if self.spec.level == "losses" else self.spec.level)
            if read is None:
                raise ValueError(f"{self.spec.name} needs features that all tasks share")
            update = update_of(self.method, self.spec, matrix, step.values, read)
            update = update * self.convention.factor(self.spec.native_scale, len(matrix))
            update = update * self.convention.clip_factor(torch.linalg.vector_norm(update).item())
        self.random = torch.get_rng_state()
        return update

    @torch.no_grad()
    def _copy_weights(self) -> None:
        """Set the copy's trunk and heads to the current weights of the network in training."""
        for part in ("trunk", "heads"):
            getattr(self.model, part).load_state_dict(getattr(self.trained, part).state_dict())

    def follow(self, losses: Tensor) -> None:
        """Pass on the losses after the step, to a method that learns from them."""
        if "losses after the step" in self.spec.needs:
            self.method.update(losses)


def update_of(
    method: nn.Module, spec: Method, matrix: Tensor, losses: Tensor | None = None, read: Tensor | None = None
) -> Tensor:
    """What a method of any kind makes of J, (K, D) -> (D,), before scale and clip: for figures and comparisons.

    losses  (K,), ones where None.
    read    for a method of another level than "parameters", the gradients there, (K, ...); J where None.

    The method's own parameters learn as under `plain`.
    """
    losses, read = matrix.new_ones(len(matrix)) if losses is None else losses, matrix if read is None else read
    weights = task_weights(method, spec, CONVENTIONS["plain"], read, losses)
    if weights is not None:
        return weights.to(matrix) @ matrix
    return method(matrix, losses) if "losses" in spec.needs else method(matrix)
