"""`python -m mtl_lab` without a process of its own."""

from mtl_lab.__main__ import app


def run(*words: str) -> int:
    """The exit status of the command; what it prints goes to this process."""
    return app(list(words), standalone_mode=False) or 0
