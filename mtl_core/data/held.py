"""Files of a data set that nobody's checksums cover: read whole, held to a manifest once there is one.

`check` reads and judges every file and writes manifest-NAME.json beside them, with the SHA-256 of each.
From then on a file is read only where it is still the same: the bytes that are hashed are the bytes that are used.
"""

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .errors import DataError, damage_as_data_error, data_error
from .files import Root, data_root, store

AGAIN = "bring the file again; `python -m mtl_core.data status` says from where"
READABLE = "let yourself read it, or choose another folder with `--root FOLDER` or $MTL_DATA"


class Survey(NamedTuple):
    """How a set that a user brings is found and judged.

    folder     name of its folder in the root.
    marker     a file or folder inside it; where the root itself holds this, the root is the folder.
    read       (files, progress) -> {split: examples}; reads and judges every file. `DataError` where one is wrong.
    published  {split: examples} of the whole set.
    """

    folder: str
    marker: str
    read: Callable[["Held", Callable[[Iterable], Iterable]], Mapping[str, int]]
    published: Mapping[str, int]


class Held:
    """The files below `folder`, each held to the manifest there, where there is one.

    sums      relative path -> SHA-256 of what has been read.
    expected  the same as the manifest has it; None without a manifest.
    complete  whether the manifest is of the whole set; None without a manifest.
    partial   a part of the set is accepted, so that published checksums do not apply.
    packed    file -> content, of a set that is read from its archive in place of its folder.

    `DataError` where the folder is missing, or the manifest damaged, or a file that it lists is not there.
    """

    def __init__(self, name: str, folder: Path, partial: bool = False, packed: Mapping[str, bytes] | None = None):
        self.name, self.folder, self.packed = name, folder, packed
        self.manifest = f"manifest-{name}.json"
        self.sums: dict[str, str] = {}
        self.expected: dict[str, str] | None = None
        self.complete: bool | None = None
        self.partial = partial
        if packed is not None:
            return
        path = folder / self.manifest
        with damage_as_data_error(name, "a folder that can be read", folder, READABLE):
            if not folder.is_dir():
                raise data_error(name, "its folder", folder, "no such folder", AGAIN)
            has_manifest = path.is_file()
        if has_manifest:
            with damage_as_data_error(name, "the manifest that `check` wrote", path, self.anew()):
                content = json.loads(path.read_text(encoding="utf-8"))
                if not isinstance(content, dict) or not isinstance(content.get("files"), dict):
                    raise ValueError("it lists no files")
                self.expected = {str(file): str(sha256) for file, sha256 in content["files"].items()}
                if content["data_set"] != name or not isinstance(content["complete"], bool):
                    raise ValueError(f"it is of {content['data_set']!r}")
                self.complete = content["complete"]
                self.partial = not self.complete
        for file in self.expected or ():
            # the images of a folder may lie in its archive
            with damage_as_data_error(name, "names of files", path, self.anew()):
                if not (folder / file).is_file() and not (folder / f"{file.partition('/')[0]}.zip").is_file():
                    raise self.error(file, f"this file, which {self.manifest} lists,", "no such file")

    def error(self, file: str, expected: str, found: str) -> DataError:
        """A `DataError` about one file."""
        return data_error(self.name, expected, self.folder / file, found, AGAIN)

    def damage(self, file: str, expected: str):
        """Context in which what reading a damaged file raises becomes a `DataError` about that file."""
        return damage_as_data_error(self.name, expected, self.folder / file, AGAIN)

    def read(self, file: str, largest: int, md5: str | None = None) -> bytes:
        """The bytes of `file`, at most `largest`.

        md5  as published; not asked of a part of the set.

        `DataError` where it is missing, empty, too large or not the one that the manifest or `md5` says.
        """
        path = self.folder / file
        with self.damage(file, "a file that can be read"):
            if self.packed is not None:
                content = self.packed.get(file, b"")
            elif not path.is_file():
                raise self.error(file, "this file", "no such file")
            else:
                with open(path, "rb") as opened:
                    size = os.fstat(opened.fileno()).st_size  # Python reserves what it is asked to read
                    content = opened.read(min(size, largest) + 1)
        if len(content) > largest:
            raise self.error(file, f"at most {largest:,} bytes", "more")
        if not content:
            raise self.error(file, "a file with content", "none")
        if md5 and not self.partial and (found := hashlib.md5(content, usedforsecurity=False).hexdigest()) != md5:
            remedy = f"{AGAIN}; a part of the set is accepted once `check {self.name} --partial` has recorded it as one"
            found = f"MD5 {found}, {len(content):,} bytes"
            raise data_error(self.name, f"MD5 {md5}", path, found, remedy)
        self.hold(file, hashlib.sha256(content).hexdigest())
        return content

    def hold(self, file: str, sha256: str) -> None:
        """Keep the sum of what was read from `file`. `DataError` where the manifest has another one."""
        if self.expected is not None and (expected := self.expected.get(file)) != sha256:
            wanted = f"SHA-256 {expected}, as in {self.manifest}," if expected else f"a file that {self.manifest} lists"
            remedy = f"{AGAIN}; if the change is meant, {self.anew()}"
            raise data_error(self.name, wanted, self.folder / file, f"SHA-256 {sha256}", remedy)
        self.sums[file] = sha256

    def array(self, file: str, shape: tuple[int, ...], kinds: str) -> np.ndarray:
        """The array of an npy file, read-only; `kinds` are the letters of the numpy kinds that it may have.

        Nothing is unpickled, and no size that the file claims is believed: its bytes are the array.
        """
        content = self.read(file, int(np.prod(shape)) * 16 + 10_000)
        with self.damage(file, "an npy file"):
            header = io.BytesIO(content)
            version = np.lib.format.read_magic(header)
            if version not in ((1, 0), (2, 0)):
                raise ValueError(f"format {version}, expected 1.0 or 2.0")
            is_first = version == (1, 0)
            reader = np.lib.format.read_array_header_1_0 if is_first else np.lib.format.read_array_header_2_0
            found, fortran, dtype = reader(header)
            if found != shape:
                raise self.error(file, f"shape {shape}", f"shape {found}")
            if dtype.hasobject or dtype.kind not in kinds or dtype.subdtype:
                names = " or ".join(KINDS[kind] for kind in kinds)
                raise self.error(file, f"an array of {names}", f"one of {dtype}")
            size = len(content) - header.tell()
            if size != (whole := int(np.prod(shape)) * dtype.itemsize):
                raise self.error(file, f"{whole:,} bytes after the header", f"{size:,}")
            return np.frombuffer(content, dtype, offset=header.tell()).reshape(shape, order="F" if fortran else "C")

    def anew(self) -> str:
        """What to do for another manifest."""
        return f"remove {self.manifest} and run `python -m mtl_core.data check {self.name}` again"

    def identity(self) -> str:
        """SHA-256 of the names and sums of all that has been read."""
        lines = "".join(f"{sha256}  {file}\n" for file, sha256 in sorted(self.sums.items()))
        return hashlib.sha256(lines.encode()).hexdigest()


