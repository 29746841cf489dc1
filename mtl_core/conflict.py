r"""What is read off the matrix of task gradients: cosines, magnitudes, layer-wise conflict scores.

Two gradients conflict where the cosine of their angle is negative; a layer conflicts where the two
parts that belong to that layer do. Recon (arXiv 2302.11289, section 3) scores a shared layer by
$s^{(l)} = \sum_t \#\{i<j : \cos\varphi_{ij}^{(l)}(t) < S\}$, the count over iterations t and pairs of
tasks of cosines below a threshold $-1 < S \le 0$.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from scipy.special import betainc
from torch import Tensor

from mtl_core.gradients import NonFiniteGradientError, TaskGradients
from mtl_core.linalg import gram


def cosines(matrix: Tensor) -> Tensor:
    r"""$\cos\varphi_{ij} = g_i \cdot g_j / (\|g_i\| \|g_j\|)$ of each pair of tasks, (K, D) -> (K(K-1)/2,).

    The pairs are in the order (0,1), (0,2), … (1,2), …. A zero gradient has cosine 0 with every other: no gradient,
    no conflict. NaN in, NaN out.
    """
    # Each gradient by its largest entry first: at 1e-30 or 1e30 its squares would leave the range of float32
    largest = matrix.abs().amax(dim=1, keepdim=True) if matrix.shape[1] else matrix.new_zeros(len(matrix), 1)
    products = gram(matrix / largest.masked_fill(largest == 0, 1))
    lengths = products.diagonal().sqrt()
    lengths = lengths.masked_fill(lengths == 0, 1)
    # Inner products over lengths, of the pairs i < j:  G_ij / (n_i n_j)
    i, j = torch.triu_indices(len(matrix), len(matrix), 1, device=matrix.device)
    return (products[i, j] / (lengths[i] * lengths[j])).clamp(-1, 1).to(matrix.dtype)


def magnitude_similarity(norms: Tensor) -> Tensor:
    r"""$\psi_{ij} = 2 n_i n_j / (n_i^2 + n_j^2)$ of each pair of gradient norms, (K,) -> (K(K-1)/2,), float64.

    In [0, 1]: 1 where the norms are equal, two zeros included; 0 where just one is zero. Computed from
    the ratio of the norms, so that squares of tiny norms do not vanish. NaN in, NaN out.
    Source: SAM-GS, arXiv 2506.06130, the pairwise gradient magnitude similarity.
    """
    norms = norms.double()
    i, j = torch.triu_indices(len(norms), len(norms), 1, device=norms.device)
    large = torch.maximum(norms[i], norms[j])
    ratio = torch.where(large == 0, 1.0, torch.minimum(norms[i], norms[j]) / large)
    return 2 * ratio / (1 + ratio**2)


def share_by_chance(threshold: float, size: int) -> float:
    r"""How often $\cos\varphi < S$ for two directions drawn at random in `size` dimensions, in closed form.

    For S ≤ 0 it is $\tfrac12 I_{1-S^2}(\tfrac{d-1}{2}, \tfrac12)$, I the regularised incomplete beta function: 1/2 at
    S = 0 for any size, and falling with size for S < 0. In one dimension the cosine is ±1.
    """
    if not -1 < threshold <= 0 or size < 1:
        raise ValueError(f"a threshold S lies in (-1, 0] and a size is at least 1, got {threshold} and {size}")
    return 0.5 if size == 1 else float(betainc((size - 1) / 2, 0.5, 1 - threshold**2) / 2)


class ConflictScores:
    """Layer-wise conflict scores, counted over the iterations of a search run.

    layers      names of the shared layers, in registration order (ties keep it).
    num_tasks   K, at least 2 (ValueError).
    thresholds  S values, -1 < S <= 0 (ValueError). For each, both tails are counted: cos < S (the score) and
                its mirror cos > -S, per layer and pair of tasks.

    counts      (tail, threshold, layer, pair): tail 0 counts cos < S, tail 1 its mirror.

    A layer is one module with parameters; weight and bias form one vector. The comparison is strict;
    a zero gradient never counts. The counts stay on the gradients' device until they are read.
    Differs from the released code: there vectors shorter than 1e-12 have a damped cosine.
    Source: Shi et al., ICLR 2023, arXiv 2302.11289, section 3.
    """

    def __init__(self, layers: Sequence[str], num_tasks: int, thresholds: Iterable[float] = (0.0, -0.1)):
        thresholds = tuple(thresholds)
        if num_tasks < 2:
            raise ValueError(f"conflict needs two tasks or more, got num_tasks={num_tasks}")
        for threshold in thresholds:
            if not -1 < threshold <= 0:
                raise ValueError(f"a threshold S lies in (-1, 0], got {threshold}")
        self.layers, self.num_tasks = list(layers), num_tasks
        self.thresholds, self.iterations = thresholds, 0
        pairs = num_tasks * (num_tasks - 1) // 2
        self.counts = torch.zeros(2, len(thresholds), len(self.layers), pairs, dtype=torch.int64)

    def update(self, gradients: TaskGradients | Mapping[str, Tensor]) -> None:
        """Count one iteration: layer name -> (K, D_l) gradients, or a `TaskGradients`.

        ValueError where a layer is missing or has another number of tasks; NonFiniteGradientError on NaN.
        """
        views = gradients.layers if isinstance(gradients, TaskGradients) else gradients
        missing = [name for name in self.layers if name not in views]
        if missing:
            raise ValueError(f"no gradient for the layers {', '.join(missing)}; there are {', '.join(views)}")
        sizes = {len(views[name]) for name in self.layers}
        if sizes != {self.num_tasks}:
            raise ValueError(f"{self.num_tasks} tasks need as many gradients of each layer, got {sorted(sizes)}")
        # Cosines of all pairs of tasks in each layer, (layer, pair):  \cos\varphi_ij^(l)
        table = torch.stack([cosines(views[name]) for name in self.layers])
        if views is gradients and table.isnan().any():  # a TaskGradients has been checked by the engine
            raise NonFiniteGradientError("a layer's gradient holds NaN: check the gradients before scoring them")
        limits = torch.tensor(self.thresholds, dtype=table.dtype, device=table.device)[:, None, None]
        # One more where the cosine is below the threshold, and in the other tail:  cos < S;  cos > -S
        self.counts = self.counts.to(table.device) + torch.stack([table < limits, table > -limits])
        self.iterations += 1

    def _of(self, tail: int, threshold: float) -> dict[str, int]:
        if threshold not in self.thresholds:
            raise ValueError(f"threshold {threshold} was not counted; counted were {self.thresholds}")
        totals = self.counts[tail, self.thresholds.index(threshold)].sum(1)
        return dict(zip(self.layers, totals.tolist(), strict=True))

    def scores(self, threshold: float) -> dict[str, int]:
        """The S-conflict score of each layer: how many (iteration, pair) had cos < S."""
        return self._of(0, threshold)

    def mirror(self, threshold: float) -> dict[str, int]:
        """The same for cos > -S: the expected score if the sign of a cosine were a matter of chance."""
        return self._of(1, threshold)

    def ranking(self, threshold: float) -> list[str]:
        """Layers by falling score; ties keep registration order."""
        scores = self.scores(threshold)
        return sorted(self.layers, key=lambda layer: -scores[layer])

    def state_dict(self) -> dict[str, Any]:
        return {"iterations": self.iterations, "counts": self.counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.iterations, self.counts = state["iterations"], state["counts"]
