"""How fast may the rotations learn? What `experiments.RotationRates` measured, and the claim that it decides."""

from collections.abc import Sequence

from mtl_core import evaluation, results
from mtl_core.claim_rules import Check

NAME, TASK = "rotation_rates", "sum"  # Figure 3 of the submission shows this task's squared error


def errors(profile: str = "small", root=results.ROOT) -> dict[str, dict[int, float]]:
    """Row -> seed -> squared error of the sum of the digits on the test data, over the seeds that all rows have.

    {} without records; ValueError names one that was edited.
    """
    found = results.load(NAME, profile, root)
    results.refuse_edited(found, lambda record: f"{NAME}, {record['row']}, seed {record['config']['seed']}")
    rows = {}
    for record in found:
        error = record["final"]["test"][TASK]["RMSE"] ** 2 if record["diverged"] is None else float("inf")
        rows.setdefault(record["row"], {})[record["config"]["seed"]] = error
    seeds = sorted(set.intersection(*map(set, rows.values()))) if rows else []
    return {row: {seed: values[seed] for seed in seeds} for row, values in rows.items()} if seeds else {}


def added(found: dict, against: str = "no rotation") -> dict[str, list[float]]:
    """Row -> by how much its squared error is above that of the row `against`, one number a seed."""
    return {row: [values[s] - found[against][s] for s in values] for row, values in found.items() if row != against}


def checks(of: str, against: Sequence[str], seeds: int, root=results.ROOT) -> tuple[Check, ...] | None:
    """The rate `of` has a smaller error than each of `against`: Holm intervals over `seeds` paired seeds.

    None while a seed is missing. A comparison is open where its interval holds zero; a run that diverged has no
    finite error and is a ValueError.
    """
    found = errors(root=root)
    if not {of, *against} <= set(found) or len(found[of]) < seeds:
        return None
    rows = {row: values for row, values in added(found, of).items() if row in against}
    result = []
    for row, d in evaluation.holm_intervals(rows).items():
        text = f"{row} against {of}: squared error {d.mean:+.3f} [{d.low:+.3f}, {d.high:+.3f}], {d.n} seeds"
        result.append(Check(text, True if d.low > 0 else False if d.high < 0 else None))
    return tuple(result)
