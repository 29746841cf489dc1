"""The folder of all data sets, and how files are written, unpacked and read there."""

import gzip
import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .errors import DataError, damage_as_data_error, data_error

LARGEST = (
    1 << 28
)  # bytes that one archive may hold, unpacked; the largest known one, the wheel of QM9, holds 234 million

Root = str | os.PathLike | None  # folder of all data sets, see `data_root`


class FileSet(NamedTuple):
    """How the files of a data set are had.

    check  (root) -> None; raises `DataError` where files in the root are missing or damaged.
    fetch  (root, progress) -> folder; brings what is missing or damaged, and checks it before it is used.
    """

    check: Callable[[Root], object]
    fetch: Callable[[Root, bool], Path]


def data_root(root: Root = None) -> Path:
    """Folder of all data sets: `root`, else $MTL_DATA, else `conflicting-gradients` in the user's cache.

    `DataError` where that is below the home of a user who has none.
    """
    try:
        if root is not None:
            return Path(root).expanduser()
        if os.environ.get("MTL_DATA"):
            return Path(os.environ["MTL_DATA"]).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "conflicting-gradients"
    except RuntimeError as error:
        raise DataError(f"no folder of data sets: {error} Name one: `--root FOLDER` or $MTL_DATA") from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` so that `path` is either absent, as before or whole, whatever happens in between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def store(name: str, path: Path, data: bytes) -> None:
    """`write_atomically` for data set `name`. `DataError` where the folder cannot be written."""
    try:
        write_atomically(path, data)
    except OSError as error:
        remedy = "choose another folder with `--root FOLDER` or $MTL_DATA, or make room there"
        raise data_error(name, f"room for {len(data):,} bytes", path.parent, str(error), remedy) from error


def refuse_too_large(size: int) -> None:
    """OSError where `size` is more than `LARGEST` bytes."""
    if size > LARGEST:
        raise OSError(f"it holds more than {LARGEST:,} bytes, the most that is accepted")


def unpack(data: bytes) -> bytes:
    """The content of gzip `data`; data that are not packed are returned as they are.

    OSError, EOFError or zlib.error where they are damaged or hold more than `LARGEST` bytes.
    """
    if data[:2] != b"\x1f\x8b":
        return data
    with gzip.open(io.BytesIO(data)) as file:
        content = file.read(LARGEST + 1)
    refuse_too_large(len(content))
    return content


def read_npz(name: str, path: Path, data: bytes, remedy: str | None = None) -> dict[str, np.ndarray]:
    """Arrays of an npz file with the bytes `data`. Nothing is unpickled.

    `DataError`, which names `path`, where the bytes are damaged, hold objects or unpack to more than `LARGEST` bytes.
    """
    with damage_as_data_error(name, "an npz file of plain arrays", path, remedy):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            refuse_too_large(sum(member.file_size for member in archive.infolist()))
        with np.load(io.BytesIO(data), allow_pickle=False) as members:
            arrays = dict(members)
        if without := [key for key, array in arrays.items() if not isinstance(array, np.ndarray)]:
            raise ValueError(f"{', '.join(without)} is no array")
        return arrays
