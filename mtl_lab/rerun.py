"""Train one committed run again and compare it with its record, number by number.

Nothing is kept and nothing is written: the record stays what it is.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from mtl_lab import experiments, records
from mtl_lab.runs.execute import execute
from mtl_lab.runs.run import Run
from mtl_lab.runs.store import Store

# Relative, of a test metric. The same code on the same kind of processor gives the very digits. Other instructions, or
# code that sums in another order, round differently, and this grows in training: four runs of QM9's equal weights with
# SSE or AVX2 in place of AVX-512 differed by up to 0.023 in a metric. That code of another day computes the same is
# what the golden values in tests/ say, in float64.
TOLERANCE = 0.05


def recorded(experiment: str, profile: str, row: str, seed: int, root: Path = records.ROOT) -> dict:
    """The committed record of one run; LookupError says what there is instead."""
    known = [*experiments.TABLES, *experiments.GRIDS]
    if experiment not in known:
        raise LookupError(f"there is no experiment {experiment!r} of runs; there are: {', '.join(known)}")
    found = records.load(experiment, profile, root)
    rows = {record["row"] for record in found}
    if row not in rows:
        raise LookupError(f"results/{experiment}/{profile} has no row {row!r}; there are: {', '.join(sorted(rows))}")
    by_seed = {record["config"]["seed"]: record for record in found if record["row"] == row}
    if seed not in by_seed:
        raise LookupError(f"row {row} has no seed {seed}; there are: {', '.join(map(str, sorted(by_seed)))}")
    return by_seed[seed]


def differences(record: Mapping, again: Mapping) -> dict[tuple[str, str], tuple[float, float, float]]:
    """(task, metric) -> (recorded, new, relative difference) of the test metrics at the last epoch, losses left out."""
    compared = {}
    for task, metrics in record["final"]["test"].items():
        for metric, old in metrics.items():
            if metric != "loss":
                new = records.rounded(again["final"]["test"][task][metric])
                compared[task, metric] = old, new, abs(new - old) / max(abs(old), 1e-30)
    return compared


def rerun(record: Mapping) -> tuple[list[str], bool]:
    """Train the record's run again: lines that compare the two, and whether no metric is beyond `TOLERANCE`."""
    with tempfile.TemporaryDirectory() as folder:
        again = execute(Run.from_dict(record["config"]), Store(folder))
    if again["diverged"] is not None or record["diverged"] is not None:
        said = f"diverged: the record {record['diverged'] or 'not'}, this run {again['diverged'] or 'not'}"
        return [said], (again["diverged"] is None) == (record["diverged"] is None)
    compared = differences(record, again)
    lines = [f"{t:<12}{m:<20}{old:>12.6g}{new:>12.6g}{apart:>10.1e}" for (t, m), (old, new, apart) in compared.items()]
    same = again["provenance"]["source_digest"] == record["provenance"]["source_digest"]
    changed = f"changed since the record, {record['provenance']['commit'][:12]}"
    largest = max((apart for *_, apart in compared.values()), key=lambda apart: (apart != apart, apart))  # NaN first
    lines.append(f"code: {'that of the record' if same else changed}")
    lines.append(f"largest relative difference {largest:.1e}, tolerance {TOLERANCE:g}")
    return lines, largest <= TOLERANCE
