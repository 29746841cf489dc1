"""The command line of the laboratory: `python -m mtl_lab COMMAND --help`."""

import os
import sys
from typing import Annotated

import typer
from filelock import FileLock, Timeout

from mtl_core._names import did_you_mean
from mtl_lab import experiments
from mtl_lab.experiments import test_set_bootstrap
from mtl_lab.protocol.table import SEEDS
from mtl_lab.runs.store import Store

PROFILES = ("tiny", "small", "paper")
app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
Profile = Annotated[str, typer.Option(help="tiny, small or paper")]


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
    workers: Annotated[int, typer.Option(min=1, help="processes of one torch thread each")] = os.cpu_count() or 1,
    row: Annotated[
        list[str] | None, typer.Option(help="search and evaluate this row of a table now; repeatable")
    ] = None,
) -> None:
    """Train the runs that the committed results of an experiment lack; write each record as soon as it is finished."""
    from mtl_lab.runs.device import chosen_device  # commands that only read import no training code

    try:
        chosen_device()
    except ValueError as error:
        stop(str(error))
    known("experiment", experiment, [*experiments.TABLES, *experiments.GRIDS, *experiments.STUDIES])
    known("profile", profile, PROFILES)
    folder = f"results/{experiment}/{profile}"
    lock = Store().root / "locks" / f"{experiment} {profile}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=0):  # two processes that write one file would lose each other's records
            summary = _complete(experiment, profile, seeds, workers, row)
    except Timeout:
        stop(f"{folder}: another `make results` is writing it; wait for that one, or stop it")
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    print(f"{folder}: {summary}")


def _complete(experiment, profile, seeds, workers, rows) -> str:
    from mtl_lab import completion

    if experiment in experiments.TABLES:
        table = experiments.TABLES[experiment](profile)
        for name in rows or ():
            known("row", name, [r.name for r in table.rows])
        return completion.complete_table(table, seeds, workers, rows=rows)
    if experiment in experiments.STUDIES:
        return experiments.STUDIES[experiment](profile)
    grid = experiments.GRIDS[experiment]
    planned = grid.seeds if grid.seeds > 1 else len(SEEDS)  # one seed is for a page, not for reference results
    return completion.complete_grid(experiment, grid(profile=profile, seeds=seeds or planned), workers)


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
    print(test_set_bootstrap.complete(experiments.TABLES[experiment](profile)))


if __name__ == "__main__":
    app(prog_name="python -m mtl_lab")
