"""Figures that pages outside notebooks need, drawn from committed records or printed tables when the book is built.

    ```{forest} qm9 small                   paired differences of a judged table to its reference row, grouped by what
    :alt: what the figure shows             a method looks at (`USES`); `:from: -6` cuts the axis there, an arrow names
    Caption.                                what lies to its left; intervals are drawn once all seeds are there;
                                            `:title: Words` above it
    ```
    ```{outcome-grid} qm9 two_digits        a line for each method, a column for each judged table: its outcome as mark
    ```                                     (`MARKS`) and its mean difference to the reference row; `:without: row row`
    ```{printed-dots} recon 1 delta_m       one metric of a printed table, a line per method; `:by: variant` marks
    ```                                     the paper's variants, `:dataset:` picks one data set, `:mark:` one method
    ```{paired} NAME                        chosen paired differences: lines `panel | words | qm9 small sam_gs`, then
    ```                                     the caption; `… recon_equal minus equal`: between two rows, by Holm within
                                            the panel, with `:minus: words` for the axis

and the role {dose}`conflict_dose small overlap harm`: by how much one of `conflict_and_harm.CONTRASTS` changes harm or
a measure, or over how many "seeds". What is missing stops the build (`-W`) and is named.
"""

import textwrap
from itertools import groupby
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

from mtl_core.methods import METHODS
from mtl_lab import experiments, records
from mtl_lab.claims import printed_tables
from mtl_lab.experiments import conflict_and_harm
from mtl_lab.figures import plots
from mtl_lab.protocol.table import A_A, BROKEN, REFERENCE
from mtl_lab.protocol.verdict import paired_differences
from mtl_lab.statistics import paired

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
        "mark": directives.unchanged,
        "minus": directives.unchanged,
        "title": directives.unchanged,
        "without": directives.unchanged,
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
        image = nodes.image(uri=f"/{FOLDER}/{file.name}", alt=self.options["alt"], classes=["fits", self.name])
        caption = nodes.caption()
        children, _ = self.state.inline_text(" ".join(self.content), self.lineno)
        caption += children
        holder = nodes.figure("", image, caption)
        self.set_source_info(holder)
        image["uri"] = f"/{FOLDER}/{file.name}"
        return [holder]


USES = {  # what a method looks at -> its colour, dark enough for words on white and bright enough in the dark
    "losses alone": "#0072B2",
    "gradient lengths": "#00795A",
    "gradient angles, signs": "#C04E00",
    "learned rotations": "#AA4499",
    "a split network": "#8A6100",
    "controls": "#666666",
}
LENGTHS = ("norm_equalised", "sam_gs", "scale_only", "autoscale", "db_mtl")
MUST_BE = {A_A: "\n(must not differ)", BROKEN: "\n(must be worse)"}


def use(row):
    """What a row's method looks at, a key of `USES`."""
    if row.control:
        return "controls"
    if row.split:
        return "a split network"
    if row.method in LENGTHS:
        return "gradient lengths"
    kind = METHODS[row.method].kind
    if row.model or kind == "feature rotation":
        return "learned rotations"
    return "losses alone" if kind == "loss weighting" else "gradient angles, signs"


def names_of(row):
    """A row's name at its line, wrapped, and what a control has to show."""
    return textwrap.fill(row.title.split(":")[0], 22) + MUST_BE.get(row.name, "")


