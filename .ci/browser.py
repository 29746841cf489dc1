"""What the gates of the site need and a Python package index does not give: Chromium; and axe-core, in a package.

    .venv/bin/python .ci/browser.py

Chromium comes from the system's packages where this may install some. Without it the gates are skipped, with this
reason; where CI=true, it is an error. A second call returns at once.
"""

import os
import shutil
import subprocess
import sys

import packages

LOCK, AXE = packages.ROOT / "tests" / "axe.lock", packages.ROOT / ".venv" / "axe"
APT = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", "chromium"]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")  # those of tests/browser.py


def install_chromium():
    """True when a Chromium is on the path, now or before."""
    if any(map(shutil.which, NAMES)):
        return True
    if not shutil.which("apt-get"):
        return False
    as_root = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]
    if as_root and not shutil.which("sudo"):
        return False
    print("set-up: Chromium, for the gates of the site (once)", flush=True)
    subprocess.run([*as_root, "apt-get", "update", "--quiet"], stdout=subprocess.DEVNULL)
    subprocess.run([*as_root, *APT], stdout=subprocess.DEVNULL)
    return shutil.which("chromium") is not None


def main():
    found = {"Chromium (apt-get install chromium, or put one on the path)": install_chromium()}
    found["axe-core (the package index of pip must be reachable once)"] = packages.fetch(LOCK, AXE)
    absent = [name for name, here in found.items() if not here]
    for name in absent:
        print(f"set-up: the gates of the site will not run in full, they need {name}", file=sys.stderr)
    return 1 if absent and os.environ.get("CI") == "true" else 0


if __name__ == "__main__":
    sys.exit(main())
