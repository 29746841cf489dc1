"""The experiments by the name of their folder in `results/`. Each file of this package registers them at its foot.

A *table* compares methods under the protocol, *searches* compare methods with their search, a *grid* trains a plan of
runs, a *study* computes its records itself.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from mtl_lab.checks import Check
from mtl_lab.protocol.streams import Searches
from mtl_lab.protocol.table import Table
from mtl_lab.runs.run import Run


class Grid(Protocol):
    """A plan of runs with `seeds` seeds each."""

    profile: str
    seeds: int

    def plan(self, records: Sequence[Mapping]) -> dict[str, list[Run]]:
        """Row name -> runs; those that depend on missing records are left out."""


TABLES: dict[str, Callable[..., Table]] = {}  # name -> function of the profile ("small" where it is left out)
SEARCHES: dict[str, Callable[..., Searches]] = {}  # name -> function of the profile
GRIDS: dict[str, Callable[..., Grid]] = {}  # name -> class, made with profile and seeds
STUDIES: dict[str, Callable[[str], str]] = {}  # name -> function of the profile that returns a sentence
RULES: dict[str, Callable[..., Sequence[Check] | None]] = {}  # rule of a claim -> function that makes its comparisons


def register_table(name: str, table: Callable[..., Table]) -> None:
    TABLES[name] = table


def register_grid(name: str, grid: Callable[..., Grid]) -> None:
    GRIDS[name] = grid


def register_study(name: str, complete: Callable[[str], str]) -> None:
    STUDIES[name] = complete


def register_rule(name: str, checks: Callable[..., Sequence[Check] | None]) -> None:
    """Register a rule of claims. `checks` gets the rule's fields as arguments; it returns None without records."""
    RULES[name] = checks
