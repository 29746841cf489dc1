"""Trains one committed run again and compares its metrics with the record. It writes nothing to `results/`."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from mtl_lab import experiments, records
from mtl_lab.files import damage_named
from mtl_lab.runs.execute import execute
from mtl_lab.runs.run import Run
from mtl_lab.runs.store import Store

# Relative, of a test metric. The same code on the same kind of processor gives identical digits. Other instructions, or
# sums in another order, round differently, and training amplifies this: four runs of QM9's equal weights with SSE or
# AVX2 in place of AVX-512 differed by up to 0.023 in a metric. Whether newer code computes the same is the question of
# the golden values in tests/, in float64.
TOLERANCE = 0.05


def recorded(experiment: str, profile: str, row: str, seed: int, root: Path = records.ROOT) -> dict:
    """The committed record of one run. LookupError with the known names where there is none."""
    known = [*experiments.TABLES, *experiments.GRIDS]
    if experiment not in known:
        raise LookupError(f"there is no experiment {experiment!r} of runs; there are: {', '.join(known)}")
    committed = records.load(experiment, profile, root)
    rows = {record["row"] for record in committed}
    if row not in rows:
        raise LookupError(f"results/{experiment}/{profile} has no row {row!r}; there are: {', '.join(sorted(rows))}")
    with damage_named(records.folder(experiment, profile, root)):
        by_seed = {record["config"]["seed"]: record for record in committed if record["row"] == row}
    if seed not in by_seed:
        raise LookupError(f"row {row} has no seed {seed}; there are: {', '.join(map(str, sorted(by_seed)))}")
    return by_seed[seed]


def differences(record: Mapping, again: Mapping) -> dict[tuple[str, str], tuple[float, float, float]]:
    """(task, metric) -> (recorded, new, relative difference) of the test metrics at the last epoch, without losses."""
    compared = {}
    for task, metrics in record["final"]["test"].items():
        for metric, old in metrics.items():
            if metric != "loss":
                new = records.rounded(again["final"]["test"][task][metric])
                compared[task, metric] = old, new, abs(new - old) / max(abs(old), 1e-30)
    return compared


def rerun(record: Mapping) -> tuple[list[str], bool]:
    """Train the record's run again: (lines that compare the two, whether every metric is within `TOLERANCE`)."""
    with tempfile.TemporaryDirectory() as folder:
        again = execute(Run.from_dict(record["config"]), Store(folder))
    if again["diverged"] is not None or record["diverged"] is not None:
        line = f"diverged: the record {record['diverged'] or 'not'}, this run {again['diverged'] or 'not'}"
        return [line], (again["diverged"] is None) == (record["diverged"] is None)
    compared = differences(record, again)
    lines = [f"{t:<12}{m:<20}{old:>12.6g}{new:>12.6g}{gap:>10.1e}" for (t, m), (old, new, gap) in compared.items()]
    same = again["provenance"]["source_digest"] == record["provenance"]["source_digest"]
    changed = f"changed since the record, {record['provenance']['commit'][:12]}"
    largest = max((gap for *_, gap in compared.values()), key=lambda gap: (gap != gap, gap))  # NaN is the largest
    lines.append(f"code: {'that of the record' if same else changed}")
    lines.append(f"largest relative difference {largest:.1e}, tolerance {TOLERANCE:g}")
    return lines, largest <= TOLERANCE
