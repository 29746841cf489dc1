"""Kills, full disks, places that cannot be written, several writers, processes that would outlive their parent."""

import contextlib
import functools
import hashlib
import importlib
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from dataclasses import dataclass, replace
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

import torch
from filelock import FileLock

from faults import OK, ROOT, SENTENCE, Failure, damage, in_fork, is_sentence, judged, kind, start, wait
from mtl_lab import __main__ as command_line
from mtl_lab import completion, experiments, files, records
from mtl_lab import queue as order
from mtl_lab.protocol import attempts
from mtl_lab.runs import checkpoints, grid, processes
from mtl_lab.runs.execute import execute
from mtl_lab.runs.run import Run
from mtl_lab.runs.store import Store

LINE = json.dumps({"row": "x" * 200})
TINY = Run(
    "multi_fashion_mnist",
    {"profile": "tiny", "train": 64, "validation": 32, "test": 32},
    model="lenet",
    schedule={"epochs": 3, "batch_size": 32},
)


@dataclass(frozen=True)
class Three:
    """A grid of three short runs."""

    profile: str = "tiny"
    seeds: int = 3

    def plan(self, recorded=()):
        return {"short": TINY.seeds(range(self.seeds))}


def outcomes(root: Path) -> list[dict]:
    """The records of the grid without what a clock decides."""
    found = []
    for record in records.load("faulty", "tiny", root):
        found.append({k: v for k, v in record.items() if k not in ("seconds", "core_seconds", "provenance")})
    return found


def complete(root: Path, runs: Path, *words: str) -> int:
    """`make results` of the grid, or the command in `words`."""
    torch.set_num_threads(1)
    warnings.simplefilter("always")
    warnings.showwarning = lambda message, *_: print(message, file=sys.stderr)  # pytest keeps them to itself
    lacks = order.lacks
    order.lacks = lambda experiment, profile, _=root: lacks(experiment, profile, root)
    order.progress = functools.partial(order.progress, root=root)
    os.environ["MTL_RUNS"] = str(runs)
    experiments.GRIDS["faulty"] = Three
    records.ROOT = root
    completion.complete_grid = functools.partial(completion.complete_grid, root=root)
    command_line.main([*(words or ("results", "faulty", "--profile", "tiny", "--seeds", "3")), "--workers", "1"])
    return 0


@functools.cache
def _undisturbed() -> tuple[list[dict], float]:
    """The records of the grid, and how many seconds it takes to train them."""
    for name in ("torch._dynamo", "torchmetrics.classification", "torchvision.models", "filelock", "tqdm"):
        importlib.import_module(name)  # two seconds that each fork would spend before it trains
    with tempfile.TemporaryDirectory() as folder:
        place, begun = Path(folder), time.monotonic()
        status, said = in_fork(lambda: complete(place / "results", place / "runs"), place)
        if status:
            raise Failure(f"undisturbed: {said}")
        return outcomes(place / "results"), time.monotonic() - begun


def undisturbed() -> list[dict]:
    return _undisturbed()[0]


def moment(random) -> float:
    """Seconds from the start of the three runs to a moment in them, or soon after them."""
    return random.uniform(0, 1.2) * _undisturbed()[1]


@kind("a queue", 6, 6)
def queue(random, place):
    """A queue is killed; called again without names it goes on, says what is left, and forgets what is complete."""
    wanted, results, runs = undisturbed(), place / "results", place / "runs"
    child, _ = start(lambda: complete(results, runs, "queue", "faulty:tiny"), place)
    time.sleep(moment(random))
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    wait(child)
    finished = len(outcomes(results))
    if finished < 3 and (runs / "queue").exists():
        status, said = in_fork(lambda: complete(results, runs, "queue", "--show"), place)
        if status or f"missing runs: {3 - finished}" not in said or len(outcomes(results)) != finished:
            raise Failure(f"a queue: exit status {status}, {finished} of 3 are finished, {said}")
    words = () if (runs / "queue").exists() else ("faulty:tiny",)
    status, said = in_fork(lambda: complete(results, runs, "queue", *words), place)
    if status or outcomes(results) != wanted or (runs / "queue").exists():
        raise Failure(f"a queue: exit status {status}, {len(outcomes(results))} records, {said[-800:]}")
    return "SIGKILL", OK


