"""Judges a comparison of procedures from its records: whole streams only. It trains nothing."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mtl_lab import records
from mtl_lab.protocol import streams, verdict
from mtl_lab.protocol.seed_subsets import expected_best
from mtl_lab.protocol.table import REFERENCE, Table
from mtl_lab.runs.run import Run
from mtl_lab.statistics.paired import PairedDifference, outcome, paired_difference
from mtl_lab.statistics.streams import at_once, components

DELTA_M, LOG_RATIO, BETTER = "Δm", "mean log ratio", "tasks better"


def measures(table: Table, values: Mapping, zero: Mapping) -> dict[str, float]:
    """Measure -> value of a run's test metrics against the single-task networks' `zero`; all in percent but one.

    "Δm"; "mean log ratio", which no large relative change dominates; "Δm without TASK" for each task in turn; "TASK
    alone", its relative change; "tasks better", their number.
    """
    logs = {t: {m: 1 + math.log(max(v / zero[t][m], 1e-6)) for m, v in values[t].items()} for t in zero}
    log_ratio = table.delta_m(logs, {t: dict.fromkeys(logs[t], 1.0) for t in zero})
    whole = {DELTA_M: table.delta_m(values, zero), LOG_RATIO: log_ratio}
    without = {f"{DELTA_M} without {t}": table.delta_m(values, zero, set(zero) - {t}) for t in zero}
    alone = {f"{t} alone": table.delta_m(values, zero, [t]) for t in zero}
    return whole | without | alone | {BETTER: float(sum(change > 0 for change in alone.values()))}


@dataclass(frozen=True)
class Comparison:
    """The measures of whole streams.

    margin, factors  δ in points, and the factor of each broken row (`streams.settings`).
    first   row -> stream -> measure (`measures`) -> value; again: the same for the second evaluation seed.
    lines   stream -> its line of streams.jsonl.
    """

    table: Table
    margin: float
    factors: Mapping[str, float]
    first: Mapping[str, Mapping[int, Mapping[str, float]]]
    again: Mapping[str, Mapping[int, Mapping[str, float]]]
    lines: Mapping[int, Mapping]

    def of(self, row: str, measure: str = DELTA_M, again: bool = False) -> dict[int, float]:
        """Stream -> value of a measure of a row."""
        return {stream: values[measure] for stream, values in (self.again if again else self.first)[row].items()}

    def against(self, row: str, measure: str = DELTA_M, again: bool = False) -> dict[int, float]:
        """Stream -> difference of a row to the reference of the same stream."""
        reference = self.of(REFERENCE, measure, again)
        return {stream: value - reference[stream] for stream, value in self.of(row, measure, again).items()}

    def verdicts(self, measure: str = DELTA_M) -> dict[str, tuple[PairedDifference, str]]:
        """Row -> (difference, outcome). The intervals of all rows but the controls hold at once."""
        reference, rows = self.of(REFERENCE, measure), [row for row in self.first if row != REFERENCE]
        level = at_once(sum(not self.table.row(row).control for row in rows))
        differences = {row: paired_difference(self.of(row, measure), reference, level) for row in rows}
        return {row: (d, outcome(d.low, d.high, self.margin)) for row, d in differences.items()}

    def by_measure(self, row: str) -> dict[str, str]:
        """Measure -> outcome of a row by Δm, by the mean log ratio and by Δm without each task in turn."""
        names = [m for m in next(iter(self.first[row].values())) if m.startswith((DELTA_M, LOG_RATIO))]
        return {measure: self.verdicts(measure)[row][1] for measure in names}

    def sentence(self, row: str) -> str:
        """The outcome of a row, and whether it changes with the metric."""
        words = self.by_measure(row)
        others = [f"{said} by {measure}" for measure, said in words.items() if said != words[DELTA_M]]
        ending = f", but {', '.join(others)}: the verdict changes with the metric" if others else " and by each metric"
        return f"{self.table.row(row).title}: {words[DELTA_M]} by {DELTA_M}{ending}."

    def dominates(self, row: str, other: str = REFERENCE) -> bool:
        """Whether a row's mean over streams is worse than another's in no task, and better in one."""
        alone = [m for m in next(iter(self.first[row].values())) if m.endswith(" alone")]
        gaps = [np.mean([*self.of(row, m).values()]) - np.mean([*self.of(other, m).values()]) for m in alone]
        return min(gaps) >= 0 and max(gaps) > 0

    def variance(self, row: str) -> dict[str, dict[str, float]]:
        """Parts of the variance of a row's Δm and of its difference to the reference, whose seed is method × seed."""
        parts = {DELTA_M: self.of, "difference": self.against}
        return {name: components(get(row), get(row, again=True)) for name, get in parts.items()}

    def best_of(self, row: str) -> list[float | None]:
        """Expected best validation Δm of n = 1, 2, … configurations, from the short runs of all streams."""
        return expected_best([t["short"] for line in self.lines.values() for t in line["rows"][row]["tried"]])


def whole_streams(table: streams.Searches, root: Path = records.ROOT) -> dict[int, list[tuple[str, Run, Mapping]]]:
    """Stream -> (row, run, test metrics) of its evaluation, for each stream of which no run is missing."""
    recorded = records.load(table.name, table.profile, root)
    ends = {(r["identity"], r.get("choices")): r["final"].get("test") for r in recorded}
    found = {}
    for stream, line in sorted(table.lines(root).items()):
        planned = [(row, run, (run.identity, line["digest"])) for row, run in streams.evaluation(table, line)]
        if all(key in ends for _, _, key in planned):
            found[stream] = [(row, run, ends[key]) for row, run, key in planned]
    return found


def compare(table: streams.Searches, root: Path = records.ROOT) -> Comparison | None:
    """The comparison so far; None while fewer than two streams are whole."""
    recorded, grouped = records.load(table.name, table.profile, root), {}
    for record in recorded if table.fresh else records.load(table.extends, table.profile, root):
        grouped.setdefault(record["row"], []).append(record)
    whole, first, again = whole_streams(table, root), {}, {}
    if len(whole) < 2:
        return None
    zero, lines = verdict.zero(table, grouped), table.lines(root)
    for stream, runs in whole.items():
        for row, run, test in runs:
            into = again if run.seed >= streams.AGAIN else first
            into.setdefault(row, {})[stream] = measures(table, test, zero)
    fixed = streams.settings(table, recorded, root)
    return Comparison(table, **fixed, first=first, again=again, lines={stream: lines[stream] for stream in whole})
