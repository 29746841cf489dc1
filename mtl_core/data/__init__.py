"""Data sets: `load(name)` makes a `Problem`; `fetch(names)` brings the files that a full set needs.

The profile "tiny" needs no files where the package carries a small real part of a set; of a set that only the user can
bring it reads a few of the user's files. Nothing falls back to anything by itself: where a profile's files are missing
or damaged, `load` raises `DataError`, which says what to do.

A new data set is a new file in this folder: a function `load` makes it known by the file's name, a dictionary `FILES`
(name -> `files.FileSet`) the files that can be fetched for it, `CHECKS` (name -> `held.Survey`) those that a user
brings.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .._names import did_you_mean
from .errors import DataError
from .files import FileSet, Root, data_root
from .held import Survey
from .problem import Problem

__all__ = ["CHECKS", "DATASETS", "FILES", "DataError", "data_root", "fetch", "load"]

DATASETS: dict[str, Callable[..., Problem]] = {}  # name -> load(root, profile, seed, **options)
FILES: dict[str, FileSet] = {}
CHECKS: dict[str, Survey] = {}
for _name in sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")):
    _module = importlib.import_module(f"{__name__}.{_name}")
    FILES |= getattr(_module, "FILES", {})
    CHECKS |= getattr(_module, "CHECKS", {})
    if hasattr(_module, "load"):
        DATASETS[_name] = _module.load


def load(name: str, root: Root = None, profile: str = "tiny", seed: int = 0, **options: Any) -> Problem:
    """The problem `name` of `DATASETS`.

    root     folder of all data sets; else $MTL_DATA; else `conflicting-gradients` in the user's cache.
    profile  scale of the data: "tiny" (embedded in the package, where it is), "small" or "paper" (full sets).
    seed     decides what differs between paired runs; see the data set's own `load` for that and its options.
    Errors: ValueError for an unknown name or profile; `DataError` for missing or damaged data.
    """
    if name not in DATASETS:
        known = ", ".join(DATASETS)
        raise ValueError(f"unknown data set {name!r}; the data sets are {known}{did_you_mean(name, DATASETS)}")
    return DATASETS[name](root, profile, seed, **options)


def fetch(names: str | Iterable[str], root: Root = None, progress: bool = True) -> dict[str, Path]:
    """Bring the files of the sets `names` of `FILES` into the root, each checked; returns name -> folder.

    Errors: ValueError for an unknown name; `DataError` where a file cannot be had, naming every source that was tried;
    ImportError where the extra `data` is not installed and something must be downloaded.
    """
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
        if name not in FILES:
            raise ValueError(
                f"cannot fetch {name!r}; what can be fetched is {', '.join(FILES)}{did_you_mean(name, FILES)}"
            )
    return {name: FILES[name].fetch(root, progress) for name in names}