class Forest(Drawn):
    def draw(self, experiment, profile):
        for file in records.folder(experiment, profile).glob("*.json*"):
            self.env.note_dependency(str(file))
        verdict = experiments.committed(experiment, profile)
        if verdict is None:
            raise LookupError(f"no runs of {experiment}, {profile}, are committed in results/")
        planned = {row.name: row for row in verdict.table.shared()}
        found = [row for row in verdict.rows.values() if row.difference and row.state != "void"]
        found.sort(key=lambda row: (list(USES).index(use(planned[row.name])), -row.difference.mean))
        if not found:
            raise LookupError(f"no row of {experiment}, {profile}, can be judged: {'; '.join(verdict.reasons)}")
        deltas = {name: row.delta for name, row in verdict.rows.items()}
        going_on = next((row.runs for row in found if row.state == "unfinished"), None)
        lines, least = [], self.options.get("from")  # (words, row or None for a heading), from the top
        for heading, rows in groupby(found, lambda row: use(planned[row.name])):
            lines += [(heading, None), *((names_of(row), row) for row in rows)]
        # Narrow, so that a phone shows labels and dots side by side (site.css lets it grow and shrink).
        heights = np.array([0.195 + 0.15 * words.count("\n") for words, _ in lines])
        gaps = np.array([(0.08 if row is None else 0) + (0.2 if words == "controls" else 0) for words, row in lines])
        places = np.cumsum(heights + gaps) - heights / 2
        figure, axis = plt.subplots(figsize=(3.9, places[-1] + 0.95))
        margin, colour = verdict.table.margin, "black"
        axis.axvspan(-margin, margin, color="#e8e8e8", zorder=0)
        axis.axvline(0, color=plots.COLOURS["grey"], lw=0.8)
        for place, (words, row) in zip(places, lines, strict=True):
            if row is None:
                colour = USES[words]
                continue
            values, d = paired_differences(deltas, row.name), row.difference
            axis.plot(values, [place] * len(values), "o", color=colour, ms=3.5, alpha=0.55, mew=0)
            if not going_on:
                axis.plot([d.low, d.high], [place, place], color="black", lw=1.5)
                axis.plot([d.mean], [place], "D", color=colour, mec="black", ms=5)
            if least is not None and d.mean < least:
                axis.text(least, place, f"◀ {d.mean:+.0f}".replace("-", "−"), va="center", fontsize=9)
        axis.set_xlim(left=least)
        for words, at, shift, side in (("◀ worse", -margin, -17, "right"), ("same", 0, 0, "center"),
                                       ("better ▶", margin, 17, "left")):  # fmt: skip
            axis.annotate(words, (at, 1), (shift, 3), xycoords=("data", "axes fraction"), ha=side, va="bottom",
                          textcoords="offset points", fontsize=9.5, weight="bold", annotation_clip=False)  # fmt: skip
        axis.set_yticks(places, [words for words, _ in lines], fontsize=9)
        for label, (words, row) in zip(axis.get_yticklabels(), lines, strict=True):
            if row is None:
                label.set(color=USES[words], weight="bold")
        axis.tick_params(axis="y", length=0)
        axis.set_ylim(places[-1] + 0.25, 0)
        seeds = f"\n{going_on} seeds, no verdict" if going_on else ""
        axis.set_xlabel("against tuned fixed weights,\npoints of Δm" + seeds, fontsize=9)
        axis.annotate("what a method\nlooks at", (0, 1), (-5, 3), xycoords="axes fraction", textcoords="offset points",
                      ha="right", va="bottom", fontsize=9, style="italic", annotation_clip=False)  # fmt: skip
        if title := self.options.get("title"):
            figure.suptitle(title, fontsize=10, weight="bold")
        return figure


MARKS = {  # outcome -> its mark and colour; a hollow mark: the amount is uncertain
    "better": ("▲", "#0072B2"),
    "better (amount uncertain)": ("△", "#0072B2"),
    "equivalent": ("=", "#333333"),
    "worse (amount uncertain)": ("▽", "#C04E00"),
    "worse": ("▼", "#C04E00"),
    "cannot decide": ("?", "#666666"),
}
SAID = {"equivalent": "same", "cannot decide": "cannot tell"}
COLUMNS = {
    "qm9": "molecules,\n11 tasks",
    "multi_fashion_mnist": "digit +\ngarment,\n2 tasks",
    "two_digits": "digits,\n5 tasks",
}


