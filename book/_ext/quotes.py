"""Numbers and verdicts in running text, read from committed records when the book is built; none is typed.

    {record}`qm9 small sam_gs difference`   +5.6 [4.4, 6.8]: paired difference to the reference row, Holm interval
    {record}`qm9 small sam_gs delta`        mean ± sd of Δm over the seeds; `WORD mean` leaves the spread out
    {record}`qm9 small sam_gs outcome`      or seeds, diverged, core-seconds
    {record}`qm9 small sam_gs HOMO MAE (meV)`   mean ± sd of a test metric
    {record}`qm9 small margin`              or `count better`: how many rows have that outcome, of how many;
                                            `rows better`: their titles
    {record}`two_digits small WHAT trained`     the same against the single-task networks that did train alone

Differences have one decimal, two where the table's margin is below one point.
    {verdict}`recon R1`                     badges of the claim's scope and outcome, linked to the ledger
    {tally}`recon sam_gs`                   how many claims of these papers have which outcome
    {cheaper}`cost pcgrad, every 16`        a cheaper form of a method on QM9: `cost` in joint trainings, `outcome`
                                            against the full form, or `gain` over it with its interval

What is missing stops the build (`-W`) and is named. A row that is unfinished says so; of a void one no number
is shown.
"""

from collections import Counter
from dataclasses import replace
from functools import cache

import checkout  # noqa: F401 (before mtl_lab)
import numpy as np
from docutils import nodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole

from mtl_lab import experiments, records
from mtl_lab.claims import verdicts
from mtl_lab.experiments import below_the_floor
from mtl_lab.experiments.two_digits import untrained
from mtl_lab.protocol.table import REFERENCE
from mtl_lab.protocol.verdict import compare, deltas

log = logging.getLogger(__name__)


class Quote(SphinxRole):
    """A role whose function takes the words of the role's text and returns inline nodes, or raises LookupError."""

    def __init__(self, read):
        super().__init__()
        self.read = read

    def run(self):
        try:
            return self.read(*self.text.split()), []
        except (LookupError, TypeError, ValueError) as error:
            log.warning("%s `%s`: %s", self.name, self.text, error, location=self.get_location())
            return [nodes.inline(text=f"missing: {self.text}")], []


@cache
def trained(experiment, profile):
    """The judged table without the single-task networks that end no better than a constant, in its zero of Δm."""
    verdict = experiments.committed(experiment, profile)
    lost = untrained(verdict.records)
    kept = [r for r in verdict.records if r["config"]["seed"] not in lost.get(r["row"].removeprefix("single "), ())]
    delta = deltas(verdict.table, {name: [r for r in kept if r["row"] == name] for name in verdict.rows})
    differences, outcomes = compare(verdict.table, delta)
    new = {
        name: replace(
            row,
            delta=delta.get(name, {}),
            difference=differences.get(name),
            outcome=outcomes.get(name, row.outcome) if row.state == "judged" else row.outcome,
        )
        for name, row in verdict.rows.items()
    }
    return replace(verdict, rows=new)


def record(experiment, profile, *what):
    """Inline nodes with one number of a judged table."""
    verdict = experiments.committed(experiment, profile)
    if verdict is None:
        raise LookupError(f"no runs of {experiment}, {profile}, are committed in results/")
    if what[-1:] == ("trained",):
        verdict, what = trained(experiment, profile), what[:-1]
    if what == ("margin",):
        return [nodes.Text(f"{verdict.table.margin:g}")]
    if what[:1] in (("count",), ("rows",)):
        asked = [verdict.rows[row.name] for row in verdict.table.shared() if not row.control and row.name != REFERENCE]
        same = [row.title for row in asked if row.outcome == " ".join(what[1:])]
        text = [nodes.Text(f"{len(same)} of {len(asked)}")]
        if what[0] == "rows":
            text = [node for title in same for node in (nodes.Text(", "), nodes.emphasis(title, title))][1:]
        others = Counter(row.state for row in asked if row.state not in ("judged", " ".join(what[1:])))
        return [
            *(text or [nodes.Text("none")]),
            *(nodes.Text(f" ({count} {state})") for state, count in others.items()),
        ]
    what = what or ("",)
    names = {" ".join(what[:words]): what[words:] for words in range(1, len(what) + 1)}  # a row's name may have blanks
    if not (here := [name for name in names if name in verdict.rows]):
        raise LookupError(f"no row {what[0]!r} in {experiment}, {profile}; there are: {', '.join(verdict.rows)}")
    row = verdict.rows[here[-1]]
    if row.state == "void":
        return [badge("void", "outcome")]
    text = _of_row(row, names[row.name], 1 if verdict.table.margin >= 1 else 2).replace("-", "−")
    return [nodes.Text(text if row.state in ("judged", text) else f"{text} ({row.state})")]


