"""From how many starts RotoGrad's illustration ends as published, and the rule of the claim about it.

    python -m mtl_lab results rotograd_illustration --profile small

writes one record per row into results/rotograd_illustration/small/runs.jsonl; the profile `tiny` has fewer seeds.
"""

from mtl_lab import records
from mtl_lab.checks import Check
from mtl_lab.experiments.registry import register_rule, register_study
from mtl_lab.landscapes import rotograd_example
from mtl_lab.runs import provenance
from mtl_lab.statistics import paired

NAME = "rotograd_illustration"
PROFILES = {"tiny": 5, "small": 100}  # seeds
# Row -> pair, method, start and rate of the rotations, steps. The first is that of the released example. For a convex
# pair no settings are published: ours has the best of the six rates that the page compares.
ROWS = {
    "non-convex, RotoGrad": ("non_convex", "rotograd", "haar", 0.05, 400),
    "non-convex, sum": ("non_convex", "vanilla", "identity", 0.05, 400),
    "convex, RotoGrad": ("convex", "rotograd", "identity", 0.02, 2000),
    "convex, sum": ("convex", "vanilla", "identity", 0.02, 2000),
}


def study(row: str, seeds: int) -> dict:
    """The record of a row; `solved` says for each seed whether both tasks end near their minima."""
    pair, method, start, rate, steps = ROWS[row]
    outcome = rotograd_example.study(
        rotograd_example.PAIRS[pair],
        method,
        seeds=range(seeds),
        rates=(rate,),
        starts=(start,),
        steps=steps,
        every=steps,
    )
    return {
        "row": row,
        "pair": pair,
        "method": method,
        "start": start,
        "rotation_rate": rate,
        "steps": steps,
        "seeds": seeds,
        "solved": outcome.solved[-1, 0, 0].tolist(),
        "provenance": provenance.provenance(),
    }


def complete(profile: str, root=records.ROOT) -> str:
    """Compute the records that are missing."""
    by_row = load(profile, root)
    missing = [row for row in ROWS if row not in by_row]
    by_row |= {row: study(row, PROFILES[profile]) for row in missing}
    records.write_lines([by_row[row] for row in sorted(by_row)], records.folder(NAME, profile, root) / "runs.jsonl")
    return f"{len(by_row)} records, {len(missing)} computed now."


def load(profile: str = "small", root=records.ROOT) -> dict[str, dict]:
    """Row -> record."""
    return records.by_row(NAME, profile, root)


def checks(row: str, against: str, root=records.ROOT) -> tuple[Check, ...] | None:
    """Whether more than half of the seeds end as published under `row` and fewer than half under `against`.

    None without records. A comparison is open if the Wilson interval of the share holds one half.
    """
    by_row, comparisons = load(root=root), []
    if row not in by_row or against not in by_row:
        return None
    for name, above in ((row, True), (against, False)):
        count, seeds = sum(by_row[name]["solved"]), by_row[name]["seeds"]
        low, high = paired.wilson(count, seeds)
        word = "more" if above else "fewer"
        text = f"{name}: {count} of {seeds} seeds [{100 * low:.0f} %, {100 * high:.0f} %], {word} than half"
        comparisons.append(Check(text, None if low <= 0.5 <= high else (low > 0.5) is above))
    return tuple(comparisons)


register_study(NAME, complete)
register_rule("success rate", checks)
