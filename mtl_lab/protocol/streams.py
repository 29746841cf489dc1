"""Compares procedures, a method together with its search, over independent streams.

A stream is one whole repetition of a table: a search of every row with seeds 1000 + 2s and 1001 + 2s, then one run of
each chosen configuration with evaluation seed 2000 + s. All rows of a stream share seeds and Sobol coordinates; where
layers are ranked, the ranking run has the stream's short seed. Two streams share none of this. The A/A row searches the
reference again, in stream 100 + s. Two broken rows weaken half of the tasks in the A/A row's choice: their fault is as
hard to see as one in any row whose search is its own. Seed 3000 + s evaluates the first five streams once more, which
splits the variance into search and seed. Ranges are a part of the procedure and are never widened: choices at an edge
are counted.

Test data decide nothing. Rows, ranges, seeds and the rule of choice are code, which must be committed before the first
run. Margin and doses follow from validation data of runs of their own, the preparation, recorded before the first
stream. A stream's choices are written to streams.jsonl, with margin, doses and a digest, and forced onto the disk
before any of its runs reads test data; each such run's record names the digest, and no other record counts. No search
reads a test metric, so a later stream cannot follow an earlier one. Nobody has to commit between search and evaluation.

streams.jsonl   a line for each stream that is searched
runs.jsonl      the runs of preparation and evaluation; attempts.jsonl: every run, those of the searches too
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mtl_lab import records
from mtl_lab.files import append_line, mend_last_line
from mtl_lab.protocol import committed
from mtl_lab.protocol.attempts import train
from mtl_lab.protocol.search import finite, rank_layers, search_rows
from mtl_lab.protocol.table import A_A, KEPT, REFERENCE, SEEDS, TRIED, Row, Table, weakened
from mtl_lab.runs.provenance import provenance
from mtl_lab.runs.run import Run

EVALUATION, AGAIN, PREPARATION, ALONE = 2000, 3000, 4000, 5000  # first seeds
OTHER_STREAMS = 100  # the A/A row's stream beside stream s is 100 + s
REPEATED = 5  # streams with a second evaluation seed
FAULTS = {"broken_1": 1, "broken_3": 3}  # row -> its dose in margins
FACTORS = (0.8, 0.6, 0.4, 0.2, 0.05)  # on the static weights of the first half of the tasks


@dataclass(frozen=True)
class Searches(Table):
    """A comparison of procedures: a table whose rows are searched and evaluated in each of several streams.

    It extends the table whose committed search gives the fixed validation values and the configurations of the
    preparation.

    streams  their number.
    limits   the ends between which the margin is clipped; equal: it is that number, there are no broken rows, and
             nothing is trained for margin and doses.
    fresh    whether the test data are not those of the extended table, so that the single-task networks, the zero, are
             trained anew. Else they are the extended table's.
    second_seeds  whether the first five streams are evaluated with a second seed.
    """

    streams: int = 0
    limits: tuple[float, float] = (0.0, 0.0)
    fresh: bool = False
    second_seeds: bool = True

    def lines(self, root: Path) -> dict[int, dict]:
        """Stream -> its line in streams.jsonl. ValueError where a line does not fit its digest."""
        lines = records.read_lines(records.folder(self.name, self.profile, root) / "streams.jsonl")
        if changed := [n["stream"] for n in lines if n["digest"] != records.key({**n, "digest": ""})]:
            raise ValueError(f"streams.jsonl, streams {changed}: choices do not fit their digest; restore the file")
        return {line["stream"]: line for line in lines}


# --- what is fixed before the first stream


def preparation(table: Searches, root: Path) -> list[tuple[str, Run]]:
    """(row, run) from which margin, doses and zero follow. Only single-task networks read test data."""
    choices = {row: entry["choice"] for row, entry in committed.needed_search(table, root)["rows"].items()}
    planned: list[tuple[str, Row, Mapping]] = []
    if table.limits[0] < table.limits[1]:
        planned += [(f"epochs × {n}", Row("equal", "", epochs=n), choices["equal"]) for n in (1, 2)]
        static, half = table.row(REFERENCE), next(row for row in table.rows if row.name in FAULTS).downweighted_tasks
        planned += [(f"weights × {f:g}", static, weakened(choices[REFERENCE], half, f)) for f in (1.0, *FACTORS)]
    alone = [(row.name, row, choices[row.name]) for row in table.singles() if table.fresh]
    doses = SEEDS[:5]  # of the weights; the margin takes all ten
    fixed = [
        (name, table.run(row, choice, PREPARATION + s))
        for name, row, choice in planned
        for s in (doses if row.name == REFERENCE else SEEDS)
    ]
    return fixed + [(name, table.run(row, choice, ALONE + s, test=True)) for name, row, choice in alone for s in SEEDS]


def settings(table: Searches, recorded: Sequence[Mapping], root: Path) -> dict:
    """{"margin": δ, "factors": broken row -> factor}, from validation data of the preparation.

    δ is half of what twice the epochs give equal weights, clipped to the limits; a factor is the one in `FACTORS` whose
    fall of Δm comes closest to the dose.
    """
    zero = committed.needed_search(table, root)["single_task_validation"]

    def mean(row):
        return float(np.mean([table.validation_delta(r, zero) for r in recorded if r["row"] == row]))

    if table.limits[0] == table.limits[1]:
        return {"margin": table.limits[0], "factors": {}}
    margin = float(np.clip((mean("epochs × 2") - mean("epochs × 1")) / 2, *table.limits))
    fall = {f: mean("weights × 1") - mean(f"weights × {f:g}") for f in FACTORS}
    factors = {row: min(FACTORS, key=lambda f: abs(fall[f] - dose * margin)) for row, dose in FAULTS.items()}
    return records.rounded({"margin": margin, "factors": factors})


# --- one stream


def search_stream(table: Searches, stream: int, fixed: Mapping, workers: int, root: Path) -> dict:
    """Search all rows of a stream; its line for streams.jsonl, with `fixed` (`settings`) and a digest."""
    zero, folder = (
        committed.needed_search(table, root)["single_task_validation"],
        records.folder(table.name, table.profile, root),
    )
    ranking, entries = rank_layers(replace(table, stream=stream), folder, workers), {}
    for number in (stream, OTHER_STREAMS + stream):
        rows = [r for r in table.shared() if r.reuses is None and (r.name == A_A) == (number != stream)]
        search_rows(replace(table, stream=number), rows, ranking, zero, entries, folder, workers)
    line = {"stream": stream, "rows": entries, **fixed, "provenance": provenance(), "digest": ""}
    line = finite(records.rounded(line))
    return {**line, "digest": records.key(line)}


def evaluation(table: Searches, line: Mapping) -> list[tuple[str, Run]]:
    """(row, run) of a searched stream: each chosen configuration with the stream's seed, then with a second one."""
    runs = []
    for first in (EVALUATION, AGAIN)[: 1 + (table.second_seeds and line["stream"] < REPEATED)]:
        for row in table.shared():
            choice = line["rows"][row.reuses or row.name]["choice"]
            if row.name in FAULTS:
                choice = weakened(choice, row.downweighted_tasks, line["factors"][row.name])
            seed = first + line["stream"] + OTHER_STREAMS * (A_A in (row.name, row.reuses))
            runs.append((row.name, table.run(row, choice, seed, test=True)))
    return runs


