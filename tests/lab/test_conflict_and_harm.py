"""Harm and conflict read off records: signs, pairing and what is left out."""

from dataclasses import replace

import numpy as np
import pytest

from mtl_lab.experiments import conflict_and_harm
from mtl_lab.statistics import paired


def record(row, seed, test, log=None, problem="multi_fashion_mnist"):
    config = {"seed": seed, "problem": problem}
    return {"row": row, "config": config, "final": {"test": test}, "conflict": log}


def logged(negative, low=0, high=0, middle=1, similarity=0.75):
    histogram = {"850": low, "1150": high, "1000": middle}
    return {"all": {"negative_share": negative, "histogram": histogram}, "magnitude_similarity": similarity}


def accuracies(digit=None, garment=None):
    given = {"digit": digit, "garment": garment}
    return {task: {"loss": 0.1, "accuracy": value} for task, value in given.items() if value is not None}


def dose(seeds=(0, 1), name="offset 8, width 4"):
    made = []
    for seed in seeds:
        made.append(record(f"together, {name}", seed, accuracies(90 - seed, 80), logged(0.3, 2, 1, 1)))
        made.append(record(f"digit, {name}", seed, accuracies(digit=100)))
        made.append(record(f"garment, {name}", seed, accuracies(garment=80 + 20 * seed)))
    return made


def test_harm_is_the_loss_against_networks_of_the_same_seed():
    (shared,) = conflict_and_harm.doses(dose())
    assert shared.name == "offset 8, width 4" and shared.tasks == ("digit", "garment")
    assert shared.harm == pytest.approx([(10 + 0) / 2, (11 + 20) / 2])  # percent of the own accuracy, mean over tasks
    assert shared.negative == pytest.approx([0.3, 0.3]) and shared.dissimilarity == pytest.approx([0.25, 0.25])


def test_pairs_are_measured_against_the_mean_over_seeds():
    made = []
    for seed, error in ((0, 1.0), (1, 3.0)):
        both = {"mu": {"loss": 1, "MAE (D)": 2.2}, "alpha": {"loss": 1, "MAE (bohr³)": 3.0}}
        made.append(record("mu + alpha", seed, both, logged(0.5), "qm9"))
        made.append(record("alone mu", seed, {"mu": {"loss": 1, "MAE (D)": error}}, None, "qm9"))
        made.append(record("alone alpha", seed, {"alpha": {"loss": 1, "MAE (bohr³)": 4.0}}, None, "qm9"))
    (shared,) = conflict_and_harm.pairs(made)
    assert shared.harm == pytest.approx([(10 - 25) / 2] * 2)  # mu 10 % worse than 2.0, alpha a quarter better


def test_excess_counts_both_tails_and_not_the_middle():
    measures = conflict_and_harm.conflict_measures(logged(0.5, low=3, high=1, middle=4))
    assert measures["excess"] == pytest.approx((3 - 1) / 8)
    edges = {"899": 1, "900": 10, "1099": 100, "1100": 1000}  # bins of cosines just below -0.1, just above it, …
    measures = conflict_and_harm.conflict_measures(
        {"all": {"negative_share": 0, "histogram": edges}, "magnitude_similarity": 1}
    )
    assert measures["excess"] == pytest.approx((1 - 1000) / 1111)


def test_what_has_no_companions_is_left_out():
    made = dose((0, 1, 2))
    (shared,) = conflict_and_harm.doses(
        [r for r in made if not (r["row"].startswith("garment") and r["config"]["seed"] == 1)]
    )
    assert shared.seeds == (0, 2) and len(shared.harm) == 2
    assert (
        conflict_and_harm.doses([r for r in made if not r["row"].startswith("digit")])
        == []
        == conflict_and_harm.doses([])
    )
    assert np.isfinite(conflict_and_harm.doses(made)[0].harm).all()


def test_change_pairs_two_doses_by_seed_and_is_after_minus_before():
    before = conflict_and_harm.doses(dose((0, 1, 2), "before"))[0]
    after = conflict_and_harm.doses(dose((3, 2, 1), "after"))[0]
    after = replace(after, harm=before.harm.max() + np.array([4.0, 6.0, 90.0]), negative=np.array([0.5, 0.6, 0.9]))
    assert before.seeds == (0, 1, 2) and after.seeds == (1, 2, 3)  # 1 and 2 in common
    difference = conflict_and_harm.change(before, after, "harm")
    expected = before.harm.max() + np.array([4.0, 6.0]) - before.harm[1:]
    assert difference.n == 2 and difference.mean == pytest.approx(expected.mean()) and difference.mean > 0
    assert conflict_and_harm.change(after, before, "harm").mean == -difference.mean
    assert conflict_and_harm.change(before, after, "negative").mean == pytest.approx((0.2 + 0.3) / 2)
    with pytest.raises(ValueError, match="2"):
        conflict_and_harm.change(before, conflict_and_harm.doses(dose((2,), "one"))[0], "harm")


def test_harm_has_a_direction_and_the_losses_alone_a_ratio():
    made = []
    for seed, error in ((0, 1.0), (1, 3.0)):
        both = {"mu": {"loss": 9, "MAE (D)": 2.2}, "alpha": {"loss": 9, "MAE (bohr³)": 3.0}}
        made.append(record("mu + alpha", seed, both, logged(0.5), "qm9"))
        for task, value, losses in (("mu", {"MAE (D)": error}, (1, 4)), ("alpha", {"MAE (bohr³)": 4.0}, (0.1, 0.1))):
            alone = record(f"alone {task}", seed, {task: {"loss": 1} | value}, None, "qm9")
            alone["final"]["validation"] = {task: {"loss": losses[seed]} | value}
            made.append(alone)
    networks = conflict_and_harm.pairs(made)
    ratio, harm = conflict_and_harm.directed(made, networks)
    assert ratio == pytest.approx([np.log(2 / 0.1)]), "the mean over seeds is one of logs"
    assert harm == pytest.approx(np.array([[10.0, -25.0]]))
    assert harm.mean(1) == pytest.approx([networks[0].harm.mean()])


@pytest.mark.parametrize(
    ("conflict", "lost", "words"),
    [
        ((1, 2), (3, 4), "more conflict, *and* more harm"),
        ((1, 2), (-4, -3), "more conflict, *but* less harm"),
        ((-2, -1), (3, 4), "less conflict, *but* more harm"),
        ((-2, -1), (-4, -3), "less conflict, *and* less harm"),
        ((-2, 1), (3, 4), "more harm, while conflict did not change detectably"),
        ((0, 1), (-4, -3), "less harm, while conflict did not change detectably"),
        ((1, 2), (0, 4), "more conflict, while harm did not change detectably"),
        ((-2, 1), (-3, 4), "neither conflict nor harm changed detectably"),
    ],
)
def test_words_follow_the_intervals(conflict, lost, words):
    made = [paired.PairedDifference((low + high) / 2, 1.0, 5, low, high, 0.1) for low, high in (conflict, lost)]
    assert conflict_and_harm.in_words(*made) == words
