"""Coverage of the interval over streams, simulated: `python benchmarks/stream_coverage.py [--record]`.

A row's Δm in a stream is search + seed + method × seed, all normal. The seed is common to both rows of a paired
difference, so it cancels. Nested: each stream has an evaluation seed of its own. Shared: all streams have the same one,
and method × seed does not average out. `--record` writes results/stream_coverage/small/runs.jsonl.
"""

import sys

import numpy as np
from scipy import special

from mtl_lab import records
from mtl_lab.runs.provenance import provenance

NAME, PROFILE = "stream_coverage", "small"
TABLES = 20_000
SETTINGS = [  # streams, SD by search, SD by seed, SD by method × seed, in points of Δm
    *((streams, *sds) for streams in (5, 10, 20) for sds in ((3.3, 1.0, 1.0), (1.0, 1.0, 1.0), (0.5, 1.0, 1.0)))
]


def coverage(
    streams: int, search: float, seed: float, method_seed: float, nested: bool = True, tables: int = TABLES
) -> float:
    """Share of simulated comparisons whose 95 % t interval over streams holds the true difference, which is 0."""
    random, seeds = np.random.default_rng(0), streams if nested else 1
    common = seed * random.standard_normal((tables, seeds, 1))
    own = method_seed * random.standard_normal((tables, seeds, 2))
    values = search * random.standard_normal((tables, streams, 2)) + common + own
    difference = values[..., 0] - values[..., 1]
    half = special.stdtrit(streams - 1, 0.975) * difference.std(1, ddof=1) / streams**0.5
    return float(np.mean(np.abs(difference.mean(1)) <= half))


def simulated() -> list[dict]:
    """A record of each setting, nested and shared."""
    found = []
    for streams, search, seed, method_seed in SETTINGS:
        sds = {"search": search, "seed": seed, "method_seed": method_seed}
        for nested in (True, False):
            row = f"{streams} streams, search {search:g}, {'nested' if nested else 'shared'} seeds"
            share = coverage(streams, *sds.values(), nested)
            found.append({"row": row, "streams": streams, **sds, "nested": nested, "tables": TABLES, "coverage": share})
    return found


if __name__ == "__main__":
    found = simulated()
    for record in found:
        print(f"{record['row']:45} {100 * record['coverage']:.1f} %")
    if "--record" in sys.argv:
        lines = [records.rounded({**record, "provenance": provenance()}) for record in found]
        records.write_lines(lines, records.folder(NAME, PROFILE) / "runs.jsonl")
