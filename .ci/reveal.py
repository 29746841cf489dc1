"""reveal.js for the slides of the lecture, from a Python package that carries it, into .venv/reveal.

    .venv/bin/python .ci/reveal.py

.ci/site.py calls this before it builds. Where the package cannot be fetched, the site is built all the same, and its
slides are one page that scrolls (book/_ext/lecture.py). A second call returns at once.
"""

import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
LOCK, FOLDER = ROOT / ".ci" / "reveal.lock", ROOT / ".venv" / "reveal"
PIP = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1", "--timeout", "10"]


def main(lock=LOCK, folder=FOLDER):
    """0 when `folder` holds what `lock` names, else 1."""
    stamp, text = folder / "installed.lock", lock.read_text(encoding="utf-8")
    if stamp.exists() and stamp.read_text(encoding="utf-8") == text:
        return 0
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, *PIP, "--no-deps", "--require-hashes", "--target", str(folder), "-r", str(lock)]
    if subprocess.run(command, capture_output=True).returncode:
        print("site: reveal.js cannot be fetched; the slides of the lecture are one page that scrolls", flush=True)
        return 1
    stamp.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
