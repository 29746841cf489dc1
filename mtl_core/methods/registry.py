"""The registry: one row per method, found by name."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

KINDS = ("loss weighting", "gradient aggregation", "feature rotation")
LEVELS = ("losses", "last layer", "features", "parameters")
NEEDS = ("losses", "losses after the step", "Gram matrix", "gradients")
ALIASES = {"scale_invariant": "log_sum", "gls": "geometric_mean", "random": "rlw"}


@dataclass(frozen=True)
class Method:
    """One row of the registry.

    make          class or function that makes a fresh instance from keyword arguments.
    kind          "loss weighting": K losses -> scalar; "gradient aggregation": (K, D) -> (D,); "feature rotation".
    native_scale  "sum" or "mean": what K equal gradients g come back as, K g or g.
    paper         where the method comes from.
    defaults      argument -> (value, where the value comes from).
    presets       repository -> arguments as that repository runs the method.
    random        it draws from torch's generator.
    level         where the gradients that it reads are taken: "losses" (none are), "last layer" (of the trunk),
                  "features" (the trunk's output, batch and features flattened), "parameters" (all shared ones).
                  Empty: "losses" for a loss weighting, else "parameters".
    needs         what it reads, of `NEEDS`. Empty: the losses for a loss weighting, else the gradients.
    own           it learns parameters of its own, by the convention's `own_optimizer`.
    """

    name: str
    title: str
    kind: str
    make: Callable[..., nn.Module]
    native_scale: str
    paper: str
    defaults: Mapping = field(default_factory=dict)
    presets: Mapping = field(default_factory=dict)
    random: bool = False
    level: str = ""
    needs: tuple[str, ...] = ()
    own: bool = False

    def __post_init__(self):
        weighting = self.kind == "loss weighting"
        object.__setattr__(self, "level", self.level or ("losses" if weighting else "parameters"))
        object.__setattr__(self, "needs", self.needs or ("losses" if weighting else "gradients",))
        for name, allowed in (("kind", KINDS), ("level", LEVELS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is one of {', '.join(allowed)}; got {getattr(self, name)!r}")
        if unknown := set(self.needs) - set(NEEDS):
            raise ValueError(f"needs holds some of {', '.join(NEEDS)}; got {', '.join(sorted(unknown))}")
        if self.native_scale not in ("sum", "mean"):
            raise ValueError(f"native_scale is 'sum' or 'mean', got {self.native_scale!r}")

    def extra_passes(self, tasks: int) -> dict[str, int]:
        """What a step costs beside that of the plain sum: passes through the whole trunk, forward and backward."""
        return {
            "forward": int("losses after the step" in self.needs),
            "backward": tasks - 1 if self.level == "parameters" else 0,
        }


METHODS: dict[str, Method] = {}


def register(method: Method, replace: bool = False) -> Method:
    """Add a row: from then on the method appears wherever methods are named. ValueError if the name is taken."""
    if (method.name in METHODS or method.name in ALIASES) and not replace:
        raise ValueError(f"there is a method {method.name!r} already; pass replace=True to take its place")
    METHODS[method.name] = method
    return method


def find(name: str) -> Method:
    """The registry row `name` (or of that alias); ValueError with a suggestion where there is none."""
    name = ALIASES.get(name, name)
    if name not in METHODS:
        near = difflib.get_close_matches(name, [*METHODS, *ALIASES], 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown method {name!r}{hint} There are: {', '.join(METHODS)}")
    return METHODS[name]


def make(name: str, **arguments) -> nn.Module:
    """A fresh instance of the method, its defaults overridden by `arguments` (unknown ones are a ValueError)."""
    row = find(name)
    known = list(inspect.signature(row.make).parameters)
    for argument in arguments:
        if argument not in known:
            near = difflib.get_close_matches(argument, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{name} has no argument {argument!r}{hint} It takes: {', '.join(known) or 'none'}")
    return row.make(**{**{key: value for key, (value, _) in row.defaults.items()}, **arguments})
