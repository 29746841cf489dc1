"""Downloads through pooch, over HTTP or by a package client, and the members of what was downloaded.

Packages come through the machine's own clients (`apt-get`, `npm`, `pip`), as they are configured.
"""

import gzip
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .._extras import require
from .errors import DAMAGE
from .files import LARGEST, refuse_too_large

HTTP_TIMEOUT = 5  # seconds that a server may be silent
CLIENT_TIMEOUT = 900  # seconds that a package client may take
CLIENTS = {  # scheme -> command that leaves one file in the current folder
    "apt": ["apt-get", "download"],
    "npm": ["npm", "pack", "--ignore-scripts"],
    "pip": [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary=:all:",
    ],
}


class NoAnswer(OSError):
    """A source that gave nothing at all, so that it need not be asked again."""


def retrieve(
    url: str, folder: Path, checksum: str | None = None, file: str | None = None, progress: bool = True
) -> Path:
    """Download `url` into `folder`, as `file`, and return its path; a right file that is there is left alone.

    url       of HTTP, or "apt:PACKAGE", "npm:PACKAGE@VERSION", "pip:PACKAGE==VERSION".
    checksum  "sha256:…", which pooch checks before the file gets its name; None where the caller checks what is inside.
    progress  say on stderr what is downloaded, with a progress bar for HTTP.

    Errors: `NoAnswer` where there is no such server, client or package, or the file has another checksum; OSError where
    a server answers that it has no such file; ImportError where pooch is missing.
    """
    pooch = require("pooch", extra="data")
    pooch.get_logger().setLevel("WARNING")  # it would tell of every file that has no checksum
    if progress:
        require("tqdm", extra="data")  # pooch's progress bar
        print(f"downloading {url}", file=sys.stderr)
    downloader = _by_client if url.partition(":")[0] in CLIENTS else _by_http(pooch, progress)
    try:
        return Path(pooch.retrieve(url, checksum, file, folder, downloader=downloader))
    except (OSError, ValueError) as error:
        if getattr(error, "response", None) is not None:  # an HTTP answer, such as 404
            raise
        raise NoAnswer(str(error)) from error


def _by_http(pooch: Any, progress: bool) -> Callable[[str, str, Any], None]:
    def download(url: str, output_file: str, _: Any) -> None:
        with open(output_file, "wb") as file:
            # pooch sets no bound to what a server may send
            pooch.HTTPDownloader(timeout=HTTP_TIMEOUT, progressbar=progress)(url, _Bounded(file), None)

    return download


def _by_client(url: str, output_file: str, _: Any) -> None:
    """A `downloader` of pooch that runs a package client."""
    scheme, _, package = url.partition(":")
    command = [*CLIENTS[scheme], package]
    if shutil.which(command[0]) is None:
        raise OSError(f"{command[0]} is not installed")
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=CLIENT_TIMEOUT, stdin=subprocess.DEVNULL
            )
        except subprocess.TimeoutExpired as error:
            raise OSError(f"`{' '.join(command)}` did not end within {CLIENT_TIMEOUT} s") from error
        if done.returncode:
            last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["it said nothing"]
            raise OSError(f"`{' '.join(command)}` ended with exit status {done.returncode}: {last[0]}")
        files = [path for path in Path(folder).iterdir() if path.is_file()]
        if len(files) != 1:
            raise OSError(f"`{' '.join(command)}` left {len(files)} files, one was expected")
        shutil.copyfile(files[0], output_file)


def members(path: Path, wanted: set[str]) -> dict[str, bytes]:
    """Name -> content of the `wanted` members of a .tgz or .deb file, as far as they are inside.

    Ours instead of pooch's Untar, which unpacks everything, without a bound and into files; here members are read by
    exact name into memory, so nothing in an archive chooses where it is written.
    `NoAnswer` where the archive is damaged or unpacks to more than `LARGEST` bytes.
    """
    found = {}
    try:
        with _unpacked(path) as file:
            stream = _Bounded(file)
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                for member in archive:
                    name = member.name.removeprefix("./")
                    if name in wanted and member.isreg() and not member.issparse():  # a sparse one may be of any size
                        content = archive.extractfile(member)
                        found[name] = content.read() if content else b""
            while stream.read(1 << 16):  # gzip's checksum lies at the end, behind the last member
                pass
    except DAMAGE as error:
        raise NoAnswer(f"it cannot be unpacked: {error}") from error
    return found


@contextmanager
def _unpacked(path: Path) -> Iterator[Any]:
    """The tar archive inside a .tgz or .deb file, as a stream."""
    with open(path, "rb") as file:
        is_deb = file.read(7) == b"!<arch>"
    if not is_deb:
        with gzip.open(path) as tar:
            yield tar
        return
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", path], stdout=subprocess.PIPE) as process:
        yield process.stdout


class _Bounded(io.RawIOBase):
    """A file that refuses to give or to take more than `LARGEST` bytes in all."""

    def __init__(self, file: Any) -> None:
        self.file, self.size = file, 0

    def _count(self, size: int) -> None:
        self.size += size
        refuse_too_large(self.size)

    def read(self, size: int = -1) -> bytes:
        content = self.file.read(LARGEST + 1 if size < 0 else size)
        self._count(len(content))
        return content

    def write(self, content: Any) -> int:
        self._count(len(content))
        return self.file.write(content)
