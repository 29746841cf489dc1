"""Checks that the committed records are exactly the runs that the table's rule names. Each complaint is a sentence."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from mtl_lab.protocol.table import SEEDS, Table
from mtl_lab.runs.run import Run


def check(table: Table, records: Sequence[Mapping], search: Mapping, seeds: int | Mapping = 10) -> dict[str, list[str]]:
    """Row -> reasons why its records cannot be judged; under "" the reasons that concern the whole table.

    seeds  number of seeds of each row, or row -> number (10 for a row that it does not name).
    """
    reasons = {row.name: [] for row in table.rows} | {"": []}
    for field, rule in (("table", table.name), ("margin", table.margin), ("rate", list(table.rates()))):
        if search.get(field) != rule:
            reasons[""].append(f"search.json was made with {field} {search.get(field)}, the rule says {rule}")
    entries = search.get("rows", {})
    if absent := [row.name for row in table.searched() if row.name not in entries]:
        reasons[""].append(f"search.json lacks {', '.join(absent)}")
        return reasons
    for name, entry in entries.items():
        full = [tried for tried in entry["tried"] if tried["full"] is not None]
        best = [tried["choice"] for tried in full if tried["full"] == max(one["full"] for one in full)]
        if best and entry["choice"] not in best:  # of several equal ones the search takes one
            reasons[name if name in reasons else ""].append("the chosen configuration is not the best of its search")
    if strays := sorted({record["row"] for record in records} - {row.name for row in table.rows}):
        reasons[""].append(f"extra runs of {', '.join(strays)}, which is no row of the table")
    for name, expected in expected_runs(table, search, seeds).items():
        reasons[name] += _of_row(expected, [record for record in records if record["row"] == name])
    data = {}  # seed -> sources of the records' data
    for record in records:
        data.setdefault(record["config"]["seed"], []).append(record.get("source"))
    if unpaired := [seed for seed, sources in data.items() if any(source != sources[0] for source in sources)]:
        reasons[""].append(f"the rows of {_seeds(unpaired)} rest on different data: these seeds pair nothing")
    return reasons


def expected_runs(table: Table, search: Mapping, seeds: int | Mapping = 10) -> dict[str, list[Run]]:
    """Row -> its evaluation runs, with the configurations that the search chose."""
    choices = {name: entry["choice"] for name, entry in search["rows"].items()}
    counts = {row.name: seed_count(seeds, row.name) for row in table.rows}
    runs = {count: table.expected(choices, count) for count in set(counts.values())}
    return {name: runs[count][name] for name, count in counts.items()}


def finished_seeds(
    table: Table, records: Sequence[Mapping], search: Mapping, seeds: int | Mapping = 10
) -> dict[str, int] | None:
    """Row -> number of seeds so far, while training goes on: every row has the same first n seeds, and some need more.

    None where the records are complete or have gaps. A row that needs fewer than n has all of its seeds; rows that the
    table takes over have theirs from the start.
    """
    if {row.reuses or row.name for row in table.rows} - set(search.get("rows", {})):
        return None
    counts = {row.name: seed_count(seeds, row.name) for row in table.rows}
    trained = [name for name in counts if not table.takes_over(name)]
    recorded = Counter(record["identity"] for record in records if record["row"] in trained)
    for n in range(1, max(counts[name] for name in trained)):
        so_far = counts | {name: min(n, counts[name]) for name in trained}
        expected = expected_runs(table, search, so_far)
        if recorded == Counter(run.identity for name in trained for run in expected[name]):
            return so_far
    return None


def seed_count(seeds: int | Mapping, row: str) -> int:
    return seeds if isinstance(seeds, int) else seeds.get(row, len(SEEDS))


def _of_row(expected: Sequence[Run], records: Sequence[Mapping]):
    wanted = {run.identity: run.seed for run in expected}
    counts = Counter(record["identity"] for record in records)
    if missing := [seed for identity, seed in wanted.items() if identity not in counts]:
        yield f"{len(wanted) - len(missing)} of {len(wanted)} runs are recorded; missing: {_seeds(missing)}"
    if twice := [wanted[identity] for identity, count in counts.items() if count > 1 and identity in wanted]:
        yield f"extra runs: {_seeds(twice)} more than once"
    extra = [record["config"]["seed"] for record in records if record["identity"] not in wanted]
    if strange := [seed for seed in extra if seed not in wanted.values()]:
        yield f"extra runs: {_seeds(strange)} not among the evaluation seeds of this row"
    if other := [seed for seed in extra if seed in wanted.values()]:
        yield f"extra runs: {_seeds(other)} with another configuration than the chosen one"
    for record in records:
        seed = record["config"]["seed"]
        if Run.from_dict(record["config"]).identity != record["identity"]:
            yield f"seed {seed}: the record was edited, its config does not match its identity"
        elif not _finite(record["final"].get("test")):
            yield f"seed {seed}: no finite test metrics"


def _seeds(numbers):
    return f"seed{'s' * (len(numbers) > 1)} {', '.join(map(str, sorted(numbers)))}"


def _finite(test):
    return bool(test) and all(math.isfinite(value) for metrics in test.values() for value in metrics.values())
