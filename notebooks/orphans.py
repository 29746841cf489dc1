"""No process outlives the one that it works for: a SIGKILL of `make book` reaches none of its children."""

import multiprocessing
import os
import threading


def end_with_parent():
    """End this process as soon as the one that started it has ended, whatever forked it in between."""
    parent = multiprocessing.parent_process()

    def watch():
        parent.join()
        os._exit(1)

    if parent is not None:
        threading.Thread(target=watch, daemon=True).start()
