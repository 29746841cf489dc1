"""Raw files: where they lie, whether they are what they should be, how they are read.

The folders are torchvision's: ROOT/MNIST/raw and ROOT/FashionMNIST/raw serve both.
"""

import gzip
import hashlib
import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np

from .errors import data_error

# MD5 of the raw (unpacked) idx files. Packages and mirrors compress the same bytes in different ways, so
# torchvision's sums of the .gz files cannot be used: they would refuse the same data.
CHECKSUMS = {
    "mnist": {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
}
FOLDERS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}  # names of torchvision's classes
LARGEST = 1 << 26  # bytes; the largest raw file has 47 million


def data_root(root: str | os.PathLike | None = None) -> Path:
    """Folder of all data sets: `root`, else $MTL_DATA, else `conflicting-gradients` in the user's cache."""
    if root is not None:
        return Path(root).expanduser()
    if os.environ.get("MTL_DATA"):
        return Path(os.environ["MTL_DATA"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "conflicting-gradients"


def raw_folder(name: str, root=None) -> Path:
    """Where the raw files of image set `name` lie."""
    return data_root(root) / FOLDERS[name] / "raw"


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
    """`write_atomically` for data set `name`. DataError where the folder cannot be written."""
    try:
        write_atomically(path, data)
    except OSError as error:
        advice = "choose another folder with `--root FOLDER` or $MTL_DATA, or make room there"
        raise data_error(name, "a folder that takes 55 MB", path.parent, str(error), advice) from error


def unpack(data: bytes) -> bytes:
    """Unpack gzip data, at most `LARGEST` bytes. OSError, EOFError or zlib.error where it is damaged."""
    with gzip.open(io.BytesIO(data)) as file:
        return file.read(LARGEST + 1)


def fault(file: str, data: bytes, md5: str | None) -> tuple[str, str] | None:
    """What is wrong with the bytes of raw idx `file`: (expected, found), or None where nothing is.

    The shape is looked at before the checksum, since "truncated" tells a reader more than two checksums.
    `md5` None leaves the checksum out.
    """
    dimensions = 3 if "idx3" in file else 1
    header = 4 + 4 * dimensions
    magic = int.from_bytes(data[:4], "big")
    if len(data) < header or magic != 0x0800 + dimensions:
        return (
            f"idx magic 0x{0x0800 + dimensions:08x} (unsigned bytes, {dimensions} dimensions)",
            f"0x{magic:08x}, {len(data)} bytes in all",
        )
    shape = struct.unpack(f">{dimensions}I", data[4:header])
    size = header + int(np.prod(shape, dtype=np.int64))
    if len(data) != size:
        what = "truncated" if len(data) < size else "too long"
        return f"{size} bytes, as its header says (shape {shape})", f"{len(data)} bytes: {what}"
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if md5 is not None and found != md5:
        return f"MD5 {md5}", f"MD5 {found} ({len(data)} bytes)"
    return None


def read_local(name: str, file: str, root=None) -> bytes | None:
    """Bytes of raw `file` in the root, from the file itself or else from its .gz; None where neither is."""
    path = raw_folder(name, root) / file
    if path.is_file():
        return path.read_bytes()
    packed = path.with_name(file + ".gz")
    if not packed.is_file():
        return None
    try:
        return unpack(packed.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        found = f"{type(error).__name__}: {error}"
        raise data_error(name, f"gzip data with {file}", packed, found) from error


def verify(name: str, root=None, checksums: dict[str, str | None] | None = None) -> dict[str, str]:
    """Check all raw files of `name` and return their MD5 sums. DataError where anything is wrong.

    A file that lies there only as .gz is unpacked beside it. `checksums` is for files of tests; a None in it
    leaves that file's checksum out.
    """
    folder, found, counts = raw_folder(name, root), {}, {}
    for file, md5 in (checksums or CHECKSUMS[name]).items():
        data = read_local(name, file, root)
        if data is None:
            there = "no such folder"
            if folder.is_dir():
                there = ", ".join(sorted(p.name for p in folder.iterdir())) or "an empty folder"
            raise data_error(name, f"{file} or {file}.gz", folder, there)
        wrong = fault(file, data, md5)
        if wrong:
            raise data_error(name, f"{file} with {wrong[0]}", folder, wrong[1])
        if not (folder / file).is_file():
            store(name, folder / file, data)
        found[file] = hashlib.md5(data, usedforsecurity=False).hexdigest()
        counts[file] = int.from_bytes(data[4:8], "big")
    for part in ("train", "t10k"):
        images, labels = counts[f"{part}-images-idx3-ubyte"], counts[f"{part}-labels-idx1-ubyte"]
        if images != labels:
            found = f"{images} images, {labels} labels"
            raise data_error(name, f"{part}: as many labels as images", folder, found)
    return found


def read(name: str, root=None, checksums=None) -> tuple[dict, dict[str, str]]:
    """({"train" and "test": (images (N, 28, 28) uint8, labels (N,) int64)}, MD5 sums of the raw files).

    Read by torchvision's class, once the files are verified. DataError where anything is wrong.
    """
    md5 = verify(name, root, checksums)
    from torchvision import datasets  # seconds to import

    processed = data_root(root) / FOLDERS[name] / "processed"
    if (processed / "training.pt").exists() and (processed / "test.pt").exists():
        # torchvision would read these remains of its first versions instead of the verified raw files.
        raise data_error(name, "no such folder", processed, "training.pt, test.pt", f"remove {processed}")
    parts = {}
    for part, train in (("train", True), ("test", False)):
        loaded = getattr(datasets, FOLDERS[name])(data_root(root), train=train, download=False)
        parts[part] = (loaded.data.numpy(), loaded.targets.numpy())
    return parts, md5
