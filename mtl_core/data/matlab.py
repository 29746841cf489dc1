"""Arrays from MATLAB files (version 5) that nobody vouches for."""

import importlib
import io
import math
import zlib
from collections.abc import Iterator
from typing import Any

from .held import Held

MATRIX, COMPRESSED = 14, 15  # types of elements: an array, and one that zlib packed
DEEPEST = 20  # arrays inside arrays; PASCAL's have five, and scipy's reader ends the process at some thousands


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
        element = content[at + 8 : at + 8 + length]
        if kind == COMPRESSED:
            element = zlib.decompressobj().decompress(element, largest + 1)
            size += len(element)
        else:
            size += length
        if size > largest:
            raise ValueError(f"it holds more than {largest:,} bytes")
        for inner, body in _elements(memoryview(element), order) if kind == COMPRESSED else [(kind, element)]:
            if inner == MATRIX:
                _refuse_claims(memoryview(body), order)
        at += 8 + length


def _elements(content: memoryview, order: Any) -> Iterator[tuple[int, memoryview]]:
    """Type and content of each element; those of up to four bytes lie in their own header."""
    at = 0
    while at + 8 <= len(content):
        kind, length = (int.from_bytes(content[at + i : at + i + 4], order) for i in (0, 4))
        if kind >> 16:
            yield kind & 0xFFFF, content[at + 4 : at + 4 + (kind >> 16)]
            length = 0
        else:
            yield kind, content[at + 8 : at + 8 + length]
        at += 8 + length + -length % 8


def _refuse_claims(matrix: memoryview, order: Any, depth: int = 1) -> None:
    """ValueError where an array claims more items than it has bytes, which scipy reserves, or lies too deep."""
    if depth > DEEPEST:
        raise ValueError(f"it has more than {DEEPEST} arrays inside one another")
    for position, (kind, body) in enumerate(_elements(matrix, order)):
        if position == 1:
            sides = [int.from_bytes(body[i : i + 4], order) for i in range(0, len(body), 4)]
            if math.prod(sides) > len(matrix):
                raise ValueError(f"an array claims {math.prod(sides):,} items and has {len(matrix):,} bytes")
        if kind == MATRIX:
            _refuse_claims(body, order, depth + 1)
