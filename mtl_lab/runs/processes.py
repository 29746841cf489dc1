"""How worker processes are started. A module of its own, so that starting some imports no training code."""

from multiprocessing import get_all_start_methods, get_context


def worker_context():
    """Context of new processes: forks of a server that has imported torch once, since a fork of a notebook may hang."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(["mtl_lab.runs.execute"])
    return context
