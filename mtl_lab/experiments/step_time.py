"""How long a training step takes: the committed records of `benchmarks/step_time.py --record` and the rule on them.

results/step_time/small/runs.jsonl holds one record per row: the seconds of a step in each round over those of that
round's floor, one forward pass and K backward passes of the trunk.
"""

from collections.abc import Mapping, Sequence
from statistics import median

from mtl_lab import records
from mtl_lab.checks import Check
from mtl_lab.experiments.registry import register_rule, register_study
from mtl_lab.runs import provenance

NAME, PROFILE = "step_time", "small"


def write(ratios: Mapping[str, Sequence[float]], floors: Sequence[float], setting: Mapping, root=records.ROOT) -> None:
    """Write one record per row: `ratios` to the floor by round, `floors` in seconds, and the `setting`."""
    shared = {"setting": dict(setting), "floor_seconds": list(floors), "provenance": provenance.provenance()}
    lines = [records.rounded({"row": row, "ratios": list(values), **shared}) for row, values in ratios.items()]
    records.write_lines(lines, records.folder(NAME, PROFILE, root) / "runs.jsonl")


def load(root=records.ROOT) -> dict[str, dict]:
    """Row -> record."""
    return records.by_row(NAME, PROFILE, root)


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """(median, second smallest, second largest) over rounds: an interval of the median, 98 % for 10, 99 % for 12."""
    ordered = sorted(values)
    if len(ordered) < 10:
        raise ValueError(f"an interval of the median needs at least 10 rounds, got {len(ordered)}")
    return median(ordered), ordered[1], ordered[-2]


def checks(row: str, against: Sequence[str], most: float, root=records.ROOT) -> tuple[Check, ...] | None:
    """Whether a step of `row` takes at most `most` times as long as one of each other row, in the same round.

    None without records. A comparison is open if the interval of the median holds `most`.
    """
    by_row = load(root)
    if any(name not in by_row for name in (row, *against)):
        return None
    comparisons = []
    for name in against:
        quotients = [a / b for a, b in zip(by_row[row]["ratios"], by_row[name]["ratios"], strict=True)]
        middle, low, high = spread(quotients)
        text = f"{row} takes {middle:.2f} times as long as {name} [{low:.2f}, {high:.2f}], at most {most:g}"
        comparisons.append(Check(text, True if high <= most else False if low > most else None))
    return tuple(comparisons)


register_study(
    NAME, lambda _: "nothing was measured: on a quiet machine run `python benchmarks/step_time.py --record`."
)
register_rule("step time", checks)
