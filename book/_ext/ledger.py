"""`{ledger} PAPER`: every claim on a line of its own; rule, comparisons, records, commit and dispute link fold out.

`{claim-filter}` sets the controls of book/_static/ledger.js, which scripts alone show, and `{outcomes} PAPER ...` a bar
of outcomes for each paper and kind of evidence. The build prints a line for each verdict and each table that is void;
a table whose controls fail stops it (`-W`). `{protocol-table} EXPERIMENT PROFILE` sets a judged table; both write the
CSV of a table beside the site. `{trained} yes PAPER ...` counts the claims that need training and have that answer.
"""

import functools
import html
import pathlib
import re
import subprocess
from collections import Counter
from urllib.parse import urlencode

import checkout  # noqa: F401 (before mtl_lab)
import comparisons
import quotes
import yaml
from docutils import nodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from mtl_lab import experiments, records
from mtl_lab.claims import printed_tables, verdicts
from mtl_lab.protocol import committed, export

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAPERS = {"recon": "Recon", "sam_gs": "SAM-GS", "rotograd": "RotoGrad 2021"}
KINDS = {"arithmetic": "printed numbers", "training": "training"}
YES = (verdicts.AGREE, *(yes for yes, _ in verdicts.WORDS.values()))
NO = (verdicts.DISAGREE, *(no for _, no in verdicts.WORDS.values()))
ORDER = (*YES, "undecided", "void", *NO, verdicts.OPEN)
log = logging.getLogger(__name__)


class Folded(nodes.container):
    """A `details` element; "data" holds its data attributes."""


class Line(nodes.container):
    """The `summary` of one."""


def visit_folded(writer, node):
    data = {f"data-{name}": value for name, value in node.get("data", {}).items()}
    writer.body.append(writer.starttag(node, "details", **data))


def visit_line(writer, node):
    writer.body.append(writer.starttag(node, "summary", ""))


def group(outcome):
    """The class that marks an outcome: "yes", "no", "unsure" or "open"."""
    return "yes" if outcome in YES else "no" if outcome in NO else "open" if outcome == verdicts.OPEN else "unsure"


def outcome_tag(outcome):
    tag = quotes.badge(outcome, "outcome")
    tag["classes"].append(group(outcome))
    return tag


def classes(outcome):
    """The classes of an outcome in book/_static/ledger.css: the first gives its mark, the second its colour."""
    return f"{group(outcome)} {nodes.make_id(outcome)}"


def judged_claims(env, paper):
    """The verdicts on the claims of a paper, computed once a page."""
    found = env.temp_data.setdefault("ledger", {})
    if paper not in found:
        env.note_dependency(str(verdicts.ROOT / f"{paper}.yml"))
        for file in [*(printed_tables.ROOT / paper).glob("*.csv"), *records.ROOT.rglob("*.json*")]:
            env.note_dependency(str(file))
        found[paper] = verdicts.verdicts(paper)
    return found[paper]


class Ledger(SphinxDirective):
    required_arguments = 1

    def run(self):
        paper, box = self.arguments[0], nodes.container(classes=["claims-of"])
        commits = rule_commits(verdicts.ROOT / f"{paper}.yml")
        for verdict in judged_claims(self.env, paper):
            name = verdict.claim["id"]
            if verdict.reasons:
                print(f"ledger: {name} is {verdict.outcome}: {'; '.join(verdict.reasons)}", flush=True)
            self.env.get_domain("std").anonlabels[quotes.label(name)] = (self.env.docname, name)
            repository = self.config.html_theme_options.get("repository_url", "")
            box += entry(repository, paper, commits.get(name, "an unknown commit"), verdict)
        return [box]


class Outcomes(SphinxDirective):
    required_arguments, optional_arguments = 1, 9

    def run(self):
        bars = "".join(map(bars_of, self.arguments, (judged_claims(self.env, paper) for paper in self.arguments)))
        return [nodes.raw("", f'<div class="outcome-bars">{bars}</div>', format="html")]


def kind(verdict):
    return "arithmetic" if verdict.claim["scope"] == "arithmetic" else "training"


