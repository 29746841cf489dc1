"""The command line of the laboratory: `python -m mtl_lab COMMAND --help`."""

import contextlib
import os
import sys
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Annotated

import typer
from filelock import FileLock, Timeout

from mtl_core._names import did_you_mean
from mtl_core.data import DataError
from mtl_lab import experiments, files, records
from mtl_lab.experiments import paper_order, test_set_bootstrap
from mtl_lab.runs.store import Store

PROFILES = ("tiny", "small", "paper")
app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None, help=__doc__
)
Profile = Annotated[str, typer.Option(help="tiny, small or paper")]
Workers = Annotated[int, typer.Option(min=1, help="processes of one torch thread each")]
Dask = Annotated[str | None, typer.Option(help="a scheduler's address: its workers train instead of processes here")]
CORES = os.cpu_count() or 1


def known(what: str, name: str, names) -> None:
    """End with one sentence where `name` is not among `names`."""
    if name not in names:
        stop(f"there is no {what} {name!r}{did_you_mean(name, names)} There are: {', '.join(names)}")


def stop(message: str) -> None:
    print(message, file=sys.stderr)
    raise typer.Exit(2)


@app.command()
def results(
    experiment: str,
    profile: Profile = "small",
    seeds: Annotated[int | None, typer.Option(min=1, help="how many; default: the experiment's number, or ten")] = None,
    workers: Workers = CORES,
    row: Annotated[
        list[str] | None, typer.Option(help="search and evaluate this row of a table now; repeatable")
    ] = None,
    dask: Dask = None,
) -> None:
    """Train the runs that the committed results of an experiment lack; write each record as soon as it is finished."""
    _ready([(experiment, profile)], dask)
    try:
        with _writing(experiment, profile):
            summary = _complete(experiment, profile, seeds, workers, row)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    print(f"results/{experiment}/{profile}: {summary}")


@app.command()
def queue(
    entries: Annotated[
        list[str] | None, typer.Argument(help="EXPERIMENT:PROFILE …; none: those of the last queue")
    ] = None,
    workers: Workers = CORES,
    show: Annotated[bool, typer.Option("--show", help="say what is missing and train nothing")] = False,
    dask: Dask = None,
) -> None:
    """Complete the results of several experiments, one after the other; says what is left and how long that takes."""
    from mtl_lab import queue as order

    file = Store().root / "queue"
    words = entries or order.kept(file)
    if not words:
        stop("the queue is empty: name EXPERIMENT:PROFILE, as in make queue QUEUE='qm9:small two_digits:small'")
    if unreadable := [word for word in words if word.count(":") != 1]:
        stop(f"an entry of the queue is EXPERIMENT:PROFILE, got {unreadable[0]!r}")
    pairs = [tuple(word.split(":")) for word in words]
    _ready(pairs, dask)
    if show:
        print("\n".join(order.progress(pairs, workers)))
        return

    def complete(experiment, profile):
        try:
            with _writing(experiment, profile):
                return _complete(experiment, profile, None, workers, None)
        except typer.Exit:  # it is being written elsewhere, and that is said
            return None
        except EXPECTED as error:
            print(f"{experiment}:{profile} {sentence(error)}", file=sys.stderr)
            return None

    try:
        well = order.work(pairs, workers, complete, file)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    raise typer.Exit(int(not well))


@app.command()
def pause() -> None:
    """Let the trainings of `results` and `queue` wait, within a second, until `resume`."""
    files.write_atomically(_pause_file(), "")
    print("paused: trainings wait from their next step on and use no processor; `make resume` goes on.")


@app.command()
def resume() -> None:
    """Let the trainings that `pause` stopped go on."""
    was = _pause_file().exists()
    _pause_file().unlink(missing_ok=True)
    print("trainings go on." if was else "nothing was paused.")


def _device() -> None:
    """End with one sentence where $MTL_DEVICE names none that is here."""
    from mtl_lab.runs.device import chosen_device  # commands that only read import no training code

    try:
        chosen_device()
    except ValueError as error:
        stop(str(error))


def _pause_file() -> Path:
    return Store().root / "paused"


def _ready(pairs, dask: str | None) -> None:
    """End with one sentence where an experiment, a profile or the device is not here; else obey a pause from now on."""
    from mtl_lab.runs import processes

    processes.scheduler = dask
    _device()
    for experiment, profile in pairs:
        known("experiment", experiment, [name for kind in experiments.KINDS for name in kind])
        known("profile", profile, PROFILES)
    processes.pause_file = _pause_file()
    processes.attend(processes.pause_file)
    if processes.pause_file.exists():
        print("paused: `make resume` goes on.", flush=True)


