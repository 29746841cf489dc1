"""JavaScript that Python packages carry, fetched once into .venv: reveal.js (reveal.py), axe-core (browser.py)."""

import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
PIP = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1", "--timeout", "10"]


def fetch(lock, folder, **how):
    """True when `folder` holds what `lock` names, now or before. `how` is for subprocess.run."""
    stamp, text = folder / "installed.lock", lock.read_text(encoding="utf-8")
    if stamp.exists() and stamp.read_text(encoding="utf-8") == text:
        return True
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, *PIP, "--no-deps", "--require-hashes", "--target", str(folder), "-r", str(lock)]
    if subprocess.run(command, **how).returncode:
        return False
    stamp.write_text(text, encoding="utf-8")
    return True