def bars_of(paper, found):
    """HTML of a paper's bars: in each segment the number of claims, below it the outcomes in words."""
    text = ""
    for of, name in KINDS.items():
        counts = Counter(verdict.outcome for verdict in found if kind(verdict) == of)
        parts = [(outcome, counts[outcome]) for outcome in ORDER if counts[outcome]]
        strip = "".join(f'<span class="{classes(o)}" style="flex-grow: {n}">{n}</span>' for o, n in parts)
        labels = "".join(
            f'<li><span data-query="{html.escape(urlencode({"paper": paper, "outcome": o, "scope": of}))}">'
            f'<i class="{classes(o)}"></i>{n} {html.escape(o)}</span></li>'
            for o, n in parts
        )
        text += (
            f'<div class="outcome-bar" data-paper="{paper}" data-kind="{of}"><p>{PAPERS[paper]}<span>{name}</span></p>'
            f'<div class="strip" aria-hidden="true">{strip}</div><ul>{labels}</ul></div>'
        )
    return text


class ClaimFilter(SphinxDirective):
    def run(self):
        found = [verdict for paper in PAPERS for verdict in judged_claims(self.env, paper)]
        scopes = [scope for scope in verdicts.SCOPES if any(one.claim["scope"] == scope for one in found)]
        here = {one.outcome for one in found}
        choices = {
            "paper": PAPERS,
            "outcome": {outcome: outcome for outcome in ORDER if outcome in here},
            "scope": {"training": "any but arithmetic"} | {scope: scope for scope in scopes},
        }
        fields = ""
        for name, values in choices.items():
            every = "".join(f'<option value="{html.escape(v)}">{html.escape(t)}</option>' for v, t in values.items())
            fields += f'<label>{name} <select name="{name}"><option value="">all</option>{every}</select></label>'
        fields += '<label>words <input type="search" name="find" autocomplete="off"></label>'
        form = (
            f'<form class="claim-filter" id="filter" aria-label="Filter the claims" hidden>{fields}'
            f'<button type="reset">Show all</button><p role="status">{len(found)} claims</p></form>'
        )
        return [nodes.raw("", form, format="html")]


def trained(answer, *papers):
    """Inline nodes: of these papers' claims that need training, how many have that answer: "yes", "no" or "open"."""
    found = [group(one.outcome) for paper in papers for one in verdicts.verdicts(paper) if kind(one) == "training"]
    counts = {which: found.count(which) for which in ("yes", "no")}
    counts["open"] = len(found) - sum(counts.values())
    return [nodes.Text(str(counts[answer]))]


def dispute(repository, claim, commit):
    """The address of a new issue that disputes a verdict: its id and the state of the rule are filled in."""
    words = {"title": f"Dispute: {claim}", "body": f"Claim {claim}, ledger at {commit}.\n\n"}
    return f"{repository}/issues/new?{urlencode(words)}"


def entry(repository, paper, commit, verdict):
    """One claim: its line, and below it tables of how it was decided and of the comparisons."""
    claim = verdict.claim
    said, reading = short(claim["claim"])
    data = {"paper": paper, "outcome": verdict.outcome, "scope": claim["scope"]}
    box = Folded(ids=[claim["id"]], classes=["claim"], data=data)
    tags = [outcome_tag(verdict.outcome), nodes.Text(" "), quotes.badge(claim["scope"], "scope")]
    box += Line("", nodes.inline(text=said + " ", classes=["said"]), nodes.inline("", "", *tags, classes=["tags"]))
    rule = nodes.paragraph("", "", nodes.Text(f"{comparisons.RULES[claim['rule']['name']]} Rule: "))
    rule += nodes.literal(text=claim["rule"]["name"])
    settings = [nodes.list_item("", nodes.paragraph(text=text)) for text in comparisons.options(claim["rule"])]
    facts = [
        ("Version", claim["where"]["version"]),
        ("Section", claim["where"]["section"]),
        ("Tables", comparisons.runs(claim["where"]["tables"])),
        ("Our reading", reading),
        ("How it is decided", [rule, *([nodes.bullet_list("", *settings)] if settings else [])]),
        ("Margin", "" if claim["margin"] is None else f"{claim['margin']:g}"),
        ("Records", records_of(claim)),
        ("Needs", claim.get("needs", "") if verdict.outcome == verdicts.OPEN else ""),
        ("Note", claim.get("note", "")),
        ("Why", "; ".join(verdict.reasons)),
        ("Rule last changed", commit),
        ("Authors’ reply", claim.get("reply", "none yet")),
    ]
    box += comparisons.small([], [fact for fact in facts if fact[1]], "facts")
    if verdict.checks:
        held = sum(check.holds is True for check in verdict.checks)
        hold = "comparison holds" if len(verdict.checks) == 1 else "comparisons hold"
        box += nodes.paragraph(text=f"{held} of {len(verdict.checks)} {hold}.")
        box += comparisons.table(verdict.checks)
    links = nodes.paragraph()
    for text, address in (
        ("Link to this claim", f"#{claim['id']}"),
        ("Rule and its history", f"{repository}/commits/main/book/claims/{paper}.yml"),
        ("Dispute this verdict", dispute(repository, claim["id"], commit)),
    ):
        links += [nodes.reference("", text, refuri=address), nodes.Text(" · ")]
    box += nodes.paragraph("", "", *links.children[:-1])
    return box


