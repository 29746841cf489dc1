"""Methods by name: what each is, where it comes from, what scale it returns, its defaults.

Three kinds: *loss weighting* (losses -> scalar, a TorchJD `Scalarizer`), *gradient aggregation*
((K, D) -> (D,), a TorchJD `Aggregator`), *feature rotation*. Recon is none of them: it changes the
architecture, then any method trains the result (`mtl_core.methods.recon`).
"""

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torchjd import aggregation, scalarization

from mtl_core.methods import recon
from mtl_core.methods.baselines import Broken, CAGrad, LogSum, NormEqualised, Static
from mtl_core.methods.conventions import CONVENTIONS, Convention
from mtl_core.methods.sam_gs import SAMGS

__all__ = ["CONVENTIONS", "METHODS", "SAMGS", "Convention", "Method", "make", "recon", "register"]

KINDS = ("loss weighting", "gradient aggregation")


@dataclass(frozen=True)
class Method:
    """One row of the registry.

    make          class or function that makes a fresh instance from keyword arguments.
    native_scale  "sum" or "mean": what K equal gradients g come back as, K g or g.
    paper         where the method comes from.
    defaults      argument -> (value, where the value comes from).
    presets       repository -> arguments as that repository runs the method.
    random        it draws from torch's generator.
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

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"kind is one of {', '.join(KINDS)}; got {self.kind!r}")
        if self.native_scale not in ("sum", "mean"):
            raise ValueError(f"native_scale is 'sum' or 'mean', got {self.native_scale!r}")


METHODS: dict[str, Method] = {}


def register(method: Method, replace: bool = False) -> Method:
    """Add a row: from then on the method appears wherever methods are named. ValueError if the name is taken."""
    if method.name in METHODS and not replace:
        raise ValueError(f"there is a method {method.name!r} already; pass replace=True to take its place")
    METHODS[method.name] = method
    return method


def find(name: str) -> Method:
    """The registry row `name`; ValueError with a suggestion where there is none."""
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, 1)
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


def _row(name, title, kind, make, native_scale, paper, **more):
    register(Method(name, title, kind, make, native_scale, paper, **more))


_row("equal", "Equal weights", "loss weighting", scalarization.Sum, "sum", "sum of the losses (joint training)")
_row(
    "static",
    "Static weights",
    "loss weighting",
    Static,
    "sum",
    "weighted sum of the losses, weights searched",
)
_row("log_sum", "Sum of logs", "loss weighting", LogSum, "sum", "Navon et al. 2022, arXiv 2202.01017")
_row("norm_equalised", "Norm-equalised sum", "gradient aggregation", NormEqualised, "sum", "control")
_row("mgda", "MGDA", "gradient aggregation", aggregation.MGDA, "mean", "Sener & Koltun 2018, arXiv 1810.04650")
_row(
    "pcgrad",
    "PCGrad",
    "gradient aggregation",
    aggregation.PCGrad,
    "sum",
    "Yu et al. 2020, arXiv 2001.06782",
    random=True,
)
_row("graddrop", "GradDrop", "gradient aggregation", aggregation.GradDrop, "sum", "Chen et al. 2020, arXiv 2010.06808",
     random=True)  # fmt: skip
_row("cagrad", "CAGrad", "gradient aggregation", CAGrad, "mean", "Liu et al. 2021, arXiv 2110.14048",
     defaults={"c": (0.4, "run scripts of github.com/Cranial-XIX/CAGrad")},
     presets={"recon": {"c": 0.2, "rescale": True}})  # fmt: skip
_row("sam_gs", "SAM-GS", "gradient aggregation", SAMGS, "sum", "Borsani et al. 2025, arXiv 2506.06130",
     defaults={"gamma": (0.1, "Algorithm 1"), "beta1": (0.9, "Algorithm 1"), "beta2": (0.99, "Algorithm 1")},
     presets={"samgs": {"gamma": 0.7, "beta2": 0.99}})  # fmt: skip
_row(
    "broken",
    "Sum, one task × 0.1",
    "gradient aggregation",
    Broken,
    "sum",
    "control: a table must call it different",
)


def combine(method: nn.Module, row: Method, convention: Convention, gradients, losses: Tensor, heads) -> None:
    """One step of `method` on the task gradients: sets every `.grad` as `convention` says.

    gradients  `TaskGradients` with the raw gradients of heads and task-specific layers already set.
    losses     (K,) detached.
    heads      the K heads, whose gradients are weighted where the convention (or a loss weighting) says so.

    Methods that are a weighted sum of the rows write it into a reused vector: a fresh one of the size
    of ResNet18 costs the operating system's page faults, three times the product itself.
    """
    matrix, weights = gradients.matrix, None
    factor = convention.factor(row.native_scale, len(matrix))
    if row.kind == "loss weighting":
        with torch.enable_grad():
            values = losses.detach().requires_grad_()
            (weights,) = torch.autograd.grad(method(values), values)
    elif type(method).forward is aggregation.GramianWeightedAggregator.forward and matrix.shape[1]:
        weights = method.weighting(matrix)
    if matrix.shape[1]:
        update = method(matrix) if weights is None else gradients.combine(weights)
        total = factor
        if convention.clip is not None:
            total *= convention.clip_factor(factor * torch.linalg.vector_norm(update).item())
        kept = {tensor.untyped_storage().data_ptr() for tensor in (matrix, *method.buffers())}
        if update.untyped_storage().data_ptr() in kept:  # J or the method's own state: not ours to write
            update = update * total
        elif total != 1:
            update.mul_(total)
        gradients.assign(update)
    if weights is not None and (row.kind == "loss weighting" or convention.heads == "weighted"):
        for k, weight in enumerate((weights * factor).tolist()):
            if weight != 1:
                for p in [*heads[k].parameters(), *gradients.own_parameters[k]]:
                    if p.grad is not None:
                        p.grad.mul_(weight)