def left_behind(place: Path) -> list[str]:
    return [str(path.relative_to(place)) for path in place.rglob("*.part*")]


@kind("a kill while training", 4, 40)
def kill_training(random, place):
    """SIGKILL up to three times, then the same command: every finished run is kept, and all are as if undisturbed."""
    wanted, results, runs = undisturbed(), place / "results", place / "runs"
    kept = []
    for _ in range(random.randint(1, 3)):
        child, _ = start(lambda: complete(results, runs), place)
        time.sleep(moment(random))
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        wait(child)
        now = outcomes(results)
        if any(record not in now for record in kept):
            raise Failure("SIGKILL: a finished record is lost")
        kept = now
    status, said = in_fork(lambda: complete(results, runs), place)
    if status or outcomes(results) != wanted:
        raise Failure(f"SIGKILL: not as undisturbed, exit status {status}, {said[-800:]}")
    if late := [name for name in left_behind(place) if "checkpoint" not in name and name.startswith("results")]:
        raise Failure(f"SIGKILL: temporary files stay: {late}")
    return "SIGKILL", OK


@kind("a kill while writing", 0.1, 200)
def kill_writing(random, place):
    """SIGKILL while a process appends to a log, or rewrites a file: lines are whole, and the file is old or new."""
    log, file, append = place / "log.jsonl", place / "file.json", random.random() < 0.5

    def write():
        number = 0
        while True:
            number += 1
            if append:
                files.append_line(log, json.dumps({"number": number, "text": "x" * 50_000}))
            else:
                files.write_atomically(file, json.dumps([number] * 50_000))

    child, _ = start(write, place)
    time.sleep(random.uniform(0.005, 0.1))
    os.kill(child, signal.SIGKILL)
    wait(child)
    with contextlib.redirect_stderr(open(os.devnull, "w")):
        if append and log.exists():
            if random.random() < 0.5:
                with open(log, "ab") as half:
                    half.write(b'{"number": 1, "te')
            files.append_line(log, LINE)
            numbers = [line.get("number") for line in files.read_json_lines(log)]
            if numbers != [*range(1, len(numbers)), None]:
                raise Failure(f"SIGKILL: the log holds {numbers[:9]}")
        elif file.exists() and len(set(json.loads(file.read_text()))) != 1:
            raise Failure("SIGKILL: a part of a file")
    files.sweep(place, older=-1)
    if left_behind(place):
        raise Failure("SIGKILL: temporary files stay")
    return "in an append" if append else "in a file", OK


@contextlib.contextmanager
def small_disk(place: Path, kilobytes: int):
    """A file system of that size at `place`/disk; None where this machine does not let us mount one."""
    disk = place / "disk"
    disk.mkdir()
    size = f"size={kilobytes}k"
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", disk], capture_output=True).returncode
    )
    try:
        yield disk, mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", disk], check=False)


def fill(disk: Path) -> None:
    with open(disk / "rest", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(1000)):
            pass


@kind("a full disk", 0.5, 80)
def full_disk(random, place):
    """No room for an append, a file, a record of the store or the results that `make results` writes."""
    what = random.choice(("an append", "a file", "a record", "make results"))
    store_too = what == "make results" and random.random() < 0.5  # then a checkpoint is what finds no room
    room = random.choice((0, 100, 4096, 9000))
    with small_disk(place, 64) as (disk, mounted):
        log, file = disk / "results" / "attempts.jsonl", disk / "file.json"
        files.append_line(log, LINE)
        files.write_atomically(file, LINE)

        def limit():
            if mounted:
                (disk / "room").write_bytes(bytes(room))
                fill(disk)
                (disk / "room").unlink()
            else:
                resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size + room, resource.RLIM_INFINITY))

        def act():
            limit()
            try:
                if what == "an append":
                    for _ in range(1000):
                        files.append_line(log, LINE)
                elif what == "a file":
                    files.write_atomically(file, LINE * 2000)
                elif what == "a record":
                    Store(disk / "runs").put(TINY, {"config": {}, "text": "x" * 200_000})
                else:
                    return complete(disk / "results", (disk if store_too else place) / "runs")
            except OSError as error:
                print(command_line.sentence(error))
                return 1

        status, said = in_fork(act, place)
        outcome = judged(f"{what}, {room} bytes of room", status, said)
        if files.read_json_lines(log) != [json.loads(LINE)] * len(files.read_json_lines(log)):
            raise Failure(f"{what}: the log is {log.read_text()[-300:]!r}")
        if file.read_text() not in (LINE, LINE * 2000):
            raise Failure(f"{what}: the file is altered")
        if outcome == SENTENCE and "pace" not in said and "large" not in said:
            raise Failure(f"{what}: the sentence does not say why: {said}")
        if late := left_behind(place):
            raise Failure(f"{what}: temporary files stay: {late}")
        if mounted:
            (disk / "rest").unlink(missing_ok=True)
            with contextlib.redirect_stderr(open(os.devnull, "w")):
                files.append_line(log, LINE)  # once there is room, it goes on
        what += ", its store on the same disk" * store_too
        return f"{what}, {'a small disk' if mounted else 'a limit of the size'}", outcome


