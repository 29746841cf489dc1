"""Data sets: `load(name)` makes a `Problem`; `fetch(names)` brings the files that a full set needs.

The profile "tiny" needs no files: the package carries a small real part of each set. Nothing falls back to it
by itself: where a profile's files are missing or damaged, `load` raises `DataError`, which says what to do.
"""

from difflib import get_close_matches

from ..tasks import Problem
from . import multi_fashion_mnist, qm9, two_digits
from .downloads import fetch
from .errors import DataError
from .files import data_root

__all__ = ["DATASETS", "DataError", "data_root", "fetch", "load"]

DATASETS = {  # name -> load(root, profile, seed, **options)
    "multi_fashion_mnist": multi_fashion_mnist.load,
    "qm9": qm9.load,
    "two_digits": two_digits.load,
}


def load(name: str, root=None, profile: str = "tiny", seed: int = 0, **options) -> Problem:
    """The problem `name` of `DATASETS`.

    root     folder of all data sets; else $MTL_DATA; else `conflicting-gradients` in the user's cache.
    profile  scale of the data: "tiny" (embedded in the package), "small" or "paper" (full sets, see `fetch`).
    seed     draws what differs between paired runs; see the data set's own `load` for that and its options.
    Errors: ValueError for an unknown name or profile; DataError for missing or damaged data.
    """
    if name not in DATASETS:
        close = get_close_matches(name, DATASETS)
        meant = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
        raise ValueError(f"unknown data set {name!r}{meant} There are: {', '.join(DATASETS)}")
    return DATASETS[name](root, profile, seed, **options)
