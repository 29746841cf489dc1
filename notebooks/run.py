"""Execute the parameterised notebooks strictly with Papermill; the executed copies are the pages of the book.

    python notebooks/run.py                                   bring every page to the book's parameters
    python notebooks/run.py --page NAME --parameters "a=1 b=x"    one page with your parameters
    python notebooks/run.py --list                            pages and their parameters

Papermill itself only warns about a name that it does not know, writes broken notebooks over good ones and
records paths of this machine. Here the first is an error with a suggestion, the second cannot happen, the
third is removed.
"""

import argparse
import concurrent.futures
import contextlib
import json
import logging
import multiprocessing
import os
import pathlib
import signal
import sys
import time

from orphans import end_with_parent
from page import INPUTS, card, contents, fingerprint, polish, strip_machine
from parameters import ParameterError, as_text, close_to, describe, parse, resolve, split

ROOT = pathlib.Path(__file__).resolve().parents[1]
SOURCES, PAGES, SCRATCH = ROOT / "notebooks", ROOT / "book" / "notebooks", ROOT / "_build" / "pages"
EPOCH = "315532800"  # 1980-01-01, which Matplotlib writes into every SVG: the same run gives the same bytes
KEPT = "Finished runs are kept; the same command goes on from there."


class PageError(Exception):
    """A page could not be made; the text names the cell and the last line of its error."""


def registry():
    """Page -> its notebook: each notebook in a folder of notebooks/. What trains comes first, it takes longest."""
    notebooks = sorted(SOURCES.glob("*/*.ipynb"))
    return {path.stem: path for path in sorted(notebooks, key=lambda path: not trains(path))}


def trains(notebook):
    return b"mtl_lab.runs" in notebook.read_bytes()


def page_of(notebook):
    """Where the executed copy of a notebook lies in the book."""
    return PAGES / notebook.relative_to(SOURCES)


def stored(notebook):
    """The run card of the executed page, or {}: also where the page is damaged, with a line that says so."""
    path = page_of(notebook)
    if not path.exists():
        return {}
    try:
        made = json.loads(path.read_text(encoding="utf-8"))["metadata"]["mtl_run"]
        return made | {"parameters": dict(made["parameters"])}
    except (ValueError, LookupError, TypeError, RecursionError):
        print(f"{notebook.stem}: its executed page is damaged and is made again", flush=True)
        return {}


def _kernel_environment():
    os.environ.update(
        IPYTHONDIR=str(SOURCES / ".ipython"),  # the project's kernel settings, no personal profile
        PYTHONPATH=os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        SOURCE_DATE_EPOCH=EPOCH,
        PYDEVD_DISABLE_FILE_VALIDATION="1",
        MPLBACKEND="module://matplotlib_inline.backend_inline",
        TQDM_DISABLE="1",  # a progress bar would be printed into the page, and so would its wish for widgets
        PYTHONWARNINGS="ignore:IProgress not found",
    )
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def _kernels(warm):
    """How Papermill starts a kernel: as Jupyter does, or as a fork of a process that has the heavy imports."""
    if not warm or "forkserver" not in multiprocessing.get_all_start_methods():
        return {}
    from warm import WarmKernelManager

    return {"kernel_manager_class": WarmKernelManager}


def execute(notebook, given, parameters, mark, timeout=None, warm=False):
    """Execute one page and put it into book/notebooks/ in one step. Returns seconds. PageError on failure.

    warm  fork its kernel from a process that has the heavy imports: worth it from the second page on.
    """
    import nbformat
    import papermill  # two seconds to import
    from papermill.exceptions import PapermillExecutionError

    _kernel_environment()
    logging.getLogger("papermill").setLevel(logging.ERROR)  # its scanner of parameters warns where ours does not
    target, failed = page_of(notebook), SCRATCH / notebook.name
    scratch = SCRATCH / f".{notebook.stem}.{os.getpid()}.part.ipynb"  # two commands may make one page
    part = target.with_name(scratch.name)  # _build/ may lie on another file system than book/
    for folder in (target.parent, SCRATCH):
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
    name, start = f"notebooks/{notebook.relative_to(SOURCES).as_posix()}", time.monotonic()
    try:
        papermill.execute_notebook(
            str(notebook),
            str(scratch),
            parameters=given,
            cwd=str(notebook.parent),  # where nbval and JupyterLab run them; it changes the whole process's folder
            kernel_name="python3",
            progress_bar=False,
            execution_timeout=timeout,
            start_timeout=120,
            **_kernels(warm),
        )
        seconds = time.monotonic() - start
        book = polish(nbformat.read(scratch, 4), ROOT)
        text = as_text(given, parse(notebook))
        book.metadata["mtl_run"] = card(notebook.stem, text, parameters, mark, seconds, ROOT)
        nbformat.write(book, part)
        os.replace(part, target)
    except PapermillExecutionError as error:
        os.replace(scratch, failed)
        first = next((line for line in error.source.splitlines() if line.strip()), "")[:60]
        last = f"{error.ename}: {error.evalue}".strip().splitlines()[-1]
        raise PageError(
            f"{name}, the cell that begins `{first}`: {last}\n"
            f"  The whole error: _build/pages/{notebook.name}. The page in book/notebooks/ is as it was."
        ) from None
    except OSError:
        raise
    except Exception as error:  # a dead kernel or a cell over its time: no cell is named
        text = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise PageError(f"{name} stopped: {type(error).__name__}: {text}") from None
    finally:
        for file in (part, scratch):
            file.unlink(missing_ok=True)
    return seconds


