"""What a layer's conflict score is compared with: chance."""

from scipy.special import betainc


def share_by_chance(threshold: float, size: int) -> float:
    r"""How often $\cos\varphi < S$ for two directions drawn at random in `size` dimensions, in closed form.

    For S ≤ 0 it is $\tfrac12 I_{1-S^2}(\tfrac{d-1}{2}, \tfrac12)$, I the regularised incomplete beta function: 1/2 at
    S = 0 for any size, and falling with size for S < 0. In one dimension the cosine is ±1.
    """
    if not -1 < threshold <= 0 or size < 1:
        raise ValueError(f"a threshold S lies in (-1, 0] and a size is at least 1, got {threshold} and {size}")
    return 0.5 if size == 1 else float(betainc((size - 1) / 2, 0.5, 1 - threshold**2) / 2)
