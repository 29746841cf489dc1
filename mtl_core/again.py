"""Train one committed run again and compare it with its record, number by number.

    python -m mtl_core.again qm9 --row equal --seed 0

Nothing is kept and nothing is written: the record stays what it is. Ends with 1 where a metric is beyond `TOLERANCE`.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from mtl_core import protocol, results, runs

# Relative, of a test metric. The same code on the same kind of processor gives the very digits. Other instructions, or
# code that sums in another order, round differently, and this grows in training: four runs of QM9's equal weights with
# SSE or AVX2 in place of AVX-512 differed by up to 0.023 in a metric. That code of another day computes the same is
# what the fingerprints say, in float64.
TOLERANCE = 0.05


def recorded(experiment: str, profile: str, row: str, seed: int, root: Path = results.ROOT) -> dict:
    """The committed record of one run; LookupError says what there is instead, ValueError that it was edited."""
    from mtl_core.experiments import EXPERIMENTS

    known = [*protocol.TABLES, *EXPERIMENTS]
    if experiment not in known:
        raise LookupError(f"there is no experiment {experiment!r} of runs; there are: {', '.join(known)}")
    found = results.load(experiment, profile, root)
    rows = {record["row"] for record in found}
    if row not in rows:
        raise LookupError(f"results/{experiment}/{profile} has no row {row!r}; there are: {', '.join(sorted(rows))}")
    mine = {record["config"]["seed"]: record for record in found if record["row"] == row}
    if seed not in mine:
        raise LookupError(f"row {row} has no seed {seed}; there are: {', '.join(map(str, sorted(mine)))}")
    results.refuse_edited([mine[seed]], lambda record: f"row {row}, seed {seed}")
    return mine[seed]


def differences(record: Mapping, again: Mapping) -> dict[tuple[str, str], tuple[float, float, float]]:
    """(task, metric) -> (recorded, new, relative difference) of the test metrics at the last epoch, losses left out."""
    found = {}
    for task, metrics in record["final"]["test"].items():
        for metric, old in metrics.items():
            if metric != "loss":
                new = results.rounded(again["final"]["test"][task][metric])
                found[task, metric] = old, new, abs(new - old) / max(abs(old), 1e-30)
    return found


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(prog="make again", description="train one committed run again and compare")
    parser.add_argument("experiment")
    parser.add_argument("--profile", default="small")
    parser.add_argument("--row", required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    try:
        record = recorded(given.experiment, given.profile, given.row, given.seed)
    except (LookupError, ValueError) as error:
        print(error.args[0], file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as place:
        again = runs.execute(runs.Run.from_dict(record["config"]), runs.Store(place))
    if again["diverged"] is not None or record["diverged"] is not None:
        print(f"diverged: the record {record['diverged'] or 'not'}, this run {again['diverged'] or 'not'}")
        return int((again["diverged"] is None) != (record["diverged"] is None))
    found = differences(record, again)
    for (task, metric), (old, new, apart) in found.items():
        print(f"{task:<12}{metric:<20}{old:>12.6g}{new:>12.6g}{apart:>10.1e}")
    same = again["provenance"]["source_digest"] == record["provenance"]["source_digest"]
    print(
        f"code: {'that of the record' if same else 'changed since the record, ' + record['provenance']['commit'][:12]}"
    )
    largest = max((apart for *_, apart in found.values()), key=lambda apart: (apart != apart, apart))  # NaN first
    print(f"largest relative difference {largest:.1e}, tolerance {TOLERANCE:g}")
    return int(not largest <= TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
