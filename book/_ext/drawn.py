"""Figures that pages outside notebooks need, drawn from committed records or printed tables when the book is built.

    ```{forest} qm9 small                   paired differences of a judged table to its reference row; `:from: -6`
    :alt: what the figure shows             cuts the axis there, an arrow names what lies to its left; intervals are
    Caption.                                drawn once all seeds are there
    ```
    ```{printed-dots} recon 1 delta_m       one metric of a printed table, a line per method; `:by: variant` marks
    ```                                     the paper's variants, `:dataset:` picks one data set

and the roles {harm}`task_pairs small`: how strongly conflict and harm go together over pairs of targets, where a third
word names another of `conflict_and_harm.MEASURES`; and {dose}`conflict_dose small overlap harm`: by how much one of
`conflict_and_harm.CONTRASTS` changes harm or a measure, or over how many "seeds". What is missing stops the build
(`-W`) and is named.
"""

import textwrap
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import checkout  # noqa: F401 (before mtl_lab)
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import quotes  # noqa: E402
from docutils import nodes  # noqa: E402
from docutils.parsers.rst import directives  # noqa: E402
from sphinx.util import logging  # noqa: E402
from sphinx.util.docutils import SphinxDirective  # noqa: E402

from mtl_lab import experiments, records
from mtl_lab.claims import printed_tables
from mtl_lab.experiments import conflict_and_harm
from mtl_lab.figures import plots
from mtl_lab.protocol.table import SEEDS
from mtl_lab.protocol.verdict import paired_differences
from mtl_lab.statistics import association  # noqa: E402

log = logging.getLogger(__name__)
FOLDER = "_drawn"  # under the book's sources, not tracked


class Drawn(SphinxDirective):
    """A directive whose `draw` returns a matplotlib figure, or raises LookupError."""

    has_content, final_argument_whitespace, required_arguments = True, True, 1
    option_spec = {
        "alt": directives.unchanged_required,
        "by": directives.unchanged,
        "dataset": directives.unchanged,
        "from": float,
    }

    def run(self):
        try:
            if "alt" not in self.options:
                raise LookupError("a figure needs words: `:alt:` is missing")
            plots.style()
            figure = self.draw(*self.arguments[0].split())
        except (LookupError, TypeError, ValueError) as error:
            log.warning("%s %s: %s", self.name, self.arguments[0], error, location=self.get_location())
            return [nodes.paragraph(text=f"missing figure: {self.name} {self.arguments[0]}")]
        name = "-".join([self.name, *self.arguments[0].split(), self.options.get("dataset", "")]).lower().rstrip("-")
        file = Path(self.env.srcdir) / FOLDER / f"{name.replace('/', '-').replace(' ', '-')}.svg"
        file.parent.mkdir(exist_ok=True)
        figure.savefig(file, metadata={"Date": None})
        if self.env.docname == self.config.root_doc:
            figure.savefig(file.with_suffix(".png"), dpi=200, metadata={"Software": None})  # for share.py
        plt.close(figure)
        image = nodes.image(uri=f"/{FOLDER}/{file.name}", alt=self.options["alt"], classes=["fits"])
        caption = nodes.caption()
        children, _ = self.state.inline_text(" ".join(self.content), self.lineno)
        caption += children
        holder = nodes.figure("", image, caption)
        self.set_source_info(holder)
        image["uri"] = f"/{FOLDER}/{file.name}"
        return [holder]


class Forest(Drawn):
    def draw(self, experiment, profile):
        for file in records.folder(experiment, profile).glob("*.json*"):
            self.env.note_dependency(str(file))
        verdict = experiments.committed(experiment, profile)
        if verdict is None:
            raise LookupError(f"no runs of {experiment}, {profile}, are committed in results/")
        rows = [row for row in verdict.rows.values() if row.difference and row.state != "void"]
        rows.sort(key=lambda row: (row.control, -row.difference.mean))
        if not rows:
            raise LookupError(f"no row of {experiment}, {profile}, can be judged: {'; '.join(verdict.reasons)}")
        names = [row.title.split(":")[0] for row in rows]
        gaps = [paired_differences({n: r.delta for n, r in verdict.rows.items()}, row.name) for row in rows]
        going_on = next((row.runs for row in rows if row.state == "unfinished"), None)
        figure = plots.differences(
            dict(zip(names, gaps, strict=True)),
            {
                name: None if going_on else (row.difference.low, row.difference.high)
                for name, row in zip(names, rows, strict=True)
            },
            "Δm minus that of searched static weights, points" + f"\n{going_on} seeds, no verdict" * bool(going_on),
        )
        # Narrow, so that a phone shows labels and dots side by side (site.css lets it shrink to the window).
        labels = [textwrap.fill(name, 20) for name in names]
        most = max(label.count("\n") + 1 for label in labels)
        figure.set_size_inches(5, max(0.36, 0.14 * most) * len(names) + 0.9)
        axis = figure.axes[0]
        axis.set_yticks(range(len(names)), labels, fontsize=8)
        axis.axvspan(-verdict.table.margin, verdict.table.margin, color="#eeeeee", zorder=0)
        if "from" in self.options:
            axis.set_xlim(left=self.options["from"])
            for place, row in enumerate(rows):
                if row.difference.mean < self.options["from"]:
                    text = f"◀ {row.difference.mean:+.0f}".replace("-", "−")
                    axis.text(self.options["from"], place, text, va="center", fontsize=8)
        return figure


