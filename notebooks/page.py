"""From an executed notebook to a page of the book: nothing of this machine, and a run card."""

import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import shlex
import shutil
import subprocess

VERSIONS = ("torch", "torchvision", "torchjd", "numpy", "matplotlib")
# What a page is made from besides its own cells: sources, embedded data, results, printed tables, claims.
INPUTS = (
    "mtl_core",
    "mtl_lab",
    "results",
    "book/papers",
    "book/claims",
    "notebooks/.ipython/profile_default",
    "notebooks/page.py",
)
SOURCE_SUFFIXES = {".py", ".json", ".jsonl", ".csv", ".yml", ".yaml", ".npz", ".gz", ".txt"}
ADDRESS = re.compile(r"\bat 0x[0-9a-f]{6,}\b")
KERNEL_FILE = re.compile(r"(?:/[\w.-]+)*/ipykernel_\d+/\d+\.py")


def fingerprint(path, parameters, root, inputs=None) -> str:
    """Hash of everything that decides what the page shows: cells, parameters, inputs, versions.

    A notebook whose metadata has `reads`, a list of files and folders, depends on these too.
    inputs  `contents(INPUTS, root)`, for callers that ask for many pages.
    """
    book = json.loads(path.read_text(encoding="utf-8"))
    cells = [[c["cell_type"], c["source"], c["metadata"]] for c in book["cells"]]
    versions = [platform.python_version(), *(importlib.metadata.version(name) for name in VERSIONS)]
    seen = hashlib.sha256(json.dumps([cells, parameters, versions], sort_keys=True).encode())
    seen.update((inputs or contents(INPUTS, root)) + contents(book["metadata"].get("reads", ()), root))
    return seen.hexdigest()[:16]


def contents(names, root) -> bytes:
    """Digest of files, and of all source files in folders, with their names."""
    seen = hashlib.sha256()
    for start in (root / name for name in names):
        files = [start] if start.is_file() else sorted(p for p in start.rglob("*") if p.suffix in SOURCE_SUFFIXES)
        for file in files:
            if "__pycache__" not in file.parts:
                seen.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return seen.digest()


def _git(root, *command):
    done = subprocess.run(["git", "-C", str(root), *command], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def hardware() -> str:
    """The machine in words: processor, cores this process may use, graphics processors."""
    name = platform.machine()
    if pathlib.Path("/proc/cpuinfo").exists():
        found = re.search(r"(?m)^model name\s*:\s*(.+)$", pathlib.Path("/proc/cpuinfo").read_text())
        name = found.group(1) if found else name
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpus = ""
    if shutil.which("nvidia-smi"):
        asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        gpus = ", ".join(subprocess.run(asked, capture_output=True, text=True).stdout.split("\n")).strip(", ")
    return f"{name.strip()}, {cores} core{'s' if cores != 1 else ''}, {gpus or 'no GPU'}"


def command(page, text) -> str:
    """The command that repeats the page with the parameters in `text`, quoted for a shell."""
    return f"make run PAGE={shlex.quote(page)}" + (f" P={shlex.quote(text)}" if text else "")


def card(page, text, parameters, mark, seconds, root) -> dict:
    """The run card: how this page was made, and how to make it again; `text` as for `command`."""
    commit = _git(root, "rev-parse", "--short=12", "HEAD") or "unknown"
    changed = bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    return {
        "page": page,
        "parameters": [list(pair) for pair in parameters.items()],  # pairs: nbformat would sort the keys
        "fingerprint": mark,
        "seconds": round(seconds, 1),
        "hardware": hardware(),
        "commit": commit + (" with local changes" if changed else ""),
        "versions": [
            ["Python", platform.python_version()],
            *([n, importlib.metadata.version(n)] for n in VERSIONS),
        ],
        "command": command(page, text),
    }


def strip_machine(text: str, root: pathlib.Path) -> str:
    """Without paths and addresses of this machine."""
    text = KERNEL_FILE.sub("<cell>", text)
    home = os.path.expanduser("~")  # "~" for a user who has none
    for folder, word in ((str(root) + os.sep, ""), (str(root), "."), (home + os.sep, "~/")):
        text = text.replace(folder, word)
    return ADDRESS.sub("at 0x…", text)


def _strip_output(output, root):
    if "text" in output:
        output["text"] = strip_machine(output["text"], root)
    if "evalue" in output:
        output["evalue"] = strip_machine(output["evalue"], root)
    if "traceback" in output:
        output["traceback"] = [strip_machine(line, root) for line in output["traceback"]]
    for kind, value in output.get("data", {}).items():
        if isinstance(value, str) and (kind.startswith("text/") or kind == "image/svg+xml"):
            output["data"][kind] = strip_machine(value, root)


def polish(book, root):
    """What Papermill wrote, made fit for the book: same run, same bytes; no path; links that work there."""
    book.metadata.pop("papermill", None)
    book.metadata.pop("widgets", None)
    for cell in book.cells:
        for noise in ("papermill", "execution"):
            cell.metadata.pop(noise, None)
        tags = cell.metadata.get("tags", [])
        if "injected-parameters" in tags:
            cell.source = cell.source.replace("# Parameters", "# Parameters of this page", 1)
            cell["id"] = "injected-parameters"
        if cell.cell_type == "markdown":  # links that work on the code host also work in the book
            cell.source = cell.source.replace("](../../book/", "](../../")
        for output in cell.get("outputs", []):
            _strip_output(output, root)
    return book
