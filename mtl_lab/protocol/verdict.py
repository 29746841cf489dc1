"""Judges a table from its committed records: checks them, computes intervals and names outcomes. It trains nothing.

A row is `void` when its records are not exactly the runs that its rule names. The whole table is void when a control
fails: the A/A row must not be called different, the broken row must be. A table is `unfinished` while all rows have
the same first seeds and need more: it has numbers and no outcomes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mtl_lab.protocol import completeness
from mtl_lab.protocol.table import A_A, BROKEN, CONTROLS, REFERENCE, SEEDS, Table
from mtl_lab.runs import build
from mtl_lab.statistics.paired import PairedDifference, detectable_effect, holm_intervals, outcome, sign_flip_p, wilson

COSTS = ("core_seconds", "trunk_backward_passes")  # of the search of a row
DIFFERENT = ("better", "worse", "better (amount uncertain)", "worse (amount uncertain)")
NO_EVIDENCE = (1.0, -1.0)  # differences with p = 1: for Holm a row that cannot be compared still counts


@dataclass(frozen=True)
class RowVerdict:
    """One row: its state, the reasons for it, and what was measured.

    state       "judged", "void" or "unfinished".
    outcome     of `paired.outcome`; "reference"; "single-task"; or the state of a row that cannot be judged.
    runs        "n of N": n records of the N runs that the rule names.
    diverged    number of runs that diverged.
    delta       seed -> Δm in percent against the mean of the single-task networks.
    difference  paired difference to the reference row over seeds, with its Holm interval; None for the reference.
    sign_flip   exact two-sided p value of the differences.
    detectable  difference that a test of one row at 95 % finds with power 0.8, in points of Δm.
    metrics     task -> metric -> (mean, sd over seeds) on test data at the last epoch.
    cost        `COSTS` of the search.
    """

    name: str
    title: str
    control: bool
    state: str
    reasons: tuple[str, ...]
    outcome: str
    runs: str
    diverged: int = 0
    delta: Mapping[int, float] = field(default_factory=dict)
    difference: PairedDifference | None = None
    sign_flip: float | None = None
    detectable: float | None = None
    metrics: Mapping = field(default_factory=dict)
    cost: Mapping = field(default_factory=dict)


@dataclass(frozen=True)
class TableVerdict:
    """A judged table. `reasons` say why all of it is void; controls_pass is None if the controls cannot be judged."""

    table: Table
    rows: Mapping[str, RowVerdict]
    controls_pass: bool | None
    reasons: tuple[str, ...]
    records: Sequence[Mapping]

    @property
    def profile(self) -> str:
        return self.table.profile

    def complaints(self) -> list[str]:
        """One line for everything that is void; none for a sound table."""
        name = f"results/{self.table.name}/{self.profile}"
        rows = [f"{name}, row {r.name}: {r.state}: {why}" for r in self.rows.values() for why in r.reasons]
        return [f"{name}: void: {why}" for why in self.reasons] + rows


def judge(
    table: Table, records: Sequence[Mapping], search: Mapping, seeds: int | Mapping[str, int] = 10
) -> TableVerdict:
    """The verdict on a table from its records and search.json.

    seeds  number of seeds of each row, or row -> number (10 for a row that it does not name). No row may have more
           than the reference.
    """
    unfinished = completeness.finished_seeds(table, records, search, seeds)
    reasons = completeness.check(table, records, search, unfinished or seeds)
    table_reasons = reasons.pop("")
    bases = {"the zero of Δm": [row.name for row in table.singles()], "the reference row": [REFERENCE]}
    unsound = {role: [name for name in names if reasons[name]] for role, names in bases.items()}
    for role, names in unsound.items():  # without a sound zero or reference no other row can be judged
        for row in table.shared() if names else []:
            if row.name not in names:
                reasons[row.name].append(f"{role} is not sound: {', '.join(names)}")
    grouped = {name: [record for record in records if record["row"] == name] for name in reasons}
    usable = {} if table_reasons else {name: grouped[name] for name in reasons if not reasons[name]}
    delta = deltas(table, usable)
    differences, outcomes = compare(table, delta)
    controls = None if unfinished else controls_pass(differences, outcomes)
    if void := [name for name in (*CONTROLS, REFERENCE) if reasons[name]]:
        controls = None
        table_reasons.append(f"its controls cannot be judged: see {', '.join(void)}")
    elif controls is False:
        called = f"the A/A row is called {outcomes[A_A]}, the broken row {outcomes[BROKEN]}"
        table_reasons.append(f"its controls fail: {called}")
    complete = not {row.reuses or row.name for row in table.rows} - set(search.get("rows", {}))
    expected = completeness.expected_runs(table, search, seeds) if complete else {}
    rows = {}
    for row in table.rows:
        state = "void" if reasons[row.name] or table_reasons else "unfinished" if unfinished else "judged"
        word = "reference" if row.name == REFERENCE else "single-task" if row.tasks else outcomes.get(row.name)
        wanted = {run.identity for run in expected.get(row.name, [])}
        difference, entry = differences.get(row.name), search.get("rows", {}).get(row.reuses or row.name, {})
        rows[row.name] = RowVerdict(
            name=row.name,
            title=row.title,
            control=row.control,
            state=state,
            reasons=tuple(reasons[row.name]),
            outcome=word if state == "judged" else state,
            runs=f"{len(wanted & {r['identity'] for r in grouped[row.name]})} of {len(wanted)}",
            diverged=sum(record["diverged"] is not None for record in grouped[row.name]),
            delta=delta.get(row.name, {}),
            difference=difference,
            sign_flip=sign_flip_p(paired_differences(delta, row.name)) if difference else None,
            detectable=detectable_effect(difference.sd, difference.n) if difference and difference.sd > 0 else None,
            metrics=summary(grouped[row.name]),
            cost={name: entry[name] for name in COSTS if name in entry and not row.reuses},
        )
    return TableVerdict(table, rows, controls, tuple(table_reasons), records)


# --- from metrics to words


def deltas(table: Table, grouped: Mapping[str, Sequence[Mapping]]) -> dict[str, dict[int, float]]:
    """Row -> seed -> Δm on test data at the last epoch; {} where a single-task row has no records.

    grouped  row -> its records.
    """
    if any(row.name not in grouped for row in table.singles()):
        return {}
    baseline, result = zero(table, grouped), {}
    for row in table.shared():
        if row.name in grouped:
            by_seed = {record["config"]["seed"]: record["final"]["test"] for record in grouped[row.name]}
            result[row.name] = {s: table.delta_m(test, baseline) for s, test in sorted(by_seed.items())}
    return result


def zero(table: Table, grouped: Mapping[str, Sequence[Mapping]]) -> dict[str, dict[str, float]]:
    """Task -> metric -> mean test value of its first ten single-task networks, from row -> records."""
    means = {}
    for row in table.singles():
        ordered = sorted(grouped[row.name], key=lambda record: record["config"]["seed"])[: len(SEEDS)]
        means |= mean_values(ordered)
    return means


def mean_values(records: Sequence[Mapping]) -> dict[str, dict[str, float]]:
    """Task -> metric -> mean over the records of loss and metrics on test data at the last epoch."""
    return {task: {m: mean for m, (mean, _) in values.items()} for task, values in summary(records).items()}


def summary(records: Sequence[Mapping]) -> dict:
    """Task -> metric -> (mean, sd over the records) of loss and metrics on test data at the last epoch."""
    tests = [record["final"]["test"] for record in records if record["final"].get("test")]
    columns = {(t, m): [test[t][m] for test in tests] for test in tests[:1] for t in test for m in test[t]}
    table = {}
    for (task, metric), values in columns.items():
        sd = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        table.setdefault(task, {})[metric] = (float(np.mean(values)), sd)
    return table


def paired_differences(delta: Mapping, row: str, against: str = REFERENCE) -> list[float]:
    """Differences between the i-th seeds of two rows. These are the same seeds, except for the A/A row."""
    return [x - y for x, y in zip(delta[row].values(), delta[against].values(), strict=False)]


def compare(table: Table, delta: Mapping) -> tuple[dict, dict]:
    """(row -> paired difference to the reference with its Holm interval, row -> outcome), for the rows in `delta`.

    Holm's family is all shared rows but the reference, also those without Δm: a void row must not narrow the intervals
    of the others.
    """
    if REFERENCE not in delta or len(delta[REFERENCE]) < 2:
        return {}, {}
    names = [row.name for row in table.shared() if row.name != REFERENCE]
    intervals = holm_intervals({n: paired_differences(delta, n) if n in delta else NO_EVIDENCE for n in names})
    differences = {name: difference for name, difference in intervals.items() if name in delta}
    return differences, {name: outcome(d.low, d.high, table.margin) for name, d in differences.items()}


def controls_pass(differences: Mapping, outcomes: Mapping) -> bool | None:
    """Whether the A/A row is not called different and the broken row is called worse; None where one is missing."""
    if not {A_A, BROKEN} <= set(outcomes):
        return None
    return outcomes[A_A] not in DIFFERENT and outcomes[BROKEN] in DIFFERENT and differences[BROKEN].high < 0


def false_verdict_rate(table: Table, tables: int = 300, spread: float = 1.0, seeds: int = 10, seed: int = 0) -> dict:
    """How often the protocol calls a row different in simulated tables whose rows do not differ.

    Each row's Δm is a seed effect common to all rows plus independent normal noise; `spread` is the standard deviation
    of a paired difference in points. Keys of the result:
    tables    number of simulated tables.
    false     tables in which some row other than a control is called different; interval: Wilson's.
    rows, of  rows called different, and rows that could be.
    void      tables whose A/A row is called different.
    Holm's method promises that at most 5 % of the tables call any row different, A/A included.
    """
    random, up = np.random.default_rng(seed), build.directions(table.base.problem)
    counts = {"false": 0, "rows": 0, "void": 0}
    for _ in range(tables):
        common, grouped = spread * random.standard_normal(seeds), {}
        for row in table.rows:
            noise = spread / 2**0.5 * random.standard_normal(seeds) + common
            noise -= 100 * (row.name == BROKEN)
            tasks = [list(up)[k] for k in row.tasks] if row.tasks else list(up)
            grouped[row.name] = [_simulated(up, tasks, s, x) for s, x in enumerate(noise)]
        differences, outcomes = compare(table, deltas(table, grouped))
        called = [name for name, word in outcomes.items() if word in DIFFERENT and not table.row(name).control]
        counts["false"] += bool(called)
        counts["rows"] += len(called)
        counts["void"] += controls_pass(differences, outcomes) is False
    of = tables * sum(not row.control and row.name != REFERENCE for row in table.shared())
    return {"tables": tables, "interval": wilson(counts["false"], tables), "of": of, **counts}


def _simulated(up, tasks, seed, gain):
    """A record whose metrics are `gain` percent better than 100."""
    test = {task: {m: 100 + (gain if higher else -gain) for m, higher in up[task].items()} for task in tasks}
    return {"config": {"seed": seed}, "final": {"test": test}}