@contextlib.contextmanager
def _writing(experiment: str, profile: str):
    """Hold the folder of results: two processes that write one file would lose each other's records."""
    lock = records.ROOT / ".locks" / f"{experiment} {profile}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        stop(f"results/{experiment}/{profile}: another `make results` is writing it; wait for that one, or stop it")
    try:
        files.sweep(records.folder(experiment, profile, records.ROOT), older=0)  # nobody else writes there
        files.sweep(Store().folder)
        yield
    finally:
        held.release()


def _complete(experiment, profile, seeds, workers, rows) -> str:
    from mtl_lab import completion
    from mtl_lab import queue as order

    with files.damage_named(records.folder(experiment, profile, records.ROOT)):
        order.lacks(experiment, profile)  # what is committed is sound, so that a later error is one of ours
    if experiment in experiments.TABLES:
        table = experiments.TABLES[experiment](profile)
        for name in rows or ():
            known("row", name, [r.name for r in table.rows])
        return completion.complete_table(table, seeds, workers, rows=rows)
    if experiment in experiments.SEARCHES:
        return completion.complete_searches(experiments.SEARCHES[experiment](profile), workers)
    if experiment in experiments.STUDIES:
        try:
            return experiments.STUDIES[experiment](profile)
        except KeyError as error:
            if error.args != (profile,):
                raise
            stop(f"{experiment} has no profile {profile!r}")
    return completion.complete_grid(experiment, completion.planned_grid(experiment, profile, seeds), workers)


app.command()(paper_order.paper)


@app.command()
def judge(experiment: str, profile: Profile = "small") -> None:
    """Judge a committed table; exit code 1 if anything in it is void."""
    known("table", experiment, experiments.TABLES)
    verdict = experiments.committed(experiment, profile)
    if verdict is None:
        print(f"results/{experiment}/{profile}: no runs are committed yet")
        return
    for row in verdict.rows.values():
        d = row.difference
        interval = f"{d.mean:+7.2f} [{d.low:+.2f}, {d.high:+.2f}]" if d else ""
        print(f"{row.name:24} {row.runs:>9}  {row.outcome:17} {interval}")
    print("\n".join(verdict.complaints()) or "sound: nothing is void")
    raise typer.Exit(int(bool(verdict.complaints())))


@app.command()
def again(
    experiment: str,
    row: Annotated[str, typer.Option(help="row of the table or grid")],
    seed: int = 0,
    profile: Profile = "small",
) -> None:
    """Train one committed run again and compare it with its record; exit code 1 if a metric is beyond tolerance."""
    from mtl_lab import rerun

    _device()
    try:
        record = rerun.recorded(experiment, profile, row, seed)
    except LookupError as error:
        stop(error.args[0])
    lines, same = rerun.rerun(record)
    print("\n".join(lines))
    raise typer.Exit(int(not same))


@app.command()
def bootstrap(experiment: str, profile: Profile = "small") -> None:
    """Measure how much the choice of test examples changes one difference: two rows, one seed, resampled sources."""
    known("table", experiment, experiments.TABLES)
    with _writing(experiment, profile):
        print(test_set_bootstrap.complete(experiments.TABLES[experiment](profile)))


# What a user can mend, and what its sentence begins with. Everything else is an error of ours, with its traceback.
EXPECTED = (OSError, MemoryError, BrokenExecutor, DataError, files.Damaged)


def sentence(error: BaseException) -> str:
    """What happened and what to do, in one sentence."""
    kept = "finished runs are kept, and the same command goes on from there"
    if isinstance(error, BrokenExecutor | MemoryError):
        return f"stopped: a process was killed or memory ran out; use fewer workers; {kept}"
    if isinstance(error, OSError):
        where = f"{files.shown(Path(error.filename))}: " if error.filename else ""
        return f"stopped: {where}{error.strerror or error}; make it possible (room, permission), {kept}"
    return f"stopped: {error}"


def main(words: list[str] | None = None) -> None:
    """Run the command; SystemExit with its status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 shows a question mark
    try:
        try:
            app(words, prog_name="python -m mtl_lab")
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # a full disk is noticed here
    except EXPECTED as error:
        print(sentence(error), file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
