"""A run is a config; this room says which runs there are, executes them and keeps them.

Two stores, never mixed. `.runs/` (or $MTL_RUNS) holds what this machine trained, by the config and a
digest of the sources that decide its outcome. `results/` holds committed reference results, written
by `make results` alone.
"""

import functools
import hashlib
import inspect
import json
import os
import sys
import uuid
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field, fields, replace
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path

import torch

from mtl_core import conflict, methods, models, training
from mtl_core.build import build_model, load_problem
from mtl_core.data import files
from mtl_core.processes import chosen_device
from mtl_core.provenance import ROOT, provenance, source_digest
from mtl_core.seeds import wobble


@dataclass(frozen=True)
class Run:
    """Everything that decides a run's outcome, in plain values.

    problem, problem_options  for `data.load`; `profile` stands among the options.
    tasks        indices of the tasks to train, None for all; one index makes a single-task run.
    model, model_options      for `models.build`.
    method, method_options, convention  for `training.fit`.
    split        trunk layers of which each task has its own copy (Recon), and how the copies start.
    schedule     fields of `training.Schedule`.
    seed         of initialisation, batch order, pairing and the method's own draws.
    observe      None, or {"thresholds": […], "restrict": […]}: log cosines and layer scores each step.
    test         read the test split at the end.
    """

    problem: str
    problem_options: Mapping = field(default_factory=dict)
    tasks: Sequence[int] | None = None
    model: str = "resnet18"
    model_options: Mapping = field(default_factory=dict)
    method: str = "equal"
    method_options: Mapping = field(default_factory=dict)
    convention: str = "plain"
    split: Sequence[str] = ()
    split_init: str = "reinitialise"
    schedule: Mapping = field(default_factory=lambda: {"epochs": 1})
    seed: int = 0
    observe: Mapping | None = None
    test: bool = True

    def canonical(self) -> str:
        """One JSON text for one config: sorted keys, no spaces."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @property
    def identity(self) -> str:
        """The first 16 hex digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()[:16]

    @classmethod
    def from_dict(cls, config: Mapping) -> "Run":
        known = {f.name for f in fields(cls)}
        unknown = set(config) - known
        if unknown:
            raise ValueError(f"a run has no field {', '.join(sorted(unknown))}; it has {', '.join(sorted(known))}")
        return cls(**config)

    def seeds(self, seeds: Iterable[int]) -> list["Run"]:
        """This run with each of the seeds."""
        return [replace(self, seed=seed) for seed in seeds]


def _outside(run: Run) -> str:
    """A mark of the source of a method that was registered from outside this package: changed, it trains again."""
    make = methods.find(run.method).make
    if make.__module__.startswith(("mtl_core.", "torchjd.")):
        return ""
    try:
        mark = hashlib.sha256(inspect.getsource(make).encode()).hexdigest()[:8]
    except (OSError, TypeError):  # typed at a prompt
        mark = _mark_of_the_unread(make)
    return f"-{mark}"


@functools.cache
def _mark_of_the_unread(make) -> str:
    """One for each object, and never the same in another process."""
    return uuid.uuid4().hex[:8]


