"""The parity table: each method of the registry against a restatement that shares nothing with it.

    python tests/parity_table.py

prints JSON, one entry a method: name, title, what supplies it, the reference, the largest relative difference over
all steps and numbers of tasks, the solver or reason where it is above 1e-6. `tests/test_parity.py` holds it to that.
Feature rotations have no matrix; theirs is the largest difference of any gradient of four steps of random networks.
"""

import functools
import json
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))

from engine import fresh  # noqa: E402
from references import REFERENCES  # noqa: E402
from rotograd_references import difference as of_rotations  # noqa: E402

from mtl_core.methods import METHODS  # noqa: E402
from mtl_lab.probes.update_comparison import update_of  # noqa: E402

STEPS, TASKS = 6, (2, 3, 4)
LIMIT = 1e-6
RESTATED = "restatement in numpy, float64, from the definition"
TRIED = "restatement in numpy, float64; every set of active constraints is tried"
BY_SAMPLE = "restatement in float64, sample by sample, torch for derivatives alone"
NOTES = {  # method -> (reference, reason where the difference may be above the limit)
    "mgda": (TRIED, ""),
    "mgda_ub": (TRIED, ""),
    "upgrad": (TRIED, ""),
    "cagrad": (TRIED, ""),
    "nash_mtl": ("restatement in numpy, float64; a general root finder", ""),
    "fairgrad": ("restatement in numpy, float64; a general root finder", ""),
    "sam_gs": (RESTATED + "; recorded traces of the released class", ""),
    "rotate_only": (BY_SAMPLE + "; recorded traces of the released package", ""),
    "scale_only": (BY_SAMPLE, ""),
    "rotograd": (BY_SAMPLE + "; recorded traces of the released package", ""),
    "rotograd_norm": (BY_SAMPLE + "; recorded traces of the released package", ""),
}

EARLY = "TorchJD's Frank-Wolfe method stops after 100 iterations or at a short step"
OPTIONS = [("mgda", {"solver": "frank-wolfe"}, EARLY)]  # method, options, reason where the difference may be larger


class Draws:
    """Random numbers of torch's generator, as the definitions of the random methods ask for them."""

    def normal(self, count):
        return torch.randn(count, dtype=torch.float64).numpy()

    def uniform(self, count):
        return torch.rand(count, dtype=torch.float64).numpy()

    def permutation(self, count):
        return torch.randperm(count).tolist()


def steps_of(K, seed=0):
    """(J, L, losses after the step) of some steps in which all tasks conflict and their norms differ."""
    random = np.random.default_rng(seed + K)
    found = []
    for _ in range(STEPS):
        J = random.normal(size=(K, 12))
        J = (J - 1.2 * J.mean(0)) * np.exp(random.normal(size=(K, 1)))  # rows pushed apart, norms of all sizes
        L = np.exp(random.normal(size=K))
        found.append((J, L, L * np.exp(0.1 * random.normal(size=K))))
    return found


def ours(name, steps, method=None, **options):
    """The updates of the registered method, or of an instance of it, before any convention, for the same steps."""
    spec, K, found = METHODS[name], len(steps[0][0]), []
    method = method or fresh(name, K, **({"window": 2} if name == "dwa" else {}), **options)
    for J, L, after in (map(torch.from_numpy, step) for step in steps):
        found.append(update_of(method, spec, J, L))
        if "losses after the step" in spec.needs:
            method.update(after)
    return [update.numpy() for update in found]


def difference(name, K, reference=None, **options) -> float:
    """The largest ‖ours − reference‖ / ‖reference‖ over the steps; `reference` names another method's, for a test."""
    return _difference(name, K, reference or name, tuple(options.items()))


@functools.cache  # the tests of single methods and that of the table ask for the same
def _difference(name, K, reference, options) -> float:
    if reference not in REFERENCES:
        raise KeyError(f"{reference} has no reference: restate it in tests/references.py, from its definition")
    options, steps = dict(options), steps_of(K)
    torch.manual_seed(K)
    found = ours(name, steps, **options)
    torch.manual_seed(K)
    expected = REFERENCES[reference](steps, Draws())
    return max(float(np.linalg.norm(f - e) / np.linalg.norm(e)) for f, e in zip(found, expected, strict=True))


def supplier(name, **options) -> str:
    """Which package holds the method's rule: "torchjd", also where a thin subclass adds state or errors, or ours."""
    method = fresh(name, 2, **options)
    modules = {base.__module__ for part in method.modules() for base in type(part).__mro__}
    rules = {m for m in modules if m.startswith("torchjd.") and not m.endswith(("_base", "_bases", "_mixins"))}
    return "torchjd" if rules else "mtl_core"


@functools.cache
def _of_rotation(make) -> float:
    return of_rotations(make)


def rows() -> list[dict]:
    """One entry for each method, and one for each named option that is a solver or rule of its own."""
    found = []
    for name, options, early in [*((name, {}, "") for name in METHODS), *OPTIONS]:
        spec = METHODS[name]
        reference, reason = NOTES.get(name, (RESTATED, ""))
        if spec.kind == "feature rotation":
            largest, source = _of_rotation(spec.make), "mtl_core"
        else:
            largest, source = max(difference(name, K, **options) for K in TASKS), supplier(name, **options)
        found.append(
            {
                "method": name,
                "options": options,
                "title": spec.title,
                "kind": spec.kind,
                "paper": spec.paper,
                "supplier": source,
                "reference": reference,
                "difference": largest,
                "below": largest < LIMIT,
                "reason": "" if largest < LIMIT else early or reason,
            }
        )
    return found


if __name__ == "__main__":
    print(json.dumps(rows(), indent=1))
