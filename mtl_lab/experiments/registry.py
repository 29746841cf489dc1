"""The experiments by the name of their folder in `results/`. Each file of this package registers its own at its foot.

A *table* compares methods under the protocol, a *grid* trains a plan of runs, a *study* writes its records itself.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from mtl_lab.checks import Check
from mtl_lab.protocol.table import Table
from mtl_lab.runs.run import Run


class Grid(Protocol):
    """A plan of runs; `seeds` is how many it is to have."""

    profile: str
    seeds: int

    def plan(self, records: Sequence[Mapping]) -> dict[str, list[Run]]:
        """Row name -> runs, as far as the records made so far decide them."""


TABLES: dict[str, Callable[..., Table]] = {}  # name -> function of the profile ("small" where it is left out)
GRIDS: dict[str, Callable[..., Grid]] = {}  # name -> class, made with profile and seeds
STUDIES: dict[str, Callable[[str], str]] = {}  # name -> profile -> a sentence that says what was computed
RULES: dict[str, Callable[..., Sequence[Check] | None]] = {}  # rule of a claim -> what makes its comparisons


def register_table(name: str, table: Callable[..., Table]) -> None:
    TABLES[name] = table


def register_grid(name: str, grid: Callable[..., Grid]) -> None:
    GRIDS[name] = grid


def register_study(name: str, complete: Callable[[str], str]) -> None:
    STUDIES[name] = complete


def register_rule(name: str, checks: Callable[..., Sequence[Check] | None]) -> None:
    """`checks` gets the rule's other fields as arguments; None says that its records are not there yet."""
    RULES[name] = checks
