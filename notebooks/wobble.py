"""Find, on one machine, checked cells whose text another processor's rounding would change.

    python notebooks/wobble.py [NAME ...] [--jobs 2]

executes each notebook four times: three times with the weights, starts and inputs of its trainings moved by a few units
in the last place (`mtl_core.seeds.wobbled`), once with the instructions of an older processor. It lists each cell whose
text leaves the tolerance that nbval compares it with, and then ends with 1.
"""

import argparse
import concurrent.futures
import itertools
import os
import pathlib
import sys
import tempfile

import nbformat
from nbclient import NotebookClient

from conftest import ROOT, same_text, tolerance

SOURCES = ROOT / "notebooks"
EXECUTIONS = {f"draw {draw}": {"MTL_WOBBLE": str(draw)} for draw in (1, 2, 3)}
EXECUTIONS["older instructions"] = {
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "MTL_WOBBLE": "",
}


def text_of(cell) -> str:
    """What a cell prints and returns, as text."""
    outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    return "".join(o["text"] if "text" in o else o.get("data", {}).get("text/plain", "") for o in outputs)


def executed(path, setting, store):
    """The notebook after an execution with these environment variables, runs kept in `store`."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "IPYTHONDIR": str(SOURCES / ".ipython"),
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "agg",
        "TQDM_DISABLE": "1",
        "MTL_RUNS": str(store),
        **setting,
    }
    book = nbformat.read(path, 4)
    client = NotebookClient(book, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}})
    client.allow_errors = True  # a cell that fails is listed like one that prints something else
    client.execute(env=environment)
    return book


def differences(path, setting, store) -> list[tuple[str, list[str]]]:
    """(id of a cell, its lines that differ) for each checked cell whose text leaves its tolerance, or that fails."""
    found = []
    for stored, cell in zip(nbformat.read(path, 4).cells, executed(path, setting, store).cells, strict=True):
        if cell.cell_type != "code":
            continue
        tags = cell.metadata.get("tags", [])
        failed = [f"  ! {o.ename}: {o.evalue}" for o in cell.outputs if o.output_type == "error"]
        if failed and "raises-exception" not in tags:
            found.append((cell.id, failed))
        elif "nbval-check-output" in tags and not same_text(text_of(stored), text_of(cell), *tolerance(tags)):
            lines = itertools.zip_longest(text_of(stored).splitlines(), text_of(cell).splitlines(), fillvalue="")
            differ = [(old, new) for old, new in lines if not same_text(old, new, *tolerance(tags))]
            found.append((cell.id, [line for old, new in differ for line in (f"  - {old}", f"  + {new}")]))
    return found


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="notebooks, by name or path (default: all of notebooks/)")
    parser.add_argument("-j", "--jobs", type=int, default=2, help="notebooks at a time (default: 2)")
    options = parser.parse_args(arguments)
    known = {path.stem: path for path in sorted(SOURCES.glob("*/*.ipynb"))}
    paths = [pathlib.Path(n) if n.endswith(".ipynb") else known.get(n) for n in options.names]
    if missing := [name for name, path in zip(options.names, paths, strict=True) if path is None or not path.exists()]:
        parser.error(f"no notebook {', '.join(missing)}")
    paths, cells = paths or list(known.values()), 0
    with tempfile.TemporaryDirectory() as store, concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        jobs = {
            pool.submit(differences, path, setting, pathlib.Path(store, words)): (path.stem, words)
            for words, setting in EXECUTIONS.items()
            for path in paths
        }
        for done in concurrent.futures.as_completed(jobs):
            print(*jobs[done], sep=", ", file=sys.stderr, flush=True)
            for cell, lines in done.result():
                print(*jobs[done], cell, sep=", ", end="\n" + "\n".join(lines) + "\n", flush=True)
                cells += 1
    said = f"a cell left its tolerance {cells} times" if cells else "every checked cell keeps its text"
    print(f"notebooks {len(paths)}, executions of each {len(EXECUTIONS)}: {said}")
    return 1 if cells else 0


if __name__ == "__main__":
    sys.exit(main())
