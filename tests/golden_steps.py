"""Steps of every method as numbers: its update on made-up matrices, its training on embedded data. All in float64."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from engine import combined, small_model, small_problem
from torch import nn

from mtl_core import methods, training
from mtl_core.data.problem import Problem, Split
from mtl_core.methods import CONVENTIONS, KINDS, METHODS
from mtl_lab.probes.update_comparison import update_of
from mtl_lab.runs.build import build_model, load_problem
from mtl_lab.runs.run import Run

torch.set_num_threads(1)
STEPS = 3

# --- updates: three steps of each method on made-up matrices, one step under each convention

WIDTH = 6  # of the matrices
KINDS_OF_MATRIX = ("ordinary", "conflicting", "norms e^6 apart", "one zero gradient")
FURTHER = {
    "dwa": {"window 1": {"window": 1}},  # within three steps the default window of 25 changes no weight
    "mgda": {"frank-wolfe": {"solver": "frank-wolfe"}},
    "fairgrad": {"as printed": {"normalise": False}},
    "aligned_mtl": {"median": {"scale_mode": "median"}},
    "sam_gs": {"printed": {"gamma": 0.6, "variant": "printed"}},
    "moco": {"rho": {"rho": 0.5}},
}  # method -> name -> options, beside the defaults and the presets
ROTATIONS = {
    "default": {},
    "paper": {"objective": "paper"},
    "burn-in": {"burn_in": 1, "normalize_losses": True},
    "Haar, Cayley": {"init": "haar", "orthogonal_map": "cayley"},
}


def matrices(K: int, kind: str) -> list[torch.Tensor]:
    """The task gradients of three steps, (K, 6) each."""
    random, found = np.random.default_rng([K, KINDS_OF_MATRIX.index(kind)]), []
    for _ in range(STEPS):
        J = random.normal(size=(K, WIDTH))
        J = J - 1.3 * J.mean(0) if kind == "conflicting" else J + 0.5 * random.normal(size=WIDTH)
        lengths = np.linspace(-3, 3, K) if kind == "norms e^6 apart" else np.linspace(-0.3, 0.9, K)
        J *= np.exp(lengths)[:, None] / np.linalg.norm(J, axis=1, keepdims=True)
        if kind == "one zero gradient":
            J[0] = 0
        found.append(torch.from_numpy(J))
    return found


def losses_at(step: int, K: int) -> torch.Tensor:
    """Losses (K,) that fall at a pace of their own each."""
    k = torch.arange(K, dtype=torch.float64)
    return (2 + k) * (0.9 - 0.3 * k / K) ** step


def variants(name: str) -> dict[str, dict]:
    """name -> options of a method: its defaults, its presets where they differ, `FURTHER`."""
    spec = METHODS[name]
    defaults, found = {key: value for key, (value, _) in spec.defaults.items()}, {"default": {}}
    for preset, options in {**spec.presets, **FURTHER.get(name, {})}.items():
        if {**defaults, **options} not in [{**defaults, **other} for other in found.values()]:
            found[preset] = dict(options)
    return found


def make(name: str, K: int, options: Mapping) -> nn.Module:
    weights = {"weights": [1 + k / 2 for k in range(K)]} if name in ("static", "broken") else {}
    return methods.make(name, **weights, **options)


def three_updates(name: str, K: int, kind: str, options: Mapping) -> list:
    """The updates of three steps of one instance."""
    spec, method, found = METHODS[name], make(name, K, options), []
    torch.manual_seed(0)
    for step, J in enumerate(matrices(K, kind)):
        found.append(update_of(method, spec, J, losses_at(step, K)).tolist())
        if "losses after the step" in spec.needs:
            method.update(losses_at(step + 1, K))
    return found


def two_steps(name: str, convention: str) -> list:
    """The shared gradient and those of the heads, of two steps of one instance: its own parameters move between."""
    method, J = make(name, 3, {}), 2 * matrices(3, "conflicting")[0]
    return [part.tolist() for _ in range(2) for part in combined(name, J, convention, method=method)]


def rotated_steps(name: str, options: Mapping) -> list:
    """The gradients of trunk, heads and the method's own parameters in three steps on a small network."""
    random = np.random.default_rng(0)
    trunk, heads = nn.Sequential(nn.Linear(3, 4), nn.Tanh()).double(), [nn.Linear(4, 1).double() for _ in range(3)]
    for p in nn.ModuleList([trunk, *heads]).parameters():
        p.data = torch.from_numpy(random.normal(size=p.shape))
    inputs, targets = (torch.from_numpy(random.normal(size=(6, 3))) for _ in range(2))
    draws = torch.Generator().manual_seed(0)
    module, found = methods.make(name, trunk=trunk, heads=heads, rotation_size=3, generator=draws, **options), []
    of_heads = [p for head in heads for p in head.parameters()]
    own = [*module.rotation_parameters(), *(module.weight_parameters() if name == "rotograd_norm" else [])]
    for _ in range(STEPS):
        module.zero_grad(set_to_none=True)
        pairs = zip(module.train()(inputs), targets.T, strict=True)
        module.backward([(k + 1) * ((output[:, 0] - t) ** 2).mean() for k, (output, t) in enumerate(pairs)])
        for part in (list(trunk.parameters()), of_heads, own):
            found.append([x for p in part for x in p.grad.flatten().tolist()])
            for p in part:
                p.data -= 0.1 * p.grad
    return found


