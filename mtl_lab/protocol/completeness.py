"""Are the committed records exactly the runs that the table's rule names? Every finding is a sentence."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from mtl_lab.protocol.table import SEEDS, Table
from mtl_lab.runs.run import Run


def check(table: Table, records: Sequence[Mapping], search: Mapping, seeds: int | Mapping = 10) -> dict[str, list[str]]:
    """row -> reasons why its records cannot be judged; under "" those that touch the table as a whole.

    seeds: how many each row has, or row -> how many (10 where it is not named).
    """
    reasons = {row.name: [] for row in table.rows} | {"": []}
    for what, here in (("table", table.name), ("margin", table.margin), ("rate", list(table.rates()))):
        if search.get(what) != here:
            reasons[""].append(f"search.json was made with {what} {search.get(what)}, the rule says {here}")
    entries = search.get("rows", {})
    if absent := [row.name for row in table.searched() if row.name not in entries]:
        reasons[""].append(f"search.json lacks {', '.join(absent)}")
        return reasons
    for name, entry in entries.items():
        full = [tried for tried in entry["tried"] if tried["full"] is not None]
        best = [tried["choice"] for tried in full if tried["full"] == max(one["full"] for one in full)]
        if best and entry["choice"] not in best:  # of equals the search takes one
            reasons[name if name in reasons else ""].append("the chosen configuration is not the best of its search")
    if strays := sorted({record["row"] for record in records} - {row.name for row in table.rows}):
        reasons[""].append(f"extra runs of {', '.join(strays)}, which is no row of the table")
    for name, expected in expected_runs(table, search, seeds).items():
        reasons[name] += _of_row(expected, [record for record in records if record["row"] == name])
    sources = {}
    for record in records:
        sources.setdefault(record["config"]["seed"], []).append(record.get("source"))
    if unpaired := [seed for seed, found in sources.items() if any(source != found[0] for source in found)]:
        reasons[""].append(f"the rows of {_seeds(unpaired)} rest on different data: these seeds pair nothing")
    return reasons


def expected_runs(table: Table, search: Mapping, seeds: int | Mapping = 10) -> dict[str, list[Run]]:
    """row -> the runs of which it must consist, given what the search chose."""
    choices = {name: entry["choice"] for name, entry in search["rows"].items()}
    counts = {row.name: seed_count(seeds, row.name) for row in table.rows}
    found = {count: table.expected(choices, count) for count in set(counts.values())}
    return {name: found[count][name] for name, count in counts.items()}


def finished_seeds(
    table: Table, records: Sequence[Mapping], search: Mapping, seeds: int | Mapping = 10
) -> dict[str, int] | None:
    """row -> its seeds so far, where each row that is the table's own has its first n, or all that it is to have,
    with n too few for some: training goes on. Else None."""
    if {row.follows or row.name for row in table.rows} - set(search.get("rows", {})):
        return None
    counts = {row.name: seed_count(seeds, row.name) for row in table.rows}
    own = [name for name in counts if not table.takes_over(name)]
    here = Counter(record["identity"] for record in records if record["row"] in own)
    for n in range(1, max(counts[name] for name in own)):
        so_far = counts | {name: min(n, counts[name]) for name in own}
        expected = expected_runs(table, search, so_far)
        if here == Counter(run.identity for name in own for run in expected[name]):
            return so_far
    return None


def seed_count(seeds: int | Mapping, row: str) -> int:
    return seeds if isinstance(seeds, int) else seeds.get(row, len(SEEDS))


def _of_row(expected: Sequence[Run], records: Sequence[Mapping]):
    wanted = {run.identity: run.seed for run in expected}
    found = Counter(record["identity"] for record in records)
    if missing := [seed for identity, seed in wanted.items() if identity not in found]:
        yield f"{len(wanted) - len(missing)} of {len(wanted)} runs are here; missing: {_seeds(missing)}"
    if twice := [wanted[identity] for identity, count in found.items() if count > 1 and identity in wanted]:
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