class PrintedDots(Drawn):
    def draw(self, paper, number, *metric):
        self.env.note_dependency(str(printed_tables.path(paper, int(number))))
        rows = [
            row
            for row in printed_tables.table(paper, int(number))
            if row["metric"] == " ".join(metric) and self.options.get("dataset", row["dataset"]) == row["dataset"]
        ]
        if not rows:
            raise LookupError(f"table {number} of {paper} prints no {' '.join(metric)!r}")
        by = self.options.get("by")
        kinds = list(dict.fromkeys(row[by] if by else "" for row in rows))
        names = list(dict.fromkeys(row["method"] + ("" if by else f" {row['variant']}").rstrip() for row in rows))
        figure, axis = plt.subplots(figsize=(5, 0.3 * len(names) + 0.9))
        for kind, colour, marker in zip(kinds, ("black", plots.COLOURS["orange"]), ("o", "D"), strict=False):
            mine = [row for row in rows if not by or row[by] == kind]
            places = [names.index(row["method"] + ("" if by else f" {row['variant']}").rstrip()) for row in mine]
            axis.plot([row["value"] for row in mine], places, marker, color=colour, ms=5, label=kind or "as it is")
        if len(kinds) > 1:
            axis.legend(fontsize=8)
        axis.axvline(0, color=plots.COLOURS["grey"], lw=0.8)
        axis.set_yticks(range(len(names)), [textwrap.fill(name, 20) for name in names], fontsize=8)
        axis.set_ylim(len(names) - 0.5, -0.5)
        better = {True: "higher is better", False: "lower is better"}.get(rows[0]["higher_is_better"], "")
        label = "Δm" if rows[0]["metric"] == "delta_m" else rows[0]["metric"]
        axis.set_xlabel(f"{label}, {rows[0]['unit']} ({better})" if better else f"{label}, {rows[0]['unit']}")
        return figure


def harm_of(experiment, profile, measure="negative"):
    """Inline nodes: Spearman's ρ between a measure of conflict and harm, with its interval."""
    if measure not in conflict_and_harm.MEASURES:
        raise LookupError(f"no measure {measure!r}; there are: {', '.join(conflict_and_harm.MEASURES)}")
    found = conflict_and_harm.pairs(records.load(experiment, profile))
    if not found:
        raise LookupError(f"no runs of {experiment}, {profile}, are committed in results/")
    means = [[float(np.mean(getattr(pair, what))) for pair in found] for what in (measure, "harm")]
    a = association.between_pairs(*means, [pair.tasks for pair in found])
    text = f"ρ = {a.rho:+.2f} [{a.low:+.2f}, {a.high:+.2f}] over {a.pairs} pairs"
    here, complete = min(len(pair.seeds) for pair in found), len(SEEDS)
    text += f", {here} of {complete} seeds" * (here < complete)
    return [nodes.Text(text.replace("-", "−"))]


def dose_of(experiment, profile, contrast, measure):
    """Inline nodes: paired change of harm, or of a measure (shares in points), from the first dose to the second."""
    known = ["harm", "seeds", *conflict_and_harm.MEASURES]
    if contrast not in conflict_and_harm.CONTRASTS or measure not in known:
        contrasts = ", ".join(conflict_and_harm.CONTRASTS)
        raise LookupError(f"no contrast {contrast!r} of {measure!r}; there are {contrasts} and {', '.join(known)}")
    found = {dose.name: dose for dose in conflict_and_harm.doses(records.load(experiment, profile))}
    if missing := [name for name in conflict_and_harm.CONTRASTS[contrast] if name not in found]:
        raise LookupError(f"no runs of {experiment}, {profile}, dose {missing[0]}, are committed in results/")
    ends = [found[name] for name in conflict_and_harm.CONTRASTS[contrast]]
    if measure == "seeds":
        return [nodes.Text(str(conflict_and_harm.change(*ends, "harm").n))]
    change = conflict_and_harm.change(*ends, measure)
    scale, digits = (100, 1) if measure in ("negative", "excess") else (1, 2)  # shares in points
    mean, low, high = (f"{scale * value:+.{digits}f}" for value in (change.mean, change.low, change.high))
    text = f"{mean} [{low}, {high}]"
    return [nodes.Text(text.replace("-", "−").replace(", ", ",\N{NO-BREAK SPACE}"))]


def setup(app):
    app.add_role("dose", quotes.Quote(dose_of))
    app.add_directive("forest", Forest)
    app.add_directive("printed-dots", PrintedDots)
    app.add_role("harm", quotes.Quote(harm_of))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
