"""reveal.js for the slides of the lecture, from a Python package that carries it, into .venv/reveal.

    .venv/bin/python .ci/reveal.py

.ci/site.py calls this before it builds. Where the package cannot be fetched, the site is built all the same, and its
slides are one page that scrolls (book/_ext/lecture.py). A second call returns at once.
"""

import sys

import packages

LOCK, FOLDER = packages.ROOT / ".ci" / "reveal.lock", packages.ROOT / ".venv" / "reveal"


def main(lock=LOCK, folder=FOLDER):
    """0 when `folder` holds what `lock` names, else 1."""
    if packages.fetch(lock, folder, capture_output=True):
        return 0
    print("site: reveal.js cannot be fetched; the slides of the lecture are one page that scrolls", flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
