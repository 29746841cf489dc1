"""`{ledger} PAPER`: every claim with its rule, records, commit, outcome, dispute link and the authors' reply.

The build prints a line for each verdict and each table that is void; a table whose controls fail stops it
(`-W`). `{protocol-table} EXPERIMENT PROFILE` sets a judged table; both write the CSV of a table beside the site.
"""

import functools
import pathlib
import subprocess
from urllib.parse import urlencode

import checkout  # noqa: F401 (before mtl_lab)
import quotes
from docutils import nodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from mtl_lab import experiments, records
from mtl_lab.claims import printed_tables, verdicts
from mtl_lab.protocol import committed, export

ROOT = pathlib.Path(__file__).resolve().parents[2]
log = logging.getLogger(__name__)


class Ledger(SphinxDirective):
    required_arguments = 1

    def run(self):
        paper, found = self.arguments[0], []
        self.env.note_dependency(str(verdicts.ROOT / f"{paper}.yml"))
        for file in [*(printed_tables.ROOT / paper).glob("*.csv"), *records.ROOT.rglob("*.json*")]:
            self.env.note_dependency(str(file))
        commit = last_commit(verdicts.ROOT / f"{paper}.yml")
        for verdict in verdicts.verdicts(paper):
            if verdict.reasons:
                print(f"ledger: {verdict.claim['id']} is {verdict.outcome}: {'; '.join(verdict.reasons)}", flush=True)
            labels = self.env.get_domain("std").anonlabels
            labels[quotes.label(verdict.claim["id"])] = (self.env.docname, verdict.claim["id"])
            found.append(entry(self.config.html_theme_options.get("repository_url", ""), paper, commit, verdict))
        return found


def dispute(repository, claim, commit):
    """The address of a new issue that disputes a verdict: its id and the state of the rule are filled in."""
    words = {"title": f"Dispute: {claim}", "body": f"Claim {claim}, ledger at {commit}.\n\n"}
    return f"{repository}/issues/new?{urlencode(words)}"


def entry(repository, paper, commit, verdict):
    claim = verdict.claim
    held = sum(check.holds is True for check in verdict.checks)
    hold = "comparison holds" if len(verdict.checks) == 1 else "comparisons hold"
    failed = [check.text for check in verdict.checks if check.holds is not True]
    shown = failed if failed and claim["scope"] == "arithmetic" else [check.text for check in verdict.checks]
    rows = [
        ("Where", where(claim)),
        ("Rule", words(claim["rule"]) + ("" if claim["margin"] is None else f"; margin {claim['margin']}")),
        ("Records", records_of(claim)),
        ("Behind it", f"{held} of {len(verdict.checks)} {hold}" if verdict.checks else ""),
        ("Needs", claim.get("needs", "") if verdict.outcome == verdicts.OPEN else ""),
        ("Note", claim.get("note", "")),
        ("Why", "; ".join(verdict.reasons)),
        ("Authors’ reply", claim.get("reply", "none yet")),
    ]
    fields = nodes.field_list()
    for name, text in rows:
        if text:
            fields += nodes.field("", nodes.field_name(text=name), nodes.field_body("", nodes.paragraph(text=text)))
    links = nodes.paragraph()
    for text, address in (
        ("Rule and its history", f"{repository}/commits/main/book/claims/{paper}.yml"),
        ("Link to this entry", f"#{claim['id']}"),
        ("Dispute this verdict", dispute(repository, claim["id"], commit)),
    ):
        links += [nodes.reference("", text, refuri=address), nodes.Text(" · ")]
    links += nodes.Text(f"rule last changed in {commit}")
    box = nodes.container(ids=[claim["id"]], classes=["claim"])
    first = [nodes.strong(text=claim["id"]), nodes.Text(f". {claim['claim']} "), *quotes.badges(verdict)]
    box += [nodes.paragraph("", "", *first), fields]
    if len(shown) > 12:
        shown = [*shown[:12], f"and {len(shown) - 12} more"]
    if shown:
        box += nodes.bullet_list("", *(nodes.list_item("", nodes.paragraph(text=text)) for text in shown))
    box += links
    return box


def where(claim):
    place = claim["where"]
    numbers = ", ".join(map(str, place["tables"]))
    parts = [place["version"], place["section"], numbers and f"Table{'s' * (len(place['tables']) > 1)} {numbers}"]
    return ", ".join(filter(None, parts))


def words(rule):
    options = "; ".join(f"{name} {_plain(value)}" for name, value in rule.items() if name != "name")
    return rule["name"] + (f" ({options})" if options else "")


def _plain(value):
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_plain(inner)}" for name, inner in value.items())
    return ", ".join(map(_plain, value)) if isinstance(value, list) else str(value) or "as is"