class Store:
    """Finished runs as JSON files, unfinished ones as checkpoints, under the digest of the sources."""

    def __init__(self, root: str | os.PathLike | None = None):
        self.root = Path(root or os.environ.get("MTL_RUNS") or ROOT / ".runs")
        self.folder = self.root / (source_digest() + wobble())

    def path(self, run: Run) -> Path:
        return self.folder / f"{run.identity}{_outside(run)}.json"

    def checkpoint(self, run: Run) -> Path:
        return self.path(run).with_suffix(".checkpoint.pt")

    def get(self, run: Run) -> dict | None:
        """The record of a finished run, or None."""
        try:
            return json.loads(self.path(run).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def put(self, run: Run, record: Mapping) -> None:
        write_atomically(self.path(run), json.dumps(record, sort_keys=True, indent=1) + "\n")
        self.checkpoint(run).unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file, in UTF-8, that a kill at any moment leaves either done or as it was."""
    files.write_atomically(path, text.encode())


def execute(run: Run, store: Store | None = None, fresh: bool = False, device: str | None = None) -> dict:
    """The record of `run`: from the store if it is finished there, else trained, resuming if it was cut off.

    device  for `processes.chosen_device`.
    """
    store, device = store or Store(), chosen_device(device)
    found = None if fresh else store.get(run)
    if found is not None:
        return found
    if fresh:
        store.checkpoint(run).unlink(missing_ok=True)
    problem = load_problem(run)
    model = build_model(run, problem)
    observers = _observers(run, model)
    history = training.fit(
        model, problem, run.method, training.Schedule(**run.schedule), method_options=run.method_options,
        convention=run.convention, seed=run.seed, observers=observers, test=run.test,
        checkpoint=store.checkpoint(run), device=device,
    )  # fmt: skip
    record = {
        "identity": run.identity, "config": json.loads(run.canonical()), **asdict(history),
        "parameters": {"trunk": sum(p.numel() for p in model.trunk.parameters()),
                       "all": sum(p.numel() for p in model.parameters())},
        "conflict": observers[0].summary() if observers else None,
        "source": json.loads(json.dumps(problem.source, default=str)), "provenance": provenance(device),
    }  # fmt: skip
    store.put(run, record)
    return record


def _observers(run: Run, model: models.MultiTaskModel) -> list:
    if run.observe is None or len(model.heads) < 2:
        return []
    return [conflict.ConflictLog(len(model.heads), **run.observe)]


def processes():
    """Clean processes: forked from one that has imported torch once (a fork of a notebook's kernel may hang)."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(["mtl_core.runs"])
    return context


def _work(run: Run, root, fresh, device) -> dict:
    torch.set_num_threads(1)
    return execute(run, Store(root), fresh, device)


def grid(
    runs: Sequence[Run], workers: int = 1, store: Store | None = None, fresh: bool = False, client=None,
    device: str | None = None, finished=None,
) -> list[dict]:  # fmt: skip
    """The records of `runs`, in their order. Finished ones come from the store, the rest are trained.

    workers  processes of one torch thread each; 1 trains here, one after the other.
    client   a dask.distributed.Client: its cluster trains instead (all workers must see the store).
    device   for `processes.chosen_device`; the processes share one GPU.
    finished  called with each record as it is there, first with those that the store had.

    Stopping it (Ctrl-C) loses no finished run; a cut-off run goes on from its last epoch next time.
    """
    from tqdm import tqdm

    store, device = store or Store(), chosen_device(device)
    records = {run.identity: None if fresh else store.get(run) for run in runs}
    todo = {run.identity: run for run in runs if records[run.identity] is None}
    bar = tqdm(total=len(records), initial=len(records) - len(todo), unit="run", disable=None)
    try:
        for record in filter(None, records.values()):
            if finished is not None:
                finished(record)
        for identity, record in _train(list(todo.values()), workers, store, fresh, client, device):
            records[identity] = record
            bar.update()
            if finished is not None:
                finished(record)
    except KeyboardInterrupt:
        done = sum(record is not None for record in records.values())
        print(f"\nStopped: {done} of {len(records)} runs are finished and kept.", file=sys.stderr)
        raise
    finally:
        bar.close()
    return [records[run.identity] for run in runs]


def _train(todo, workers, store, fresh, client, device):
    if client is not None:
        from dask.distributed import as_completed

        futures = [client.submit(_work, run, store.root, fresh, device, pure=False) for run in todo]
        for future in as_completed(futures):
            record = future.result()
            yield record["identity"], record
    elif workers <= 1:
        for run in todo:
            yield run.identity, execute(run, store, fresh, device)
    else:
        with ProcessPoolExecutor(min(workers, len(todo) or 1), mp_context=processes()) as pool:
            waiting = {pool.submit(_work, run, store.root, fresh, device) for run in todo}
            try:
                while waiting:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in done:
                        record = future.result()
                        yield record["identity"], record
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
