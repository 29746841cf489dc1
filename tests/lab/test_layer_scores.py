"""What layer scores are compared with: random signs of a task's gradient, random directions."""

import numpy as np
import pytest
import torch
from engine import matrix_of, random_iterations, scored

from mtl_core.seeds import numpy_generator
from mtl_lab.statistics.layer_scores import null_scores, share_by_chance


def test_null_scores_by_hand():
    """Two tasks, one layer, two blocks of one iteration: cos -1 in the first, +1 in the second."""
    scores = scored([{"A": matrix_of([1.0], [-1.0])}, {"A": matrix_of([1.0], [1.0])}], thresholds=(0.0,), block=1)
    null = null_scores(scores, 0.0, draws=500, seed=4)
    assert null.shape == (500, 1)
    signs = numpy_generator(4, "null").integers(0, 2, (500, 2, 2)) * 2 - 1
    flipped = signs.prod(axis=2) < 0
    by_hand = (~flipped[:, 0]).astype(int) + flipped[:, 1]  # block 1 counts unless flipped, block 2 if flipped
    assert np.array_equal(null[:, 0], by_hand)
    assert 0.15 < (null == 0).mean() < 0.35 and 0.15 < (null == 2).mean() < 0.35
    assert np.array_equal(null, null_scores(scores, 0.0, draws=500, seed=4))
    assert not np.array_equal(null, null_scores(scores, 0.0, draws=500, seed=5))


def test_null_flips_all_pairs_of_a_task_together_and_one_sign_per_block():
    scores = scored(random_iterations(2, 40, K=4), thresholds=(0.0, -0.1), block=10)
    null = null_scores(scores, -0.1, draws=50, seed=1)
    counts = scores.counts()[:, :, 1]
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    signs = numpy_generator(1, "null").integers(0, 2, (50, 4, 4)) * 2 - 1
    for draw in range(50):
        for layer in range(3):
            total = sum(
                counts[b, int(signs[draw, b, i] != signs[draw, b, j]), layer, p]
                for b in range(4)
                for p, (i, j) in enumerate(pairs)
            )
            assert null[draw, layer] == total
    assert null_scores(scores, 0.0).shape == (1000, 3)


def test_share_by_chance_is_that_of_random_directions():
    generator = torch.Generator().manual_seed(0)
    for size in (1, 2, 3, 10, 200):
        pairs = torch.randn(2, 20_000, size, generator=generator, dtype=torch.float64)
        found = torch.cosine_similarity(*pairs, dim=1) if size > 1 else torch.sign(pairs[0] * pairs[1])[:, 0]
        for threshold in (0.0, -0.1, -0.6):
            share = float((found < threshold).double().mean())
            assert share_by_chance(threshold, size) == pytest.approx(share, abs=0.012)
    assert share_by_chance(-0.5, 2) == pytest.approx(1 / 3), "a third of the circle's half turns"
    with pytest.raises(ValueError, match="a size is at least 1, got -0.1 and 0"):
        share_by_chance(-0.1, 0)
