"""Accept new reference outputs: execute source notebooks from an empty store, write their normal form.

    .venv/bin/python tests/refresh_notebooks.py [NAME ...]

The normal form keeps text outputs of cells tagged `nbval-check-output` and nothing else: no images, no
counts, no metadata of the editor. Look at the difference before you commit it.
"""

import os
import pathlib
import sys
import tempfile

import nbformat

SOURCES = pathlib.Path(__file__).resolve().parents[1] / "notebooks"
TAG = "nbval-check-output"
METADATA = {
    "kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"},
    "language_info": {"name": "python"},
}
KEPT = ("tags", "mystnb")  # of a cell's metadata


def normal_form(book):
    """The notebook as it is committed; applying it twice changes nothing."""
    reads = {"reads": book.metadata["reads"]} if "reads" in book.metadata else {}  # what the page depends on beside
    book.metadata = nbformat.from_dict(METADATA | reads)
    for cell in book.cells:
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k in KEPT})
        cell.pop("attachments", None)
        if cell.cell_type != "code":
            continue
        if TAG not in cell.metadata.get("tags", []):
            cell.outputs, cell.execution_count = [], None
            continue
        cell.execution_count = 1
        for output in cell.outputs:
            if "data" in output:
                output["data"] = {k: v for k, v in output["data"].items() if not k.startswith("image/")}
            if "execution_count" in output:
                output["execution_count"] = 1
    return book


def main(names):
    from nbclient import NotebookClient

    known = {path.stem: path for path in sorted(SOURCES.glob("*/*.ipynb"))}
    if missing := [name for name in names if pathlib.Path(name).stem not in known]:
        sys.exit(f"no notebook {', '.join(missing)} in notebooks/")
    paths = [known[pathlib.Path(name).stem] for name in names] or list(known.values())
    with tempfile.TemporaryDirectory() as store:
        os.environ.update(
            MTL_RUNS=store,
            PYTHONPATH=str(SOURCES.parent),
            IPYTHONDIR=str(SOURCES / ".ipython"),
            OMP_NUM_THREADS="1",
            MPLBACKEND="agg",
            TQDM_DISABLE="1",
        )
        for path in paths:
            book = nbformat.read(path, 4)
            NotebookClient(book, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}).execute()
            nbformat.write(normal_form(book), path)
            print(f"refreshed {path.name}")


if __name__ == "__main__":
    main(sys.argv[1:])
