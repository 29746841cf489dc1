"""Writes text files so that an interruption leaves either the old or the new content, never a part."""

import os
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Write `text` in UTF-8 to a file beside `path`, force it onto the disk and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
