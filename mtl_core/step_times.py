"""How long a training step takes: the committed record of `benchmarks/step_time.py --record`, and what it decides.

results/step_time/small/runs.jsonl holds one sealed record a row: its seconds in each round over that round's floor,
one forward pass and K backward passes of the trunk.
"""

from collections.abc import Mapping, Sequence
from statistics import median

from mtl_core import results, runs
from mtl_core.claim_rules import Check

WHERE = "step_time", "small"


def write(ratios: Mapping[str, Sequence[float]], floors: Sequence[float], setting: Mapping, root=results.ROOT) -> None:
    """One record a row: `ratios` to the floor by round, `floors` in seconds, the `setting` that was measured."""
    shared = {"setting": dict(setting), "floor_seconds": list(floors), "provenance": runs.provenance()}
    found = [results.seal(results.rounded({"row": row, "ratios": list(values), **shared}))
             for row, values in ratios.items()]  # fmt: skip
    results.write_lines(found, results.folder(*WHERE, root) / "runs.jsonl")


def load(root=results.ROOT) -> dict[str, dict]:
    """row -> record; ValueError names one that was edited."""
    return results.by_row(*WHERE, root)


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """(median, low, high) over rounds: the second smallest and largest hold the median with 98 % at 10, 99 % at 12."""
    ordered = sorted(values)
    if len(ordered) < 10:
        raise ValueError(f"an interval of the median needs at least 10 rounds, got {len(ordered)}")
    return median(ordered), ordered[1], ordered[-2]


def checks(row: str, against: Sequence[str], most: float, root=results.ROOT) -> tuple[Check, ...] | None:
    """A step of `row` takes at most `most` times as long as one of each other row, in the same round.

    None before the records are there. A comparison is open where the interval of the median holds `most`.
    """
    here = load(root)
    if any(name not in here for name in (row, *against)):
        return None
    found = []
    for name in against:
        turns = [a / b for a, b in zip(here[row]["ratios"], here[name]["ratios"], strict=True)]
        middle, low, high = spread(turns)
        text = f"{row} takes {middle:.2f} times as long as {name} [{low:.2f}, {high:.2f}], at most {most:g}"
        found.append(Check(text, True if high <= most else False if low > most else None))
    return tuple(found)
