"""Arrays from MATLAB files (version 5) that nobody vouches for."""

import importlib
import io
import zlib
from typing import Any

from .held import Held

COMPRESSED = 15  # type of an element that zlib packed


def arrays(held: Held, file: str, content: bytes, largest: int) -> dict[str, Any]:
    """Name -> array of a file with the bytes `content`, which may hold `largest` bytes unpacked.

    `DataError` where it is damaged, of another version, or holds more.
    """
    with held.damage(file, "a MATLAB file of version 5"):
        if len(content) < 136 or content[126:128] not in (b"IM", b"MI"):
            raise ValueError("its header is another one")
        _refuse_bombs(content, largest)
        try:
            return importlib.import_module("scipy.io").loadmat(io.BytesIO(content))
        except Exception as error:  # scipy's own errors derive from nothing narrower
            raise ValueError(f"{type(error).__name__}: {error}") from error


def _refuse_bombs(content: bytes, largest: int) -> None:
    """ValueError where the elements unpack to more than `largest` bytes: scipy sets no bound."""
    order = "little" if content[126:128] == b"IM" else "big"
    at, size = 128, 0
    while at + 8 <= len(content):
        kind, length = (int.from_bytes(content[at + i : at + i + 4], order) for i in (0, 4))  # type: ignore[arg-type]
        if kind == COMPRESSED:
            size += len(zlib.decompressobj().decompress(content[at + 8 : at + 8 + length], largest + 1))
        else:
            size += length
        if size > largest:
            raise ValueError(f"it holds more than {largest:,} bytes")
        at += 8 + length
