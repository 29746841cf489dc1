"""The error for data that are missing or damaged."""

import lzma
import re
import tarfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What reading a damaged file raises: gzip, zip and tar archives, npy headers, CSV, text. RuntimeError is zipfile's, for
# one that is encrypted or packed by an unknown method; TokenError numpy's, for an npy header that is cut inside.
DAMAGE = (
    *(OSError, EOFError, LookupError, TypeError, ValueError, RuntimeError, MemoryError, OverflowError),
    *(zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError, tokenize.TokenError),
)

MOST_FOUND = 300  # characters that a message quotes of what was found


class DataError(RuntimeError):
    """Data are missing, damaged or not what they should be. The message says what to do."""


def data_error(
    name: str, expected: str, where: Path | str, found: str, remedy: str | None = None, most: int = MOST_FOUND
) -> DataError:
    """A `DataError` for data set `name`: what was expected where, what was found, what to do.

    `remedy` replaces the usual one, which is to fetch the set or to use the embedded part. At most `most` characters of
    what was found are quoted.
    """
    remedy = remedy or (
        f"run `python -m mtl_core.data fetch {name}` (with `--root FOLDER` or $MTL_DATA for another folder), "
        'or use profile="tiny", which needs no files'
    )
    found = found if len(found) <= most else f"{found[:most]}…"
    text = f"data set {name}: expected {expected} in {where}, found {found}; {remedy}"
    # a name or a message out of a file may hold line ends, control characters and halves of characters
    return DataError(re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+", " ", text))


@contextmanager
def damage_as_data_error(name: str, expected: str, where: Path | str, remedy: str | None = None) -> Iterator[None]:
    """Turn what reading a damaged file raises into a `DataError` that names file and remedy."""
    try:
        yield
    except DataError:
        raise
    except DAMAGE as error:
        raise data_error(name, expected, where, f"{type(error).__name__}: {error}", remedy) from error
