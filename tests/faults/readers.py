"""Damaged files of every kind that is read. What can be made again is made again; the rest is named in one sentence."""

import atexit
import contextlib
import functools
import gzip
import hashlib
import http.server
import io
import json
import shutil
import tarfile
import tempfile
import threading
import zipfile
from pathlib import Path
from unittest import mock

import numpy as np
from fake_images import fake_set, sha256s
from made_up_data import ROOTS
from notebook_tools import SOURCES, load, notebook

from faults import OK, ROOT, SENTENCE, Failure, kind, refused
from faults.damage import WAYS, damaged
from mtl_core.data import CHECKS, DataError, downloads, files, mnist_files, qm9_files
from mtl_core.data.held import check
from mtl_core.data.qm9_descriptors import descriptors
from mtl_lab import __main__ as command_line
from mtl_lab import completion, experiments, records
from mtl_lab import queue as order
from mtl_lab.claims import printed_tables, verdicts
from mtl_lab.files import Damaged
from mtl_lab.runs import grid
from mtl_lab.runs.run import Run
from mtl_lab.runs.store import Store

TABLE = ("two_digits", "small")
EXTENDED = "qm9"  # the table that another one extends
PAPERS = sorted(path.stem for path in (ROOT / "book" / "claims").glob("*.yml"))


def hit(path: Path, random) -> tuple[str, bool]:
    """Damage a file: (how, whether it was altered)."""
    way, before = random.choice(WAYS), path.read_bytes()
    after = damaged(before, random, way)
    path.write_bytes(after)
    return f"{path.suffix or path.name}, {way}", after != before


# --- committed files


def _judge(root):
    experiments.committed.cache_clear()
    try:
        return experiments.committed(*TABLE, root)
    finally:
        experiments.committed.cache_clear()


@kind("results", 0.3, 500)
def results(random, place):
    """A file of a table's results; a verdict is asked for."""
    shutil.copytree(records.folder(*TABLE), records.folder(*TABLE, place))
    name = random.choice(("runs.jsonl", "runs.jsonl", "search.json", "attempts.jsonl", "extended.json"))
    fault, _ = hit(records.folder(*TABLE, place) / name, random)
    if name == "attempts.jsonl":
        return f"{name}: {fault}", refused(name, lambda: records.attempts(*TABLE, place), (Damaged,))[0]
    return f"{name}: {fault}", refused(f"{name}, {fault}", lambda: _judge(place), (Damaged,))[0]


@kind("results to complete", 0.5, 200)
def to_complete(random, place):
    """A file of a table, or of the one that it extends, is damaged or not there, and the table is to be completed."""
    experiment, profile = random.choice((TABLE, (f"{EXTENDED}_sam_gs", "small")))
    for name in (experiment, EXTENDED):
        shutil.copytree(records.folder(name, profile), records.folder(name, profile, place), dirs_exist_ok=True)
    files_of = records.folder(random.choice((experiment, EXTENDED)), profile, place)
    file = files_of / random.choice(("search.json", "search.json", "runs.jsonl", "attempts.jsonl", "extended.json"))
    fault = f"{file.name}: is not there"
    if file.exists() and random.random() < 0.8:
        fault = f"{file.name}: {hit(file, random)[0]}"
    else:
        file.unlink(missing_ok=True)
    lacks, complete = order.lacks, completion.complete_table
    trains = mock.Mock(side_effect=Damaged("all was read, and a training begins"))
    with contextlib.ExitStack() as patches:
        for what, name, new in (
            (order, "lacks", lambda *which: lacks(*which, place)),
            (completion, "complete_table", lambda *given, rows: complete(*given, place, rows=rows)),
            (completion, "is_committed", lambda _: True),
            (grid, "grid", trains),
            (records, "ROOT", place),
        ):
            patches.enter_context(mock.patch.object(what, name, new))
        ask = functools.partial(command_line._complete, experiment, profile, None, 1, None)
        outcome, _ = refused(f"{experiment}, {fault}", ask, (Damaged,))
    return fault, OK if trains.called else outcome


