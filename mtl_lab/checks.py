"""What a rule found when it compared numbers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One comparison of a rule: what was compared, and whether it holds (None: within rounding)."""

    text: str
    holds: bool | None
