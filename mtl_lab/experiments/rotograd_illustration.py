"""From how many starts RotoGrad's illustration ends as published: committed counts, and what they decide.

    python -m mtl_lab results rotograd_illustration --profile small

writes one record a row into results/rotograd_illustration/small/runs.jsonl; `tiny` takes fewer seeds, to try it.
"""

from mtl_lab import records
from mtl_lab.checks import Check
from mtl_lab.experiments.registry import register_rule, register_study
from mtl_lab.landscapes import rotograd_example
from mtl_lab.runs import provenance
from mtl_lab.statistics import paired

NAME = "rotograd_illustration"
PROFILES = {"tiny": 5, "small": 100}  # seeds
# row -> pair, method, start and rate of the rotations, steps. The first as in the released example; on this book's
# convex pair the best of the six rates of the page, since the published settings are not known.
ROWS = {
    "non-convex, RotoGrad": ("non_convex", "rotograd", "haar", 0.05, 400),
    "non-convex, sum": ("non_convex", "vanilla", "identity", 0.05, 400),
    "convex, RotoGrad": ("convex", "rotograd", "identity", 0.02, 2000),
    "convex, sum": ("convex", "vanilla", "identity", 0.02, 2000),
}


def study(row: str, seeds: int) -> dict:
    """One record: `solved` says of each seed whether both tasks end near their minima."""
    pair, method, start, rate, steps = ROWS[row]
    found = rotograd_example.study(
        rotograd_example.PAIRS[pair],
        method,
        seeds=range(seeds),
        rates=(rate,),
        starts=(start,),
        steps=steps,
        every=steps,
    )
    return {
        "row": row, "pair": pair, "method": method, "start": start, "rotation_rate": rate, "steps": steps,
        "seeds": seeds, "solved": found.solved[-1, 0, 0].tolist(), "provenance": provenance.provenance(),
    }  # fmt: skip


def complete(profile: str, root=records.ROOT) -> str:
    """Compute the records that are missing."""
    here = load(profile, root)
    missing = [row for row in ROWS if row not in here]
    here |= {row: study(row, PROFILES[profile]) for row in missing}
    records.write_lines([here[row] for row in sorted(here)], records.folder(NAME, profile, root) / "runs.jsonl")
    return f"{len(here)} records, {len(missing)} computed now."


def load(profile: str = "small", root=records.ROOT) -> dict[str, dict]:
    """row -> record."""
    return records.by_row(NAME, profile, root)


def checks(row: str, against: str, root=records.ROOT) -> tuple[Check, ...] | None:
    """More than half of the seeds end as published under `row`, fewer than half under `against`; None without records.

    A comparison is open where the Wilson interval of the share holds one half.
    """
    here, found = load(root=root), []
    if row not in here or against not in here:
        return None
    for name, above in ((row, True), (against, False)):
        count, seeds = sum(here[name]["solved"]), here[name]["seeds"]
        low, high = paired.wilson(count, seeds)
        word = "more" if above else "fewer"
        text = f"{name}: {count} of {seeds} seeds [{100 * low:.0f} %, {100 * high:.0f} %], {word} than half"
        found.append(Check(text, None if low <= 0.5 <= high else (low > 0.5) is above))
    return tuple(found)


register_study(NAME, complete)
register_rule("success rate", checks)
