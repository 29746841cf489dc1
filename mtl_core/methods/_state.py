"""What methods with a state share: it is made at the first call, trained, saved, and loaded into a fresh instance."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mtl_core.linalg import finite_norms
from mtl_core.methods.conventions import OPTIMIZERS


class ShapedByLoading(nn.Module):
    """Mixin: parameters and buffers take the shape of a loaded state. A fresh instance does not know K or D yet."""

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        for name, value in [*self.named_parameters(recurse=False), *self.named_buffers(recurse=False)]:
            given = state_dict.get(prefix + name)
            if given is not None and given.shape != value.shape:
                empty = torch.empty_like(given)
                setattr(self, name, nn.Parameter(empty) if isinstance(value, nn.Parameter) else empty)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class OwnNumbers(ShapedByLoading):
    """Mixin for a method that has K numbers of its own: the parameter that `learned` names, which starts at `start`.

    The number of tasks is not known before the first call of `begin`. The state of the optimizer that the method takes
    as its `own` is part of `state_dict()`.
    """

    learned = "weights"
    start = 0.0
    _optimizer: Any = None  # so TorchJD's FAMO calls its own
    saved: dict | None = None  # a loaded state of the optimizer, which is made at the first step

    def begin(self, losses: Tensor) -> None:
        """Make the K numbers at the first call. ValueError where a later call has another number of tasks."""
        numbers = getattr(self, self.learned)
        if not numbers.numel():
            setattr(self, self.learned, nn.Parameter(torch.full_like(losses, self.start)))
        else:
            check_shape(losses, numbers, type(self).__name__)

    def own(self, optimizer: torch.optim.Optimizer) -> None:
        """Take an optimizer of the numbers, which goes on from the loaded state."""
        if self.saved is not None:
            optimizer.load_state_dict(self.saved)
        self._optimizer = optimizer

    def get_extra_state(self) -> dict | None:
        return self.saved if self._optimizer is None else self._optimizer.state_dict()

    def set_extra_state(self, state: dict | None) -> None:
        self.saved, self._optimizer = copy.deepcopy(state), None  # the giver's optimizer writes its state in place


class LearnedParameters(OwnNumbers):
    """Mixin for a method whose numbers the convention's `own_optimizer` trains, as `learn(rule)` in each step."""

    def learn(self, rule: tuple[str, float] | None) -> None:
        """One step of `rule`, (optimizer, learning rate); None leaves the numbers as they are."""
        numbers = getattr(self, self.learned)
        if rule is not None:
            if self._optimizer is None:
                self.own(OPTIMIZERS[rule[0]]([numbers], lr=rule[1]))
            self._optimizer.step()
        numbers.grad = None


class RunningAverages(ShapedByLoading):
    """Mixin for a method that keeps a running average of each task's gradient, (K, D)."""

    task_state = {"averages": ("kd", 0.0)}

    def __init__(self) -> None:
        super().__init__()
        self.averages: Tensor = nn.Buffer(torch.empty(0, 0))
        self.steps: Tensor = nn.Buffer(torch.zeros((), dtype=torch.int64))

    def track(self, matrix: Tensor, beta: float) -> None:
        r"""$y_k \leftarrow y_k - \beta (y_k - g_k)$, from y = 0.

        NonFiniteGradientError on NaN or infinity; ValueError on a matrix of another shape than the first one.
        """
        finite_norms(matrix)
        if self.steps == 0:
            self.averages = torch.zeros_like(matrix)
        check_shape(matrix, self.averages, type(self).__name__)
        self.averages.lerp_(matrix, beta)
        self.steps += 1


def check_shape(given: Tensor, state: Tensor, method: str) -> None:
    """ValueError where `method`, with this state, is given losses or gradients of another shape."""
    if given.shape != state.shape:
        known, new = tuple(state.shape), tuple(given.shape)
        raise ValueError(f"{method} has state of the shape {known}, got {new}: make a new instance for another problem")


class NotPositive(ValueError):
    """`what` needs positive losses, and those of `tasks` (numbers) are not."""

    def __init__(self, what: str, tasks: list[int]):
        super().__init__(f"{what} needs positive losses; not positive: task {', '.join(map(str, tasks))}")
        self.what, self.tasks = what, tasks


def check_positive(losses: Tensor, what: str) -> None:
    """NotPositive where `what` needs positive losses and some are not; it names the tasks."""
    if not (losses > 0).all():
        raise NotPositive(what, (~(losses > 0)).nonzero().flatten().tolist())
