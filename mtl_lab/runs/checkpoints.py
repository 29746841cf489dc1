"""A training that a kill cannot damage: it goes on from a checkpoint that is believed only if it is whole."""

import hashlib
import io
import os
import warnings
from pathlib import Path

import torch

from mtl_core.training import History, fit
from mtl_core.training.distributed import rank

DIGEST = hashlib.sha256().digest_size  # bytes in front of the content


def fit_from(path: Path, of: str, *arguments, device: str = "cpu", **more) -> History:
    """`training.fit` that writes the file `path` after each epoch; where the file exists, training goes on from there.

    It ends bit for bit where the undisturbed training ends: same machine, same versions; on a GPU as far as its
    kernels are deterministic.

    of  what is trained, in words. ValueError where the checkpoint is of another training. A damaged one starts over,
        with a warning.
    """
    state = read(path, device) if path.exists() else None
    if state is not None and state["of"] != of:
        raise ValueError(
            f"the checkpoint {path} is of another training, {state['of']}; here {of}. Give each training a file of its "
            "own, or remove this one"
        )

    def save(loop) -> None:
        if rank() == 0:
            write(loop.state() | {"of": of}, path)

    return fit(*arguments, device=device, start=state, after_epoch=save, **more)


def write(state: dict, path: Path) -> None:
    """A digest, and the state as torch saves it: a kill at any moment leaves the file as it was or as it is to be.

    The file is not forced onto the disk: that took as long as a short epoch. After a power failure it may be damaged;
    the digest then says so.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            file.write(hashlib.sha256(buffer.getbuffer()).digest())
            file.write(buffer.getbuffer())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def read(path: Path, device: str = "cpu") -> dict | None:
    """The state in a checkpoint, read without running code from it; None, with a warning, where the file is damaged.

    OSError and errors for want of memory go on to the caller: the file may be sound, and the next epoch would replace
    it.
    """
    content = memoryview(path.read_bytes())
    if hashlib.sha256(content[DIGEST:]).digest() == content[:DIGEST]:
        try:
            state = torch.load(io.BytesIO(content[DIGEST:]), map_location=device, weights_only=True)
            if isinstance(state, dict) and {"of", "history"} <= state.keys():
                return state
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception:  # torch.load meets what is no state with errors of any type
            pass
    warnings.warn(f"the checkpoint {path.name} is damaged, or none of ours: its training starts over", stacklevel=2)
    return None
