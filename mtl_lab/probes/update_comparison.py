r"""What every method of the registry makes of the same steps: same weights, same batch, same task gradients.

A network is trained with the plain sum; at each of its steps every method sees what training would show it and says
how it would move the trunk. Their updates have D numbers each; what is kept of a step is the Gram matrix of all of
them, from which angles, lengths and coincidences follow. Nothing here knows a method by its name, but for
`IDENTITIES`.
"""

import copy
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mtl_core import methods, seeds
from mtl_core.gradients import task_gradients
from mtl_core.methods import METHODS, Convention, Method, SolverError
from mtl_core.methods.conventions import CONVENTIONS
from mtl_core.training.rotation_step import RotationStep, parameter_groups
from mtl_lab.landscapes import descent

ROTATION = "feature rotation"


@dataclass(frozen=True)
class Identity:
    """Methods that do the same by definition. where: "anywhere", "two tasks", or "features are the parameters"."""

    names: tuple[str, ...]
    same: str  # "vector" or "direction"
    where: str
    why: str


IDENTITIES = (
    Identity(("log_sum", "geometric_mean"), "direction", "anywhere", "the mean's logarithm is the sum of logs over K"),
    Identity(("uncertainty", "imtl_l"), "direction", "anywhere",
             "the same loss up to a factor −2 and the sign of s, and Adam does not see either"),
    Identity(("pcgrad", "upgrad"), "vector", "two tasks", "both project each gradient off the other"),
    Identity(("norm_equalised", "imtl_g", "nash_mtl"), "direction", "two tasks",
             "equal projections and equal gains both mean the bisector of the two gradients"),
    Identity(("imtl_g_features", "scale_only"), "direction", "two tasks", "the bisector at the features"),
    Identity(("mgda", "mgda_ub"), "vector", "features are the parameters", "one rule, one matrix"),
    Identity(("imtl_g", "imtl_g_features"), "vector", "features are the parameters", "one rule, one matrix"),
    Identity(("aligned_mtl", "aligned_mtl_ub"), "vector", "features are the parameters", "one rule, one matrix"),
)  # fmt: skip


def arguments(row: Method, tasks: int, features: int = 0) -> dict:
    """What `make` asks for and has no default: static weights (1, 1.5, 2, …) and, with `features`, a rotation size."""
    asked = {name for name, p in inspect.signature(row.make).parameters.items() if p.default is p.empty}
    known = {"weights": [1 + k / 2 for k in range(tasks)], "rotation_size": features}
    return {name: value for name, value in known.items() if name in asked - set(row.defaults) and value}


def paths(landscape, starts, names: Iterable[str] | None = None, **training) -> tuple[dict, dict]:
    """(name -> Paths, name -> why it has none) of methods from the same starts of a landscape.

    names     methods; None for all of the registry. training: arguments of `descent.trajectories`.
    """
    found, reasons = {}, {}
    for name in METHODS if names is None else names:
        options = arguments(methods.find(name), 2)
        try:
            found[name] = descent.trajectories(landscape, starts, name, options=options, **training)
        except (ValueError, TypeError, SolverError) as error:
            reasons[name] = str(error)
    return found, reasons


