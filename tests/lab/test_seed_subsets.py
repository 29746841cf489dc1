"""What a choice of seeds or trials does to a table: against hand examples and by enumeration."""

import itertools
import json
import math
import re

import numpy as np
import pytest
from scipy import stats

from mtl_lab.protocol import seed_subsets
from mtl_lab.protocol.table import Row, Table
from mtl_lab.runs.run import Run
from mtl_lab.statistics import paired


def table(*names, controls=(), margin=0.5):
    """A table with these rows, `static` among them."""
    rows = [Row(name, f"{name} </script><b>", control=name in controls) for name in names]
    return Table("example", Run("qm9"), rows, margin=margin, rate=(1e-3, 1e-1))


def seeded(rows, seeds=10, start=0):
    """row -> seed -> Δm, where the rows share the effect of a seed."""
    random = np.random.default_rng(start)
    common = random.normal(size=seeds)
    noise = random.normal(size=(len(rows), seeds))
    return {row: dict(enumerate((3 - k + common + 0.4 * noise[k]).tolist())) for k, row in enumerate(rows)}


NAMES = ["a", "static", "b", "c", "d"]


def test_three_seeds_by_hand():
    rows = {"static": [1.0, 2.0, 3.0, 9.0], "a": [4.0, 6.0, 5.0, 0.0], "b": [1.0, 2.0, 3.5, 0.0]}
    delta = {row: dict(enumerate(values)) for row, values in rows.items()}
    readings = seed_subsets.read_table(table("static", "a", "b", margin=2.0), delta, (0, 1, 2))
    # a − static: 3, 4, 2: mean 3, sd 1. b − static: 0, 0, 0.5. a has the smaller p, but its interval of level
    # 1 − 0.05 / 2 holds zero, so b has that level too.
    half = stats.t.ppf(1 - 0.0125, 2) / math.sqrt(3)
    assert (readings["a"].mean, readings["a"].rank, readings["b"].rank, readings["static"].rank) == (5.0, 1, 2, 3)
    assert readings["a"].low == pytest.approx(3 - half) and readings["a"].high == pytest.approx(3 + half)
    assert readings["a"].low < 0 and readings["a"].outcome == "cannot decide"
    assert readings["b"].high == pytest.approx(1 / 6 + stats.t.ppf(1 - 0.0125, 2) / 6)
    assert readings["b"].outcome == "equivalent"
    assert (readings["static"].low, readings["static"].outcome) == (None, None)


def test_controls_are_judged_and_not_ranked():
    delta = seeded(NAMES)
    readings = seed_subsets.read_table(table(*NAMES, controls="a"), delta)
    assert readings["a"].rank is None and readings["a"].outcome is not None
    assert sorted(reading.rank for reading in readings.values() if reading.rank) == [1, 2, 3, 4]
    without = seed_subsets.read_table(table(*NAMES), delta)
    assert readings["a"].low == without["a"].low, "a control is one of Holm's rows either way"


def test_ties_share_a_rank():
    delta = {"a": {0: 1.0, 1: 2.0}, "b": {0: 2.0, 1: 1.0}, "static": {0: 0.0, 1: 0.0}}
    readings = seed_subsets.read_table(table(*delta), delta)
    assert [readings[row].rank for row in delta] == [1.5, 1.5, 3]


def test_all_choices_are_all():
    delta, rows = seeded(NAMES), table(*NAMES)
    choices = seed_subsets.all_choices(rows, delta, 3)
    assert len(choices) == 120 and len(set(choices)) == 120
    assert choices[2, 5, 7] == seed_subsets.read_table(rows, delta, [2, 5, 7])
    means = [readings["c"].mean for readings in choices.values()]
    assert np.mean(means) == pytest.approx(np.mean(list(delta["c"].values()))) and np.std(means) > 0.1
    (whole,) = seed_subsets.all_choices(rows, delta, 10).values()
    assert whole == seed_subsets.read_table(rows, delta)
    difference = paired.paired_difference(delta["d"], delta["static"], level=1 - 0.05 / 4)
    assert whole["d"].high == pytest.approx(difference.high) and difference.high < 0


def test_seeds_are_paired_by_place_and_a_longer_row_is_cut():
    delta, rows = seeded(NAMES), table(*NAMES)
    expected = seed_subsets.all_choices(rows, delta, 3)
    other = delta | {"a": {200 + seed: value for seed, value in delta["a"].items()}}
    assert seed_subsets.all_choices(rows, other, 3) == expected
    longer = delta | {"b": delta["b"] | {10: 99.0}, "static": delta["static"] | {10: 0.0}}
    assert seed_subsets.all_choices(rows, longer, 3) == expected


@pytest.mark.parametrize(
    "change, size, text",
    [
        ({"static": None}, 3, "reference row 'static' is not among a, b"),
        ({}, 1, "between 2 and 10 seeds"),
        ({}, 11, "between 2 and 10 seeds"),
    ],
)
def test_errors(change, size, text):
    delta = {row: values for row, values in (seeded(NAMES) | change).items() if values}
    with pytest.raises(ValueError, match=text):
        seed_subsets.all_choices(table(*NAMES), delta, size)


@pytest.mark.parametrize("indices", [(0, 1, 10), (-1, 0, 1)])
def test_indices_beyond_the_seeds_are_refused(indices):
    with pytest.raises(ValueError, match="row 'a' has 10 seeds, got the indices"):
        seed_subsets.read_table(table(*NAMES), seeded(NAMES), indices)


# --- trials


def test_expected_best_by_hand():
    assert seed_subsets.expected_best([4.0, 1.0, 2.0]) == pytest.approx([7 / 3, 10 / 3, 4])
    assert seed_subsets.expected_best([1.0, None, 3.0]) == [None, pytest.approx(7 / 3), 3.0]
    assert seed_subsets.expected_best([None, None]) == [None, None]


@pytest.mark.parametrize("failed", [0, 2])
def test_expected_best_against_all_subsets(failed):
    scores = [*np.random.default_rng(1).normal(size=6).tolist(), *[None] * failed]
    expected = seed_subsets.expected_best(scores)
    for k in range(1 + failed, len(scores) + 1):
        subsets = itertools.combinations(scores, k)
        best = [max(score for score in subset if score is not None) for subset in subsets]
        assert expected[k - 1] == pytest.approx(np.mean(best))
    assert expected[:failed] == [None] * failed


# --- the data of the dice


def read(text):
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', text).group(1))


def test_dice_carry_their_numbers_and_close_no_script():
    delta, rows = seeded(NAMES), table(*NAMES, controls="d")
    text = seed_subsets.seed_dice(rows, delta)
    assert text.count("</script>") == 1 and "<b>" not in text
    data = read(text)
    assert [row["delta"] for row in data["rows"]] == [list(values.values()) for values in delta.values()]
    assert data["rows"][1]["title"] == "static </script><b>" and data["rows"][4]["all"]["rank"] is None
    assert data["rows"][2]["all"]["outcome"] == seed_subsets.read_table(rows, delta)["b"].outcome
    assert (data["seeds"], data["margin"], data["family"]) == (list(range(10)), 0.5, 4)
    part = read(seed_subsets.seed_dice(rows, {row: delta[row] for row in ("a", "static")}))
    assert len(part["rows"]) == 2 and part["family"] == 4, "rows that are not here count among Holm's"
    with pytest.raises(ValueError, match="finite"):
        seed_subsets.seed_dice(rows, delta | {"c": dict.fromkeys(range(10), math.nan)})
