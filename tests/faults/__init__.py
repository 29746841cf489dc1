"""Faults drawn from a seed: kills, full disks, several writers, damaged files, hostile input, odd environments.

    make faults [FAULTS=0.1]                                         as every night, or a tenth of it
    PYTHONPATH=.:tests python -m faults --seed 7 [--kind NAME] [--record]

Each fault must end well ("ok") or in a sentence that says what to do ("one sentence"). A traceback, a lost or altered
record and an executed text are failures, listed with the seed that draws them again.
"""

import contextlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OK, SENTENCE, FAILURE = "ok", "one sentence", "FAILURE"
LINES = 8  # of a refusal, at most: a sentence for each parameter, or for each source of a file
KINDS: dict[str, "Kind"] = {}


class Failure(Exception):
    """What a fault led to is neither right nor one sentence."""


@dataclass(frozen=True)
class Kind:
    """A kind of fault. `run` draws one, lets it happen in an empty folder and returns (fault in words, outcome)."""

    name: str
    run: Callable[[random.Random, Path], tuple[str, str]]
    seconds: float  # about how long one takes
    count: int  # how many are drawn at night


def kind(name: str, seconds: float, count: int):
    """Register the decorated function as a kind of fault."""

    def register(run):
        KINDS[name] = Kind(name, run, seconds, count)
        return run

    return register


def happen(kind: Kind, seed: str) -> dict:
    """One fault of a kind, as a line of the record."""
    place, start = Path(tempfile.mkdtemp(prefix="fault")), time.monotonic()
    here = os.getcwd()
    try:
        fault, outcome = kind.run(random.Random(seed), place)
        line = {"fault": fault, "outcome": outcome}
    except Failure as failure:
        fault, _, what = str(failure).partition(": ")
        line = {"fault": fault, "outcome": FAILURE, "what": what[:2000], "seed": seed}
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        line = {"fault": "?", "outcome": FAILURE, "what": traceback.format_exc()[-2000:], "seed": seed}
    finally:
        os.chdir(here)
        shutil.rmtree(place, ignore_errors=True)
    return {"kind": kind.name, **line, "seconds": round(time.monotonic() - start, 3)}


def is_sentence(text: str) -> bool:
    """Whether a message is what a user should read: a few lines with words, no traceback."""
    return 0 < len(text.strip().splitlines()) <= LINES and "Traceback" not in text and " " in text.strip()


def refused(fault: str, function: Callable, refusals: tuple) -> tuple[str, object]:
    """(outcome, value) of a call that may refuse by one of these errors. Failure for every other one."""
    noise = io.StringIO()
    try:
        with contextlib.redirect_stderr(noise), contextlib.redirect_stdout(noise):
            return OK, function()
    except refusals as error:
        if not is_sentence(str(error)):
            raise Failure(f"{fault}: refused by {error!r}, which is no sentence") from error
        return SENTENCE, None
    except Exception as error:
        raise Failure(f"{fault}: {traceback.format_exc(limit=-3)}") from error


def in_fork(function: Callable, place: Path, limit: float = 60) -> tuple[int, str]:
    """(exit status, what it printed) of a function in a process of its own; a traceback is printed, as by Python."""
    child, said = start(function, place)
    return wait(child, limit), said.read_text(encoding="utf-8", errors="replace")


def start(function: Callable, place: Path) -> tuple[int, Path]:
    """(process, file of its output) of a function in a fork."""
    said = place / f"said.{time.monotonic_ns()}"
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 70
        try:
            out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(out, 1)
            os.dup2(out, 2)
            sys.stdout, sys.stderr = map(_stream, (1, 2))
            signal.signal(signal.SIGINT, signal.default_int_handler)
            try:
                status = function() or 0
            except SystemExit as leaving:
                status = leaving.code if isinstance(leaving.code, int) else 1
        except BaseException:
            os.write(2, traceback.format_exc().encode(errors="replace"))
            status = 1
        finally:
            try:
                for stream in filter(None, (sys.stdout, sys.stderr)):
                    stream.flush()
            except OSError as error:  # where Python says "Exception ignored"
                os.write(2, f"Traceback: what was printed is lost at the end: {error}".encode())
                status = 120
            os._exit(status)
    return child, said


def _stream(number: int) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.FileIO(number, "w", closefd=False), encoding="utf-8", line_buffering=number == 2)


def wait(child: int, limit: float = 60) -> int:
    """The exit status of a fork, negative where a signal ended it; it is killed after `limit` seconds."""
    until = time.monotonic() + limit
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise Failure(f"?: it did not end within {limit:g} seconds")
        time.sleep(0.002)


def judged(fault: str, status: int, said: str) -> str:
    """The outcome of a command from its exit status and what it printed."""
    if "Traceback" in said or status < 0:
        raise Failure(f"{fault}: exit status {status}, {said[-1500:]}")
    if status and not is_sentence(said):
        raise Failure(f"{fault}: exit status {status} with {len(said.splitlines())} lines: {said[-1500:]}")
    return SENTENCE if status else OK


def run(seed: int, share: float = 1.0, only: str | None = None, progress=lambda line: None) -> list[dict]:
    """A share of the faults of a night, of all kinds or of one; a line of the record for each."""
    from faults import environments, processes, readers, texts  # noqa: F401 (they register their kinds)

    lines = []
    for one in [kind for kind in KINDS.values() if only in (None, kind.name)]:
        for number in range(max(1, round(share * one.count))):
            lines.append(happen(one, f"{seed} {one.name} {number}"))
            progress(lines[-1])
    return lines


def summed(lines: list[dict]) -> list[dict]:
    """Equal faults with equal outcomes as one line with their number; failures stay as they are."""
    groups: dict[tuple, dict] = {}
    for line in lines:
        key = (line["kind"], line["fault"], line["outcome"], line.get("seed"))
        group = groups.setdefault(key, {**line, "count": 0, "seconds": 0.0})
        group["count"] += 1
        group["seconds"] = round(group["seconds"] + line["seconds"], 3)
    return sorted(groups.values(), key=lambda g: json.dumps([g["kind"], g["fault"], g["outcome"]]))
