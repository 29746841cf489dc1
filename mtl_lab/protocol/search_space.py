"""Configurations to try, from a scrambled Sobol sequence, which covers all ranges evenly with few points."""

import math
from collections.abc import Mapping

import numpy as np
from scipy.stats import qmc


def sample(space: Mapping, count: int, generator: np.random.Generator, dimensions: int | None = None) -> list[dict]:
    """`count` configurations, name -> value, six significant digits.

    space  name -> ("log", low, high), ("uniform", low, high), ("choice", values), or ("simplex", K): weights that are
           uniform on the simplex and scaled to sum to K.
    dimensions  of the sequence, of which the first are read: spaces that begin alike then get the same values, from
           generators in the same state. None: as many as the space has.
    """
    sizes = {name: spec[1] if spec[0] == "simplex" else 1 for name, spec in space.items()}
    configurations = []
    for point in qmc.Sobol(dimensions or sum(sizes.values()), rng=generator).random(count):
        parts = np.split(point[: sum(sizes.values())], np.cumsum(list(sizes.values()))[:-1])
        configurations.append({name: _value(space[name], part) for name, part in zip(space, parts, strict=True)})
    return configurations


def _value(spec, part):
    kind, *rest = spec
    if kind == "simplex":  # Dirichlet(1), scaled so that the weights sum to K
        shares = -np.log1p(-part)
        return [float(f"{w:.6g}") for w in rest[0] * shares / shares.sum()]
    u = float(part[0])
    if kind == "choice":
        return rest[0][min(int(u * len(rest[0])), len(rest[0]) - 1)]
    if kind == "log":
        return float(f"{math.exp(math.log(rest[0]) + u * math.log(rest[1] / rest[0])):.6g}")
    return float(f"{rest[0] + u * (rest[1] - rest[0]):.6g}")
