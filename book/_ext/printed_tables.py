"""`{printed-table} PAPER NUMBER`: a table of a paper, set from its CSV when the book is built.

Options: `recompute` adds Δm as the printed metrics give it, averaged inside tasks first, or with `ungrouped` over all
metrics, in the sign that the paper prints. Notes of single numbers become footnotes below. A table is folded, but for
those with `open`. `{claim-table} PAPER` lists the claims that arithmetic judges, each a link to the ledger.
"""

from collections import Counter

import checkout  # noqa: F401 (before mtl_lab)
import comparisons
import ledger
import quotes
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective

from mtl_lab.claims import printed_rules, printed_tables

LABELS = {"delta_m": "Δm, %", "parameters": "size, MB"}
HEADINGS = {12: ("ranking of", "against"), 14: ("ranking under", "against")}


class PrintedTable(SphinxDirective):
    required_arguments = 2
    option_spec = {"recompute": directives.flag, "ungrouped": directives.flag, "open": directives.flag}

    def run(self):
        paper, number = self.arguments[0], int(self.arguments[1])
        rows, about = printed_tables.table(paper, number), printed_tables.about(paper)
        for file in (printed_tables.path(paper, number), printed_tables.ROOT / paper / "paper.yml"):
            self.env.note_dependency(str(file))
        lines = {}
        for r in rows:
            lines.setdefault(r["row"], {})[r["task"], r["metric"], r["unit"]] = r
        columns = list(dict.fromkeys(c for line in sorted(lines.values(), key=len, reverse=True) for c in line))
        columns.sort(key=lambda column: column[1] != "delta_m")  # first, where a phone shows it
        variants = any(r["variant"] for r in rows)
        head = list(HEADINGS.get(number, ("method", "variant"))[: 1 + variants])
        again = _recomputed(rows, "ungrouped" not in self.options) if "recompute" in self.options else {}
        head += [_label(*column) for column in columns]
        if again:
            head.insert(2 + variants, "Δm recomputed, %")
        notes, body = [], []
        for line in lines.values():
            first = next(iter(line.values()))
            cells = [[nodes.Text(first["method"])]]
            if variants:
                cells.append([nodes.Text(first["variant"] or "–")])
            cells += [_number(line.get(column), notes) for column in columns]
            if again:
                cells.insert(2 + variants, [nodes.Text(again.get((first["method"], first["variant"]), "–"))])
            body.append(cells)
        first, _, more = about["captions"][number].partition(". ")
        caption = [
            nodes.strong(text=f"{about['short']}, Table {number}"),
            nodes.Text(f", as printed. {first.rstrip('.')}. "),
        ]
        table = [set_table(head, body, 1 + variants, "printed-table"), *_notes(notes)]
        more = [nodes.paragraph(text=more)] if more else []
        target = f"{paper}-table-{number}"
        if "open" in self.options:
            return [nodes.paragraph("", "", *caption, classes=["printed-table-caption"], ids=[target]), *more, *table]
        fold = ledger.Folded("", ledger.Line("", *caption, *_agreement(again)), *more, *table, ids=[target])
        fold["classes"].append("printed")
        return [fold]


class ClaimTable(SphinxDirective):
    required_arguments = 1

    def run(self):
        paper, body = self.arguments[0], []
        for verdict in ledger.judged_claims(self.env, paper):
            claim = verdict.claim
            if claim["scope"] == "arithmetic":
                target = {
                    "refdomain": "std",
                    "reftype": "ref",
                    "reftarget": quotes.label(claim["id"]),
                    "refexplicit": True,
                }
                said = nodes.inline(text=ledger.short(claim["claim"])[0])
                link = addnodes.pending_xref("", said, refdoc=self.env.docname, refwarn=True, **target)
                place = [claim["where"]["section"] or "–", comparisons.runs(claim["where"]["tables"])]
                body.append([[ledger.outcome_tag(verdict.outcome)], [link], *([nodes.Text(text)] for text in place)])
        return [set_table(["outcome", "claim, in our words", "section", "tables"], body, 0, "claims")]


def _agreement(again):
    """A tag that sums up the column Δm recomputed."""
    if not again:
        return []
    words = Counter(cell.rpartition(", ")[2] for cell in again.values())
    text = f"Δm differs in {words['differs']} of {words.total()}" if words["differs"] else "Δm agrees"
    outcome = "text and table disagree" if words["differs"] else "text and table agree"
    return [nodes.inline(text=text, classes=["verdict-badge", "outcome", *ledger.classes(outcome).split()])]


def _label(task, metric, unit):
    unit = "" if metric in LABELS or not unit else f", {unit}"
    name = LABELS.get(metric, metric.removeprefix("share in ").replace("delta_m", "Δm")).replace("-", "−")
    return f"{task} {name}".strip() + unit


def _number(row, notes):
    if row is None:
        return [nodes.Text("–")]
    text = [nodes.Text(row["printed"].replace("-", "−"))]
    if row["note"]:
        if row["note"] not in notes:
            notes.append(row["note"])
        text.append(nodes.superscript("", _mark(notes.index(row["note"]))))
    return text


def _mark(index):
    return "abcdefghijklmnopqrstuvwxyz"[index]


def _recomputed(rows, grouped):
    table, found = printed_rules.lines(rows), {}
    for name, line in table.items():
        if printed := line.get(("", "delta_m")):
            low, value, high = printed_rules.delta_m_as_printed(printed, line, table["Single-task", ""], grouped)
            word = "agrees" if printed_rules.overlap(printed, low, high) else "differs"
            found[name] = f"{value:.2f}, {word}".replace("-", "−")
    return found


def set_table(head, body, stubs, style):
    group = nodes.tgroup("", cols=len(head))
    group += [nodes.colspec(colwidth=1, **({"stub": 1} if k < stubs else {})) for k in range(len(head))]
    group += nodes.thead("", _row([[nodes.Text(text)] for text in head]))
    group += nodes.tbody("", *map(_row, body))
    return nodes.table("", group, classes=[style])


def _row(cells):
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", *cell)) for cell in cells))


def _notes(notes):
    for index, note in enumerate(notes):
        text = [nodes.superscript("", _mark(index)), nodes.Text(" " + note.replace("delta_m", "Δm") + ".")]
        yield nodes.paragraph("", "", *text, classes=["printed-table-note"])


def setup(app):
    app.add_directive("printed-table", PrintedTable)
    app.add_directive("claim-table", ClaimTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
