"""What RotoGrad's halves add: pairs by seed, and the sentence that says which half it is."""

import numpy as np
import pytest

from mtl_lab.experiments.two_digits import EFFECTS, effects, untrained, which_half

ROWS = ("equal", "rotate_only", "scale_only", "rotograd")


def test_effects_are_paired_by_seed_over_the_seeds_that_all_four_have():
    common = {seed: 10.0 * seed for seed in range(5)}  # of a seed, in every row
    adds = {"equal": 0.0, "rotate_only": 1.0, "scale_only": 3.0, "rotograd": 4.5}
    delta = {row: {seed: value + adds[row] for seed, value in common.items()} for row in ROWS}
    delta["rotograd"] = dict(reversed(delta["rotograd"].items()))
    del delta["scale_only"][2]
    halves = effects(delta)
    assert list(halves) == list(EFFECTS)
    for values, wanted in zip(halves.values(), (1.0, 1.5, 3.0, 3.5), strict=True):
        np.testing.assert_allclose(values, [wanted] * 4)
    assert all(len(values) == 0 for values in effects({**delta, "equal": {}}).values())


def test_a_single_task_network_that_learned_nothing_is_named_with_its_seeds():
    def record(row, task, loss, seed):
        return {"row": row, "config": {"seed": seed}, "final": {"test": {task: {"loss": loss}}}}

    made = [
        record("single sum", "sum", 1.02, 4),
        record("single sum", "sum", 0.2, 5),
        record("equal", "sum", 1.02, 6),
        record("single left digit", "left digit", 2.3, 7),
    ]
    made += [record("single active pixels", "active pixels", 0.95, seed) for seed in (8, 9)]
    assert untrained(made) == {"sum": [4], "active pixels": [8, 9]}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("equivalent", "equivalent", "better", "better"),
            "Scaling clearly helps; the other half does not clearly matter.",
        ),
        (
            ("worse", "worse", "cannot decide", "cannot decide"),
            "Rotating clearly harms; the other half does not clearly matter.",
        ),
        (
            ("worse", "better", "better", "better"),
            "Rotating clearly matters, with another sign beside the other half and scaling clearly helps.",
        ),
        (("equivalent",) * 4, "Neither half of RotoGrad matters here."),
        (
            ("worse (amount uncertain)", "cannot decide", "equivalent", "better (amount uncertain)"),
            "Neither half is shown to matter by more than 2 points. Rotating alone does some harm, and scaling helps "
            "once features are rotated.",
        ),
        (
            ("cannot decide", "cannot decide", "worse (amount uncertain)", "cannot decide"),
            "Neither half is shown to matter by more than 2 points. Scaling alone does some harm.",
        ),
        (
            ("equivalent", "better", "worse (amount uncertain)", "cannot decide"),
            "Rotating clearly helps once features are scaled, and scaling alone does some harm. Whether any other "
            "effect exceeds the margin of 2 points is not sure.",
        ),
        (("cannot decide", "equivalent") * 2, "Neither half of RotoGrad clearly matters here."),
    ],
)
def test_which_half(words, said):
    assert which_half(dict(zip(EFFECTS, words, strict=True)), 2.0) == said