@dataclass(frozen=True)
class Updates:
    """Inner products of the methods' updates and the task gradients, over the steps of one training.

    names    the methods, in the registry's order.
    gram     (T, M + K, M + K) float64: of the M updates, then of the K task gradients, at each of T steps.
    reasons  method -> why it is not among them.
    """

    names: list[str]
    gram: Tensor
    reasons: Mapping[str, str]

    @property
    def tasks(self) -> int:
        return self.gram.shape[1] - len(self.names)

    def _sum(self) -> tuple[Tensor, Tensor]:
        """(T, M) inner products of the updates with the sum of the task gradients, (T, 1) that sum's own square."""
        products = self.gram[:, :, len(self.names) :].sum(2)
        return products[:, : len(self.names)], products[:, len(self.names) :].sum(1, keepdim=True)

    def _squares(self) -> Tensor:
        return self.gram.diagonal(dim1=1, dim2=2)[:, : len(self.names)]

    def lengths(self) -> Tensor:
        """(T, M): length of the update, in lengths of the sum."""
        return (self._squares() / self._sum()[1]).sqrt()

    def angles(self) -> Tensor:
        """(T, M): angle between the update and the sum, degrees; NaN where the update is zero."""
        products, square = self._sum()
        return _degrees(products / (self._squares() * square).sqrt())

    def between(self) -> Tensor:
        """(T, M, M): angles between the updates, degrees; NaN where one of the two is zero."""
        M, lengths = len(self.names), self._squares().sqrt()
        return _degrees(self.gram[:, :M, :M] / (lengths[:, :, None] * lengths[:, None]))

    def outside(self) -> Tensor:
        """(T, M): share of the update's length that no weighted sum of this step's task gradients can give."""
        M = len(self.names)
        cross, own = self.gram[:, :M, M:], self.gram[:, M:, M:]
        inside = (cross @ torch.linalg.pinv(own, hermitian=True) * cross).sum(2)
        return (1 - inside / self._squares()).clamp(min=0).sqrt()

    def harms(self) -> Tensor:
        """(T, M, K) bool: to first order, a step along the update raises that task's loss."""
        return self.gram[:, : len(self.names), len(self.names) :] < 0

    def coincide(self, same: str, tolerance: float = 2e-5) -> list[tuple[str, ...]]:
        """Largest groups of methods whose updates are the same at every step, as a "vector" or in "direction".

        tolerance  of the difference, relative to the longer of the two. Zero updates coincide with zero ones alone.
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
        found = dict.fromkeys(tuple(row.nonzero().flatten().tolist()) for row in near)
        return [tuple(self.names[i] for i in group) for group in found if len(group) > 1]

    def tree(self) -> np.ndarray:
        """SciPy's complete linkage of the methods by the median angle between their updates, degrees."""
        from scipy.cluster import hierarchy
        from scipy.spatial.distance import squareform

        median = self.between().nan_to_num(90.0).quantile(0.5, dim=0)
        median = ((median + median.T) / 2).fill_diagonal_(0)
        return hierarchy.linkage(squareform(median.numpy(), checks=False), "complete")

    def groups(self, degrees: float) -> list[list[str]]:
        """Methods in groups within which no two median directions are further apart, the largest group first."""
        from scipy.cluster import hierarchy

        labels = hierarchy.fcluster(self.tree(), degrees, "distance")
        found = [[n for n, own in zip(self.names, labels, strict=True) if own == label] for label in set(labels)]
        return sorted(found, key=lambda group: (-len(group), self.names.index(group[0])))


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
    """Train `model` in place with the plain sum and SGD; what each method would do at each step.

    batches     (inputs, targets) of the steps.
    names       methods; None for all of the registry.
    convention  scale and clip of the updates, as in training.
    seed        each method draws from the stream `method` of it, whatever the others draw.

    A method's state follows the common steps: running means see all gradients, FAMO the losses after each of them, and
    a rotation is trained, at its own rate, while the network goes the common way. A method that cannot be made for
    the model, or refuses a step, is left out with its reason. ValueError where a trunk has layers of single tasks.
    """
    convention = CONVENTIONS[convention] if isinstance(convention, str) else convention
    rows = [methods.find(name) for name in (METHODS if names is None else names)]
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    seats, reasons, grams, found = {}, {}, [], None
    with torch.random.fork_rng(devices=[]):
        for inputs, targets in batches:
            common, stack = torch.get_rng_state(), {}
            features = model.features(inputs)
            losses = _losses(model.outputs(features), targets, tasks)
            values = torch.stack(losses).detach()
            found = task_gradients(losses, model, features, out=found)
            if found.owners:
                raise ValueError(
                    f"expected a trunk that all tasks share; {', '.join(found.owners)} belong to single tasks"
                )
            for row in rows:
                if row.name in reasons:
                    continue
                try:
                    if row.name not in seats:
                        seats[row.name] = _Seat(row, model, tasks, features, convention, learning_rate, seed)
                    stack[row.name] = seats[row.name].update(found, values, inputs, targets)
                except (ValueError, TypeError, SolverError) as error:
                    reasons[row.name] = str(error)
            found.assign(found.matrix.sum(0))
            optimizer.step()
            torch.set_rng_state(common)  # dropout: the masks of before the step
            with torch.no_grad():
                after = torch.stack(_losses(model(inputs), targets, tasks))
            for name in stack:
                seats[name].follow(after)
            matrix = torch.stack([*stack.values(), *found.matrix]).double()
            grams.append((list(stack), matrix @ matrix.T))
    names = [row.name for row in rows if row.name not in reasons]
    if not grams or not names:
        raise ValueError(f"nothing to compare: {'; '.join(reasons.values()) or 'there were no batches'}")
    return Updates(names, torch.stack([_of(names, had, gram) for had, gram in grams]), reasons)


def _of(names, had, gram):
    """Without the rows of methods that refused a later step."""
    keep = [had.index(name) for name in names] + list(range(len(had), len(gram)))
    return gram[keep][:, keep]


def _losses(outputs, targets, tasks) -> list[Tensor]:
    return [task.loss(output, target) for task, output, target in zip(tasks, outputs, targets, strict=True)]


class _Seat:
    """One method with its state and its random stream, at the side of the common training."""

    def __init__(self, row, model, tasks, features, convention, learning_rate, seed):
        self.row, self.convention, self.rotates = row, convention, row.kind == ROTATION
        self.model = copy.deepcopy(model) if self.rotates else model
        self.trunk = [p for p in self.model.trunk.parameters() if p.requires_grad]
        self.heads = [nn.Identity() for _ in tasks]  # their gradients are the common step's: no method weighs them
        torch.manual_seed(seeds.torch_seed(seed, "method"))
        given = arguments(row, len(tasks), features.shape[1] if isinstance(features, Tensor) else 0)
        if self.rotates:
            self.followed = model
            self.method = methods.make(row.name, trunk=self.model.trunk, heads=self.model.heads, **given)
            self.step = RotationStep(self.model, tasks, row, self.method, convention.of(row.name))
            own = parameter_groups(self.method, learning_rate)[1:]
            self.optimizer = torch.optim.SGD(own, lr=learning_rate) if own else None
        else:
            self.method = methods.make(row.name, **given)
        self.random = torch.get_rng_state()

    def update(self, found, values, inputs, targets) -> Tensor:
        """(D,): what the method makes of the step; its own parameters learn."""
        torch.set_rng_state(self.random)
        if self.rotates:
            self._catch_up()
            self.step(inputs, targets)
            if self.optimizer is not None:
                self.optimizer.step()
        else:
            methods.combine(self.method, self.row, self.convention, found, values, self.heads)
        self.random = torch.get_rng_state()
        return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in self.trunk])

    @torch.no_grad()
    def _catch_up(self) -> None:
        """The copy's trunk and heads to where the common training stands."""
        for part in ("trunk", "heads"):
            theirs = getattr(self.followed, part).state_dict()
            getattr(self.model, part).load_state_dict(theirs)

    def follow(self, after: Tensor) -> None:
        """The losses after the common step, for a method that learns from them."""
        if "losses after the step" in self.row.needs:
            self.method.update(after)
