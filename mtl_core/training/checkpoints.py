"""Checkpoints: written atomically, read without running code from the file."""

import io
import os
import warnings
from pathlib import Path

import torch


def save_atomically(state, path: Path) -> None:
    """torch.save that a kill at any moment leaves either done or not begun.

    The file is not forced onto the disk: that took as long as a short epoch. After a power failure a checkpoint may be
    damaged; `read` then says so and training starts over.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    torch.save(state, part)
    os.replace(part, path)


def read(checkpoint: Path, device: str) -> dict | None:
    """The state in a checkpoint; None, with a warning, where its content is damaged.

    OSError or an error for want of memory go on to the caller: the file may be sound, and the next epoch would replace
    it.
    """
    content = io.BytesIO(checkpoint.read_bytes())
    try:
        return torch.load(content, map_location=device, weights_only=True)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # torch.load meets garbage with errors of any type
        warnings.warn(f"the checkpoint {checkpoint.name} cannot be read ({error}); training starts over", stacklevel=2)
        return None
