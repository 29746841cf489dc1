r"""SAM-GS: equalise the task gradients where their magnitudes differ, use momentum where they agree.

Borsani, Rosani, Nicosia, Di Fatta: *Gradient Similarity Surgery in Multi-Task Deep Learning*,
ECML PKDD 2025, arXiv 2506.06130, Algorithm 1. Written from the paper's equations and from the
observed behaviour of the released class; where the two differ, this follows the released class.
"""

import math

import torch
from torch import Tensor
from torchjd.aggregation import Aggregator

from mtl_core.conflict import CHUNK, magnitude_similarity, row_norms
from mtl_core.gradients import NonFiniteGradientError
from mtl_core.methods.own_parameters import ShapedByLoading


class SAMGS(ShapedByLoading, Aggregator):
    r"""Similarity-aware momentum gradient surgery: (K, D) -> (D,), before any scaling or clipping.

    gamma  threshold of the overall magnitude similarity $\Psi$ below which gradients are equalised;
           0 never equalises, 1 always does unless all norms are equal.
    beta1  decay of the first moments m_k, one vector per task.
    beta2  decay of h, the second moment of the dissimilarity, one scalar.
    epsilon  added to h in every step.
    variant  "released": the class that trains the vision experiments. "printed": Algorithm 1 to the letter: $\Psi$ is
           the mean over all K² pairs, the diagonal included; the equalised branch multiplies by g_k once more,
           $\bar n \sum_k g_k \odot g_k / n_k$; $\epsilon$ is added to $\sqrt{\hat h}$ too. "reinforcement": the
           function of the MT10 experiments: the gate looks at the smallest $\psi_{ij}$, h at the mean; m starts as ones
           but for a zero in the first column, and matrices of any width share it, cut or filled up with ones.

    State (buffers): `momentum` (K, D), `dissimilarity` (), `steps` (). It loads into a fresh instance.

    Defined where the formula is not: a zero gradient takes no part in the equalised sum, and counts in its
    mean norm; $\Psi = 1$ where all gradients are zero and for K = 1. Raises NonFiniteGradientError on NaN or
    infinity, and where the momentum branch, quadratic in the gradients' scale, leaves the range of the dtype;
    ValueError on a matrix of another shape than the first one.

    Differs from the paper's text, as the released class does: see `variant`.
    """

    def __init__(self, gamma: float = 0.1, beta1: float = 0.9, beta2: float = 0.99, epsilon: float = 1e-8,
                 variant: str = "released"):  # fmt: skip
        super().__init__()
        if variant not in ("released", "printed", "reinforcement"):
            raise ValueError(f"variant is 'released', 'printed' or 'reinforcement', got {variant!r}")
        self.variant = variant
        for name, value, top in (("gamma", gamma, True), ("beta1", beta1, False), ("beta2", beta2, False)):
            if not 0 <= value <= 1 or (value == 1 and not top):
                raise ValueError(f"{name} must lie in [0, 1{']' if top else ')'}, got {value}")
        if epsilon <= 0:
            raise ValueError(f"epsilon must be positive, got {epsilon}")
        self.gamma, self.beta1, self.beta2, self.epsilon = gamma, beta1, beta2, epsilon
        self.register_buffer("momentum", torch.empty(0, 0))
        self.register_buffer("dissimilarity", torch.zeros((), dtype=torch.float64))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def forward(self, matrix: Tensor, /) -> Tensor:
        if self.variant == "reinforcement":
            self.momentum = self._ones_beyond(matrix)
        elif self.steps == 0:
            self.momentum = torch.zeros_like(matrix)
        if matrix.shape != self.momentum.shape:
            raise ValueError(f"SAM-GS has state for a matrix of shape {tuple(self.momentum.shape)}, got "
                             f"{tuple(matrix.shape)}: make a new instance for another problem")  # fmt: skip
        norms = _finite_norms(matrix)  # n_k = ||g_k||, (K,)

        # \Psi = mean_{i<j} 2 n_i n_j / (n_i^2 + n_j^2)
        pairs = magnitude_similarity(norms) if len(norms) > 1 else norms.new_ones(1)
        similarity = pairs.mean().item()
        if self.variant == "printed":  # the mean over i and j, with \psi_{ii} = 1
            similarity = (1 + (len(norms) - 1) * similarity) / len(norms)
        gate = pairs.min().item() if self.variant == "reinforcement" else similarity

        # t <- t + 1;  m_k <- \beta_1 m_k + (1 - \beta_1) g_k;  h <- \beta_2 h + (1 - \beta_2)(1 - \Psi)^2 + \epsilon
        self.steps += 1
        self.momentum.lerp_(matrix, 1 - self.beta1)
        self.dissimilarity.mul_(self.beta2).add_((1 - self.beta2) * (1 - similarity) ** 2 + self.epsilon)

        if gate < self.gamma:
            # u = \bar n \sum_k g_k / n_k;  printed: \bar n \sum_k g_k \odot g_k / n_k
            return _equalised(matrix * matrix if self.variant == "printed" else matrix, norms)
        # \hat m_k = m_k / (1 - \beta_1^t);  \hat h = h / (1 - \beta_2^t)
        # u = \sum_k g_k \odot |\hat m_k| / \sqrt{\hat h}
        step = self.steps.item()
        second = self.dissimilarity.item() / (1 - self.beta2**step)
        root = math.sqrt(second) + (self.epsilon if self.variant == "printed" else 0)
        gain = 1 / ((1 - self.beta1**step) * root)
        update = torch.empty_like(matrix[0])
        for columns in zip(matrix.split(CHUNK, 1), self.momentum.split(CHUNK, 1), update.split(CHUNK), strict=True):
            gradients, moments, place = columns
            torch.sum(gradients * moments.abs(), 0, out=place).mul_(gain)
        if not torch.isfinite(update.sum()) and not torch.isfinite(update).all():  # the sum alone may overflow
            raise NonFiniteGradientError(f"SAM-GS's momentum branch is quadratic in the gradients and overflowed: the "
                                         f"largest norm is {norms.max():.1e}. Scale the losses down.")  # fmt: skip
        return update

    def _ones_beyond(self, matrix: Tensor) -> Tensor:
        """The reinforcement variant's momentum for a matrix of another width: cut, or filled up with ones."""
        kept = self.momentum if self.steps else matrix.new_zeros(len(matrix), 1)
        new = torch.ones_like(matrix)
        width = min(kept.shape[1], matrix.shape[1])
        new[:, :width] = kept[:, :width]
        return new


def _finite_norms(matrix: Tensor) -> Tensor:
    """Row norms on the host. NonFiniteGradientError on NaN or infinity, with the tasks that have it."""
    norms = row_norms(matrix).cpu()
    bad = [k for k, finite in enumerate(norms.isfinite().tolist()) if not finite]
    if bad:
        raise NonFiniteGradientError(
            f"expected finite gradients, got NaN or infinity for task {', '.join(map(str, bad))}"
        )
    return norms


def _equalised(matrix: Tensor, norms: Tensor) -> Tensor:
    return _equalised_to(matrix, norms, norms.mean())


def _equalised_to(matrix: Tensor, norms: Tensor, length: Tensor) -> Tensor:
    """The sum of the rows, each brought to `length`; a zero row takes no part."""
    weights = torch.where(norms > 0, length / norms, 0.0)
    if weights.max() > torch.finfo(matrix.dtype).max:  # norms that differ by more than float32 can hold
        return (weights.to(matrix.device) @ matrix.double()).to(matrix.dtype)
    return weights.to(matrix) @ matrix
