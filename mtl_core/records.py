"""Are committed records the runs that their rule names, unchanged, and does the code still train like that?

Every finding is a sentence. `check` looks at the records alone; `fingerprint` trains for three steps.
"""

import csv
import functools
import io
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mtl_core import methods, protocol, results, runs, training
from mtl_core.protocol import Row, Table
from mtl_core.runs import Run
from mtl_core.tasks import Split

TOLERANCE = 1e-6  # relative, of a fingerprint in float64: another machine's rounding moves it by 1e-10 at most
STEPS, BATCH = 3, 32  # of a fingerprint
COLUMNS = ("experiment", "profile", "row", "title", "state", "seed", "task", "metric", "value", "higher_is_better")
COLUMNS += ("diverged", "identity", "content", "commit")


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


def whole_seeds(
    table: Table, records: Sequence[Mapping], search: Mapping, seeds: int | Mapping = 10
) -> dict[str, int] | None:
    """row -> its seeds so far, where each row that is the table's own has its first n, or all that it is to have,
    with n too few for some: training goes on. Else None."""
    if {row.follows or row.name for row in table.rows} - set(search.get("rows", {})):
        return None
    counts = {row.name: seed_count(seeds, row.name) for row in table.rows}
    own = [name for name in counts if not protocol.is_lent(table.name, name)]
    here = Counter(record["identity"] for record in records if record["row"] in own)
    for n in range(1, max(counts[name] for name in own)):
        so_far = counts | {name: min(n, counts[name]) for name in own}
        expected = expected_runs(table, search, so_far)
        if here == Counter(run.identity for name in own for run in expected[name]):
            return so_far
    return None


def seed_count(seeds: int | Mapping, row: str) -> int:
    return seeds if isinstance(seeds, int) else seeds.get(row, len(protocol.SEEDS))


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
        if "content" not in record:
            yield f"seed {seed}: the record has no seal (mtl_core.results.seal)"
        elif not results.intact(record):
            yield f"seed {seed}: the record was edited, its content does not match its seal"
        elif Run.from_dict(record["config"]).identity != record["identity"]:
            yield f"seed {seed}: the record was edited, its config does not match its identity"
        elif not _finite(record["final"].get("test")):
            yield f"seed {seed}: no finite test metrics"


def _seeds(numbers):
    return f"seed{'s' * (len(numbers) > 1)} {', '.join(map(str, sorted(numbers)))}"


def _finite(test):
    return bool(test) and all(math.isfinite(value) for metrics in test.values() for value in metrics.values())


# --- fingerprints


class _Updates:
    """Observer: per step, the cosine of the shared update with each task's gradient, and its relative length."""

    def __init__(self, model):
        self.parameters, self.steps = dict(model.trunk.named_parameters()), []

    def update(self, gradients) -> None:
        update = torch.cat([self.parameters[name].grad.flatten() for name in gradients.names])
        lengths, length = gradients.matrix.norm(dim=1), update.norm()
        cosines = gradients.matrix @ update / (lengths * length).clamp_min(1e-30)
        self.steps.append([*cosines.tolist(), (length / lengths.mean().clamp_min(1e-30)).item()])


def fingerprint(table: Table, row: Row, choice: Mapping) -> list[list[float]]:
    """Three training steps of the row's chosen run with seed 0, in float64, as numbers with eight significant digits.

    Per step: the K losses; K cosines between the shared update and the tasks' gradients; the update's length over
    the mean length of those. The data are 32 examples of the embedded tiny problem, the same in each step. The
    learning rate is the lowest of the table's range. In float32 rounding alone, that of two threads instead of one,
    moved a cosine of CAGrad's second step by 5e-3. Losses alone would not do: on these data PCGrad's differ from
    the plain sum's by 5e-5. Steps after a divergence are missing. Of SAM-GS three steps see one side of its gate and
    hardly its averages: its fingerprint ends with `made_up_steps`.
    """
    run = table.run(row, choice, seed=0)
    options = {**run.problem_options, "profile": "tiny", "train": BATCH}
    schedule = {**run.schedule, "epochs": STEPS, "batch_size": BATCH, "learning_rate": table.rate[0]}
    problem = runs.load_problem(replace(run, problem_options=options))  # an epoch is a step
    train = _in_float64(problem.train)
    problem = replace(problem, train=train, validation=train)  # which nothing here reads
    model = runs.build_model(run, problem).double()
    seen = _Updates(model)
    history = training.fit(
        model, problem, run.method, training.Schedule(**schedule), seed=run.seed, method_options=run.method_options,
        convention=run.convention, observers=[seen], test=False,
    )  # fmt: skip
    losses = [list(epoch["train_loss"].values()) for epoch in history.epochs]
    found = [step + after for step, after in zip(losses, seen.steps, strict=False)]
    found += [made_up_steps(run.method_options)] if run.method == "sam_gs" else []
    return [[float(f"{x:.8g}") for x in step] for step in found]


def made_up_steps(options: Mapping, steps: int = 25) -> list[float]:
    """SAM-GS on made-up gradients of three tasks, from equally long to e⁶ apart and back: per step the cosines of its
    update with them and the update's length over their mean length."""
    random, method, found = np.random.default_rng(0), methods.make("sam_gs", **options), []
    for step in range(steps):
        apart = 3 * (1 - abs(2 * step / (steps - 1) - 1))
        J = torch.nn.functional.normalize(torch.from_numpy(random.normal(size=(3, 12))))
        J = J * torch.exp(apart * torch.tensor([[-1.0], [0.0], [1.0]], dtype=J.dtype))
        update, lengths = method(J), J.norm(dim=1)
        found += [*(J @ update / (lengths * update.norm())).tolist(), (update.norm() / lengths.mean()).item()]
    return found