# --- all of it


def complete(table: Searches, workers: int, root: Path) -> None:
    """Train what is missing: the preparation, then stream by stream the search and the evaluation."""
    file = records.folder(table.name, table.profile, root) / "streams.jsonl"
    mend_last_line(file)
    _train(table, preparation(table, root), "preparation", workers, root)
    fixed = settings(table, records.load(table.name, table.profile, root), root)
    for stream in range(table.streams):
        if stream not in table.lines(root):
            append_line(file, records.as_line(search_stream(table, stream, fixed, workers, root)))
        line = table.lines(root)[stream]
        _train(table, evaluation(table, line), "evaluation", workers, root, choices=line["digest"])


def _train(table, planned, stage, workers, root, **more):
    missing, folder = _missing(table, planned, root), records.folder(table.name, table.profile, root)

    def keep(record):
        records.add([{**records.compact(record, missing[record["identity"]][0]), **more}], folder / "runs.jsonl")

    train([run for _, run in missing.values()], stage, folder, workers, keep)


def _missing(table, planned, root):
    known = {r["identity"] for r in records.load(table.name, table.profile, root)}
    return {run.identity: (row, run) for row, run in planned if run.identity not in known}


def lacks(table: Searches, root: Path) -> list[tuple[str, float]]:
    """(row, share of a full run) of each run that the results lack; a second seed from the search of its stream on."""
    lines, planned = table.lines(root), preparation(table, root)
    planned += [one for line in lines.values() for one in evaluation(table, line)]
    searched = [0.25] * TRIED + [1.0] * (KEPT + 1)
    of_stream = [(r.name, n) for r in table.shared() for n in (searched if r.reuses is None else [1.0])]
    missing = [(row, 1.0) for row, _ in _missing(table, planned, root).values()]
    return missing + of_stream * (table.streams - len(lines))
