r"""Two synthetic tasks whose conflict has a sign that one can flip: the data of a dial.

Each example holds an input of either domain, (z, m) for the first task and (z', -m) for the second, z and z'
independent, $N(0, I)$. The labels are $f(z)$ and $s\,(0.8 f + 0.6 f_\perp)(z')$. With one frozen readout h for both
tasks, whose law is symmetric, flipping s is flipping h for one of them: each task alone has the same law under either
sign, and so have inputs and scale; what changes sign is how the two gradients meet in the trunk.
"""

import numpy as np
import torch

from ..seeds import numpy_generator
from .files import Root
from .problem import Problem, Split, regression
from .profiles import sizes

DIMENSIONS, UNITS = 8, 16  # of z; of a teacher
COUNTS = {
    "tiny": {"train": 256, "validation": 64, "test": 128},
    "small": {"train": 8_192, "validation": 1_024, "test": 4_096},
    "paper": {"train": 8_192, "validation": 1_024, "test": 4_096},
}
SPLITS = ("train", "validation", "test")


def load(
    root: Root = None,
    profile: str = "tiny",
    seed: int = 0,
    *,
    sign: int = 1,
    margin: float = 0.5,
    train: int | None = None,
    validation: int | None = None,
    test: int | None = None,
) -> Problem:
    """The problem: inputs (N, 2, 9) float32, the domain's sign times `margin` last; the tasks "first" and "second".

    sign    s, 1 or -1 (ValueError): the second task's labels are multiplied by it, and nothing else changes.
    margin  m: how far the domains are apart.
    seed    draws teachers and inputs; `root` is not read.
    train, validation, test  numbers of examples in place of the profile's.

    f is a sum of 16 random tanh units, f_perp another less its part along f; both have mean 0 and variance 1.
    """
    if sign not in (1, -1):
        raise ValueError(f"sign is 1 or -1, got {sign!r}")
    counts = sizes(COUNTS, profile, dict(zip(SPLITS, (train, validation, test), strict=True)), "examples")
    random = numpy_generator(seed, "pairing", "two domains")
    directions = random.standard_normal((2, UNITS, DIMENSIONS)) / DIMENSIONS**0.5
    outer, sample = random.standard_normal((2, UNITS)), random.standard_normal((20_000, DIMENSIONS))

    def raw(z: np.ndarray) -> np.ndarray:
        return np.stack([np.tanh(2 * z @ u.T) @ v for u, v in zip(directions, outer, strict=True)])

    drawn = raw(sample)
    means = drawn.mean(1)
    # Whitened by Cholesky:  (f, f_\perp)^\top = L^{-1} (r - \bar r),  L L^\top = Cov(r)
    whiten = np.linalg.inv(np.linalg.cholesky(np.cov(drawn)))

    def split(count: int) -> Split:
        z = random.standard_normal((count, 2, DIMENSIONS))
        f, _ = whiten @ (raw(z[:, 0]) - means[:, None])
        g, across = whiten @ (raw(z[:, 1]) - means[:, None])
        domain = np.broadcast_to(np.array([margin, -margin])[:, None], (count, 2, 1))
        inputs, second = np.concatenate([z, domain], 2), sign * (0.8 * g + 0.6 * across)
        return Split(_float(inputs), (_float(f), _float(second)))

    return Problem(
        (regression("first", "deviations"), regression("second", "deviations")),
        **{name: split(counts[name]) for name in SPLITS},
        source={
            "name": "two_domains",
            "profile": profile,
            "synthetic": True,
            "note": "Synthetic: labels of random networks; made to change the sign of a conflict and nothing else.",
            "sign": sign,
            "margin": margin,
            "seed": seed,
            "counts": counts,
        },
    )


def _float(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float32))
