r"""SAM-GS: equalise the task gradients where their magnitudes differ, use momentum where they agree.

Borsani, Rosani, Nicosia, Di Fatta: *Gradient Similarity Surgery in Multi-Task Deep Learning*,
ECML PKDD 2025, arXiv 2506.06130, Algorithm 1. Written from the paper's equations and from the
observed behaviour of the released class; where the two differ, this follows the released class.
"""

import math

import torch
from torch import Tensor, nn
from torchjd.aggregation import Aggregator

from mtl_core.conflict import magnitude_similarity
from mtl_core.gradients import NonFiniteGradientError
from mtl_core.linalg import CHUNK, equalised, finite_norms
from mtl_core.methods._state import ShapedByLoading, check_shape
from mtl_core.methods.registry import AGGREGATION, Method, register


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

    task_state = {"momentum": ("kd", 0.0)}

    def __init__(self, gamma=0.1, beta1=0.9, beta2=0.99, epsilon=1e-8, variant: str = "released"):
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
        self.momentum: Tensor = nn.Buffer(torch.empty(0, 0))
        self.dissimilarity: Tensor = nn.Buffer(torch.zeros((), dtype=torch.float64))
        self.steps: Tensor = nn.Buffer(torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def forward(self, matrix: Tensor, /) -> Tensor:
        if self.variant == "reinforcement":  # for a matrix of another width: cut, or filled up with ones
            kept = self.momentum if self.steps else matrix.new_zeros(len(matrix), 1)
            self.momentum = nn.functional.pad(kept, (0, matrix.shape[1] - kept.shape[1]), value=1.0)
        elif self.steps == 0:
            self.momentum = torch.zeros_like(matrix)
        check_shape(matrix, self.momentum, "SAM-GS")

        # Norms of the task gradients:  n_k = \|g_k\|
        norms = finite_norms(matrix)

        # How alike they are, over all pairs of tasks:  \Psi = mean_{i<j} 2 n_i n_j / (n_i^2 + n_j^2)
        pairs = magnitude_similarity(norms) if len(norms) > 1 else norms.new_ones(1)
        similarity = pairs.mean().item()
        if self.variant == "printed":  # the mean over i and j, with \psi_{ii} = 1
            similarity = (1 + (len(norms) - 1) * similarity) / len(norms)
        gate = pairs.min().item() if self.variant == "reinforcement" else similarity

        # Second moment of the dissimilarity, one number:  h <- \beta_2 h + (1 - \beta_2)(1 - \Psi)^2 + \epsilon
        self.steps += 1
        self.dissimilarity.mul_(self.beta2).add_((1 - self.beta2) * (1 - similarity) ** 2 + self.epsilon)

        # Where norms differ, \Psi < \gamma, the gradients at their mean norm:  u = \bar n \sum_k g_k / n_k
        # (printed:  \bar n \sum_k g_k \odot g_k / n_k)
        if gate < self.gamma:
            self.momentum.lerp_(matrix, 1 - self.beta1)
            return equalised(matrix * matrix if self.variant == "printed" else matrix, norms, norms.mean())

        # Where they agree, moments without their start at zero:  m_k / (1 - \beta_1^t);  \hat h = h / (1 - \beta_2^t)
        step = self.steps.item()
        second = self.dissimilarity.item() / (1 - self.beta2**step)
        root = math.sqrt(second) + (self.epsilon if self.variant == "printed" else 0)
        gain = 1 / ((1 - self.beta1**step) * root)
        update, width = torch.empty_like(matrix[0]), max(CHUNK // len(matrix), 1)
        chunks = zip(matrix.split(width, 1), self.momentum.split(width, 1), update.split(width), strict=True)
        for gradients, moments, part in chunks:
            # First moment of each gradient:  m_k <- \beta_1 m_k + (1 - \beta_1) g_k
            moments.lerp_(gradients, 1 - self.beta1)
            # Each gradient times the size of its moment, by entries:  u = \sum_k g_k \odot |\hat m_k| / \sqrt{\hat h}
            torch.sum(gradients * moments.abs(), 0, out=part).mul_(gain)
        if not torch.isfinite(update.sum()) and not torch.isfinite(update).all():  # the sum alone may overflow
            what = "SAM-GS's momentum branch is quadratic in the gradients"
            raise NonFiniteGradientError(f"{what} and overflowed at norm {norms.max():.1e}. Scale the losses down.")
        return update


PAPER = "Borsani et al. 2025, arXiv 2506.06130"
DEFAULTS = {"gamma": (0.1, "Algorithm 1"), "beta1": (0.9, "Algorithm 1"), "beta2": (0.99, "Algorithm 1")}
PRESETS: dict[str, dict] = {"samgs": {"gamma": 0.7, "beta2": 0.99}, "mtrl": {"gamma": 0.9, "variant": "reinforcement"}}
register(Method("sam_gs", "SAM-GS", AGGREGATION, SAMGS, "sum", PAPER, DEFAULTS, PRESETS))
