"""Many runs: one after the other, over local processes, or on a Dask cluster."""

import sys
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, ProcessPoolExecutor, wait

import torch

from mtl_lab.runs import processes
from mtl_lab.runs.device import chosen_device
from mtl_lab.runs.execute import execute
from mtl_lab.runs.run import Run
from mtl_lab.runs.store import Store


def _work(run: Run, root, fresh, device, folder=None) -> dict:
    """The record of a run, in a process of its own. folder: the name of the store's, on a worker of a cluster."""
    if folder is not None:
        from distributed import get_worker

        if (Store(root).folder.name, get_worker().state.nthreads) != (folder, 1):
            raise RuntimeError("a worker needs the checkout, .venv and $MTL_PRECISION of the command, and --nthreads 1")
    torch.set_num_threads(1)
    return execute(run, Store(root), fresh, device)


def grid(
    runs: Sequence[Run],
    workers: int = 1,
    store: Store | None = None,
    fresh: bool = False,
    client=None,
    device: str | None = None,
    finished=None,
) -> list[dict]:
    """The records of `runs`, in their order. Finished ones come from the store, the others are trained.

    workers   processes of one torch thread each; 1 trains in this process, one run after the other.
    fresh     train all of them again.
    client    a distributed.Client: workers of its cluster, with one thread each, train instead. They see the store and
              have the same sources. A run that raises is tried twice more; one whose worker died starts elsewhere,
              until three died of it. Default: at `processes.scheduler`, if a command has set it.
    device    for `runs.device.chosen_device`; the processes share one GPU. Each worker of a cluster chooses its own.
    finished  function called with each record, first with those from the store.

    Stopping it (Ctrl-C) loses no finished run; an unfinished run continues from its last epoch next time.
    """
    from tqdm import tqdm

    if client is None and processes.scheduler:
        from distributed import Client

        client = Client(processes.scheduler)
    store, device = store or Store(), chosen_device(device) if client is None else device
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
        from distributed import KilledWorker, as_completed

        more = (store.root.resolve(), fresh, device, store.folder.name)
        try:
            for future in as_completed([client.submit(_work, run, *more, pure=False, retries=2) for run in todo]):
                record = future.result()
                yield record["identity"], record
        except KilledWorker as error:
            raise BrokenExecutor(str(error)) from error
    elif workers <= 1:
        for run in todo:
            yield run.identity, execute(run, store, fresh, device)
    else:
        options = {"mp_context": processes.worker_context(), "initializer": processes.attend}
        with ProcessPoolExecutor(min(workers, len(todo) or 1), **options, initargs=(processes.pause_file,)) as pool:
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
