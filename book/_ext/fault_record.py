"""`{faults}`: the last committed record of `make faults`, a line for each group, each kind folded below it.

`{faults} answer`: in a sentence.
"""

import datetime
import json
import pathlib

import checkout  # noqa: F401 (before ledger and printed_tables, which need mtl_lab)
import ledger
from docutils import nodes
from printed_tables import set_table
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

RECORD = pathlib.Path(__file__).resolve().parents[2] / "tests" / "faults" / "record.jsonl"
OUTCOMES = ("ok", "one sentence", "FAILURE")
OTHER = "anything else"
# What happens, as a reader would name it -> the kinds of the record, each with words where its name says too little.
GROUPS = {
    "A command is killed": {
        "a kill while training": "",
        "a kill while writing": "",
        "a pause": "pause and resume",
        "a queue": "a kill while a queue of results is trained",
        "orphans": "a kill that leaves worker processes behind",
        "pages that are killed": "a kill while a page is executed",
        "a log of attempts": "half a line at the end of a log",
    },
    "The disk is full or locked": {
        "a full disk while training": "",
        "a full disk": "a full disk while writing",
        "a place that cannot be written": "a folder of results that cannot be written",
        "places of pages": "a folder of pages that cannot be written",
    },
    "Two commands at once": {"make results twice at once": "", "two writers": ""},
    "A committed file is damaged": {
        "results": "",
        "results to complete": "results that are not complete yet",
        "records of a study": "",
        "printed tables": "",
        "claims": "the list of claims",
        "sources of pages": "",
        "archives": "wheels and archives of a release",
    },
    "A file of yours is damaged": {
        "damaged checkpoints": "checkpoints",
        "the store of runs": "",
        "executed pages": "",
        "the stamp of the set-up": "",
    },
    "Data are damaged": {
        "images": "",
        "molecules": "",
        "sets that users bring": "data sets that you bring",
        "servers": "answers of a server",
    },
    "A parameter is nonsense": {
        "parameters": "parameters of a page",
        "parameter cells": "the cell of a page that lists its parameters",
        "the command on a page": "the command that a page shows",
        "variables of make": "",
        "environments": "no home folder, no UTF-8 and the like",
    },
}


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
    """What the faults led to, in one sentence."""
    faults = f"{head['faults']:,} faults caused on purpose"
    if head["failures"]:
        return f"{head['failures']} of {faults} did harm: the table below says where."
    return f"No record was lost: after each of {faults}, the same command went on, or it stopped and said what to do."


def grouped(found):
    """Group -> {words for a kind: its counts}, for all kinds of `counts`."""
    groups = {
        name: {words or kind: found[kind] for kind, words in of.items() if kind in found} for name, of in GROUPS.items()
    }
    known = {kind for of in GROUPS.values() for kind in of}
    groups[OTHER] = {kind: number for kind, number in found.items() if kind not in known}
    return {name: of for name, of in groups.items() if of}


def line(words, *numbers):
    """The cells of a line of the table: how many faults, then how they ended."""
    total = [sum(one[outcome] for one in numbers) for outcome in OUTCOMES]
    return [[nodes.Text(words)], *([nodes.Text(f"{cell:,}")] for cell in (sum(total), *total))]


class Faults(SphinxDirective):
    optional_arguments = 1

    def run(self):
        self.env.note_dependency(str(RECORD))
        head, lines = read(RECORD)
        if self.arguments:
            return [nodes.paragraph("", "", nodes.strong(text=answer(head)))]
        groups = grouped(counts(lines))
        when = datetime.date.fromisoformat(head["finished"])
        text = f"Made in {when:%B %Y} from seed {head['seed']}, at commit {head['commit'][:12]}."
        titles = ["what happens", "faults", "went on", "stopped and said why", "did harm"]
        body = [line(name, *of.values()) for name, of in groups.items()]
        every = [line(words, number) for of in groups.values() for words, number in of.items()]
        fold = ledger.Folded("", ledger.Line("", nodes.Text(f"All {len(every)} kinds of faults")))
        fold += [set_table(titles, every, 1, "faults"), nodes.paragraph("", text)]
        return [set_table(titles, body, 1, "faults"), fold]


def setup(app):
    app.add_directive("faults", Faults)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