class OutcomeGrid(Drawn):
    def draw(self, *names):
        tables = {}
        for name in names:
            for file in records.folder(name, "small").glob("*.json*"):
                self.env.note_dependency(str(file))
            if (verdict := experiments.committed(name, "small")) is None:
                raise LookupError(f"no runs of {name}, small, are committed in results/")
            tables[name] = verdict
        planned = {row.name: row for verdict in reversed(tables.values()) for row in verdict.table.shared()}
        out = {REFERENCE, *self.options.get("without", "").split()}
        if unknown := out - set(planned):
            raise LookupError(f"no row {', '.join(sorted(unknown))} in {', '.join(names)}")
        asked = [row for row in planned.values() if not row.control and row.name not in out]

        def place(row):  # by what it looks at, then by how many tables it is better in, then by the first difference
            found = [verdict.rows[row.name] for verdict in tables.values() if row.name in verdict.rows]
            better = sum(one.outcome == "better" for one in found)
            return list(USES).index(use(row)), -better, -found[0].difference.mean

        asked.sort(key=place)
        lines = []
        for heading, rows in groupby(asked, use):
            lines += [(heading, None), *((names_of(row), row) for row in rows)]
        heights = np.array([0.22 + 0.15 * words.count("\n") for words, _ in lines])
        places = np.cumsum(heights + [0.07 if row is None else 0 for _, row in lines]) - heights / 2
        figure, axis = plt.subplots(figsize=(4.1, places[-1] + 1.6))
        legend = (f"{mark}  {SAID.get(name, name).replace('uncertain', 'unsure')}" for name, (mark, _) in MARKS.items())
        figure.suptitle("\n".join(legend), fontsize=9, ha="left")
        for y, (_, row) in zip(places, lines, strict=True):
            if row is not None:
                axis.axhline(y + 0.11, color="#dddddd", lw=0.6, zorder=0)
            for x, verdict in enumerate(tables.values()):
                if row is not None and row.name in verdict.rows:
                    found = verdict.rows[row.name]
                    if found.outcome not in MARKS:
                        raise LookupError(f"no verdict on {row.name} of {verdict.table.name}: {found.outcome}")
                    mark, colour = MARKS[found.outcome]
                    digits = 1 if verdict.table.margin >= 1 else 2
                    mean = round(found.difference.mean, digits)
                    number = f"{mean:+.{digits}f}".replace("-", "−") if mean else f"{0:.{digits}f}"
                    look = {"color": colour, "fontsize": 9, "va": "center"}
                    axis.text(x - 0.12, y, mark, ha="right", weight="bold", **look)
                    axis.text(x - 0.06, y, number, ha="left", **look)
        axis.set(xlim=(-0.5, len(tables) - 0.5), ylim=(places[-1] + 0.15, 0))
        axis.set_xticks(range(len(tables)), [COLUMNS[name] for name in names], fontsize=9)
        axis.xaxis.tick_top()
        axis.set_yticks(places, [words for words, _ in lines], fontsize=9)
        for label, (words, row) in zip(axis.get_yticklabels(), lines, strict=True):
            if row is None:
                label.set(color=USES[words], weight="bold")
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        if left := sum(not planned[name].control for name in out - {REFERENCE}):
            self.content = [*self.content, f"Left out: {left} more methods of these tables; the ledger has them."]
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
        figure, axis = plt.subplots(figsize=(4.2, 0.27 * len(names) + 0.9))
        for kind, colour, marker in zip(kinds, ("black", USES["gradient angles, signs"]), ("o", "D"), strict=False):
            mine = [row for row in rows if not by or row[by] == kind]
            places = [names.index(row["method"] + ("" if by else f" {row['variant']}").rstrip()) for row in mine]
            axis.plot([row["value"] for row in mine], places, marker, color=colour, ms=5, label=kind or "without")
        if len(kinds) > 1:
            _arrows(axis, {name: {r[by]: r["value"] for r in rows if r["method"] == name} for name in names}, kinds)
        axis.axvline(0, color=plots.COLOURS["grey"], lw=0.8)
        axis.set_yticks(range(len(names)), [textwrap.fill(name, 24) for name in names], fontsize=9)
        for label, name in zip(axis.get_yticklabels(), names, strict=True):
            if name == self.options.get("mark"):
                label.set(weight="bold", color=USES["gradient angles, signs"])
                values = [row["value"] for row in rows if row["method"] == name]
                axis.plot(values, [names.index(name)] * len(values), "D", color=USES["gradient angles, signs"], ms=8)
        axis.set_ylim(len(names) - 0.5, -0.5 - 0.6 * (len(kinds) > 1))
        better = {True: "higher is better", False: "lower is better"}.get(rows[0]["higher_is_better"], "")
        label = "Δm" if rows[0]["metric"] == "delta_m" else rows[0]["metric"]
        axis.locator_params("x", nbins=5)
        axis.set_xlabel(f"{label}, {rows[0]['unit']} ({better})" if better else f"{label}, {rows[0]['unit']}")
        return figure


