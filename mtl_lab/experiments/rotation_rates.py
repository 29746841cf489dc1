"""How fast may the rotations learn? The runs, their errors, and the rule of the claim that they decide."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mtl_lab import records
from mtl_lab.checks import Check
from mtl_lab.experiments import two_digits
from mtl_lab.experiments.registry import register_grid, register_rule
from mtl_lab.runs.run import Run
from mtl_lab.statistics import paired


@dataclass(frozen=True)
class RotationRates:
    """RotateOnly on the digit problem with rotations that learn slower or faster than the network, and without them.

    After Figure 3 of RotoGrad's submission. The network's rate is the printed 1e-3. Of the rotations' rates in that
    figure only one, half of it, is known. Data, network and the rest of the schedule are those of `two_digits`.
    """

    profile: str = "small"
    seeds: int = 20

    def plan(self, records: Sequence[Mapping] = ()) -> dict[str, list[Run]]:
        """Row, "no rotation" or the rotations' rate as a multiple of the network's, -> one run per seed."""
        table = two_digits.table(self.profile)
        plain = replace(table.base, schedule={**table.base.schedule, "learning_rate": 1e-3})
        size, rows = table.row("rotate_only").options, {"no rotation": plain}
        for rate in (0.125, 0.5, 1.0, 2.0, 8.0):
            options = {**size, "rotation_rate": rate}
            rows[f"{rate:g}"] = replace(plain, method="rotate_only", method_options=options)
        return {name: run.seeds(range(self.seeds)) for name, run in rows.items()}


NAME, TASK = "rotation_rates", "sum"  # Figure 3 of the submission shows this task's squared error


def errors(profile: str = "small", root=records.ROOT) -> dict[str, dict[int, float]]:
    """Row -> seed -> squared error of the sum of the digits on the test data, over the seeds that all rows have.

    {} without records.
    """
    rows = {}
    for record in records.load(NAME, profile, root):
        error = record["final"]["test"][TASK]["RMSE"] ** 2 if record["diverged"] is None else float("inf")
        rows.setdefault(record["row"], {})[record["config"]["seed"]] = error
    seeds = sorted(set.intersection(*map(set, rows.values()))) if rows else []
    return {row: {seed: values[seed] for seed in seeds} for row, values in rows.items()} if seeds else {}


def added(errors: dict, against: str = "no rotation") -> dict[str, list[float]]:
    """Row -> its squared error minus that of the row `against`, one number per seed."""
    return {row: [values[s] - errors[against][s] for s in values] for row, values in errors.items() if row != against}


def checks(of: str, against: Sequence[str], seeds: int, root=records.ROOT) -> tuple[Check, ...] | None:
    """Whether the rate `of` has a smaller error than each of `against`: Holm intervals over `seeds` paired seeds.

    None while a seed is missing. A comparison is open if its interval holds zero. ValueError for a run that diverged,
    since its error is not finite.
    """
    by_row = errors(root=root)
    if not {of, *against} <= set(by_row) or len(by_row[of]) < seeds:
        return None
    rows = {row: values for row, values in added(by_row, of).items() if row in against}
    result = []
    for row, d in paired.holm_intervals(rows).items():
        text = f"{row} against {of}: squared error {d.mean:+.3f} [{d.low:+.3f}, {d.high:+.3f}], {d.n} seeds"
        result.append(Check(text, True if d.low > 0 else False if d.high < 0 else None))
    return tuple(result)


register_grid("rotation_rates", RotationRates)
register_rule("rotation rate", checks)
