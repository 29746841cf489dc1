"""What a choice of seeds or trials does to a table: against hand examples and by enumeration."""

import itertools
import json
import math
import re

import numpy as np
import pytest
from scipy import stats

from mtl_core import choices, evaluation


def table(seed=0, seeds=10, rows=5):
    random = np.random.default_rng(seed)
    common = random.normal(size=seeds)
    return {f"row{k}": (3 - k + common + 0.4 * random.normal(size=seeds)).tolist() for k in range(rows)}


def test_three_seeds_by_hand():
    deltas = {"static": [1.0, 2.0, 3.0, 9.0], "a": [4.0, 6.0, 5.0, 0.0], "b": [1.0, 2.0, 3.5, 0.0]}
    found = choices.read_table(deltas, "static", 2.0, (0, 1, 2))
    # a − static: 3, 4, 2: mean 3, sd 1; smaller p, so at level 0.975. b − static: 0, 0, 0.5; a excludes zero.
    half = stats.t.ppf(1 - 0.0125, 2) / math.sqrt(3)
    assert (found["a"].mean, found["a"].rank, found["b"].rank, found["static"].rank) == (5.0, 1, 2, 3)
    assert found["a"].low == pytest.approx(3 - half) and found["a"].high == pytest.approx(3 + half)
    assert found["a"].low < 0 and found["a"].outcome == "undecided"
    assert found["b"].high == pytest.approx(1 / 6 + stats.t.ppf(1 - 0.0125, 2) / 6)
    assert found["b"].outcome == "equivalent"
    assert (found["static"].low, found["static"].outcome) == (None, None)


def test_controls_are_judged_and_not_ranked():
    deltas = table()
    found = choices.read_table(deltas, "row1", 0.5, controls=["row0"])
    assert found["row0"].rank is None and found["row0"].outcome is not None
    assert sorted(r.rank for r in found.values() if r.rank) == [1, 2, 3, 4]
    without = choices.read_table(deltas, "row1", 0.5)
    assert found["row0"].low == without["row0"].low, "a control is one of Holm's rows either way"


def test_ties_share_a_rank():
    found = choices.read_table({"a": [1.0, 2.0], "b": [2.0, 1.0], "c": [0.0, 0.0]}, "c", 1.0)
    assert [found[row].rank for row in "abc"] == [1.5, 1.5, 3]


def test_all_choices_are_all():
    deltas = table()
    found = choices.all_choices(deltas, "row0", 0.5, 3)
    assert len(found) == 120 and len(set(found)) == 120
    assert found[2, 5, 7] == choices.read_table(deltas, "row0", 0.5, [2, 5, 7])
    means = [r["row3"].mean for r in found.values()]
    assert np.mean(means) == pytest.approx(np.mean(deltas["row3"])) and np.std(means) > 0.1
    (whole,) = choices.all_choices(deltas, "row0", 0.5, 10).values()
    difference = evaluation.paired_difference(deltas["row4"], deltas["row0"], level=1 - 0.05 / 4)
    assert whole == choices.read_table(deltas, "row0", 0.5)
    assert min(difference.high, whole["row4"].high) < 0


@pytest.mark.parametrize(
    "deltas, reference, size, text",
    [
        (table(), "rowx", 3, "reference row 'rowx' is not among row0"),
        (table() | {"row1": [1.0, 2.0]}, "row0", 3, "same seeds"),
        (table(), "row0", 1, "between 2 and 10 seeds"),
        (table(), "row0", 11, "between 2 and 10 seeds"),
    ],
)
def test_errors(deltas, reference, size, text):
    with pytest.raises(ValueError, match=text):
        choices.all_choices(deltas, reference, 0.5, size)


# --- trials


def test_expected_best_by_hand():
    assert choices.expected_best([4.0, 1.0, 2.0]) == pytest.approx([7 / 3, 10 / 3, 4])
    assert choices.expected_best([1.0, None, 3.0]) == [None, pytest.approx(7 / 3), 3.0]
    assert choices.expected_best([None, None]) == [None, None]


@pytest.mark.parametrize("failed", [0, 2])
def test_expected_best_against_all_subsets(failed):
    scores = [*np.random.default_rng(1).normal(size=6).tolist(), *[None] * failed]
    found = choices.expected_best(scores)
    for k in range(1 + failed, len(scores) + 1):
        subsets = itertools.combinations(scores, k)
        best = [max(score for score in subset if score is not None) for subset in subsets]
        assert found[k - 1] == pytest.approx(np.mean(best))
    assert found[:failed] == [None] * failed


# --- the data of the dice


def test_dice_carry_their_numbers_and_close_no_script():
    deltas = table()
    titles = {row: f"{row} </script><b>" for row in deltas}
    text = choices.seed_dice(deltas, range(10), titles, "row0", 0.5, controls=["row4"])
    assert text.count("</script>") == 1 and "<b>" not in text
    (data,) = re.findall(r'<script type="application/json">(.*?)</script>', text)
    data = json.loads(data)
    assert [row["delta"] for row in data["rows"]] == list(deltas.values())
    assert data["rows"][1]["title"] == titles["row1"] and data["rows"][4]["all"]["rank"] is None
    assert data["rows"][2]["all"]["outcome"] == choices.read_table(deltas, "row0", 0.5)["row2"].outcome
    with pytest.raises(ValueError, match="finite"):
        choices.seed_dice(deltas | {"row3": [math.nan] * 10}, range(10), titles, "row3", 0.5)
