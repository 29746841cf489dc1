"""What small comparisons of procedures share: five streams beside a main table, whose zero and margin they take.

They have no controls and one evaluation seed a stream. Nothing is judged before all streams are whole.
"""

from collections.abc import Sequence
from pathlib import Path

from mtl_lab import records
from mtl_lab.protocol import stream_verdict
from mtl_lab.protocol.streams import Searches
from mtl_lab.protocol.table import Row, Table
from mtl_lab.runs.run import Run

STREAMS = 5


def searches(main: Table, name: str, rows: Sequence[Row], base: Run, **changes) -> Searches:
    """The comparison `name` of `rows`, each a change of `base`, with the single-task networks of `main` as zero."""
    changes = {"name": name, "extends": main.name, "base": base, "rows": main.singles() + list(rows)} | changes
    changes = {"rate": main.rates(), "widened": None, "ranking": None} | changes
    changes |= {"streams": STREAMS, "limits": (main.margin, main.margin), "second_seeds": False}
    return Searches(**vars(main) | changes)


def counted(table: Searches, root: Path = records.ROOT) -> str:
    """ "n of N", the evaluation runs that are recorded; each also has a search, which reads no test data."""
    return f"{len(records.load(table.name, table.profile, root))} of {table.streams * len(table.shared())}"


def unfinished(table: Searches, root: Path = records.ROOT) -> str:
    """What a page says in place of a finding; empty once all streams are whole."""
    if len(stream_verdict.whole_streams(table, root)) == table.streams:
        return ""
    trains = f"`make results EXPERIMENT={table.name} PROFILE={table.profile}` trains the rest"
    return f"*No finding yet*: {counted(table, root)} runs of `{table.name}` are here; {trains}."