def _in_float64(split: Split) -> Split:
    inputs, targets = split.batch(slice(None))
    return Split(inputs.double(), tuple(t.double() if t.is_floating_point() else t for t in targets))


def same_fingerprint(stored, now) -> bool:
    """Whether two fingerprints have one shape and agree in each number, relative to TOLERANCE, near 0 a tenth of it."""
    if [len(step) for step in stored] != [len(step) for step in now]:
        return False
    pairs = ((x, y) for a, b in zip(stored, now, strict=True) for x, y in zip(a, b, strict=True))
    return all(math.isclose(x, y, rel_tol=TOLERANCE, abs_tol=TOLERANCE / 10) for x, y in pairs)


def measure(table: Table) -> list[list[float]]:
    """How the table judges a network: per task, the loss and the metrics of one whose outputs are made up.

    The examples are the test split of the embedded tiny problem. The outputs are those of the table's network with
    seed 0, untrained, in float64, brought to mean 0 and deviation 1: an F1 of a network that says "no" to all is 0
    whatever the metric counts.
    """
    run = replace(table.base, seed=0, problem_options={**table.base.problem_options, "profile": "tiny"})
    problem = runs.load_problem(run)
    network = _Standardised(runs.build_model(run, problem).double())
    found = training.evaluate(network, problem.tasks, _in_float64(problem.test))
    return [[float(f"{value:.8g}") for value in found[task.name].values()] for task in problem.tasks]


class _Standardised(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, inputs):
        return [(output - output.mean(0)) / output.std(0) for output in self.network(inputs)]


def fingerprints_of(table: Table, search: Mapping) -> dict[str, list]:
    """row -> fingerprint, and under "" the measure, of the code as it is."""
    entries = search["rows"]
    return {"": measure(table)} | {
        row.name: fingerprint(table, row, entries[row.follows or row.name]["choice"]) for row in table.rows
    }


def stored_fingerprints(experiment: str, profile: str, root: Path = results.ROOT) -> dict:
    """row -> fingerprint from fingerprints.json and, of rows that it lends, the lender's; under "" the measure.

    {} where there is none.
    """
    own = results.parsed(results.folder(experiment, profile, root) / "fingerprints.json") or {"rows": {}}
    whole = {"": own["measure"]} if "measure" in own else {}
    return whole | results.lent(experiment, profile, "fingerprints.json", root) | own["rows"]


def write_fingerprints(table: Table, profile: str, root: Path = results.ROOT) -> dict:
    """Write fingerprints.json. A row that these sources made gets its fingerprint; one that other sources made keeps
    the one it has, while that still fits. ValueError names rows of other sources that have none, or one that does not.
    The measure is that of all rows.
    """
    here, made_by = runs.source_digest(), {}
    for record in results.load(table.name, profile, root):
        for name in ("", record["row"]):
            made_by.setdefault(name, set()).add(record["provenance"]["source_digest"])
    found = fingerprints_of(table, results.search_of(table.name, profile, root))
    stored = stored_fingerprints(table.name, profile, root)
    elsewhere = [name for name in found if made_by.get(name) != {here} or protocol.is_lent(table.name, name)]
    if bad := [name for name in elsewhere if name not in stored or not same_fingerprint(stored[name], found[name])]:
        raise ValueError(
            f"expected records made by the sources {here} that are here, found others of "
            f"{', '.join(name or 'the table, by which measure' for name in bad)}: "
            "go to the commit that made them, or rerun the rows; a fingerprint of other code would vouch for nothing"
        )
    found |= {name: stored[name] for name in elsewhere}
    own = sorted(name for name in found if name and not protocol.is_lent(table.name, name))
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(found[name])}" for name in own)
    text = f'{{\n "source_digest": "{here}",\n "measure": {json.dumps(found[""])},\n "rows": {{\n{lines}\n }}\n}}\n'
    runs.write_atomically(results.folder(table.name, profile, root) / "fingerprints.json", text)
    return found


# --- out


@functools.cache
def directions(problem: str) -> dict[str, dict[str, bool]]:
    """task -> metric -> whether higher is better; read off the embedded tiny problem, so no data need be there."""
    tasks = runs.load_problem(runs.Run(problem, {"profile": "tiny"})).tasks
    return {task.name: task.higher_is_better() for task in tasks}


def to_csv(verdict) -> str:
    """A tables.TableVerdict as per-seed results, one number a line; results/data_dictionary.md explains the columns."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(COLUMNS)
    up = directions(verdict.table.base.problem)
    for record in verdict.records:
        row = verdict.rows.get(record["row"])
        seed, (title, state) = record["config"]["seed"], (row.title, row.state) if row else ("", "void")
        end = [record["diverged"] is not None, record["identity"], record.get("content", ""),
               record["provenance"]["commit"]]  # fmt: skip
        start = [verdict.table.name, verdict.profile, record["row"], title, state, seed]
        for task, metrics in record["final"].get("test", {}).items():
            for metric, value in metrics.items():
                lines.writerow([*start, task, metric, value, up.get(task, {}).get(metric, False), *end])
        if row and seed in row.delta:
            lines.writerow([*start, "", "delta_m", f"{row.delta[seed]:.6g}", True, *end])
    return out.getvalue()
