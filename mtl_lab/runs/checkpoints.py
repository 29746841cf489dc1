"""A training that a kill cannot damage: it goes on from a checkpoint that is believed only if it is whole."""

import contextlib
import hashlib
import io
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from mtl_core.data.problem import higher_is_better
from mtl_core.tasks import Task
from mtl_core.training import History, evaluate, fit
from mtl_core.training.distributed import rank
from mtl_lab.files import Damaged

DIGEST = hashlib.sha256().digest_size  # bytes in front of the content


@dataclass
class Judged(History):
    """A history, and what validation and test data say of the trained network.

    final  split -> task -> metric at the last epoch, or the last finite one; with "test" where it was asked for.
    best   the same at the epoch of the best validation score, with that epoch's number; 0: as initialised.
    """

    final: dict = field(default_factory=dict)
    best: dict = field(default_factory=dict)


def fit_from(path: Path | None, of: str, model, problem, *arguments, test=True, device="cpu", **more) -> Judged:
    """`training.fit` that writes the file `path` after each epoch; where the file exists, training goes on from there.

    It ends bit for bit where the undisturbed training ends: same machine, same versions; on a GPU as far as its
    kernels are deterministic. Denormal numbers are zero while it trains.

    of    what is trained, in words. `files.Damaged` where the checkpoint is of another training. A damaged one starts
          over, with a warning.
    test  read the test split, at the last and at the best epoch; else it is not touched. What is not finite there
          is said in `diverged`.
    """
    state = read(path, device) if path is not None and path.exists() else None
    if state is not None and state["of"] != of:
        raise Damaged(
            f"the checkpoint {path} is of another training, {state['of']}; here {of}. Give each training a file of its "
            "own, or remove this one"
        )
    best = {"score": -math.inf, "epoch": 0, "model": None} if state is None else state["best"]

    def after_epoch(training) -> None:
        epochs = training.history.epochs
        best["model"] = best["model"] or training.last
        if training.history.diverged is None:
            score = validation_score(epochs[-1]["validation"], problem.tasks)
            if score > best["score"]:
                best.update(score=score, epoch=len(epochs), model=training.last)
        if path is not None and rank() == 0:
            write(training.state() | {"of": of, "best": best}, path)

    with denormals_flushed():
        history = fit(model, problem, *arguments, device=device, start=state, after_epoch=after_epoch, **more)
    splits = {"validation": problem.validation} | ({"test": problem.test} if test else {})

    def measured(weights: Mapping) -> dict:
        model.load_state_dict(weights)
        return {name: evaluate(model, problem.tasks, split) for name, split in splits.items()}

    last = {name: value.clone() for name, value in model.state_dict().items()}
    judged = Judged(**vars(history), best=measured(best["model"]) if best["model"] else {})
    judged.final = judged.best if best["epoch"] == len(history.epochs) and judged.best else measured(last)
    judged.best = judged.best | {"epoch": best["epoch"]}
    tested = [(f"{task}, {name}", x) for task, m in judged.final.get("test", {}).items() for name, x in m.items()]
    if judged.diverged is None and (wrong := [name for name, x in tested if not math.isfinite(x)]):
        message = f"at the end, on test data, not finite: {'; '.join(wrong)}"
        judged.diverged = {"epoch": len(history.epochs), "step": 0, "message": message}
    model.load_state_dict(last)
    return judged


def validation_score(values: Mapping, tasks: Sequence[Task]) -> float:
    """Mean over tasks of the mean ±log(metric), + where higher is better: free of units, like Δm for small changes."""
    total = 0.0
    for task in tasks:
        signs = higher_is_better(task)
        logs = [(1 if up else -1) * math.log(max(values[task.name][name], 1e-12)) for name, up in signs.items()]
        total += sum(logs) / len(logs)
    return total / len(tasks)


@contextlib.contextmanager
def denormals_flushed():
    """On this thread's CPU, numbers too small for float32's normal form (1e-38) are zero.

    Dead units under weight decay fill a network with them: SAM-GS with momentum on QM9 (γ = 0.3) took 0.8 s an epoch at
    first and 8.4 s at the end, 0.8 s throughout with this, and had the same losses to four decimals.
    """
    before = bool(torch.tensor(1e-40) == 0)  # torch tells in no other way
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def write(state: dict, path: Path) -> None:
    """A digest, and the state as torch saves it: a kill at any moment leaves the file as it was or as it is to be.

    The file is not forced onto the disk: that took as long as a short epoch. After a power failure it may be damaged;
    the digest then says so. OSError, with `path`, where it cannot be written.
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
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
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
