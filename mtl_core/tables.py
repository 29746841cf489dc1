"""From committed records to a judged table: checks first, then intervals, then words.

    python -m mtl_core.tables EXPERIMENT --profile small [--fingerprints]

prints the table and ends with 1 if anything in it is void or stale; `--fingerprints` writes fingerprints.json first.

A row is `void` when its records are not exactly the runs that its rule names, or were changed; `stale` when its
first training steps no longer give the numbers that they gave when the records were made. The table as a whole is
void when its controls fail: the A/A row must not be called different, the broken row must be. A table all of whose
rows have the same first seeds, fewer than ten, is `unfinished`: it shows numbers and has no outcomes.
"""

import argparse
import functools
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mtl_core import evaluation, protocol, records, results
from mtl_core.protocol import REFERENCE, Table
from mtl_core.records import to_csv  # noqa: F401

DIFFERENT = ("better", "worse", "small difference")
NO_EVIDENCE = (1.0, -1.0)  # differences with p = 1: a row that cannot be compared still counts among Holm's m


@dataclass(frozen=True)
class RowVerdict:
    """One row: its `state`, the reasons for it, then what was measured, as far as it can be.

    state       "judged", "void", "stale" or "unfinished".
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
    difference: evaluation.PairedDifference | None = None
    sign_flip: float | None = None
    detectable: float | None = None
    metrics: Mapping = field(default_factory=dict)
    cost: Mapping = field(default_factory=dict)


@dataclass(frozen=True)
class TableVerdict:
    """A judged table. `reasons` say why it is void as a whole; controls_pass is None where they cannot be judged."""

    table: Table
    profile: str
    rows: Mapping[str, RowVerdict]
    controls_pass: bool | None
    reasons: tuple[str, ...]
    records: Sequence[Mapping]

    def complaints(self) -> list[str]:
        """One line for everything that is void or stale; none for a sound table."""
        name = f"results/{self.table.name}/{self.profile}"
        rows = [f"{name}, row {r.name}: {r.state}: {why}" for r in self.rows.values() for why in r.reasons]
        return [f"{name}: void: {why}" for why in self.reasons] + rows


def judge(table: Table, found: Sequence[Mapping], search: Mapping, seeds: int | Mapping = 10, stored=None,
          now=None, profile: str = "") -> TableVerdict:  # fmt: skip
    """The verdict on a table from its records and search.json.

    seeds   how many each row has, or row -> how many (10 where it is not named; no row more than the reference).
    stored  row -> fingerprint as committed, under "" the measure; None leaves the code out (simulations, tests).
    now     the same of the code as it is; None computes them, some seconds.
    """
    unfinished = records.whole_seeds(table, found, search, seeds)
    why = records.check(table, found, search, unfinished or seeds)
    whole, stale = why.pop(""), {}
    runnable = not set(row.follows or row.name for row in table.rows) - set(search.get("rows", {}))
    if stored is not None and runnable:
        now = records.fingerprints_of(table, search) if now is None else now
        for name in why:
            if name not in stored:
                why[name].append("fingerprints.json does not have it")
            elif not records.same_fingerprint(stored[name], now[name]):
                stale[name] = ["the first training steps are not those of the code that made the records"]
    singles = [row.name for row in table.singles()]
    for state in (why, stale):  # what rests on a void row is void, on a stale row stale
        broken = {role: [name for name in names if state.get(name)]
                  for role, names in (("the zero of Δm", singles), ("the reference row", [REFERENCE]))}  # fmt: skip
        for role, names in broken.items():
            for row in table.shared() if names else []:
                if row.name not in names:
                    state.setdefault(row.name, []).append(f"{role} is not sound: {', '.join(names)}")
    if stored is not None and runnable:
        if "" not in stored:
            whole.append("fingerprints.json does not have the measure")
        elif not records.same_fingerprint(stored[""], now[""]):
            stale = dict.fromkeys(why, ["the losses, metrics or test data are not those that judged the records"])
    grouped = {name: [record for record in found if record["row"] == name] for name in why}
    usable = {} if whole else {name: grouped[name] for name in why if not why[name]}
    delta = deltas(table, usable)
    differences, outcomes = compare(table, delta)
    controls = None if unfinished else controls_pass(differences, outcomes)
    if bad := [name for name in ("a_a", "broken", REFERENCE) if why[name] or stale.get(name)]:
        controls = None
        whole.append(f"its controls cannot be judged: see {', '.join(bad)}")
    elif controls is False:
        words = f"the A/A row is called {outcomes['a_a']}, the broken row {outcomes['broken']}"
        whole.append(f"its controls fail: {words}")
    expected = records.expected_runs(table, search, seeds) if runnable else {}
    rows, sound = {}, "unfinished" if unfinished else "judged"
    for row in table.rows:
        state = "void" if why[row.name] else "stale" if stale.get(row.name) else "void" if whole else sound
        word = "reference" if row.name == REFERENCE else "single-task" if row.tasks else outcomes.get(row.name)
        wanted = {run.identity for run in expected.get(row.name, [])}
        d, entry = differences.get(row.name), search.get("rows", {}).get(row.follows or row.name, {})
        rows[row.name] = RowVerdict(
            row.name, row.title, row.control, state, tuple(why[row.name] or stale.get(row.name, [])),
            word if state == "judged" else state,
            f"{len(wanted & {r['identity'] for r in grouped[row.name]})} of {len(wanted)}",
            sum(record["diverged"] is not None for record in grouped[row.name]), delta.get(row.name, {}), d,
            evaluation.sign_flip_p(paired(delta, row.name)) if d else None,
            evaluation.detectable_effect(d.sd, d.n) if d and d.sd > 0 else None, summary(grouped[row.name]),
            {key: entry[key] for key in ("core_seconds", "trunk_backward_passes") if key in entry and not row.follows},
        )  # fmt: skip
    return TableVerdict(table, profile, rows, controls, tuple(whole), found)


def seeds_of(experiment: str, profile: str, root: Path = results.ROOT) -> int | dict[str, int]:
    """Ten, or row -> how many: the reference and the rows of extended.json ({"seeds": 20, "rows": […]}) have more."""
    file = results.folder(experiment, profile, root) / "extended.json"
    if not file.exists():
        return len(protocol.SEEDS)
    extended = json.loads(file.read_text(encoding="utf-8"))
    return {name: extended["seeds"] for name in [REFERENCE, *extended["rows"]]}


@functools.cache
def committed(experiment: str, profile: str, root: Path = results.ROOT) -> TableVerdict | None:
    """The verdict on what `results/` holds, with fingerprints; None where no run is committed yet."""
    found = results.load(experiment, profile, root)
    if not found:
        return None
    seeds = seeds_of(experiment, profile, root)
    table, search = protocol.TABLES[experiment](profile), results.search_of(experiment, profile, root) or {}
    return judge(table, found, search, seeds, records.stored_fingerprints(experiment, profile, root), profile=profile)


# --- from metrics to words


def deltas(table: Table, found: Mapping[str, Sequence[Mapping]]) -> dict[str, dict[int, float]]:
    """row -> seed -> Δm on test data at the last epoch; {} where a single-task row is not among `found`."""
    if any(row.name not in found for row in table.singles()):
        return {}
    up, first = records.directions(table.base.problem), len(protocol.SEEDS)
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
            result[row.name] = {s: evaluation.delta_m(v, baseline, higher, groups) for s, v in values.items()}
    return result


def crossed(verdict: TableVerdict, exchange: Sequence[Mapping], pair: tuple[str, str]) -> dict:
    """(method, configuration) -> Δm, one number per seed, of the 2 x 2 that two rows and their exchange make.

    The table's own rows are the diagonal; `exchange` holds the records of the other two cells, named "method as
    configuration" (`experiments.ReconExchange`). Δm is computed as the table computes it: against the table's
    single-task networks. Only seeds that all four cells have; {} where a cell has none.
    """
    own = {row.name: [r for r in verdict.records if r["row"] == row.name] for row in verdict.table.singles()}
    cells = {(name, name): verdict.rows[name].delta for name in pair if name in verdict.rows}
    for method, other in (pair, pair[::-1]):
        there = [record for record in exchange if record["row"] == f"{method} as {other}"]
        found = deltas(verdict.table, own | {method: there}) if there and all(own.values()) else {}
        cells[method, other] = found.get(method, {})
    shared = sorted(set.intersection(*map(set, cells.values()))) if len(cells) == 4 else []
    return {cell: np.array([values[seed] for seed in shared]) for cell, values in cells.items()} if shared else {}


def summary(found: Sequence[Mapping]) -> dict:
    """task -> metric -> (mean, sd over the records) of the test metrics at the last epoch, the loss among them."""
    tests = [record["final"]["test"] for record in found if record["final"].get("test")]
    columns = {(t, m): [test[t][m] for test in tests] for test in tests[:1] for t in test for m in test[t]}
    table = {}
    for (task, metric), values in columns.items():
        sd = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        table.setdefault(task, {})[metric] = (float(np.mean(values)), sd)
    return table


def paired(delta: Mapping, row: str, against: str = REFERENCE) -> list[float]:
    """Differences of the i-th seeds that both rows have: the same seeds, but for the A/A row."""
    return [x - y for x, y in zip(delta[row].values(), delta[against].values(), strict=False)]


def compare(table: Table, delta: Mapping) -> tuple[dict, dict]:
    """(row -> paired difference to the reference with its Holm interval, row -> outcome), of the rows in `delta`.

    Holm's family is all rows but the reference: a row that drops out does not make it easier for the others.
    """
    if REFERENCE not in delta or len(delta[REFERENCE]) < 2:
        return {}, {}
    names = [row.name for row in table.shared() if row.name != REFERENCE]
    found = evaluation.holm_intervals({n: paired(delta, n) if n in delta else NO_EVIDENCE for n in names})
    found = {name: difference for name, difference in found.items() if name in delta}
    return found, {name: evaluation.outcome(d.low, d.high, table.margin) for name, d in found.items()}


def controls_pass(differences: Mapping, outcomes: Mapping) -> bool | None:
    """Whether A/A is not called different, and broken is, downwards; None where one of them is not there."""
    if not {"a_a", "broken"} <= set(outcomes):
        return None
    return outcomes["a_a"] not in DIFFERENT and outcomes["broken"] in DIFFERENT and differences["broken"].high < 0


def false_verdict_rate(table: Table, tables: int = 300, spread: float = 1.0, seeds: int = 10, seed: int = 0) -> dict:
    """How often tables without any true difference say that there is one: from simulated metrics to words.

    Each row's Δm is a seed effect common to all rows plus normal noise of its own; `spread` is the standard
    deviation of a paired difference in points. Returned: number of `tables`; `false`, those that call some row
    but the controls different, with Wilson `interval`; `rows` called different of `of` rows; `void`, tables
    whose A/A row is called different. Holm promises at most 5 % of tables, A/A included.
    """
    random, up = np.random.default_rng(seed), records.directions(table.base.problem)
    false, rows, void = 0, 0, 0
    for _ in range(tables):
        common, found = spread * random.standard_normal(seeds), {}
        for row in table.rows:
            noise = spread / 2**0.5 * random.standard_normal(seeds) + common
            noise -= 100 * (row.name == "broken")
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
    interval = evaluation.wilson(false, tables)
    return {"tables": tables, "false": false, "interval": interval, "rows": rows, "of": of, "void": void}


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mtl_core.tables", description="judge committed results")
    parser.add_argument("experiment", choices=protocol.TABLES)
    parser.add_argument("--profile", default="small")
    parser.add_argument("--fingerprints", action="store_true", help="write fingerprints.json first")
    given = parser.parse_args(arguments)
    if given.fingerprints:
        records.write_fingerprints(protocol.TABLES[given.experiment](given.profile), given.profile)
    verdict = committed(given.experiment, given.profile)
    if verdict is None:
        print(f"results/{given.experiment}/{given.profile}: no runs are committed yet")
        return 0
    for row in verdict.rows.values():
        d = row.difference
        said = f"{d.mean:+7.2f} [{d.low:+.2f}, {d.high:+.2f}]" if d else ""
        print(f"{row.name:24} {row.runs:>9}  {row.outcome:17} {said}")
    print("\n".join(verdict.complaints()) or "sound: nothing is void or stale")
    return 1 if verdict.complaints() else 0


if __name__ == "__main__":
    sys.exit(main())