def _arrows(axis, lines, kinds):
    """From the first kind to the second of each line that has both, and the kinds' names at the first of these."""
    both = [(y, [of[kind] for kind in kinds[:2]]) for y, of in enumerate(lines.values()) if {*kinds[:2]} <= set(of)]
    for y, (start, end) in both:
        look = {"arrowstyle": "-|>", "color": plots.COLOURS["grey"], "shrinkA": 4, "shrinkB": 4, "lw": 1}
        axis.annotate("", (end, y), (start, y), arrowprops=look)
    y, ends = both[0]
    for kind, x, colour in zip(kinds, ends, ("black", USES["gradient angles, signs"]), strict=False):
        words = f"with {kind}" if kind else "without"
        side = "right" if x <= 0 or x < max(ends) else "left"  # clear of the line at zero and of the other word
        axis.text(x, y - 0.35, words, color=colour, fontsize=9, ha=side, va="bottom")


class Paired(Drawn):
    def draw(self, name):
        chosen = [[part.strip() for part in line.split("|")] for line in self.content if "|" in line]
        self.content = [line for line in self.content if "|" not in line]
        panels = {}
        for panel, words, what in chosen:
            experiment, profile, row = what.split(" ", 2)
            for file in records.folder(experiment, profile).glob("*.json*"):
                self.env.note_dependency(str(file))
            verdict = experiments.committed(experiment, profile)
            row, _, against = row.partition(" minus ")
            for one in filter(None, (row, against)):
                found = verdict.rows.get(one) if verdict else None
                if found is None or found.state != "judged" or not found.difference and one != REFERENCE:
                    raise LookupError(f"no judged row {one!r} of {experiment}, {profile}")
            lines = panels.setdefault((panel, verdict.table.margin), {})
            if against:
                lines[words] = paired_differences({n: r.delta for n, r in verdict.rows.items()}, row, against)
            else:
                lines[words] = verdict.rows[row].difference
        for lines in panels.values():
            if gaps := {words: found for words, found in lines.items() if isinstance(found, list)}:
                lines |= paired.holm_intervals(gaps)
        heights = [len(lines) + 1 for lines in panels.values()]
        size, look = (5, 0.3 * sum(heights) + 0.7), {"squeeze": False, "layout": "constrained"}
        figure, axes = plt.subplots(len(panels), 1, figsize=size, height_ratios=heights, **look)
        figure.get_layout_engine().set(hspace=0.1)
        for axis, ((panel, margin), lines) in zip(axes[:, 0], panels.items(), strict=True):
            axis.axvspan(-margin, margin, color="#e8e8e8", zorder=0)
            axis.axvline(0, color=plots.COLOURS["grey"], lw=0.8)
            for y, d in enumerate(lines.values()):
                axis.plot([d.low, d.high], [y, y], color="black", lw=2)
                axis.plot([d.mean], [y], "D", color=plots.COLOURS["blue"], ms=6)
            axis.set_yticks(range(len(lines)), list(lines), fontsize=9)
            axis.set_ylim(len(lines) - 0.5, -0.5)
            axis.set_title(panel, fontsize=10, loc="left")
        minus = self.options.get("minus", "minus those of tuned fixed weights")
        axes[-1, 0].set_xlabel(f"points of Δm, {minus}\n(right is better)", fontsize=9)
        return figure


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
    app.add_directive("outcome-grid", OutcomeGrid)
    app.add_directive("printed-dots", PrintedDots)
    app.add_directive("paired", Paired)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