def _sweep(folder):
    """Remove the temporary files of processes that were killed."""
    for file in folder.glob(".*.part.ipynb"):
        with contextlib.suppress(OSError):
            try:
                os.kill(int(file.name.split(".")[-3]), 0)
            except ProcessLookupError:
                file.unlink()


def plan(arguments, pages):
    """[(notebook, given, parameters, fingerprint)] of what has to be executed; says why on the way."""
    if arguments.page and arguments.page not in pages:
        raise PageError(f"no page {arguments.page!r}{close_to(arguments.page, pages)}. Pages: {', '.join(pages)}")
    if arguments.parameters and not arguments.page:
        raise PageError('parameters need a page: make run PAGE=name P="name=value …"')
    jobs, inputs = [], contents(INPUTS, ROOT)
    for page in [arguments.page] if arguments.page else pages:
        path = pages[page]
        known = parse(path)
        given = resolve(split(arguments.parameters, known), known, path)
        parameters = {**{name: item.default for name, item in known.items()}, **given}
        mark, old = fingerprint(path, parameters, ROOT, inputs), stored(path)
        job = (path, given, parameters, mark)
        if arguments.page or arguments.force or not old:
            jobs.append(job)
        elif arguments.absent or old.get("fingerprint") == mark:
            print(f"{page}: up to date", flush=True)
        else:
            mine = {k: v for k, v in old.get("parameters", {}).items() if parameters.get(k) != v}
            why = f"it was made with {mine}; the book's own parameters again" if mine else "its sources changed"
            print(f"{page}: executed anew, because {why}", flush=True)
            jobs.append(job)
    if arguments.absent and jobs:
        print(f"{len(jobs)} other pages are executed once, so that the site is whole: a few minutes in all", flush=True)
    return jobs


def _one(job, timeout, warm=False):
    try:
        return execute(*job, timeout=timeout, warm=warm), None
    except PageError as error:
        return 0.0, str(error)
    except OSError as error:
        return 0.0, _stopped(error)


def run(jobs, workers, timeout):
    """Execute the jobs; processes, not threads, since Papermill changes the folder of the whole process."""
    if workers == 1 or len(jobs) < 2:
        outcomes = ((job, _one(job, timeout)) for job in jobs)
        return _report(outcomes)
    with concurrent.futures.ProcessPoolExecutor(workers, initializer=end_with_parent) as pool:
        futures = {pool.submit(_one, job, timeout, warm=True): job for job in jobs}
        try:
            done = concurrent.futures.as_completed(futures)
            return _report((futures[future], future.result()) for future in done)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _stopped(error):
    if not isinstance(error, OSError):
        return f"Stopped: a process was killed or memory ran out; fewer at once: -j 1. {KEPT}"
    where = f"{strip_machine(error.filename, ROOT)}: " if isinstance(error.filename, str) else ""
    return f"Stopped: {where}{error.strerror or error}; make it possible (room, permission). {KEPT}"


def _report(outcomes):
    failed = 0
    for (notebook, *_), (seconds, error) in outcomes:
        failed += error is not None
        print(f"{notebook.stem}: FAILED, {error}" if error else f"{notebook.stem}: {seconds:.0f} s", flush=True)
    return 1 if failed else 0


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", help="one page: the name of its notebook")
    parser.add_argument("--parameters", default="", help='for that page: "seeds=2 methods=equal,sam_gs"')
    parser.add_argument("--absent", action="store_true", help="only pages that were never executed")
    parser.add_argument("--force", action="store_true", help="also pages that are up to date")
    parser.add_argument("--list", action="store_true", help="pages and their parameters")
    parser.add_argument(
        "-j", "--jobs", type=int, default=min(4, os.cpu_count() or 1), help="processes (default: one a core, at most 4)"
    )
    parser.add_argument("--timeout", type=int, help="seconds a cell may take (default: no limit)")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without UTF-8 shows a question mark
    try:
        pages = registry()
        if options.page == "" or options.list:
            for page, notebook in pages.items():
                print(describe(page, parse(notebook)), flush=True)
            if options.page == "":
                raise PageError('name a page: make run PAGE=name P="name=value …"')
            return 0
        jobs = plan(options, pages)
        if any(job[0].stem == options.page for job in jobs):
            print(f"{options.page}: executing …", flush=True)
        return run(jobs, options.jobs, options.timeout)
    except (PageError, ParameterError) as error:
        print(error, file=sys.stderr)
        return 1
    except (OSError, concurrent.futures.BrokenExecutor) as error:
        print(_stopped(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nInterrupted. {KEPT}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
