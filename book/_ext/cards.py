"""What the front page says of all papers and problems, from one source.

    ```{verdict-card} recon             what it claims, what we found, how sure, what would change our mind, and a line
    ```                                 for each verdict: from book/papers/cards.yml; elsewhere than on the paper's own
                                        page with a link to that
    ```{verdicts-in-short}              the finding of each paper in a few words, with a link to its page
    ```
    ```{outcome-table} qm9 two_digits   a line for each judged table: how many methods are better, the same, worse than
    ```                                 tuned fixed weights, and of how many these seeds cannot tell

What is missing stops the build (`-W`) and is named.
"""

import pathlib
from collections import Counter

import checkout  # noqa: F401 (before mtl_lab)
import quotes
import yaml
from docutils import nodes
from printed_tables import set_table
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from ten_minutes import link

from mtl_lab import experiments, records
from mtl_lab.protocol.table import REFERENCE

FILE = pathlib.Path(__file__).resolve().parents[1] / "papers" / "cards.yml"
QUESTIONS = {
    "claims": "The claim",
    "found": "What we found",
    "sure": "How sure we are",
    "change": "What would change our mind",
}
LEGEND = "First badge: the {term}`scope`, how near our run is to the paper's. Second badge: the {term}`verdict`."
PROBLEMS = {
    "qm9": "QM9: eleven properties of molecules",
    "multi_fashion_mnist": "Multi-Fashion+MNIST: a digit and a garment",
    "two_digits": "Two digits: five questions about a picture",
}
COLUMNS = {  # an outcome -> its column, and whether only the direction is sure
    "better": ("better", False),
    "better (amount uncertain)": ("better", True),
    "equivalent": ("same", False),
    "worse": ("worse", False),
    "worse (amount uncertain)": ("worse", True),
    "cannot decide": ("cannot tell", False),
}
log = logging.getLogger(__name__)


def load(file=FILE):
    """Paper -> its card: title, page, finding (and in short), answers to the `QUESTIONS`, verdicts (claim -> words)."""
    cards = yaml.safe_load(file.read_text(encoding="utf-8"))
    for paper, card in cards.items():
        if wrong := {"title", "page", "short", "finding", "verdicts", *QUESTIONS} ^ set(card):
            raise LookupError(f"{file.name}: {paper} lacks, or has beyond the card: {', '.join(sorted(wrong))}")
    return cards


def outcomes(experiment, profile="small"):
    """(column -> its text, number of methods) of a judged table: "3 (+1)", the one by an uncertain amount."""
    verdict = experiments.committed(experiment, profile)
    if verdict is None:
        raise LookupError(f"no runs of {experiment}, {profile}, are committed in results/")
    asked = [verdict.rows[row.name] for row in verdict.table.shared() if not row.control and row.name != REFERENCE]
    if unknown := [f"{row.name} ({row.outcome})" for row in asked if row.outcome not in COLUMNS]:
        raise LookupError(f"{experiment}, {profile}: no verdict on {', '.join(unknown)}")
    counts = Counter(COLUMNS[row.outcome] for row in asked)
    text = {}
    for column in dict.fromkeys(column for column, _ in COLUMNS.values()):
        sure, unsure = counts[column, False], counts[column, True]
        text[column] = str(sure) + f" (+{unsure})" * bool(unsure)
    return text, len(asked)


class Noted(SphinxDirective):
    """A directive whose `nodes` raises LookupError where something is missing."""

    required_arguments, final_argument_whitespace = 1, True

    def run(self):
        try:
            return self.set(*self.arguments[0].split())
        except (LookupError, TypeError) as error:
            log.warning("%s %s: %s", self.name, self.arguments[0], error, location=self.get_location())
            return [nodes.paragraph(text=f"missing: {self.name} {self.arguments[0]}")]


class VerdictCard(Noted):
    def set(self, paper):
        self.env.note_dependency(str(FILE))
        for file in records.ROOT.rglob("*.json*"):
            self.env.note_dependency(str(file))
        if (card := load().get(paper)) is None:
            raise LookupError(f"no card of a paper {paper!r}; there are: {', '.join(load())}")
        box = nodes.container(classes=["verdict-card"])
        if self.env.docname != card["page"]:
            name = link(self.env.docname, card["page"], card["title"])
            box += nodes.paragraph("", "", name, classes=["paper"])
        box += nodes.paragraph("", "", nodes.strong("", "", *self.inline(card["finding"])), classes=["finding"])
        box += (answers := nodes.definition_list())
        for field, question in QUESTIONS.items():
            said = nodes.definition("", nodes.paragraph("", "", *self.inline(card[field])))
            answers += nodes.definition_list_item("", nodes.term(text=question), said)
        box += (lines := nodes.bullet_list(classes=["verdicts"]))
        for claim, words in card["verdicts"].items():
            line = nodes.paragraph("", "", nodes.inline(text=words), nodes.Text(" "), *quotes.verdict(paper, claim))
            lines += nodes.list_item("", line)
        box += nodes.paragraph("", "", *self.inline(LEGEND), classes=["legend"])
        return [box]

    def inline(self, text):
        return self.state.inline_text(text, self.lineno)[0]


class VerdictsInShort(SphinxDirective):
    def run(self):
        self.env.note_dependency(str(FILE))
        lines = []
        for card in load().values():
            line = nodes.paragraph("", "", link(self.env.docname, card["page"], card["title"]), nodes.Text(": "))
            line += self.state.inline_text(card["short"], self.lineno)[0]
            lines.append(line)
        return [nodes.container("", *lines, classes=["in-short-verdicts"])]


class OutcomeTable(Noted):
    def set(self, *tables):
        body = []
        for name in tables:
            for file in records.folder(name, "small").glob("*.json*"):
                self.env.note_dependency(str(file))
            counts, of = outcomes(name)
            body.append([[nodes.Text(cell)] for cell in (PROBLEMS[name], str(of), *counts.values())])
        return [set_table(["problem", "methods", *counts], body, 1, "outcomes")]


def setup(app):
    app.add_directive("verdict-card", VerdictCard)
    app.add_directive("verdicts-in-short", VerdictsInShort)
    app.add_directive("outcome-table", OutcomeTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
