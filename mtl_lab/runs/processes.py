"""How worker processes start, wait and end. A module of its own, so that starting some imports no training code."""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import threading
import time
from multiprocessing import connection, get_all_start_methods, get_context
from pathlib import Path

pause_file: Path | None = None  # whose workers wait while it exists: a command of `make` sets it, a page does not
scheduler: str | None = None  # address of a Dask scheduler whose workers train every grid: a command sets it
LOOK = 0.5  # seconds between two looks at the file of a pause


def worker_context():
    """Context of new processes: forks of a server that has imported torch once, since a fork of a notebook may hang."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(["mtl_lab.runs.execute"])
    return context


def keep_memory() -> None:
    """Have this process keep the memory that it frees; its next step would else take it, page by page, from the system.

    With glibc alone, whose allocator hands back all that is free above its threshold; elsewhere nothing happens. A step
    of a convolutional network took up to a third longer, by luck of the order in which a method frees its tensors.
    """
    with contextlib.suppress(AttributeError, OSError):
        for parameter, value in ((-1, 2**30), (-3, 2**25), (-3, 2**30)):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
            ctypes.CDLL(None).mallopt(parameter, value)  # an old glibc refuses the last


def attend(paused: Path | None = None) -> None:
    """Let this process end when the one that started it does, and wait while the file `paused` exists.

    A SIGKILL of the main process reaches neither its workers nor the server that forks them. The main thread waits in
    a signal handler, between two instructions of Python, and uses no processor meanwhile. To be called on it.
    """
    keep_memory()
    parent = multiprocessing.parent_process()
    waiting = threading.Event()

    def wait(*_):
        waiting.set()
        while paused.exists():
            time.sleep(LOOK)
        waiting.clear()

    def watch():
        while True:
            if parent is None:
                time.sleep(LOOK)
            elif connection.wait([parent.sentinel], LOOK):
                os._exit(1)  # everything is written atomically
            if paused is not None and paused.exists() and not waiting.is_set():
                os.kill(os.getpid(), signal.SIGUSR1)

    if paused is not None:
        signal.signal(signal.SIGUSR1, wait)
    if parent is not None or paused is not None:
        threading.Thread(target=watch, daemon=True).start()
