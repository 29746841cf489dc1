r"""What is read off the matrix of task gradients: cosines, magnitudes, layer-wise conflict scores.

Two gradients conflict where the cosine of their angle is negative; a layer conflicts where the two
parts that belong to that layer do. Recon (arXiv 2302.11289, section 3) scores a shared layer by
$s^{(l)} = \sum_t \#\{i<j : \cos\varphi_{ij}^{(l)}(t) < S\}$, the count over iterations t and pairs of
tasks of cosines below a threshold $-1 < S \le 0$.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
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


class ConflictScores:
    """Layer-wise conflict scores, counted over the iterations of a search run.

    layers      names of the shared layers, in registration order (ties keep it). None: those of the first update.
                A name such as `recon.candidate_layers` gives for a module with others inside means all of these.
    num_tasks   K, at least 2 (ValueError). None: the largest number of tasks seen; where a larger one comes, the
                counts begin anew, since only iterations with all tasks compare the same pairs.
    thresholds  S values, -1 < S <= 0 (ValueError). For each, both tails are counted: cos < S (the score) and
                the positive tail cos > -S, per layer, pair of tasks and block of `block` iterations.

    A layer is one module with parameters; weight and bias form one vector. The comparison is strict;
    a zero gradient never counts. The counts stay on the gradients' device until they are read.
    `ConflictScores().attach(balancer)` counts each step of a training loop of your own. Steps in which a task is absent
    are not counted, nor those before counting began anew: `skipped` says how many. Which task is absent is not known
    here: until all have been seen in one step, the pairs may be of different tasks.
    Differs from the released code: there vectors shorter than 1e-12 have a damped cosine.
    Source: Shi et al., ICLR 2023, arXiv 2302.11289, section 3.
    """

    def __init__(self, layers: Any = None, num_tasks: Any = None, thresholds: Any = (0.0, -0.1), block: int = 50):
        self.thresholds, self.block, self.iterations, self.skipped = tuple(thresholds), block, 0, 0
        if num_tasks is not None and num_tasks < 2:
            raise ValueError(f"conflict needs two tasks or more, got num_tasks={num_tasks}")
        if wrong := [threshold for threshold in self.thresholds if not -1 < threshold <= 0]:
            raise ValueError(f"a threshold S lies in (-1, 0], got {wrong[0]}")
        self._given_layers: list[str] = list(layers or [])
        self.layers, self.num_tasks, self._finds_tasks = self._given_layers, num_tasks or 0, num_tasks is None
        self._blocks: list[Tensor] = []  # each (tail, threshold, layer, pair), int64

    def update(self, gradients: TaskGradients | Mapping[str, Tensor]) -> None:
        """Count one iteration: layer name -> (K, D_l) gradients, or a `TaskGradients`.

        ValueError where a layer is missing or has another number of tasks; NonFiniteGradientError on NaN.
        """
        views = gradients.layers if isinstance(gradients, TaskGradients) else gradients
        sizes = {len(view) for view in views.values()}
        if self._finds_tasks and max(sizes, default=0) > self.num_tasks:
            self.layers, self.num_tasks, self.skipped = self._given_layers, max(sizes), self.skipped + self.iterations
            self.iterations, self._blocks = 0, []
        self.layers = self.layers or list(views)
        # A layer may be several modules, and a Balancer names those of a MultiTaskModel from the whole model
        inside, starts = sorted(views.keys() - self.layers), [(f"{name}.", f"trunk.{name}.") for name in self.layers]
        parts = [[n for n in (start[0][:-1], *inside) if n in views and f"{n}.".startswith(start)] for start in starts]
        if missing := [name for name, found in zip(self.layers, parts, strict=True) if not found]:
            raise ValueError(f"no gradient for the layers {', '.join(missing)}; there are {', '.join(views)}")
        if sizes != {self.num_tasks} or self.num_tasks < 2:
            raise ValueError(f"{max(self.num_tasks, 2)} tasks need as many rows in each layer, got {sorted(sizes)}")
        # Cosines of all pairs of tasks in each layer, (layer, pair):  \cos\varphi_ij^(l)
        table = torch.stack([cosines(torch.cat([views[n] for n in part], dim=1)) for part in parts])
        if views is gradients and table.isnan().any():  # a TaskGradients has been checked by the engine
            raise NonFiniteGradientError("a layer's gradient holds NaN: check the gradients before scoring them")
        if self.iterations % self.block == 0:
            self._blocks.append(table.new_zeros(2, len(self.thresholds), *table.shape, dtype=torch.int64))
        limits = torch.tensor(self.thresholds, dtype=table.dtype, device=table.device)[:, None, None]
        # One more where the cosine is below the threshold, and in the other tail:  cos < S;  cos > -S
        self._blocks[-1] += torch.stack([table < limits, table > -limits])
        self.iterations += 1

    def attach(self, balancer: Any) -> "ConflictScores":
        """Count each step of a `Balancer` from now on; returns itself."""
        balancer.observers.append(self)
        return self

    def __call__(self, gradients: TaskGradients) -> None:
        """As an observer of a `Balancer`: a step with fewer tasks than before, or with nothing shared, is skipped."""
        if len(gradients.matrix) < max(self.num_tasks, 2) or not gradients.layers:
            self.skipped += 1
        else:
            self.update(gradients)

    def counts(self) -> np.ndarray:
        """(block, tail, threshold, layer, pair): tail 0 counts cos < S, tail 1 the positive tail cos > -S."""
        pairs = self.num_tasks * (self.num_tasks - 1) // 2
        none = torch.zeros(0, 2, len(self.thresholds), len(self.layers), pairs, dtype=torch.int64)
        return torch.cat([none, *[block[None].cpu() for block in self._blocks]]).numpy()

    def at(self, threshold: float) -> np.ndarray:
        """`counts` of one threshold: (block, tail, layer, pair). ValueError where it was not counted."""
        if threshold not in self.thresholds or not self.layers:
            raise ValueError(f"{threshold} was not counted; counted are {self.thresholds} in {len(self.layers)} layers")
        return self.counts()[:, :, self.thresholds.index(threshold)]

    def scores(self, threshold: float) -> dict[str, int]:
        """The S-conflict score of each layer: how many (iteration, pair) had cos < S."""
        return dict(zip(self.layers, self.at(threshold)[:, 0].sum(axis=(0, 2)).tolist(), strict=True))

    def mirror(self, threshold: float) -> dict[str, int]:
        """The same for cos > -S: the expected score if the sign of a cosine were a matter of chance."""
        return dict(zip(self.layers, self.at(threshold)[:, 1].sum(axis=(0, 2)).tolist(), strict=True))

    def ranking(self, threshold: float) -> list[str]:
        """Layers by falling score; ties keep registration order."""
        return sorted(self.layers, key=self.scores(threshold).__getitem__, reverse=True)

    def state_dict(self) -> dict[str, Any]:
        return {"found": (self.layers, self.num_tasks, self.iterations), "blocks": [b.cpu() for b in self._blocks]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.layers, self.num_tasks, self.iterations = state["found"]
        self._blocks = [block.clone() for block in state["blocks"]]
