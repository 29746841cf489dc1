"""Say whether a tag may be released: python3 .ci/tag.py vX.Y.Z

Package, CITATION.cff and the top of the changelog must name that version, and the changelog a day. Standard library
only.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]


def complaints(tag, root):
    """What is wrong, in sentences; empty where the tag may be released."""

    def found(pattern, file):
        match = re.search(pattern, (root / file).read_text(encoding="utf-8"))
        return match[1] if match else "nothing"

    named = {
        "mtl_core/__init__.py": found(r'(?m)^__version__ = "(.*)"$', "mtl_core/__init__.py"),
        "CITATION.cff": found(r"(?m)^version: (\S+)$", "CITATION.cff"),
        "CHANGELOG.md": found(r"(?m)^## (\S+)", "CHANGELOG.md"),
    }
    said = [f"{file} names {version}, the tag is {tag}" for file, version in named.items() if f"v{version}" != tag]
    if not re.match(r"\S+ \(\d{4}-\d\d-\d\d\)", found(r"(?m)^## (.*)$", "CHANGELOG.md")):
        said.append("the top of CHANGELOG.md has no day, as in: ## 0.2.0 (2026-12-31)")
    return said


if __name__ == "__main__":
    if wrong := complaints(sys.argv[1], ROOT):
        sys.exit("\n".join(wrong))
