"""The page on searches without a record of them, with some streams and with all: made-up ones, in committed form."""

import ast

import made_up_streams
import matplotlib
import matplotlib.pyplot as plt
import nbformat
import pytest
from notebook_tools import SOURCES

from mtl_lab import records
from mtl_lab.statistics.streams import streams_needed

PROBLEMS = ("qm9", "multi_fashion_mnist", "two_digits")
PAGE = SOURCES / "ideas" / "how_much_is_the_search.ipynb"
OUTCOMES = ("better", "worse", "equivalent", "cannot decide")
STRIPS = ("search-08", "search-09", "search-10")


@pytest.fixture
def shown_by(tmp_path, monkeypatch):
    """Function of the number of streams (None: all) and of parameters: cell -> (text, words of each figure)."""

    def shown(count, **parameters):
        matplotlib.use("agg")
        for name in PROBLEMS:
            (tmp_path / name).symlink_to(records.CHECKOUT / "results" / name)
            if count != 0:
                made_up_streams.write(f"{name}_searches", tmp_path, count)
        if count != 0:
            made_up_streams.write("qm9_capacity", tmp_path, count)
        monkeypatch.setattr(records, "ROOT", tmp_path)
        names, found = {}, {}
        for cell in [cell for cell in nbformat.read(PAGE, 4).cells if cell.cell_type == "code"]:
            source = "\n".join(line for line in cell.source.splitlines() if not line.startswith("%"))
            body, value = ast.parse(source).body, None
            last = body.pop() if isinstance(body[-1], ast.Expr) else None
            exec(compile(ast.Module(body, []), PAGE.name, "exec"), names)
            if last is not None:
                value = eval(compile(ast.Expression(last.value), PAGE.name, "eval"), names)
            names |= parameters if "parameters" in cell.metadata.get("tags", []) else {}
            figures = [words(plt.figure(number)) for number in plt.get_fignums()]
            found[cell["id"]] = (getattr(value, "data", ""), figures)
            plt.close("all")
        return found

    return shown


def words(figure):
    """The words written in a drawn figure."""
    figure.canvas.draw()
    return " ".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def test_without_streams_the_page_says_what_one_search_shows_and_what_trains_the_rest(shown_by):
    shown = shown_by(0)
    assert "second-best settings lose more" in shown["search-02"][0] and "not measured yet" in shown["search-02"][0]
    for name, streams in zip(PROBLEMS, (20, 10, 5), strict=True):
        assert f"0 of {streams}" in shown["search-03"][0]
        assert f"make results EXPERIMENT={name}_searches PROFILE=small" in shown["search-03"][0]
    for cell in STRIPS:
        assert shown[cell] == ("", []), "no caption without a figure"
    assert "Not yet trained" in shown["search-03"][0] and "Four questions" in shown["search-03"][0]
    assert "*No finding yet*: 0 of 50 runs" in shown["search-03"][0]
    assert "make results EXPERIMENT=qm9_capacity PROFILE=small" in shown["search-03"][0]
    empty = ("search-several", "search-11", "search-25", "search-24", "search-27", "search-29", "search-width-1")
    assert all(shown[cell] == ("", []) for cell in empty), "one box, and nothing else, says what is not trained"
    assert "substitute" in shown["search-13"][1][0] and "substitute" in shown["search-20"][0]
    assert shown["search-19"][0].count("**") == 6, "one row is the cheapest"
    assert not any(f"| {outcome} |" in text for text, _ in shown.values() for outcome in OUTCOMES)


def test_some_streams_give_numbers_and_no_outcome(shown_by):
    shown = shown_by(3)
    assert "second-best settings lose more" in shown["search-02"][0] and "3 of 20" in shown["search-03"][0]
    assert "Not yet trained" not in shown["search-03"][0] and "Four questions" in shown["search-25"][0]
    for cell in STRIPS:
        (figure,) = shown[cell][1]
        assert "unfinished" in figure and "3 of" in figure and not any(outcome in figure for outcome in OUTCOMES)
    said = [line for line in shown["search-27"][0].splitlines() if line.startswith("- ")]
    assert "unfinished" in shown["search-11"][0] and all("no outcome" in line for line in said) and len(said) == 3
    assert not any(f"| {outcome} |" in text for text, _ in shown.values() for outcome in OUTCOMES)
    assert "*No finding yet*: 30 of 50 runs" in shown["search-width-1"][0] and "|" not in shown["search-width-1"][0]
    assert "verdict changes" not in shown["search-27"][0] and "%" not in shown["search-17"][0] + shown["search-29"][0]


def test_all_streams_are_judged(shown_by):
    shown = shown_by(None)
    assert "times as far as another seed" in shown["search-02"][0] and "All streams are here" in shown["search-03"][0]
    assert "better" in shown["search-08"][1][0] and "worse" in shown["search-09"][1][0]
    assert "described only" in shown["search-10"][1][0], "five streams of the digits judge nothing"
    assert not any(outcome in shown["search-10"][1][0] for outcome in OUTCOMES)
    assert "QM9: Sum of logs | better" in shown["search-11"][0]
    assert "substitute" not in shown["search-13"][1][0] and "(20 streams)" in shown["search-13"][1][0]
    assert "better by Δm, but cannot decide by Δm without" in shown["search-27"][0]
    strong, weak = (line for line in shown["search-29"][0].splitlines() if "3 δ" in line)
    assert "| worse |" in strong and "| worse |" in weak and "100 %" in strong
    assert not any("unfinished" in text for text, _ in shown.values())
    text = shown["search-width-1"][0]
    assert "From width 32 to 512 the ranks of 5 methods **" in text and "for equal +" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| Equal weights")]
    assert "better" in line and "| Tuned fixed weights |" in text


def test_the_planner_takes_what_it_is_given(shown_by):
    shown = shown_by(0, experiment="two_digits", delta=4.0, search_sd=0.0, seed_sd=3.0, contrasts=1)
    assert "±4 points" in shown["search-20"][0] and "your numbers" in shown["search-20"][0]
    assert f"| {streams_needed(0.0, 3.0, 4.0, 10)} |" in shown["search-19"][0].splitlines()[-1]
    assert "Two digits" in shown["search-05"][1][0]
