"""Build the site aside and put it in place: until then, and where the build fails, the old one stays.

    python .ci/site.py

jupyter-book works in _build/site/, which keeps what an incremental build needs. What it made is copied beside
_build/html/ and takes its place by a rename.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

from filelock import FileLock

ROOT = pathlib.Path(__file__).resolve().parents[1]
# What the whole site is made from, beside the executed notebooks, and what in there does not count.
SOURCES = (
    "_config.yml",
    "requirements.lock",
    ".ci/reveal.lock",
    "CHANGELOG.md",
    "book",
    "mtl_core",
    "mtl_lab",
    "results",
    "tests/faults/record.jsonl",
)
ASIDE = ("book/notebooks/", "book/_drawn/", "results/.locks/")
COMMAND = ["build", "book", "--quiet", "-W", "--keep-going", "--path-output", "_build/site"]


def newest(names, root, aside=()):
    """(modification time, name) of the youngest file in these files and folders."""
    found = [(0.0, "")]
    for start in (root / name for name in names):
        for file in [start] if start.is_file() else start.rglob("*"):
            name = file.relative_to(root).as_posix()
            if "__pycache__" not in file.parts and not name.startswith(aside) and file.is_file():
                found.append((file.stat().st_mtime, name))
    return max(found)


def plan(root, now):
    """None where the site is up to date; else whether all of it is built anew, and why."""
    stamp = root / "_build" / "site.stamp"
    if not stamp.exists() or not (root / "_build" / "html" / "index.html").exists():
        return True, "there is none yet"
    made = stamp.stat().st_mtime
    if made > now + 60:
        return True, "its stamp is of the future"
    changed, name = newest(SOURCES, root, ASIDE)
    if changed > made:
        return True, f"{name} changed"
    changed, name = newest(["book/notebooks", "tests/core"], root)  # marks on tests make a table of book/support.md
    return (False, f"{name} changed") if changed > made else None


def build(root, whole):
    """Whether jupyter-book built it in _build/site/. reveal.js is fetched before, for the slides of the lecture."""
    subprocess.run([sys.executable, root / ".ci" / "reveal.py"])
    program = pathlib.Path(sys.executable).parent / "jupyter-book"
    command = [program, *COMMAND, *(["--all"] if whole else [])]
    done = subprocess.run(command, cwd=root, stdout=subprocess.PIPE, text=True, errors="replace")
    # at the end it names the folder aside as the place of the book
    print(done.stdout if done.returncode else re.split(r"\n[^\n]*={40}", done.stdout)[0].strip(), flush=True)
    return done.returncode == 0


def swap(root):
    """Put the new site in the place of the old one."""
    made, html = root / "_build" / "site" / "_build" / "html", root / "_build" / "html"
    new, old = html.with_name("html.new"), html.with_name("html.old")
    for folder in (new, old):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(made, new)
    if html.exists():
        html.rename(old)
    new.rename(html)
    shutil.rmtree(old, ignore_errors=True)


def recover(root):
    """Where a kill came between the two renames of `swap`, the old site comes back."""
    html, old = root / "_build" / "html", root / "_build" / "html.old"
    if old.exists() and not html.exists():
        old.rename(html)


def make(root=ROOT):
    """The exit status. One process at a time builds."""
    (root / "_build").mkdir(exist_ok=True)
    with FileLock(root / "_build" / "site.lock"):
        recover(root)
        start = time.time()
        todo = plan(root, start)
        if todo is None:
            return 0
        whole, why = todo
        stamp = root / "_build" / "site.stamp"
        stamp.unlink(missing_ok=True)
        if whole:
            shutil.rmtree(root / "_build" / "site", ignore_errors=True)
        done = build(root, whole)
        if not done and not whole:
            print("site: building the changed pages alone failed; all of it is built anew", flush=True)
            shutil.rmtree(root / "_build" / "site", ignore_errors=True)
            done = build(root, True)
        if not done:
            print(f"site stopped ({why}): the reason is above; _build/html is as it was", file=sys.stderr)
            return 1
        swap(root)
        stamp.touch()
        os.utime(stamp, (start, start))  # what changed during the build makes the next one
    return 0


if __name__ == "__main__":
    try:
        sys.exit(make())
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"site stopped: {where}{error.strerror or error}; make room or give permission", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("site interrupted; _build/html is as it was.", file=sys.stderr)
        sys.exit(130)
