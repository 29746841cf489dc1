"""What published codes do silently around a method, as named fields; conventions.toml holds one table a repository."""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

ALLOWED: dict[str, tuple[str, ...]] = {"heads": ("unit", "weighted"), "scale": ("sum", "mean", "K times", "raw")}
ALLOWED["probe"] = ("frozen", "training", "evaluation")
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}


@dataclass(frozen=True)
class Convention:
    """How a method's output becomes gradients, and how the method's own parameters learn.

    heads  "unit": each head and each task-specific layer gets its own task's raw gradient;
           "weighted": that gradient times the method's weight of the task, where it has weights.
           A loss weighting, whose scalar the heads minimise too, weights them under either.
    scale  "sum": as if the method returned a sum over tasks; "mean": as if it returned a mean (the
           registry's `native_scale` says which it returns by itself); "K times": its own output times
           K, whatever it is; "raw": its own output.
    clip   largest L2 norm of the shared gradient, after scaling, by PyTorch's formula; None for none.
    own_optimizer  (name in `OPTIMIZERS`, learning rate) for the parameters that a method learns (uncertainty
           weights, IMTL-L, GradNorm); None: nothing steps them, they stay as they start.
    probe  the forward pass after the step that FAMO learns from. "frozen": running statistics and torch's random
           state are put back, dropout takes the same masks as before the step; "training": an ordinary forward
           pass, which updates the statistics of BatchNorm a second time; "evaluation": the model in eval().
    exceptions  method -> fields that differ for it.
    source  the repository and commit that do so, or why the convention exists.

    ValueError: a value that a field does not allow.
    """

    name: str
    heads: str = "unit"
    scale: str = "sum"
    clip: float | None = None
    source: str = ""
    own_optimizer: tuple[str, float] | None = ("adam", 0.025)
    probe: str = "frozen"
    exceptions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, allowed in ALLOWED.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is one of {', '.join(allowed)}; got {getattr(self, name)!r}")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip is a positive norm or None, got {self.clip}")
        if self.own_optimizer is not None and self.own_optimizer[0] not in OPTIMIZERS:
            raise ValueError(f"own_optimizer is (one of {', '.join(OPTIMIZERS)}; rate), got {self.own_optimizer}")
        for method in self.exceptions:
            self.of(method)  # its fields are checked

    def of(self, method: str) -> "Convention":
        """This convention as it applies to that method."""
        return replace(self, **self.exceptions.get(method, {}), exceptions={})

    def factor(self, native_scale: str, tasks: int) -> float:
        """What a method's output is multiplied by."""
        if self.scale in ("raw", native_scale):
            return 1.0
        return 1.0 / tasks if self.scale == "mean" else float(tasks)

    def clip_factor(self, norm: float) -> float:
        """What an update of this L2 norm is multiplied by: PyTorch's min(1, clip / (norm + 1e-6))."""
        return 1.0 if self.clip is None else min(1.0, self.clip / (norm + 1e-6))


def _read(fields: dict[str, Any]) -> dict[str, Any]:
    """A table of conventions.toml: TOML has no None, there it is false."""
    return {name: _read(x) if isinstance(x, dict) else None if x is False else x for name, x in fields.items()}


TABLES = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
CONVENTIONS = {name: Convention(name, **_read(fields)) for name, fields in TABLES.items()}


def named(convention: str | Convention) -> Convention:
    """The convention of that name, or itself. ValueError where there is none."""
    if isinstance(convention, Convention):
        return convention
    if convention not in CONVENTIONS:
        raise ValueError(f"unknown convention {convention!r}; there are {', '.join(CONVENTIONS)}")
    return CONVENTIONS[convention]