KINDS = {"f": "floats", "i": "integers", "u": "unsigned integers"}


def place(root: Root, survey: Survey) -> Path:
    """The folder of a set: ROOT/folder, or the root itself where that holds the set's files."""
    folder = data_root(root)
    # Path.exists raises where the root may not be read
    is_itself = os.path.exists(folder / survey.marker) and not os.path.exists(folder / survey.folder)
    return folder if is_itself else folder / survey.folder


def check(name: str, survey: Survey, root: Root = None, partial: bool = False, progress=lambda items: items) -> Held:
    """Read and judge every file of a set; write its manifest, or hold the files to the one that is there.

    partial   accept fewer examples than are published; the manifest then says that the set is not complete.
    progress  (iterable) -> the same, shown to whoever waits.

    Returns the files, with their sums. `DataError` where one is missing, damaged, changed or has impossible values, or
    the numbers are not the published ones.
    """
    held = Held(name, place(root, survey), partial)
    counts = dict(survey.read(held, progress))
    if lost := sorted(set(held.expected or ()) - set(held.sums)):
        raise held.error(
            lost[0], f"this file, which {held.manifest} lists,", "that it is not one of the set's files now"
        )
    complete = counts == dict(survey.published)
    if held.complete is None and not complete and not partial:
        wanted = ", ".join(f"{n:,} {split}" for split, n in survey.published.items())
        found = ", ".join(f"{n:,} {split}" for split, n in counts.items())
        remedy = "bring the whole set, or say `--partial` for a part of it, which is then recorded as one"
        raise data_error(name, f"{wanted} examples", held.folder, found, remedy)
    if held.expected is None:
        content = {"data_set": name, "complete": complete, "examples": counts, "files": held.sums}
        store(name, held.folder / held.manifest, json.dumps(content, indent=0, sort_keys=True).encode())
        held.complete, held.expected = complete, dict(held.sums)
    return held
