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
from mtl_lab.protocol.verdict import paired_differences
from mtl_lab.statistics import paired

sys.path.insert(0, str(printed_tables.ROOT.parent / "_ext"))
import drawn  # noqa: E402


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
        self.options, self.content = options, []


def lines_of(axis):
    """(words, place) of the lines of a forest, in their order; headings are bold."""
    labels = [" ".join(label.get_text().split()) for label in axis.get_yticklabels()]  # they wrap
    return dict(zip(labels, axis.get_yticks(), strict=True))


def test_the_forest_is_the_judged_table():
    verdict = experiments.committed("qm9", "small")
    planned = {row.name: row for row in verdict.table.shared()}
    axis = drawn.Forest.draw(Fake(), "qm9", "small").axes[0]
    must = {"a_a": " (must not differ)", "broken": " (must be worse)"}
    rows = {r.title.split(":")[0] + must.get(r.name, ""): r for r in verdict.rows.values() if r.difference}
    lines, groups, heading = lines_of(axis), {}, None
    assert list(lines.values()) == sorted(lines.values()) and set(rows) <= set(lines) <= {*rows, *drawn.USES}
    marks = {line.get_ydata()[0]: line for line in axis.lines if line.get_marker() == "D"}
    ends = {line.get_ydata()[0]: line.get_xdata() for line in axis.lines if line.get_color() == "black" and
            len(line.get_xdata()) == 2 and line.get_marker() != "D"}  # fmt: skip
    for words, place in lines.items():
        if words in drawn.USES:
            heading = words
            continue
        row, mark = rows[words], marks[place]
        assert mark.get_xdata()[0] == pytest.approx(row.difference.mean, abs=1e-6)
        assert sorted(ends[place]) == pytest.approx([row.difference.low, row.difference.high])
        assert drawn.use(planned[row.name]) == heading and mark.get_color() == drawn.USES[heading]
        groups.setdefault(heading, []).append(row.difference.mean)
    assert all(means == sorted(means, reverse=True) for means in groups.values()) and heading == "controls"
    assert [text.get_text() for text in axis.texts[:3]] == ["◀ worse", "same", "better ▶"]
    assert " ".join(axis.texts[3].get_text().split()) == "what a method looks at" and len(axis.texts) == 4
    said = {text.get_text(): text.xy[0] for text in axis.texts}
    assert said["◀ worse"] == -verdict.table.margin < said["same"] == 0 < said["better ▶"]


def test_a_gap_sets_the_controls_apart_and_no_two_lines_overlap():
    for name in ("qm9", "multi_fashion_mnist", "two_digits"):
        lines = lines_of(drawn.Forest.draw(Fake(**{"from": -6.0}), name, "small").axes[0])
        words, gaps = list(lines), np.diff(list(lines.values()))
        assert gaps.argmax() == words.index("controls") - 1 and gaps.min() > 0.19  # inches; a line of 9 points has 0.15


@pytest.mark.parametrize(
    ("experiment", "name", "use"),
    [
        ("qm9", "log_sum", "losses alone"),
        ("qm9", "sam_gs", "gradient lengths"),
        ("qm9", "graddrop", "gradient angles, signs"),
        ("qm9", "static_longer", "controls"),
        ("two_digits", "scale_only", "gradient lengths"),
        ("two_digits", "rotograd", "learned rotations"),
        ("two_digits", "equal_layer", "learned rotations"),
        ("multi_fashion_mnist", "recon_sam_gs", "a split network"),
    ],
)
def test_a_method_is_named_by_what_it_looks_at(experiment, name, use):
    planned = {row.name: row for row in experiments.committed(experiment, "small").table.shared()}
    assert drawn.use(planned[name]) == use