@kind("records of a study", 0.02, 500)
def study(random, place):
    """Records that are no runs: read by the study's own rule."""
    name = random.choice(("rotograd_illustration", "sam_gs_landscapes", "step_time", "rotation_rates"))
    shutil.copytree(records.folder(name, "small"), records.folder(name, "small", place))
    fault, _ = hit(records.folder(name, "small", place) / "runs.jsonl", random)
    return f"runs.jsonl: {fault}", refused(f"{name}, {fault}", lambda: records.load(name, "small", place), (Damaged,))[
        0
    ]


@kind("claims", 0.1, 500)
def claims(random, place):
    paper = random.choice(PAPERS)
    shutil.copy(verdicts.ROOT / f"{paper}.yml", place)
    fault, _ = hit(place / f"{paper}.yml", random)
    with mock.patch.object(verdicts, "ROOT", place):
        judge = functools.partial(verdicts.verdicts, paper)
        return f"claims: {fault}", refused(f"{paper}.yml, {fault}", judge, (Damaged,))[0]


@kind("printed tables", 0.02, 500)
def printed(random, place):
    paper = random.choice(("recon", "sam_gs", "famo"))
    shutil.copytree(printed_tables.ROOT / paper, place / paper)
    file = random.choice(sorted([*(place / paper).glob("table_*.csv"), place / paper / "paper.yml"]))
    fault, _ = hit(file, random)
    number = int(file.stem[6:]) if file.suffix == ".csv" else 3
    with mock.patch.object(printed_tables, "ROOT", place):
        ask = functools.partial(printed_tables.table, paper, number)
        return f"{file.suffix}: {fault}", refused(f"{file.name}, {fault}", ask, (Damaged, LookupError))[0]


# --- what is made again


RUN = Run("multi_fashion_mnist", {"profile": "tiny"}, model="lenet", schedule={"epochs": 1}, seed=3)


@functools.cache
def record():
    """A record as a run leaves it, without a training."""
    full = {"identity": RUN.identity, "config": json.loads(RUN.canonical()), "diverged": None, "seconds": 1.5}
    return full | {
        "core_seconds": 1.25,
        "epochs": [{"train_loss": {"digit": 0.5}}],
        "final": {"test": {"digit": {"x": 9.0}}},
    }


@kind("the store of runs", 0.005, 500)
def store(random, place):
    kept = Store(place)
    kept.put(RUN, record())
    if random.random() < 0.1:  # the record of another run
        other = Run.from_dict({**record()["config"], "seed": 4})
        kept.put(other, {**record(), "config": json.loads(other.canonical()), "identity": other.identity})
        shutil.copy(kept.path(other), kept.path(RUN))
        fault = "the record of another seed"
    else:
        fault, _ = hit(kept.path(RUN), random)
    outcome, got = refused(fault, lambda: kept.get(RUN), ())
    if got not in (None, record()):
        raise Failure(f"{fault}: an altered record is taken for the run's")
    return fault, outcome


@functools.cache
def runner():
    import sys

    sys.path.insert(0, str(SOURCES))
    try:
        return load(SOURCES / "run.py", "faulty_runner")
    finally:
        sys.path.remove(str(SOURCES))


@kind("executed pages", 0.01, 500)
def executed(random, place):
    """A page in book/notebooks/ is executed again where it is damaged."""
    (place / "book" / "part").mkdir(parents=True)
    (place / "notebooks" / "part").mkdir(parents=True)
    source = notebook(place / "notebooks" / "part" / "page.ipynb")
    made = json.loads(source.read_text())
    made["metadata"]["mtl_run"] = {"fingerprint": "0", "parameters": [["seeds", 1]]}
    page = place / "book" / "part" / "page.ipynb"
    page.write_text(json.dumps(made))
    fault, altered = hit(page, random)
    run = runner()
    with mock.patch.multiple(run, SOURCES=place / "notebooks", PAGES=place / "book", INPUTS=(), ROOT=place):
        options = mock.Mock(page=None, parameters="", force=False, absent=False)
        outcome, jobs = refused(fault, lambda: run.plan(options, run.registry()), ())
    if len(jobs) != 1:
        raise Failure(f"{fault}: the page is not made again")
    return fault, outcome


