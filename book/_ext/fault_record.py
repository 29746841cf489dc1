"""`{faults}`: the last committed record of `make faults`, a line for each kind; `{faults} answer`: in a sentence."""

import datetime
import json
import pathlib

import checkout  # noqa: F401 (before printed_tables, which needs mtl_lab)
from docutils import nodes
from printed_tables import set_table
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

RECORD = pathlib.Path(__file__).resolve().parents[2] / "tests" / "faults" / "record.jsonl"
OUTCOMES = ("ok", "one sentence", "FAILURE")
# Where a kind's name says too little.
TITLES = {"claims": "damaged claims file", "orphans": "processes without a parent"}


def read(path):
    """(head, lines) of a record. ExtensionError where there is none."""
    try:
        head, *lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {name: head[name] for name in ("seed", "faults", "failures", "commit", "finished")}, lines
    except (OSError, ValueError, LookupError, TypeError) as error:
        remedy = "make one: PYTHONPATH=.:tests .venv/bin/python -m faults --record"
        raise ExtensionError(f"{path.name}: no record of faults ({error}); {remedy}") from error


def counts(lines):
    """Kind -> number of faults with each of the `OUTCOMES`, in the record's order."""
    found = {}
    for line in lines:
        found.setdefault(line["kind"], dict.fromkeys(OUTCOMES, 0))[line["outcome"]] += line["count"]
    return found


def answer(head):
    """What a night of faults found, in one sentence."""
    found = f"{head['failures'] or 'no'} failure{'s' * (head['failures'] != 1)} in a night of {head['faults']:,} faults"
    if head["failures"]:
        return f"{found}: the table below says where.".capitalize()
    return f"{found}: the same command went on to the same numbers, or it stopped and said what to do.".capitalize()


class Faults(SphinxDirective):
    optional_arguments = 1

    def run(self):
        self.env.note_dependency(str(RECORD))
        head, lines = read(RECORD)
        if self.arguments:
            return [nodes.paragraph("", "", nodes.strong(text=answer(head)))]
        body = []
        for kind, number in counts(lines).items():
            cells = [TITLES.get(kind, kind), sum(number.values()), *number.values()]
            body.append([[nodes.Text(f"{cell:,}" if isinstance(cell, int) else cell)] for cell in cells])
        when = datetime.date.fromisoformat(head["finished"])
        text = f"Made in {when:%B %Y} from seed {head['seed']}, at commit {head['commit'][:12]}."
        titles = ["kind of fault", "faults", "ended well", "stopped with a sentence", "failures"]
        return [nodes.paragraph("", text), set_table(titles, body, 1, "faults")]


def setup(app):
    app.add_directive("faults", Faults)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