@kind("a full disk while training", 2, 30)
def full_disk_training(random, place):
    """The disk of results and store fills up at any moment; once there is room, all ends as if undisturbed."""
    wanted, room = undisturbed(), random.choice((random.randint(4096, 2_000_000), random.randint(4096, 50_000)))
    with small_disk(place, 4000) as (disk, mounted):
        results, runs = disk / "results", disk / "runs"
        child, output = start(lambda: complete(results, runs), place)
        time.sleep(moment(random))
        if mounted:
            (disk / "room").write_bytes(bytes(room))
            fill(disk)
            (disk / "room").unlink()
        else:
            resource.prlimit(child, resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
        status = wait(child)
        said, kept = output.read_text(), outcomes(results)
        outcome = judged(f"{room} bytes of room", status, said)
        if late := left_behind(disk):
            raise Failure(f"{room} bytes of room: temporary files stay: {late}")
        if any(record not in wanted for record in kept) or outcome == OK and kept != wanted:
            raise Failure(f"{room} bytes of room: {len(kept)} records, not as undisturbed")
        if outcome == SENTENCE and "pace" not in said and "large" not in said:
            raise Failure(f"{room} bytes of room: the sentence does not say why: {said}")
        if mounted:
            (disk / "rest").unlink()
        status, said = in_fork(lambda: complete(results, runs), place)
        if status or "damaged" in said or outcomes(results) != wanted:
            raise Failure(f"{room} bytes of room: afterwards exit status {status}, {said[-800:]}")
        return "a small disk" if mounted else "a limit of the size", outcome


@functools.cache
def checkpoints_of(seed: int) -> list[bytes]:
    """The checkpoints of a training of that seed, one after each epoch."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)

        def act():
            torch.set_num_threads(1)
            write = checkpoints.write

            def keep(state, path):
                write(state, path)
                shutil.copy(path, place / f"{len(state['history']['epochs'])}.pt")

            with mock.patch.object(checkpoints, "write", keep):
                execute(replace(TINY, seed=seed), Store(place / "runs"))

        status, said = in_fork(act, place)
        if status:
            raise Failure(f"undisturbed: {said}")
        return [file.read_bytes() for file in sorted(place.glob("*.pt"))]


@kind("damaged checkpoints", 0.4, 150)
def damaged_checkpoint(random, place):
    """A training goes on from a checkpoint that was damaged, or is another's: the same record, or one sentence."""
    wanted, store = undisturbed()[:1], Store(place / "runs")
    file = store.checkpoint(replace(TINY, seed=0))
    file.parent.mkdir(parents=True)
    way = random.choice((*damage.BYTES, "another training's", "whole", "without a digest", "no checkpoint of ours"))
    whole = content = random.choice(checkpoints_of(0)[:-1])
    if way == "another training's":
        content = random.choice(checkpoints_of(1))
    elif way == "without a digest":
        content = content[checkpoints.DIGEST :]
    elif way == "no checkpoint of ours":
        buffer = io.BytesIO()
        torch.save(random.choice(({}, [], {"of": ""}, {"history": {}}, torch.zeros(3))), buffer)
        content = hashlib.sha256(buffer.getvalue()).digest() + buffer.getvalue()
    elif way != "whole":
        content = damage.damaged(whole, random, way)
    file.write_bytes(content)
    words = "results", "faulty", "--profile", "tiny", "--seeds", "1"
    status, said = in_fork(lambda: complete(place / "results", store.root, *words), place)
    outcome, kept = judged(way, status, said), outcomes(place / "results")
    if kept != (wanted if outcome == OK else []):
        raise Failure(f"{way}: another result than undisturbed, {said[-800:]}")
    if outcome == OK and ("starts over" in said) != (content != whole):
        raise Failure(f"{way}: {len(content)} of {len(whole)} bytes, and it says {said[-800:]!r}")
    if (outcome == SENTENCE) != (way == "another training's") or outcome == SENTENCE and file.read_bytes() != content:
        raise Failure(f"{way}: {outcome}, the checkpoint is {'kept' if file.exists() else 'gone'}, {said[-800:]}")
    return way, outcome


@kind("a place that cannot be written", 0.3, 60)
def read_only(random, place):
    """Results or the store lie on a disk that is read-only, below a file, or are themselves a file."""
    way = random.choice(("read-only", "below a file", "a file in its place", "a broken link"))
    part = random.choice(("results", "the store"))
    with small_disk(place, 400) as (disk, mounted):
        target = disk / "x"
        if way == "read-only" and mounted:
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        elif way == "a broken link":
            target.symlink_to("/nonexistent/place")
        else:
            way = "a file in its place" if way == "read-only" else way
            target.write_text("")
            target = target / "below" if way == "below a file" else target
        results, runs = (target, place / "runs") if part == "results" else (place / "results", target)
        status, said = in_fork(lambda: complete(results, runs), place)
        outcome = judged(f"{part}, {way}", status, said)
        if outcome == OK and way != "a broken link":
            raise Failure(f"{part}, {way}: it claims to have been written")
        return f"{part}, {way}", outcome


@kind("two writers", 3, 15)
def two_writers(random, place):
    """Two commands with different stores write one folder of results: one is told to wait, and no record is lost."""
    wanted, results = undisturbed(), place / "results"
    first, _ = start(lambda: complete(results, place / "a"), place)
    time.sleep(moment(random))
    second, said = start(lambda: complete(results, place / "b"), place)
    statuses = [wait(first), wait(second)]
    if sorted(statuses) not in ([0, 0], [0, 2]) or outcomes(results) != wanted:
        raise Failure(
            f"two writers: exit statuses {statuses}, {len(outcomes(results))} records, {said.read_text()[-500:]}"
        )
    return "make results twice", SENTENCE if 2 in statuses else OK


def _marked(mark: str) -> list[int]:
    """The processes whose environment holds the mark."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (
                mark.encode() in (folder / "environ").read_bytes()
                and (folder / "stat").read_text().split(") ")[1][0] != "Z"
            ):
                found.append(int(folder.name))
    return found


def _all_end(mark: str, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while _marked(mark) and time.monotonic() < until:
        time.sleep(0.1)
    return not _marked(mark)


@kind("orphans", 12, 6)
def orphans(random, place):
    """SIGKILL of a command with workers: they end, too, whether they train, wait or are paused."""
    mark, paused = f"FAULT={uuid.uuid4()}", random.random() < 0.3
    seconds, at_work = random.uniform(0, 2), place / "at work"

    def act():
        torch.set_num_threads(1)
        forkserver._forkserver._forkserver_pid = None  # this fork starts a server of its own
        os.environ["FAULT"] = mark.partition("=")[2]
        processes.pause_file = place / "paused"
        if paused:
            processes.pause_file.touch()
        at_work.touch()
        long = replace(TINY, schedule={**TINY.schedule, "epochs": 10_000})
        grid.grid(long.seeds(range(2)), workers=2, store=Store(place / "runs"))

    child, said = start(act, place)
    until = time.monotonic() + 60
    while len(_marked(mark)) < 3 and time.monotonic() < until:  # the server, which has imported torch, and two workers
        time.sleep(0.05)
    started = len(_marked(mark))
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    wait(child)
    if started < 3:
        raise Failure(f"orphans: {started} processes started, {said.read_text()[-500:]}")
    if not _all_end(mark, 10):
        for one in _marked(mark):
            os.kill(one, signal.SIGKILL)
        raise Failure(f"orphans: {'paused ' if paused else ''}workers live on after their parent")
    return "SIGKILL with two workers" + (", paused" if paused else ""), OK


def _cpu(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().split(") ")[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@kind("a pause", 6, 6)
def pause(random, place):
    """`make pause` stops a training within a second, a kill of the pause loses nothing, `make resume` goes on."""
    wanted, results, runs = undisturbed(), place / "results", place / "runs"
    os.environ["MTL_RUNS"] = str(runs)
    try:
        child, said = start(lambda: complete(results, runs), place)
        time.sleep(moment(random))
        with contextlib.redirect_stdout(open(os.devnull, "w")):
            command_line.pause()
        time.sleep(1.2)
        with contextlib.suppress(FileNotFoundError, IndexError):  # it may have ended before
            before = _cpu(child)
            time.sleep(1)
            if _cpu(child) - before > 0.1:
                raise Failure(f"a pause: {_cpu(child) - before:.2f} s of processor in a second")
        if random.random() < 0.5:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            wait(child)
            child, said = start(lambda: complete(results, runs), place)
            time.sleep(0.5)
        with contextlib.redirect_stdout(open(os.devnull, "w")):
            command_line.resume()
        if wait(child) or outcomes(results) != wanted:
            raise Failure(f"a pause: not as undisturbed, {said.read_text()[-800:]}")
    finally:
        del os.environ["MTL_RUNS"]
    return "pause and resume", OK


@kind("a log of attempts", 0.5, 30)
def log_of_attempts(random, place):
    """attempts.jsonl with half a line, as a full disk used to leave it: the same command goes on."""
    file = place / "attempts.jsonl"
    half = random.choice((b'{"identity": "0", "st', b"{", b'{"a": 1}', b"\xff"))
    file.write_bytes(f"{LINE}\n".encode() * random.randint(0, 3) + half)

    def act():
        with (
            mock.patch.object(attempts.records, "read_lines", wraps=records.read_lines),
            mock.patch.object(grid, "grid"),
        ):
            files.mend_last_line(file)
            records.read_lines(file)

    status, said = in_fork(act, place)
    if status or not is_sentence(said) or "incomplete" not in said:
        raise Failure(f"half a line: {status}, {said}")
    return "half a line", OK


@kind("make results twice at once", 0.05, 60)
def locked(random, place):
    """The lock lies beside the results, whatever store is named, and a lock that a kill left does not block."""
    results = place / "results"
    lock = results / ".locks" / "faulty tiny.lock"
    lock.parent.mkdir(parents=True)
    left = random.random() < 0.5
    if left:
        lock.touch()
        experiments_run = mock.patch.object(command_line, "_complete", return_value="done.")
        with experiments_run, mock.patch.object(records, "ROOT", results), command_line._writing("faulty", "tiny"):
            return "a lock file that a kill left", OK
    with FileLock(lock), mock.patch.object(records, "ROOT", results):
        status, said = in_fork(lambda: complete(results, place / random.choice("ab")), place)
    if status != 2:
        raise Failure(f"the lock: exit status {status}, {said}")
    return "the folder is being written", judged("the lock", status, said)


@kind("pages that are killed", 25, 2)
def killed_pages(random, place):
    """SIGKILL of `notebooks/run.py` while two pages are being executed: their kernels end, no page is half."""
    from notebook_tools import SOURCES, notebook

    for name in ("run.py", "page.py", "parameters.py", "orphans.py", "warm.py", ".ipython"):
        (place / "notebooks" / "part").mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (SOURCES / name).is_dir() else shutil.copy
        copy(SOURCES / name, place / "notebooks" / name)
    for name in ("one", "two"):
        notebook(
            place / "notebooks" / "part" / f"{name}.ipynb", work="import time\nopen('begun', 'w')\ntime.sleep(600)"
        )
    mark = uuid.uuid4().hex
    environment = {**os.environ, "FAULT": mark, "PYTHONPATH": str(ROOT)}
    run = subprocess.Popen(
        [sys.executable, "notebooks/run.py", "-j", "2"], cwd=place, env=environment, stdout=subprocess.DEVNULL
    )
    until = time.monotonic() + 90
    while not (place / "notebooks" / "part" / "begun").exists() and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(random.uniform(0, 1))
    run.kill()
    run.wait()
    if not (place / "notebooks" / "part" / "begun").exists():
        raise Failure("pages: no kernel began")
    if not _all_end(mark, 15):
        for one in _marked(mark):
            os.kill(one, signal.SIGKILL)
        raise Failure("pages: kernels live on after the command that began them")
    if list((place / "book").rglob("*.ipynb")):
        raise Failure("pages: a page is there that was never finished")
    return "SIGKILL", OK