@kind("sources of pages", 0.02, 500)
def sources(random, place):
    """A notebook that is damaged is named."""
    path = random.choice(sorted(SOURCES.glob("*/*.ipynb")))
    (place / "notebooks" / "part").mkdir(parents=True)
    shutil.copy(path, place / "notebooks" / "part")
    fault, _ = hit(place / "notebooks" / "part" / path.name, random)
    run = runner()
    with mock.patch.multiple(run, SOURCES=place / "notebooks", PAGES=place / "book", INPUTS=(), ROOT=place):
        options = mock.Mock(page=None, parameters="", force=False, absent=False)
        return fault, refused(
            f"{path.name}, {fault}", lambda: run.plan(options, run.registry()), (run.ParameterError,)
        )[0]


@functools.cache
def _setup():
    return load(ROOT / ".ci" / "setup.py", "faulty_setup")


@kind("the stamp of the set-up", 0.002, 500)
def stamp(random, place):
    path = place / "set-up.json"
    path.write_text(json.dumps({"digest": "0" * 64, "torch": "cpu", "root": "/somewhere"}))
    fault, _ = hit(path, random)
    return fault, refused(fault, lambda: _setup().read_stamp(path), ())[0]


# --- data sets


@kind("images", 0.02, 500)
def images(random, place):
    """MNIST's raw files, packed or not: only the right bytes are read."""
    raw, folder = fake_set(20, 10), mnist_files.raw_folder("mnist", place)
    folder.mkdir(parents=True)
    for name, content in raw.items():
        packed = random.random() < 0.5
        (folder / f"{name}{'.gz' if packed else ''}").write_bytes(gzip.compress(content) if packed else content)
    fault, _ = hit(random.choice(sorted(folder.iterdir())), random)
    with mock.patch.dict(mnist_files.CHECKSUMS, {"mnist": sha256s(raw)}):
        outcome, got = refused(f"MNIST, {fault}", lambda: mnist_files.verify("mnist", place), (DataError,))
    if got not in (None, raw):
        raise Failure(f"{fault}: altered images are read")
    return fault, outcome


@functools.cache
def molecules():
    """Arrays of two molecules."""
    made = {
        "index": np.array([1, 2], np.int32),
        "atoms": np.array([3, 2], np.int8),
        "elements": np.array([8, 1, 1, 1, 9], np.int8),
        "positions": np.arange(15, dtype=np.float32).reshape(5, 3) ** 1.5 / 9,
        "properties": np.arange(22.0).reshape(2, 11),
    }
    return made | {"descriptors": descriptors(made), "format": np.array(qm9_files.FORMAT)}


@kind("molecules", 0.02, 500)
def qm9(random, place):
    """QM9's arrays and their sidecar: damaged bytes, arrays of another kind, descriptors of other molecules."""
    folder, arrays = place / "qm9", dict(molecules())
    folder.mkdir()
    fault, key = "bytes", random.choice(sorted(arrays))
    altered = random.choice(("", "", "zeroed", "objects", "lost", "another shape", "another type", "a field more"))
    if altered:
        fault = f"{key} {altered}"
        value = arrays.pop(key)
        if altered == "a field more":
            arrays |= {key: value, "another": value}
        elif altered != "lost":
            arrays[key] = {
                "zeroed": np.zeros_like(value),
                "objects": np.array([None, {}], dtype=object),
                "another shape": value.reshape(-1)[:1],
                "another type": value.astype("U5"),
            }[altered]
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    (folder / "qm9.npz").write_bytes(buffer.getvalue())
    way = ""
    if not altered and random.random() < 0.5:
        way, _ = hit(folder / "qm9.npz", random)
    data = (folder / "qm9.npz").read_bytes()
    (folder / "qm9.npz.sha256").write_text(hashlib.sha256(data).hexdigest() + "  qm9.npz\n")
    if not altered and not way:
        way, _ = hit(folder / "qm9.npz.sha256", random)
    good = {key: value for key, value in molecules().items() if key != "format"}
    with mock.patch.object(qm9_files, "CONTENT_SHA256", qm9_files.identity(good)):
        outcome, got = refused(f"{fault} {way}", lambda: qm9_files.read(place), (DataError,))
    if got is not None and not all(np.array_equal(got[name], value) for name, value in good.items()):
        raise Failure(f"{fault} {way}: altered arrays are read")
    return f"{fault} {way}".strip(), outcome