def _of_row(row, field, digits):
    match field:
        case ["difference", *mean] if row.difference and mean in ([], ["mean"]):
            d = row.difference
            return f"{d.mean:+.{digits}f}" + ("" if mean else f" [{d.low:.{digits}f},\u00a0{d.high:.{digits}f}]")
        case ["delta", *mean] if row.delta and mean in ([], ["mean"]):
            values = list(row.delta.values())
            spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 and not mean else ""
            return f"{np.mean(values):+.{digits}f}" + spread
        case ["outcome"]:
            return row.outcome
        case ["seeds"]:
            return row.runs.split()[0]
        case ["diverged"]:
            return str(row.diverged)
        case ["core-seconds"] if "core_seconds" in row.cost:
            return f"{row.cost['core_seconds']:.0f}"
        case [task, *metric] if " ".join(metric) in row.metrics.get(task, {}):
            mean, sd = row.metrics[task][" ".join(metric)]
            return f"{mean:.4g} ± {sd:.2g}"
    known = ["difference", "delta", "outcome", "seeds", "diverged", "core-seconds"]
    known += [f"{task} {metric}" for task, metrics in row.metrics.items() for metric in metrics if metric != "loss"]
    raise LookupError(f"row {row.name!r} has no {' '.join(field)!r}; expected one of: {', '.join(known)}")


def badge(text, axis):
    """One word of a verdict: `axis` is "scope" or "outcome". Shape and words tell them apart, not colour alone."""
    return nodes.inline(text=text, classes=["verdict-badge", axis, *nodes.make_id(text).split()])


def badges(found):
    """Scope and outcome of a claims.Verdict."""
    return [badge(found.claim["scope"], "scope"), nodes.Text(" "), badge(found.outcome, "outcome")]


def verdict(paper, name):
    """The badges of a claim, as a link to its entry in the ledger."""
    found = {one.claim["id"]: one for one in verdicts.verdicts(paper)}
    if name not in found:
        raise LookupError(f"no claim {name!r} of {paper}; there are: {', '.join(found)}")
    return [nodes.inline("", "", *badges(found[name]), classes=["verdict-badges"], claim=name, paper=paper)]


def link_verdicts(app, doctree, page):
    """Badges become a link to the claim's entry, wherever the page with the ledger is."""
    for box in list(doctree.findall(lambda node: isinstance(node, nodes.inline) and "claim" in node)):
        if (place := app.env.get_domain("std").anonlabels.get(label(box["claim"]))) is None:
            log.warning("verdict: no page has the ledger entry of %s", box["claim"], location=page)
            continue
        uri = f"{app.builder.get_relative_uri(page, place[0])}#{place[1]}"
        box.replace_self(nodes.reference("", "", *box.children, refuri=uri, internal=True, classes=["verdict-badges"]))


def label(claim):
    """The label under which the ledger registers a claim."""
    return f"claim-{claim}"


def tally(*papers):
    """How many claims have which outcome, in words, most frequent first."""
    found = Counter(one.outcome for paper in papers for one in verdicts.verdicts(paper))
    if not found:
        raise LookupError("expected the names of papers that have claims")
    parts = ", ".join(f"{count} “{outcome}”" for outcome, count in found.most_common())
    return [nodes.Text(f"{found.total()} claims: {parts}")]


def cheaper(field, *words):
    """Cost, outcome or gain of a cheaper form of a method, or how many of its runs are here."""
    found, row = records.by_row(below_the_floor.NAME, "small"), " ".join(words)
    if field not in ("cost", "outcome", "gain") or row not in below_the_floor.ROWS:
        raise LookupError(f"expected cost, outcome or gain of one of: {'; '.join(below_the_floor.ROWS)}")
    judged = below_the_floor.judged(found)
    if not judged:
        return [nodes.Text("not known yet ({} of {} runs)".format(*below_the_floor.counted(found)))]
    if field == "cost":
        return [nodes.Text(f"{below_the_floor.cost(found, row):.1f}")]
    if row not in judged:
        raise LookupError(f"{row!r} is what the others are compared with: it has a cost alone")
    d, outcome, _ = judged[row]
    text = outcome if field == "outcome" else f"{d.mean:+.1f} [{d.low:.1f},\u00a0{d.high:.1f}]".replace("-", "−")
    return [nodes.Text(text)]


def setup(app):
    for read in (record, verdict, tally, cheaper):
        app.add_role(read.__name__, Quote(read))
    app.connect("doctree-resolved", link_verdicts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
