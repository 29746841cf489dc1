"""From committed records to a judged table: checks first, then intervals, then words. Nothing here trains.

A row is `void` when its records are not exactly the runs that its rule names. The table as a whole is void when its
controls fail: the A/A row must not be called different, the broken row must be. A table all of whose rows have the
same first seeds, fewer than ten, is `unfinished`: it shows numbers and has no outcomes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mtl_core.metrics import delta_m
from mtl_lab.protocol import completeness
from mtl_lab.protocol.table import A_A, BROKEN, CONTROLS, REFERENCE, SEEDS, Table
from mtl_lab.runs import build
from mtl_lab.statistics.paired import PairedDifference, detectable_effect, holm_intervals, outcome, sign_flip_p, wilson

COSTS = ("core_seconds", "trunk_backward_passes")  # what the search of a row has spent
DIFFERENT = ("better", "worse", "small difference")
NO_EVIDENCE = (1.0, -1.0)  # differences with p = 1: a row that cannot be compared still counts among Holm's m


@dataclass(frozen=True)
class RowVerdict:
    """One row: its `state`, the reasons for it, then what was measured, as far as it can be.

    state       "judged", "void" or "unfinished".
    outcome     `evaluation.outcome`; "reference", "single-task"; or the state of a row that cannot be judged.
    runs        "n of N": how many of the runs that the rule names are here.
    delta       seed -> Δm in percent against the mean of the single-task networks.
    difference  paired difference to the reference row by seed, with its Holm interval; None for the reference.
    sign_flip   exact two-sided p of the differences; detectable: effect found with power 0.8 (95 %, one row).
    metrics     task -> metric -> (mean, sd over seeds), test data, last epoch; cost: what the search has spent.
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
    """A judged table. `reasons` say why it is void as a whole; controls_pass is None where they cannot be judged."""

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

    seeds  how many each row has, or row -> how many (10 where it is not named; no row more than the reference).
    """
    unfinished = completeness.finished_seeds(table, records, search, seeds)
    reasons = completeness.check(table, records, search, unfinished or seeds)
    whole = reasons.pop("")
    bases = {"the zero of Δm": [row.name for row in table.singles()], "the reference row": [REFERENCE]}
    unsound = {role: [name for name in names if reasons[name]] for role, names in bases.items()}
    for role, names in unsound.items():  # what rests on a void row is void
        for row in table.shared() if names else []:
            if row.name not in names:
                reasons[row.name].append(f"{role} is not sound: {', '.join(names)}")
    grouped = {name: [record for record in records if record["row"] == name] for name in reasons}
    usable = {} if whole else {name: grouped[name] for name in reasons if not reasons[name]}
    delta = deltas(table, usable)
    differences, outcomes = compare(table, delta)
    controls = None if unfinished else controls_pass(differences, outcomes)
    if void := [name for name in (*CONTROLS, REFERENCE) if reasons[name]]:
        controls = None
        whole.append(f"its controls cannot be judged: see {', '.join(void)}")
    elif controls is False:
        whole.append(f"its controls fail: the A/A row is called {outcomes[A_A]}, the broken row {outcomes[BROKEN]}")
    complete = not {row.follows or row.name for row in table.rows} - set(search.get("rows", {}))
    expected = completeness.expected_runs(table, search, seeds) if complete else {}
    rows = {}
    for row in table.rows:
        state = "void" if reasons[row.name] or whole else "unfinished" if unfinished else "judged"
        word = "reference" if row.name == REFERENCE else "single-task" if row.tasks else outcomes.get(row.name)
        wanted = {run.identity for run in expected.get(row.name, [])}
        difference, entry = differences.get(row.name), search.get("rows", {}).get(row.follows or row.name, {})
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
            cost={name: entry[name] for name in COSTS if name in entry and not row.follows},
        )
    return TableVerdict(table, rows, controls, tuple(whole), records)


# --- from metrics to words


def deltas(table: Table, found: Mapping[str, Sequence[Mapping]]) -> dict[str, dict[int, float]]:
    """row -> seed -> Δm on test data at the last epoch; {} where a single-task row is not among `found`."""
    if any(row.name not in found for row in table.singles()):
        return {}
    up, first = build.directions(table.base.problem), len(SEEDS)
    zero = {}
    for row in table.singles():
        ordered = sorted(found[row.name], key=lambda record: record["config"]["seed"])[:first]
        zero |= {task: {m: v[0] for m, v in metrics.items()} for task, metrics in summary(ordered).items()}
    names = [(task, metric) for task, metrics in up.items() for metric in metrics]
    higher = [up[task][metric] for task, metric in names]
    groups = [table.groups[list(up).index(task)] if table.groups else task for task, _ in names]
    baseline = [zero[task][metric] for task, metric in names]
    result = {}
    for row in table.shared():
        if row.name in found:
            by_seed = {record["config"]["seed"]: record["final"]["test"] for record in found[row.name]}
            values = {seed: [test[task][metric] for task, metric in names] for seed, test in sorted(by_seed.items())}
            result[row.name] = {s: delta_m(v, baseline, higher, groups) for s, v in values.items()}
    return result


def summary(found: Sequence[Mapping]) -> dict:
    """task -> metric -> (mean, sd over the records) of the test metrics at the last epoch, the loss among them."""
    tests = [record["final"]["test"] for record in found if record["final"].get("test")]
    columns = {(t, m): [test[t][m] for test in tests] for test in tests[:1] for t in test for m in test[t]}
    table = {}
    for (task, metric), values in columns.items():
        sd = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        table.setdefault(task, {})[metric] = (float(np.mean(values)), sd)
    return table


def paired_differences(delta: Mapping, row: str, against: str = REFERENCE) -> list[float]:
    """Differences of the i-th seeds that both rows have: the same seeds, but for the A/A row."""
    return [x - y for x, y in zip(delta[row].values(), delta[against].values(), strict=False)]


def compare(table: Table, delta: Mapping) -> tuple[dict, dict]:
    """(row -> paired difference to the reference with its Holm interval, row -> outcome), of the rows in `delta`.

    Holm's family is all rows but the reference: a row that drops out does not make it easier for the others.
    """
    if REFERENCE not in delta or len(delta[REFERENCE]) < 2:
        return {}, {}
    names = [row.name for row in table.shared() if row.name != REFERENCE]
    found = holm_intervals({n: paired_differences(delta, n) if n in delta else NO_EVIDENCE for n in names})
    found = {name: difference for name, difference in found.items() if name in delta}
    return found, {name: outcome(d.low, d.high, table.margin) for name, d in found.items()}


def controls_pass(differences: Mapping, outcomes: Mapping) -> bool | None:
    """Whether A/A is not called different, and broken is, downwards; None where one of them is not there."""
    if not {A_A, BROKEN} <= set(outcomes):
        return None
    return outcomes[A_A] not in DIFFERENT and outcomes[BROKEN] in DIFFERENT and differences[BROKEN].high < 0


def false_verdict_rate(table: Table, tables: int = 300, spread: float = 1.0, seeds: int = 10, seed: int = 0) -> dict:
    """How often tables without any true difference say that there is one: from simulated metrics to words.

    Each row's Δm is a seed effect common to all rows plus normal noise of its own; `spread` is the standard
    deviation of a paired difference in points. Returned: number of `tables`; `false`, those that call some row
    but the controls different, with Wilson `interval`; `rows` called different of `of` rows; `void`, tables
    whose A/A row is called different. Holm promises at most 5 % of tables, A/A included.
    """
    random, up = np.random.default_rng(seed), build.directions(table.base.problem)
    false, rows, void = 0, 0, 0
    for _ in range(tables):
        common, found = spread * random.standard_normal(seeds), {}
        for row in table.rows:
            noise = spread / 2**0.5 * random.standard_normal(seeds) + common
            noise -= 100 * (row.name == BROKEN)
            tasks = [list(up)[k] for k in row.tasks] if row.tasks else list(up)
            found[row.name] = [
                {"config": {"seed": s}, "final": {"test": {
                    t: {m: 100 + (x if higher else -x) for m, higher in up[t].items()} for t in tasks}}}
                for s, x in enumerate(noise)
            ]  # fmt: skip
        differences, outcomes = compare(table, deltas(table, found))
        called = [n for n, word in outcomes.items() if word in DIFFERENT and not table.row(n).control]
        false, rows, void = (
            false + bool(called),
            rows + len(called),
            void + (controls_pass(differences, outcomes) is False),
        )
    of = tables * sum(not row.control and row.name != REFERENCE for row in table.shared())
    interval = wilson(false, tables)
    return {"tables": tables, "false": false, "interval": interval, "rows": rows, "of": of, "void": void}
