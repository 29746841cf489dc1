"""What a layer's conflict score is compared with: chance."""

import numpy as np
from scipy.special import betainc

from mtl_core.conflict import ConflictScores
from mtl_core.seeds import numpy_generator


def share_by_chance(threshold: float, size: int) -> float:
    r"""How often $\cos\varphi < S$ for two directions drawn at random in `size` dimensions, in closed form.

    For S ≤ 0 it is $\tfrac12 I_{1-S^2}(\tfrac{d-1}{2}, \tfrac12)$, I the regularised incomplete beta function: 1/2 at
    S = 0 for any size, and falling with size for S < 0. In one dimension the cosine is ±1.
    """
    if not -1 < threshold <= 0 or size < 1:
        raise ValueError(f"a threshold S lies in (-1, 0] and a size is at least 1, got {threshold} and {size}")
    return 0.5 if size == 1 else float(betainc((size - 1) / 2, 0.5, 1 - threshold**2) / 2)


def null_scores(scores: ConflictScores, threshold: float, draws: int = 1000, seed: int = 0) -> np.ndarray:
    """(draws, layer) scores under random signs: in each block one task's gradient is flipped or not.

    A flip exchanges the two tails of every pair with that task. Blocks, not iterations, because neighbouring
    iterations are alike.
    """
    counts = scores.at(threshold)  # (block, tail, layer, pair)
    i, j = np.triu_indices(scores.num_tasks, 1)
    signs = numpy_generator(seed, "null").integers(0, 2, (draws, len(counts), scores.num_tasks)) * 2 - 1
    flipped = signs[:, :, i] * signs[:, :, j] < 0  # (draw, block, pair)
    low, high = counts[:, 0], counts[:, 1]
    return low.sum(axis=(0, 2)) + np.einsum("dbp,blp->dl", flipped, high - low)