def test_the_grid_has_the_mark_and_the_difference_of_each_judged_method():
    names, left = ("qm9", "multi_fashion_mnist", "two_digits"), ["static", "split_random", "recon_static"]
    fake = Fake(without=" ".join(left[1:]))
    figure = drawn.OutcomeGrid.draw(fake, *names)
    axis = figure.axes[0]
    assert fake.content == [f"Left out: {len(left) - 1} more methods of these tables; the ledger has them."]
    assert [line.split("  ")[1] for line in figure.get_suptitle().splitlines()] == [
        "better", "better (amount unsure)", "same", "worse (amount unsure)", "worse", "cannot tell"]  # fmt: skip
    lines, cells = lines_of(axis), {}
    for text in axis.texts:
        x, y = text.get_position()
        cells.setdefault((round(x), y), []).append((text.get_text(), text.get_color()))
    expected = {}
    for x, name in enumerate(names):
        verdict = experiments.committed(name, "small")
        for row in verdict.table.shared():
            if not row.control and row.name not in left:
                found = verdict.rows[row.name]
                number = f"{found.difference.mean:+.{1 if verdict.table.margin >= 1 else 2}f}".replace("-", "−")
                number = number.removeprefix("−") if not number.strip("−0.") else number
                colour = drawn.MARKS[found.outcome][1]
                at = x, lines[" ".join(drawn.names_of(row).split())]
                expected[at] = [(drawn.MARKS[found.outcome][0], colour), (number, colour)]
    assert cells == expected and len(cells) > 30
    assert len({mark for mark, _ in drawn.MARKS.values()}) == len(drawn.MARKS), "not told apart by colour alone"
    with pytest.raises(LookupError, match="no row splits in qm9"):
        drawn.OutcomeGrid.draw(Fake(without="splits"), "qm9")


def test_an_unfinished_forest_has_dots_alone_and_names_what_lies_outside(monkeypatch):
    verdict = experiments.committed("qm9", "small")
    rows = {name: replace(row, state="unfinished", runs="2 of 10") for name, row in verdict.rows.items()}
    monkeypatch.setattr(drawn.experiments, "committed", lambda *where: replace(verdict, rows=rows))
    far = {name for name, row in rows.items() if row.difference and row.difference.mean < -5}
    axis = drawn.Forest.draw(Fake(**{"from": -5.0}), "qm9", "small").axes[0]
    assert not [line for line in axis.lines if line.get_marker() == "D"]
    assert axis.get_xlim()[0] == -5 and len(axis.texts) == len(far) + 4 > 4
    assert "2 of 10 seeds, no verdict" in axis.get_xlabel()


def test_the_dots_are_the_printed_numbers():
    printed = [row for row in printed_tables.table("recon", 1) if row["metric"] == "delta_m"]
    axis = drawn.PrintedDots.draw(Fake(by="variant"), "recon", "1", "delta_m").axes[0]
    shown = [x for line in axis.lines if line.get_marker() in "oD" for x in line.get_xdata()]
    assert sorted(shown) == sorted(row["value"] for row in printed) and len(shown) > 10


def test_chosen_differences_are_those_of_the_records_in_the_panels_that_are_named():
    fake = Fake()
    fake.content = [
        "molecules | SAM-GS | qm9 small sam_gs",
        "molecules | momentum | qm9_sam_gs small gamma 0, beta2 0.99",
        "pictures | SAM-GS | multi_fashion_mnist small sam_gs",
        "A caption.",
    ]
    figure = drawn.Paired.draw(fake, "halves")
    assert fake.content == ["A caption."]
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["molecules", "pictures"]
    rows = [("qm9", "sam_gs"), ("qm9_sam_gs", "gamma 0, beta2 0.99"), ("multi_fashion_mnist", "sam_gs")]
    known = [experiments.committed(name, "small").rows[row].difference for name, row in rows]
    shown = [line for axis in figure.axes for line in axis.lines if line.get_marker() == "D"]
    assert [line.get_xdata()[0] for line in shown] == [d.mean for d in known]
    ends = [sorted(line.get_xdata()) for axis in figure.axes for line in axis.lines if line.get_lw() == 2]
    assert ends == [[d.low, d.high] for d in known]
    names = ("pcgrad", "sam_gs")
    fake.content = [f"pictures | {n} | multi_fashion_mnist small recon_{n} minus {n}" for n in names]
    delta = {n: row.delta for n, row in experiments.committed("multi_fashion_mnist", "small").rows.items()}
    known = paired.holm_intervals({n: paired_differences(delta, f"recon_{n}", n) for n in names})
    lines = drawn.Paired.draw(fake, "gains").axes[0].lines
    ends = [sorted(line.get_xdata()) for line in lines if line.get_lw() == 2]
    assert ends == [[known[n].low, known[n].high] for n in names] and min(ends)[0] > 0
    fake.content = ["molecules | magic | qm9 small magic"]
    with pytest.raises(LookupError, match="no judged row 'magic' of qm9, small"):
        drawn.Paired.draw(fake, "halves")


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
