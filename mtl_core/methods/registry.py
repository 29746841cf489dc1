"""The registry: one entry per method, found by its name."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from torch import nn
from torchjd.aggregation import Aggregator
from torchjd.scalarization import Scalarizer

from mtl_core._names import did_you_mean

Kind = Literal["loss weighting", "gradient aggregation", "feature rotation"]
Scale = Literal["sum", "mean"]
KINDS: tuple[Kind, ...] = get_args(Kind)
WEIGHTING, AGGREGATION, ROTATION = KINDS
LEVELS = ("losses", "last layer", "features", "parameters")
NEEDS = ("losses", "losses after the step", "Gram matrix", "gradients")
GRAM = ("Gram matrix",)  # all that most aggregations read
ALIASES = {"scale_invariant": "log_sum", "gls": "geometric_mean", "random": "rlw"}


@dataclass(frozen=True)
class Method:
    """What is known of a method before it runs.

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
    learns        it has parameters of its own, which the convention's `own_optimizer` trains.

    ValueError: a kind, level, need or scale that does not exist.
    """

    name: str
    title: str
    kind: Kind
    make: Callable[..., nn.Module]
    native_scale: Scale
    paper: str
    defaults: Mapping[str, tuple[Any, str]] = field(default_factory=dict)
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    random: bool = False
    level: str = ""
    needs: tuple[str, ...] = ()
    learns: bool = False

    def __post_init__(self) -> None:
        weighting = self.kind == WEIGHTING
        object.__setattr__(self, "level", self.level or ("losses" if weighting else "parameters"))
        object.__setattr__(self, "needs", self.needs or ("losses" if weighting else "gradients",))
        for name, allowed in (("kind", KINDS), ("level", LEVELS), ("native_scale", get_args(Scale))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is one of {', '.join(allowed)}; got {getattr(self, name)!r}")
        if unknown := set(self.needs) - set(NEEDS):
            raise ValueError(f"needs holds some of {', '.join(NEEDS)}; got {', '.join(sorted(unknown))}")


METHODS: dict[str, Method] = {}


def register(method: Method, replace: bool = False) -> Method:
    """Add a method: from then on it appears wherever methods are named. ValueError if the name is taken."""
    if (method.name in METHODS or method.name in ALIASES) and not replace:
        raise ValueError(f"there is a method {method.name!r} already; pass replace=True to take its place")
    METHODS[method.name] = method
    return method


def find(name: str) -> Method:
    """The entry of the method `name`, or of that alias. ValueError with a suggestion where there is none."""
    name = ALIASES.get(name, name)
    if name not in METHODS:
        suggestion = did_you_mean(name, [*METHODS, *ALIASES]) or "."
        raise ValueError(f"unknown method {name!r}{suggestion} There are: {', '.join(METHODS)}")
    return METHODS[name]


def arguments_of(make: Callable) -> dict[str, inspect.Parameter]:
    """Name -> parameter of what makes a method, with those that a class hands on to its base."""
    known = dict(inspect.signature(make).parameters)
    if any(p.kind is p.VAR_KEYWORD for p in known.values()):
        known = arguments_of(make.__base__) | known  # type: ignore[attr-defined]
    return {name: p for name, p in known.items() if p.kind is not p.VAR_KEYWORD}


def make(name: str, **arguments: Any) -> nn.Module:
    """A fresh instance of the method, its defaults overridden by `arguments`.

    ValueError for unknown arguments and for numbers that are not finite.
    """
    spec = find(name)
    if bad := [key for key, value in arguments.items() if isinstance(value, float) and not math.isfinite(value)]:
        raise ValueError(f"options are finite numbers; not so: {', '.join(bad)}")
    known = arguments_of(spec.make)
    for argument in arguments:
        if argument not in known:
            suggestion = did_you_mean(argument, known) or "."
            raise ValueError(f"{name} has no argument {argument!r}{suggestion} It takes: {', '.join(known) or 'none'}")
    return spec.make(**{key: value for key, (value, _) in spec.defaults.items()} | arguments)


def instance(method: str | nn.Module, spec: Method | None = None, options: Mapping[str, Any] | None = None):
    """Registry entry and instance of a method: (Method, nn.Module).

    method  a name, made with `options` (weights by task or in a sequence); or an instance: of a registered class, of
            TorchJD's Aggregator or Scalarizer, or of any class, with its `spec`.

    ValueError: an option that is not finite, options beside an instance, a feature rotation, an unknown class.
    """
    options = dict(options or {})
    kind: type = type(method)
    if isinstance(method, str):
        spec = find(method)
        if isinstance(weights := options.get("weights"), Mapping):
            options["weights"] = list(weights.values())
    elif options:
        raise ValueError(f"options ({', '.join(options)}) go with a method's name, not with an instance")
    elif spec is None:
        spec = next((entry for entry in METHODS.values() if entry.make is kind), None)
        if spec is None and isinstance(method, (Aggregator, Scalarizer)):
            does = AGGREGATION if isinstance(method, Aggregator) else WEIGHTING
            spec = Method(kind.__name__, kind.__name__, does, kind, "sum", "", random=True)
    if spec is None:
        raise ValueError(f"method is a name in methods.METHODS, an Aggregator or a Scalarizer; got {kind.__name__}")
    if spec.kind == ROTATION:
        raise ValueError(f"{spec.name} has a backward pass of its own: mtl_core.RotoGrad(trunk, heads, size)")
    return spec, make(spec.name, **options) if isinstance(method, str) else method