def short(claim):
    """(the claim without the brackets that say how we read it, those brackets' words)."""
    found = re.search(r" \(((?:(?:our|the same|the strict) reading)[^)]*)\)|; judged by|; in our reading ", claim)
    if found is None:
        return claim, ""
    if found[1]:
        return claim[: found.start()] + claim[found.end() :], found[1]
    return claim[: found.start()] + ".", claim[found.start() + 2 :].rstrip(".")


def records_of(claim):
    found = claim["results"]
    if not isinstance(found, dict):
        return found or "none"
    place = f"results/{found['experiment']}/{found['profile']}"
    verdict = experiments.committed(found["experiment"], found["profile"])
    if verdict is None:
        return f"{place}: none committed yet"
    rows = dict.fromkeys(name for pair in verdicts.pairs(claim) for name in pair)
    commits = sorted({r["provenance"]["commit"][:7] for r in verdict.records if r["row"] in rows})
    lacking = [f"{verdict.rows[row].title} {verdict.rows[row].runs}" for row in rows if not whole(verdict.rows[row])]
    here = f"not all runs are here: {', '.join(lacking)}" if lacking else "all runs are here"
    return f"{place}, made at {', '.join(commits)}; {here}"


def whole(row):
    here, of = row.runs.split(" of ")
    return here == of


@functools.cache
def rule_commits(file):
    """Claim -> the commit and day in which its rule, margin, records or scope last changed."""
    name, state, found = file.resolve(), {}, {}
    if not name.is_relative_to(ROOT):
        return found
    history = ["git", "-C", ROOT, "log", "--reverse", "--format=%h, %cs", "--", name]
    for commit in subprocess.run(history, capture_output=True, text=True).stdout.splitlines():
        shown = ["git", "-C", ROOT, "show", f"{commit.split(',')[0]}:{name.relative_to(ROOT).as_posix()}"]
        text = subprocess.run(shown, capture_output=True, text=True, encoding="utf-8").stdout
        for claim in yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or ():
            now = [claim.get(field) for field in ("rule", "margin", "results", "scope")]
            if state.get(claim["id"]) != now:
                state[claim["id"]], found[claim["id"]] = now, commit
    return found


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
        head = [
            "method",
            "Δm, %",
            "difference to reference",
            "outcome",
            "seeds",
            "diverged",
            "search, core-seconds",
        ]
        group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in head), cols=len(head))
        group += nodes.thead("", _row(head))
        shared, left = [verdict.rows[row.name] for row in verdict.table.shared()], shared_normalisation(verdict.table)
        group += nodes.tbody("", *(_row(_cells(row, "‡" * (row.name in left))) for row in shared))
        found = [nodes.table("", group, classes=["protocol-table"])]
        if left:
            counts = (f"{verdict.rows[name].title}: {count}" for name, count in left.items())
            note = "‡ An unfair baseline, and not the published Recon: some batch norms serve both branches of a fork."
            found += [nodes.paragraph(text=note + " So many normalisation layers stay shared:")]
            found += [nodes.bullet_list("", *(nodes.list_item("", nodes.paragraph(text=line)) for line in counts))]
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
    app.add_node(Folded, html=(visit_folded, lambda writer, node: writer.body.append("</details>\n")))
    app.add_node(Line, html=(visit_line, lambda writer, node: writer.body.append("</summary>\n")))
    app.add_directive("ledger", Ledger)
    app.add_directive("outcomes", Outcomes)
    app.add_directive("claim-filter", ClaimFilter)
    app.add_role("trained", quotes.Quote(trained))
    app.add_directive("protocol-table", ProtocolTable)
    app.connect("builder-inited", report)
    app.connect("build-finished", write_csv)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
