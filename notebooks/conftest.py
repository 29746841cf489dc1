"""nbval: kernels of this checkout, and numbers compared with a tolerance.

Where `make book` has executed a notebook from these very sources, its page is compared and nothing is executed again.
Otherwise, or where $MTL_RUNS names a store of runs (`make nightly` starts from an empty one), nbval executes it.

nbval itself compares text exactly. Here words are compared exactly and numbers with the relative and absolute
tolerance that the cell states by a tag such as `tolerance-0.05`, counts with one in counts, `within-3`; without a tag
it is 1e-6, relative. A number of the other sign differs whatever the tolerance, and NaN is a word.
"""

import math
import os
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[1]
# A number stands alone: the digits of `layer1.0.conv2` belong to a word.
NUMBER = re.compile(r"(?<![\w.])[-+−]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?!\w|\.\d)")
DEFAULT_RTOL = 1e-6


def tolerance(tags) -> tuple[float, float]:
    """(rtol, atol) of a cell with these tags: `tolerance-0.05` states both, `within-3` (counts) the second alone.

    ValueError where a tag is not a number, stands twice, or both kinds stand.
    """
    stated = [tag for tag in tags if tag.startswith(("tolerance", "within"))]
    if not stated:
        return DEFAULT_RTOL, 0.0
    found = re.fullmatch(r"(tolerance|within)-(\d+(?:\.\d+)?(?:e-?\d+)?)", stated[0])
    if len(stated) > 1 or not found:
        raise ValueError(f"one tag such as 'tolerance-0.05' or 'within-3' states the tolerance of a cell, got {stated}")
    limit = float(found[2])
    return (limit, limit) if found[1] == "tolerance" else (0.0, limit)


def _close(a, b, rtol, atol):
    a, b = (float(x.replace("−", "-")) for x in (a, b))
    return a * b >= 0 and math.isclose(a, b, rel_tol=rtol, abs_tol=atol)


def same_text(reference, new, rtol=DEFAULT_RTOL, atol=0.0) -> bool:
    """Same words, same lines, blanks counted once; numbers within tolerance and of the same sign."""
    words = [re.sub(r"[ \t]+", " ", NUMBER.sub("#", text)).strip() for text in (reference, new)]
    pairs = zip(NUMBER.findall(reference), NUMBER.findall(new), strict=False)
    return words[0] == words[1] and all(_close(a, b, rtol, atol) for a, b in pairs)


class Text(str):
    """Text of an output that equals another one within the tolerance of its cell."""

    __hash__ = str.__hash__

    def __new__(cls, text, limits):
        made = super().__new__(cls, text)
        made.limits = limits
        return made

    def __eq__(self, other):
        return same_text(str(self), str(other), *self.limits) if isinstance(other, str) else NotImplemented

    def __ne__(self, other):
        return not self == other


def current_page(notebook: pathlib.Path):
    """The page that `make book` made of the notebook, with default parameters and these sources; else None."""
    import nbformat
    from page import fingerprint  # notebooks/page.py
    from parameters import parse

    page = ROOT / "book" / "notebooks" / notebook.parent.name / notebook.name
    if "MTL_RUNS" in os.environ or not page.exists():
        return None
    book = nbformat.read(page, 4)
    parameters = {name: parameter.default for name, parameter in parse(notebook).items()}
    mark = fingerprint(notebook, parameters, ROOT)
    return book if book.metadata.get("mtl_run", {}).get("fingerprint") == mark else None


class PageAsKernel:
    """Answers nbval as a kernel would: what a cell "gives" are its outputs on an executed page."""

    def __init__(self, page):
        self.cells, self.messages = iter([cell for cell in page.cells if cell.cell_type == "code"]), []

    def execute_cell_input(self, source, allow_stdin):
        cell = next(cell for cell in self.cells if cell.source == source)
        self.messages = [{"msg_type": o.output_type, "content": o} for o in cell.outputs]
        self.messages.append({"msg_type": "status", "content": {"execution_state": "idle"}})
        return "page"

    def get_message(self, stream, timeout=None):
        return self.messages.pop(0) | {"parent_header": {"msg_id": "page"}}

    def await_reply(self, msg_id, timeout=None):
        pass

    def is_alive(self):
        return True

    def stop(self):
        pass


def pytest_configure(config):
    from nbval.plugin import IPyNbCell, IPyNbFile

    os.environ.update(
        PYTHONPATH=os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        IPYTHONDIR=str(ROOT / "notebooks" / ".ipython"),
        OMP_NUM_THREADS="1",
        MPLBACKEND="agg",
        TQDM_DISABLE="1",
    )
    if not hasattr(IPyNbCell, "plain_sanitize"):
        IPyNbCell.plain_sanitize = IPyNbCell.sanitize

        def sanitize(cell, text):
            limits = tolerance(cell.cell.metadata.get("tags", []))
            return Text(cell.plain_sanitize(text), limits) if isinstance(text, str) else text

        IPyNbCell.sanitize = sanitize
        start = IPyNbFile.setup

        def setup(file):
            page = current_page(file.path)
            if page is None:
                start(file)
            else:
                file.kernel = PageAsKernel(page)
                file.setup_sanitize_files()

        IPyNbFile.setup = setup
