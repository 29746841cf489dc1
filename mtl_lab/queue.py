"""A queue of experiments: what each lacks, about how long that takes, and one after the other.

The names are kept in a file beside the store of runs, so that after a kill the same queue goes on without them.
"""

import statistics
from collections.abc import Callable, Iterable
from pathlib import Path

from mtl_lab import completion, experiments, records
from mtl_lab.files import damage_named, write_atomically
from mtl_lab.protocol import committed, evaluation, streams
from mtl_lab.protocol.table import KEPT

Entry = tuple[str, str]  # experiment, profile


def kept(file: Path) -> list[str]:
    """The entries in the file of a queue, as EXPERIMENT:PROFILE."""
    return file.read_text(encoding="utf-8", errors="replace").split() if file.exists() else []


def lacks(experiment: str, profile: str, root: Path = records.ROOT) -> list[tuple[str, float]] | None:
    """(row, share of a full run) of each run that the results lack; None for a study, which plans no runs."""
    if experiment in experiments.STUDIES:
        return None
    if experiment in experiments.SEARCHES:
        return streams.lacks(experiments.SEARCHES[experiment](profile), root)
    if experiment in experiments.GRIDS:
        plan = completion.planned_grid(experiment, profile)
        recorded = records.load(experiment, profile, root)
        return [(row, 1.0) for row, _ in completion.missing_of_grid(plan, recorded).values()]
    table = experiments.TABLES[experiment](profile)
    known = (committed.search_of(table, root) or {}).get("rows", committed.base_entries(table, root))
    if waiting := [row for row in table.searched() if row.name not in known]:
        shares = [(row.name, [0.25] * len(table.configurations(row)) + [1.0] * KEPT) for row in waiting]
        return [(name, share) for name, of_row in shares for share in of_row]
    return [(row, 1.0) for row, _ in evaluation.missing(table, root=root).values()]


def hours(experiment: str, profile: str, lacking: Iterable, workers: int, root: Path = records.ROOT) -> float | None:
    """About how long the lacking runs take, from the wall times of finished records; None before there is one."""
    times: dict[str, list[float]] = {}
    for record in records.load(experiment, profile, root):
        times.setdefault(record["row"], []).append(record["seconds"])
    if not times:
        times = {"": [a["core_seconds"] for a in records.attempts(experiment, profile, root)]}
    anywhere = [seconds for of_row in times.values() for seconds in of_row]
    if not anywhere:
        return None
    return sum(share * statistics.median(times.get(row, anywhere)) for row, share in lacking) / workers / 3600


def progress(entries: Iterable[Entry], workers: int, root: Path = records.ROOT) -> list[str]:
    """A line for each entry, and one for all: how many runs it lacks, and about how many hours they take."""
    lines, runs, total, open_ended = [], 0, 0.0, False
    for experiment, profile in entries:
        with damage_named(records.folder(experiment, profile, root)):
            try:
                lacking, words = lacks(experiment, profile, root), "a study: it computes what it lacks"
            except committed.SearchMissing:  # an entry before this one may bring it
                lacking, words = None, "counted once the table that it extends is searched"
            time = hours(experiment, profile, lacking, workers, root) if lacking else 0.0
        runs, total = runs + len(lacking or ()), total + (time or 0.0)
        open_ended |= lacking is None or time is None
        words = words if lacking is None else f"missing runs: {len(lacking)}"
        about = "" if not lacking else ", time unknown yet" if time is None else f", about {time:.1f} hours"
        lines.append(f"{f'{experiment}:{profile}':40} {words}{about}")
    return [*lines, f"missing runs in all: {runs}, {'at least' if open_ended else 'about'} {total:.1f} hours"]


def work(entries: list[Entry], workers: int, complete: Callable[[str, str], str | None], file: Path) -> bool:
    """Complete one entry after the other; whether all went well.

    complete  function of experiment and profile that says what it did; None where it failed and has said why.
    file      keeps the entries until nothing is missing. A table whose search has to be committed first waits there.
    """
    write_atomically(file, "".join(f"{experiment}:{profile}\n" for experiment, profile in entries))
    well = True
    for number, (experiment, profile) in enumerate(entries):
        print("\n".join(progress(entries[number:], workers)), flush=True)
        summary = complete(experiment, profile)
        well &= summary is not None
        if summary is not None:
            print(f"{experiment}:{profile} {summary}", flush=True)
    if not any(lacks(*entry) for entry in entries):
        file.unlink()
    return well
