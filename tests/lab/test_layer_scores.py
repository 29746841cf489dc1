"""What layer scores are compared with: random directions."""

import pytest
import torch

from mtl_lab.statistics.layer_scores import share_by_chance


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
