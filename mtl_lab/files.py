"""Text files: written whole or not at all, read with one sentence where they are damaged.

A sentence about a damaged file names the file, the line where there is one, and the remedy.
"""

import contextlib
import csv
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from mtl_lab import ROOT

WRITTEN_WITHIN = 600  # seconds: no write takes so long, so an older temporary file is what a kill left
# What wrong content leads to.
WRONG = (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, AssertionError, csv.Error)


class Damaged(ValueError):
    """A file is not what it must be. The text names the file and the remedy."""


def shown(path: Path) -> str:
    """The path as a message names it: from the checkout on, where it lies inside."""
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)


def damaged(path: Path, what: str, line: int | None = None) -> Damaged:
    where = shown(path) + (f", line {line}" if line else "")
    what = " ".join(what.split())[:200]
    return Damaged(f"{where}: {what}; put it right, or restore it: git checkout -- {shown(path)}")


@contextlib.contextmanager
def damage_named(path: Path, line: int | None = None) -> Iterator[None]:
    """What damaged content at `path` raises, in syntax or in meaning, becomes `Damaged`."""
    try:
        yield
    except Damaged:
        raise
    except json.JSONDecodeError as error:
        raise damaged(path, f"no JSON: {error.msg}", line or error.lineno) from error
    except UnicodeDecodeError as error:
        raise damaged(path, f"no text in UTF-8: {error.reason} at byte {error.start}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise damaged(path, f"no YAML: {getattr(error, 'problem', error)}", mark and mark.line + 1) from error
    except RecursionError as error:
        raise damaged(path, "nested too deeply", line) from error
    except WRONG as error:
        raise damaged(path, f"not what it must hold ({type(error).__name__}: {error})", line) from error


def read_json(path: Path) -> dict:
    """The JSON object in a file. `Damaged` where it is none."""
    with damage_named(path):
        return _object(json.loads(path.read_text(encoding="utf-8")))


def read_json_lines(path: Path) -> list[dict]:
    """The JSON objects of a file, one a line. `Damaged` where a line is none."""
    with damage_named(path):
        lines = path.read_text(encoding="utf-8").split("\n")
    found = []
    for number, line in enumerate(lines[:-1] if lines[-1] == "" else lines, 1):
        with damage_named(path, number):
            found.append(_object(json.loads(line)))
    return found


def read_yaml(path: Path) -> Any:
    """The content of a YAML file, without tags that make objects. `Damaged` where it is no YAML."""
    with damage_named(path):
        return yaml.safe_load(path.read_text(encoding="utf-8"))


def _object(value: Any) -> dict:
    if not isinstance(value, dict):
        raise TypeError(f"an object was expected, not {type(value).__name__}")
    return value


def write_atomically(path: Path, text: str) -> None:
    """Write `text` in UTF-8 to a file beside `path`, force it onto the disk and rename it.

    An interruption leaves either the old or the new content. OSError, with `path`, where it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def append_line(path: Path, line: str) -> None:
    """Append `line` and force it onto the disk; where that fails the file is as before. OSError, with `path`."""
    mend_last_line(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab", buffering=0) as file:
        before, content = file.tell(), f"{line}\n".encode()
        try:
            if file.write(content) < len(content):
                raise OSError(28, os.strerror(28))  # a part of it: no space left
            os.fsync(file.fileno())
        except OSError as error:
            file.truncate(before)
            raise OSError(error.errno, error.strerror, str(path)) from error


def mend_last_line(path: Path) -> None:
    """Cut a last line without an end, which an interrupted append left, and say so on stderr."""
    content = path.read_bytes() if path.exists() else b""
    if content and not content.endswith(b"\n"):
        whole = content.rfind(b"\n") + 1
        print(f"{shown(path)}: the last line is incomplete, an append was interrupted; it is cut", file=sys.stderr)
        os.truncate(path, whole)


def sweep(folder: Path, older: float = WRITTEN_WITHIN) -> None:
    """Remove the temporary files in `folder`, older than so many seconds, that a kill left."""
    for part in folder.glob("*.part"):  # those that begin with a dot, too
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime > older:
                part.unlink()
