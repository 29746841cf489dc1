"""`{printed-table} PAPER NUMBER`: a table of a paper, set from its CSV when the book is built.

Options: `recompute` adds Δm as the printed metrics give it, averaged inside tasks first, or with `ungrouped` over all
metrics, in the sign that the paper prints. Notes of single numbers become footnotes below.
`{claim-table} PAPER` lists the claims with the verdicts that arithmetic gives.
"""

import checkout  # noqa: F401 (before mtl_lab)
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective

from mtl_lab.claims import printed_rules, printed_tables, verdicts

LABELS = {"delta_m": "Δm, %", "parameters": "size, MB"}
HEADINGS = {12: ("ranking of", "against"), 14: ("ranking under", "against")}


class PrintedTable(SphinxDirective):
    required_arguments = 2
    option_spec = {"recompute": directives.flag, "ungrouped": directives.flag}

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
        name = f"{about['short']}, Table {number}"
        caption = f" ({about['version']}), as printed. {about['captions'][number]}"
        caption = _caption(name, caption, f"{paper}-table-{number}")
        return [caption, set_table(head, body, 1 + variants, "printed-table"), *_notes(notes)]


class ClaimTable(SphinxDirective):
    required_arguments = 1

    def run(self):
        paper = self.arguments[0]
        self.env.note_dependency(str(verdicts.ROOT / f"{paper}.yml"))
        for file in (printed_tables.ROOT / paper).glob("*.csv"):
            self.env.note_dependency(str(file))
        body, against = [], []
        for verdict in verdicts.verdicts(paper):
            claim = verdict.claim
            tables = ", ".join(map(str, claim["where"]["tables"]))
            tables = tables and f"Table{'s' * (', ' in tables)} {tables}"
            where = "; ".join(filter(None, [claim["where"]["section"], tables]))
            held = [check.holds is True for check in verdict.checks]
            hold = "comparison holds" if len(held) == 1 else "comparisons hold"
            count = f"{sum(held)} of {len(held)} {hold}" if held else claim.get("needs", "")
            row = [claim["id"], verdict.outcome, claim["claim"], where, claim["scope"], count]
            body.append([[nodes.Text(str(text))] for text in row])
            failed = [check.text for check in verdict.checks if check.holds is not True]
            if failed:
                against.append(f"{claim['id']}: " + "; ".join(failed) + ".")
        head = ["claim", "outcome", "in our words", "where", "scope", "behind it"]
        name, text = f"Claims of {printed_tables.about(paper)['short']}", ", and what arithmetic gives."
        found = [_caption(name, text, f"{paper}-claims"), set_table(head, body, 1, "claims")]
        if against:
            found.append(nodes.paragraph("", "Comparisons that do not hold, or are listed without a bound:"))
            found.append(nodes.bullet_list("", *(nodes.list_item("", nodes.paragraph("", a)) for a in against)))
        return found


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


def _caption(name, text, target):
    """A paragraph, not a table title: Sphinx would number it ("Table 7: Recon, Table 8"), and must wrap."""
    content = [nodes.strong("", name), nodes.Text(text)]
    return nodes.paragraph("", "", *content, classes=["printed-table-caption"], ids=[target])


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
