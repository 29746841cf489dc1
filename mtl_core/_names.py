"""What somebody may have meant by an unknown name."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The end of an error message: "; did you mean 'qm9'?", or "" where no known name is close to `name`."""
    close = get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
