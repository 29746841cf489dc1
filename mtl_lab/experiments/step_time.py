"""How long a training step takes: the committed record of `benchmarks/step_time.py --record`, and what it decides.

results/step_time/small/runs.jsonl holds one record a row: its seconds in each round over that round's floor,
one forward pass and K backward passes of the trunk.
"""

from collections.abc import Mapping, Sequence
from statistics import median

from mtl_lab import records
from mtl_lab.checks import Check
from mtl_lab.experiments.registry import register_rule, register_study
from mtl_lab.runs import provenance

WHERE = "step_time", "small"


def write(ratios: Mapping[str, Sequence[float]], floors: Sequence[float], setting: Mapping, root=records.ROOT) -> None:
    """One record a row: `ratios` to the floor by round, `floors` in seconds, the `setting` that was measured."""
    shared = {"setting": dict(setting), "floor_seconds": list(floors), "provenance": provenance.provenance()}
    found = [records.rounded({"row": row, "ratios": list(values), **shared}) for row, values in ratios.items()]
    records.write_lines(found, records.folder(*WHERE, root) / "runs.jsonl")


def load(root=records.ROOT) -> dict[str, dict]:
    """row -> record."""
    return records.by_row(*WHERE, root)


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """(median, low, high) over rounds: the second smallest and largest hold the median with 98 % at 10, 99 % at 12."""
    ordered = sorted(values)
    if len(ordered) < 10:
        raise ValueError(f"an interval of the median needs at least 10 rounds, got {len(ordered)}")
    return median(ordered), ordered[1], ordered[-2]


def checks(row: str, against: Sequence[str], most: float, root=records.ROOT) -> tuple[Check, ...] | None:
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


def complete(profile: str) -> str:
    """Times come from a quiet machine alone: this names the command and measures nothing."""
    return "nothing was measured: on a quiet machine run `python benchmarks/step_time.py --record`."


register_study("step_time", complete)
register_rule("step time", checks)
