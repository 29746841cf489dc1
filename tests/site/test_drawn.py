"""Figures and numbers outside notebooks: they name what is missing, and quote what the records say."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from mtl_lab import experiments, records
from mtl_lab.claims import printed_tables
from mtl_lab.experiments import conflict_and_harm
from mtl_lab.figures import plots
from mtl_lab.protocol.table import SEEDS
from mtl_lab.statistics import association, paired

sys.path.insert(0, str(printed_tables.ROOT.parent / "_ext"))
import drawn  # noqa: E402


def test_the_quoted_association_is_that_of_the_records():
    found = conflict_and_harm.pairs(records.load("task_pairs", "small"))
    x, y = ([float(np.mean(getattr(pair, what))) for pair in found] for what in ("dissimilarity", "harm"))
    a = association.between_pairs(x, y, [pair.tasks for pair in found])
    (node,) = drawn.harm_of("task_pairs", "small", "dissimilarity")
    here = min(len(pair.seeds) for pair in found)
    seeds = f", {here} of {len(SEEDS)} seeds" if here < len(SEEDS) else ""
    said = f"ρ = {a.rho:+.2f} [{a.low:+.2f}, {a.high:+.2f}] over 55 pairs{seeds}"
    assert node.astext() == said.replace("-", "−")
    assert drawn.harm_of("task_pairs", "small")[0].astext() != node.astext()


def test_a_quoted_contrast_is_that_of_the_records():
    found = {dose.name: dose for dose in conflict_and_harm.doses(records.load("conflict_dose", "small"))}
    for contrast, (before, after) in conflict_and_harm.CONTRASTS.items():
        both = sorted(set(found[before].seeds) & set(found[after].seeds))
        for measure, scale, digits in (("harm", 1, 2), ("negative", 100, 1), ("dissimilarity", 1, 2)):
            old, new = (
                {seed: getattr(found[name], measure)[found[name].seeds.index(seed)] for seed in both}
                for name in (before, after)
            )
            d = paired.paired_difference(new, old)
            mean, low, high = (f"{scale * value:+.{digits}f}".replace("-", "−") for value in (d.mean, d.low, d.high))
            (node,) = drawn.dose_of("conflict_dose", "small", contrast, measure)
            assert node.astext() == f"{mean} [{low},\N{NO-BREAK SPACE}{high}]"


@pytest.mark.parametrize(
    ("words", "message"),
    [(("task_pairs", "tiny"), "no runs of task_pairs, tiny"), (("task_pairs", "small", "angle"), "no measure 'angle'")],
)
def test_what_is_missing_is_named(words, message):
    with pytest.raises(LookupError, match=message):
        drawn.harm_of(*words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("conflict_dose", "tiny", "overlap", "harm"), "no runs of conflict_dose, tiny, dose offset 8, width 8"),
        (("conflict_dose", "small", "depth", "harm"), "no contrast 'depth'"),
        (("conflict_dose", "small", "width", "angle"), "of 'angle'"),
    ],
)
def test_a_missing_contrast_is_named(words, message):
    with pytest.raises(LookupError, match=message):
        drawn.dose_of(*words)


class Fake:
    """What a directive needs of Sphinx to draw."""

    env = SimpleNamespace(note_dependency=lambda file: None)

    def __init__(self, **options):
        self.options = options


def test_the_forest_is_the_judged_table():
    verdict = experiments.committed("qm9", "small")
    axis = drawn.Forest.draw(Fake(), "qm9", "small").axes[0]
    labels = [label.get_text().replace("\n", " ") for label in axis.get_yticklabels()]  # they wrap
    rows = {row.title.split(":")[0]: row for row in verdict.rows.values() if row.difference}
    assert sorted(labels) == sorted(rows)
    means = [line.get_xdata()[0] for line in axis.lines if line.get_marker() == "D"]
    assert means == pytest.approx([rows[label].difference.mean for label in labels], abs=1e-6)
    competing = [mean for label, mean in zip(labels, means, strict=True) if not rows[label].control]
    assert competing == sorted(competing, reverse=True) == means[: len(competing)], "controls stand last"
    ends = {tuple(sorted(line.get_xdata())) for line in axis.lines if len(line.get_xdata()) == 2}
    for row in rows.values():
        assert any(end == pytest.approx((row.difference.low, row.difference.high)) for end in ends), row.name


def test_an_unfinished_forest_has_dots_alone_and_names_what_lies_outside(monkeypatch):
    verdict = experiments.committed("qm9", "small")
    rows = {name: replace(row, state="unfinished", runs="2 of 10") for name, row in verdict.rows.items()}
    monkeypatch.setattr(drawn.experiments, "committed", lambda *where: replace(verdict, rows=rows))
    far = {name for name, row in rows.items() if row.difference and row.difference.mean < -5}
    axis = drawn.Forest.draw(Fake(**{"from": -5.0}), "qm9", "small").axes[0]
    assert not [line for line in axis.lines if line.get_marker() == "D"]
    assert axis.get_xlim()[0] == -5 and len(axis.texts) == len(far) > 0
    assert "2 of 10 seeds, no verdict" in axis.get_xlabel()


def test_the_dots_are_the_printed_numbers():
    printed = [row for row in printed_tables.table("recon", 1) if row["metric"] == "delta_m"]
    axis = drawn.PrintedDots.draw(Fake(by="variant"), "recon", "1", "delta_m").axes[0]
    shown = [x for line in axis.lines if line.get_marker() in "oD" for x in line.get_xdata()]
    assert sorted(shown) == sorted(row["value"] for row in printed) and len(shown) > 10


@pytest.mark.parametrize(
    ("directive", "words", "message"),
    [
        (drawn.Forest, ("qm9", "paper"), "no runs of qm9, paper"),
        (drawn.PrintedDots, ("recon", "1", "speed"), "table 1 of recon prints no 'speed'"),
    ],
)
def test_a_figure_without_numbers_names_what_is_missing(directive, words, message):
    with pytest.raises(LookupError, match=message):
        directive.draw(Fake(), *words)


def test_a_figure_without_words_is_a_warning_that_stops_the_build(monkeypatch):
    said = []
    monkeypatch.setattr(drawn.log, "warning", lambda text, *what, location: said.append(text % what))
    fake = Fake()
    fake.name, fake.arguments, fake.get_location = "forest", ["qm9 small"], lambda: "page.md:1"
    (node,) = drawn.Drawn.run(fake)
    assert said == ["forest qm9 small: a figure needs words: `:alt:` is missing"] and "missing figure" in node.astext()


def test_tables_have_minus_signs_where_numbers_are_negative():
    rows = [["-0.07 ± 0.1", "+1.0 (-0.5 to -.3)"], ["2026-11-22, 1e-05", "`x=-1`"]]
    table = plots.markdown_table(["a", "b"], rows).data.splitlines()
    assert table[2:] == ["| −0.07 ± 0.1 | +1.0 (−0.5 to −.3) |", "| 2026-11-22, 1e-05 | `x=-1` |"]