def records_of(claim):
    found = claim["results"]
    if not isinstance(found, dict):
        return found or "none"
    pairs = "; ".join(f"{row} against {against}" for row, against in verdicts.pairs(claim))
    verdict = experiments.committed(found["experiment"], found["profile"])
    if verdict is None:
        here = "none committed yet"
    else:
        rows = dict.fromkeys(name for pair in verdicts.pairs(claim) for name in pair)
        commits = {r["provenance"]["commit"][:7] for r in verdict.records if r["row"] in rows}
        here = ", ".join(f"{row} {verdict.rows[row].runs}" for row in rows) + f"; made at {', '.join(sorted(commits))}"
    return f"results/{found['experiment']}/{found['profile']}: {pairs}; {here}"


@functools.cache
def last_commit(file):
    """The last commit that changed more than a comment of a file of claims."""
    changed = ["git", "-C", ROOT, "log", "-1", "-G^[^#]", "--format=%h %cs", "--", file]
    done = subprocess.run(changed, capture_output=True, text=True)
    return done.stdout.strip() or "an unknown commit"


class ProtocolTable(SphinxDirective):
    required_arguments = 2

    def run(self):
        experiment, profile = self.arguments
        verdict = experiments.committed(experiment, profile)
        if verdict is None:
            return [nodes.paragraph(text=f"No runs of {experiment}, {profile}, are committed yet.")]
        head = ["method", "Δm, %", "difference to reference", "outcome", "seeds", "diverged", "search, core-seconds"]
        group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in head), cols=len(head))
        group += nodes.thead("", _row(head))
        shared, left = [verdict.rows[row.name] for row in verdict.table.shared()], shared_normalisation(verdict.table)
        group += nodes.tbody("", *(_row(_cells(row, "‡" * (row.name in left))) for row in shared))
        found = [nodes.table("", group, classes=["protocol-table"])]
        if left:
            counts = "; ".join(f"{verdict.rows[name].title}: {count}" for name, count in left.items())
            note = "‡ Normalisation layers stay shared behind a fork, where their statistics fit neither task"
            note += f": an unfair baseline, and not the published Recon ({counts})."
            found += [nodes.paragraph(text=note)]
        if lines := verdict.complaints():
            found += [nodes.bullet_list("", *(nodes.list_item("", nodes.paragraph(text=line)) for line in lines))]
        up = "../" * self.env.docname.count("/")
        link = nodes.reference("", "per-seed results as CSV", refuri=f"{up}_static/results/{experiment}_{profile}.csv")
        about = nodes.reference("", "what its columns hold", refuri=f"{up}_static/results/data_dictionary.md")
        alone = verdict.table.singles()
        zero = f"The zero of Δm is the mean over seeds of {len(alone)} single-task networks. Download: "
        return [*found, nodes.paragraph("", "", nodes.Text(zero), link, nodes.Text(", "), about)]


def shared_normalisation(table):
    """Row that splits layers -> "n of N": how many normalisation layers it leaves shared; only where some are.

    The row "split_normalisation" splits them all.
    """
    choices = {name: entry["choice"] for name, entry in (committed.search_of(table) or {}).get("rows", {}).items()}
    every = set(choices.get("split_normalisation", {}).get("split", ()))
    left = {name: len(every - set(choice["split"])) for name, choice in choices.items() if choice.get("split")}
    return {name: f"{count} of {len(every)}" for name, count in left.items() if count}


def _cells(row, mark=""):
    d, deltas = row.difference, list(row.delta.values())
    mean = f"{sum(deltas) / len(deltas):+.2f}" if deltas else "–"
    interval = f"{d.mean:+.2f} [{d.low:+.2f}, {d.high:+.2f}]" if d else "–"
    cost = f"{row.cost['core_seconds']:.0f}" if "core_seconds" in row.cost else "–"
    text = [row.title + mark, mean, interval, row.outcome, row.runs, str(row.diverged), cost]
    return [cell.replace("-", "−") if k in (1, 2) else cell for k, cell in enumerate(text)]


def _row(cells):
    return nodes.row("", *(nodes.entry("", nodes.paragraph(text=text)) for text in cells))


def report(app):
    """Name what is void, once a build; a table whose controls fail is a warning, which stops a build."""
    for verdict in judged():
        for line in verdict.complaints():
            print(f"ledger: {line}", flush=True)  # not a message of Sphinx, which --quiet hides
        if verdict.controls_pass is False:
            log.warning("ledger: %s, %s: the controls of the table fail", verdict.table.name, verdict.profile)


def write_csv(app, error):
    if error is None and app.builder.format == "html":
        place = pathlib.Path(app.outdir) / "_static" / "results"
        place.mkdir(parents=True, exist_ok=True)
        (place / "data_dictionary.md").write_text((records.ROOT / "data_dictionary.md").read_text("utf-8"), "utf-8")
        for verdict in judged():
            (place / f"{verdict.table.name}_{verdict.profile}.csv").write_text(export.to_csv(verdict), "utf-8")


def judged():
    folders = sorted(file.parent for file in records.ROOT.glob("*/*/runs.jsonl"))
    return [experiments.committed(f.parent.name, f.name) for f in folders if f.parent.name in experiments.TABLES]


def setup(app):
    app.add_directive("ledger", Ledger)
    app.add_directive("protocol-table", ProtocolTable)
    app.connect("builder-inited", report)
    app.connect("build-finished", write_csv)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
