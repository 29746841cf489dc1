"""One comparison of numbers, as rules and experiments report it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One comparison of a rule: the numbers in words, and whether it holds; None where rounding leaves that open."""

    text: str
    holds: bool | None