@functools.cache
def brought(name):
    """A root with one made-up set, and what its files were before."""
    place = Path(tempfile.mkdtemp(prefix="brought"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    folder = ROOTS[name](place)
    return place, [file for file in sorted(folder.rglob("*")) if file.is_file()]


@kind("sets that users bring", 0.3, 300)
def bring(random, place):
    """A file of a set that a user brings, damaged before or after its manifest is written."""
    name = random.choice(sorted(ROOTS))
    source, files = brought(name)
    folder = place / CHECKS[name].folder
    shutil.copytree(source / CHECKS[name].folder, folder)
    ask = functools.partial(check, name, CHECKS[name], place, partial=True)
    held = ask() if random.random() < 0.5 else None
    file = place / random.choice(files).relative_to(source)
    fault, altered = hit(file, random)
    outcome, _ = refused(f"{name}, {file.name}, {fault}", ask, (DataError,))
    if held and altered and outcome == OK:
        raise Failure(f"{name}, {file.name}, {fault}: an altered file is read")
    return f"{name}: {fault}{', under a manifest' if held else ''}", outcome


@kind("archives", 0.03, 500)
def archives(random, place):
    """Packages as a registry might send them: damaged, too large, with members that point elsewhere."""
    content, wanted = b"content" * 99, {"package/data/a", "package/data/b"}
    buffer, what = (
        io.BytesIO(),
        random.choice(("damaged", "elsewhere", "a bomb", "a sparse member", "a wheel", "a bomb of a wheel")),
    )
    if what.endswith("wheel"):
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for part in (1, 2, 3):
                archive.writestr(
                    f"qm9pack/data/qm9_part{part}.csv", "a,b\n1,2\n" if what == "a wheel" else bytes(9_000_000)
                )
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for name in ("package/data/a", "../../executed", "/tmp/executed", "package/data/b"):
                member = tarfile.TarInfo(name)
                member.size = len(content) if what != "a bomb" else 9_000_000
                if what == "elsewhere":
                    member.type = random.choice((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE))
                    member.linkname = "/etc/passwd"
                archive.addfile(member, io.BytesIO(content if what != "a bomb" else bytes(9_000_000)))
    file = place / "package"
    file.write_bytes(buffer.getvalue())
    if what in ("damaged", "a wheel"):
        what = f"{what}, {hit(file, random)[0]}"

    def read():
        return qm9_files.read_wheel(file) if "wheel" in what else downloads.members(file, wanted)

    with mock.patch.object(files, "LARGEST", 5_000_000), mock.patch.object(downloads, "LARGEST", 5_000_000):
        outcome, got = refused(what, read, (DataError, downloads.NoAnswer))
    if got and set(got) <= wanted and any(value != content for value in got.values()):
        raise Failure(f"{what}: altered members are read")
    if what == "a bomb" and outcome == OK:
        raise Failure("a bomb: it is unpacked")
    if "bomb" in what and outcome != SENTENCE or list(place.iterdir()) != [file]:
        raise Failure(f"{what}: {outcome}, {list(place.iterdir())}")
    return what, outcome


class _Server(http.server.BaseHTTPRequestHandler):
    answer: tuple[bytes, ...] = ()

    def do_GET(self):
        for part in self.answer:
            self.wfile.write(part)

    def log_message(self, *_):
        pass


@kind("servers", 0.05, 100)
def servers(random, place):
    """What a server on this machine may answer."""
    length = random.choice(
        ("abc", "-1", "99999999999", "5", "", "5\r\nContent-Encoding: gzip", "5\r\nLocation: nowhere")
    )
    status = random.choice(("200 OK", "404 Not Found", "302 Found", "500 X", "999 X", "OK", ""))
    head = f"HTTP/1.0 {status}\r\nContent-Length: {length}\r\n\r\n".encode()
    _Server.answer = random.choice(((head, b"hello"), (head,), (b"",), (b"\0" * 9,), (head, random.randbytes(2000))))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    fault = f"Content-Length: {ascii(length)}, {status!r}"
    try:
        address = f"http://127.0.0.1:{server.server_port}/file"
        ask = functools.partial(downloads.retrieve, address, place, f"sha256:{'0' * 64}", "file", progress=False)
        with contextlib.suppress(ImportError):
            outcome, _ = refused(fault, ask, (OSError,))
    finally:
        server.shutdown()
        server.server_close()
    if (place / "file").exists():
        raise Failure(f"{fault}: a file with another checksum is kept")
    return fault, outcome