def updates(name: str) -> dict:
    """case -> values of one method."""
    if METHODS[name].kind == KINDS[2]:
        return {case: rotated_steps(name, options) for case, options in ROTATIONS.items()}
    found = {
        f"{variant}; K = {K}, {kind}": three_updates(name, K, kind, options)
        for variant, options in variants(name).items()
        for K in (2, 5)
        for kind in KINDS_OF_MATRIX
    }
    return found | {f"under {convention}": two_steps(name, convention) for convention in CONVENTIONS}


# --- training: three steps of `training.fit`

SCHEDULE = training.Schedule(epochs=STEPS, batch_size=32, learning_rate=0.02, weight_decay=1e-3, decay="cosine")
# methods whose step the loop itself assembles, or that follow the convention in more than scale and clip
ALL_CONVENTIONS = ("equal", "uncertainty", "gradnorm", "famo", "mgda_ub", "pcgrad", "rotograd")


def in_float64(split: Split) -> Split:
    inputs, targets = split.batch(slice(None))
    return Split(inputs.double(), tuple(t.double() if t.is_floating_point() else t for t in targets))


def in_short(problem: Problem, judged: int) -> Problem:
    """The problem in float64, judged by its first few training examples: what is judged decides nothing here."""
    train = in_float64(problem.train)
    few = Split(train.inputs[:judged], tuple(t[:judged] for t in train.targets))
    return replace(problem, train=train, validation=few)


def drawn_in_float64(run: Run, problem: Problem) -> nn.Module:
    """The run's network. The last digit of normal draws in float32 depends on the processor's instructions."""
    torch.set_default_dtype(torch.float64)
    try:
        return build_model(run, problem)
    finally:
        torch.set_default_dtype(torch.float32)


def fitted(model: nn.Module, problem: Problem, method: str, convention: str = "plain", schedule=SCHEDULE) -> list:
    """The losses of each step, and the change of parameters and running statistics, on four fixed directions."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    options = {"rotation_size": 4} if METHODS[method].kind == KINDS[2] else {}
    options |= {"weights": [1 + k / 2 for k in range(len(problem.tasks))]} if method == "static" else {}
    history = training.fit(model, problem, method, schedule, method_options=options, convention=convention)
    assert history.diverged is None, history.diverged
    after = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
    after.pop("rotations.base", None)  # where rotations start: large, and fixed
    change = torch.cat([(value - before.get(name, 0)).flatten() for name, value in after.items()])
    directions = np.random.default_rng(0).normal(size=(4, len(change))) / math.sqrt(len(change))
    return [list(epoch["train_loss"].values()) for epoch in history.epochs] + [(directions @ change.numpy()).tolist()]


def on_molecules(method: str, convention: str = "plain", schedule=SCHEDULE) -> list:
    run = Run("qm9", {"profile": "tiny", "train": 40}, range(5), "mlp", {"inputs": 74, "width": 12, "depth": 2})
    problem = load_problem(run)
    return fitted(drawn_in_float64(run, problem), in_short(problem, 8), method, convention, schedule)


def after_recon() -> list:
    """PCGrad on a LeNet with one convolution and the linear layer split, drawn anew."""
    run = Run("multi_fashion_mnist", {"profile": "tiny", "train": 40}, model="lenet", split=["3", "7"])
    problem = load_problem(run)
    return fitted(drawn_in_float64(run, problem), in_short(problem, 8), "pcgrad")


def trained(name: str) -> dict:
    """case -> values of one method, or of "recon"."""
    if name == "recon":
        return {"pcgrad on a split LeNet": after_recon()}
    usual = "samgs" if name == "sam_gs" else "plain"  # SAM-GS's momentum branch needs its clip
    conventions = CONVENTIONS if name in ALL_CONVENTIONS else [usual]
    found = {convention: on_molecules(name, convention) for convention in conventions}
    if name == "equal":
        found["Adam"] = on_molecules(name, schedule=replace(SCHEDULE, optimizer="adam"))
    if name == "famo":  # its forward pass after the step, where that moves running statistics
        for convention in ("plain", "famo"):
            found[f"{convention}, BatchNorm"] = fitted(small_model(2, True), small_problem(2), name, convention)
    return found
