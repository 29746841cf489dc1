"""Odd environments: no home, a terminal without UTF-8, a closed or full output, variables that mean nothing."""

import functools
import io
import os
import pwd
import sys
from pathlib import Path

from faults import Failure, in_fork, judged, kind
from faults.readers import runner
from mtl_core.data.__main__ import main as data_main
from mtl_lab.__main__ import main as lab_main

COMMANDS = {
    "judge": functools.partial(lab_main, ["judge", "two_digits"]),
    "queue": functools.partial(lab_main, ["queue", "--show", "two_digits:small", "rotation_rates:small"]),
    "queue of nothing": functools.partial(lab_main, ["queue"]),
    "results without data": functools.partial(
        lab_main, ["results", "rotation_rates", "--seeds", "21", "--workers", "1"]
    ),
    "results of a seed below 1": functools.partial(lab_main, ["results", "rotation_rates", "--seeds", "-2"]),
    "results of no experiment": functools.partial(lab_main, ["results", "../../etc", "--profile", "tiny"]),
    "results of no such profile": functools.partial(lab_main, ["results", "sam_gs_landscapes", "--profile", "paper"]),
    "again": functools.partial(lab_main, ["again", "qm9", "--row", "equal"]),
    "again, no such row": functools.partial(lab_main, ["again", "qm9", "--row", "é\x00"]),
    "list of pages": lambda: runner().main(["--list"]),
    "no such page": lambda: runner().main(["--page", "../x\udcff"]),
    "list of data": lambda: data_main(["list"]),
}


def no_home(place, random):
    """No passwd entry and no HOME."""
    for name in ("HOME", "XDG_CACHE_HOME", "USER", "LOGNAME", "MTL_DATA"):
        os.environ.pop(name, None)

    def nobody(_):
        raise KeyError("uid not found")

    pwd.getpwuid = nobody


def ascii_terminal(place, random):
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        setattr(
            sys,
            name,
            io.TextIOWrapper(stream.detach(), encoding=random.choice(("ascii", "latin-1")), write_through=True),
        )


def no_output(place, random):
    os.close(1)
    sys.stdout = None


def full_output(place, random):
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def variables(place, random):
    values = ("", " ", "garbage", "-1", "/nonexistent/x", "\x7f", "é", "cuda:99", "../..", "0", str(place / "file"))
    (place / "file").write_text("")
    for name in random.sample(
        ["MTL_DATA", "MTL_RUNS", "MTL_DEVICE", "OMP_NUM_THREADS", "TZ", "COLUMNS", "TERM", "LANG"], 3
    ):
        os.environ[name] = random.choice(values)


def folder_gone(place, random):
    (place / "gone").mkdir()
    os.chdir(place / "gone")
    (place / "gone").rmdir()


@kind("places of pages", 0.1, 60)
def places(random, place: Path):
    """book/notebooks/ or _build/ cannot be written: a page says so before anything is executed."""
    from unittest import mock

    import papermill
    from notebook_tools import notebook

    part, way = (
        random.choice(("book", "_build")),
        random.choice(("a file in its place", "below a file", "a broken link")),
    )
    (place / "notebooks" / "part").mkdir(parents=True)
    source = notebook(place / "notebooks" / "part" / "page.ipynb")
    target = place / part
    if way == "a broken link":
        target.symlink_to("/nonexistent/place/x")
    else:
        target.write_text("")
    folder = target / "below" if way == "below a file" else target
    pages, scratch = (folder, place / "pages") if part == "book" else (place / "pages", folder)

    def act():
        run = runner()
        with mock.patch.multiple(run, SOURCES=place / "notebooks", PAGES=pages, SCRATCH=scratch, INPUTS=(), ROOT=place):
            return run.main(["-j", "1"])

    with mock.patch.object(papermill, "execute_notebook", side_effect=AssertionError("executed")):
        status, said = in_fork(act, place)
    if not status or "FAILED" not in said:
        raise Failure(f"{part}, {way}: exit status {status}: {said[-500:]}")
    assert source.exists()
    return f"{part}, {way}", judged(f"{part}, {way}", status, said)


WAYS = {
    "no home and no name": no_home,
    "a terminal without UTF-8": ascii_terminal,
    "standard output closed": no_output,
    "standard output full": full_output,
    "odd variables": variables,
    "a working folder that is gone": folder_gone,
    "nothing odd": lambda place, random: None,
}


@kind("environments", 0.6, 200)
def environment(random, place: Path):
    """A command in an odd environment ends well or says in one sentence why not."""
    name, way = random.choice(list(COMMANDS)), random.choice(list(WAYS))

    def act():
        os.environ["MTL_RUNS"], os.environ["MTL_DATA"] = str(place / "runs"), str(place / "no data")
        WAYS[way](place, random)
        return COMMANDS[name]()

    status, said = in_fork(act, place)
    fault = f"{name}, {way}"
    if status == 0 and ("without data" in name or name.startswith("results of")):
        raise Failure(f"{fault}: it claims that all is well: {said[-500:]}")
    if status and name == "list of pages" and "stopped" not in said.lower():
        raise Failure(f"{fault}: exit status {status}: {said[-500:]}")
    # what is refused lists what there is: the last line counts
    return fault, judged(fault, status, said if status in (0, 1) else said.splitlines()[-1] if said else "")
