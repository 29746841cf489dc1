r"""GradNorm: weights, learnt in every step, that bring the tasks' gradient norms to a common scale."""

import math

import torch
from torch import Tensor, nn

from mtl_core.linalg import check_finite, gradient_norms
from mtl_core.methods._state import LearnedParameters, check_positive
from mtl_core.methods.registry import WEIGHTING, Method, register


class GradNorm(LearnedParameters):
    r"""(K, D) gradients and (K,) losses -> (K,) weights.

    With $n_k = \|w_k \nabla_W L_k\|$ at the trunk's last layer W and the relative inverse training rate
    $\rho_k = (L_k / L_k^0) / \mathrm{mean}$, the weights descend $\sum_k |n_k - \bar n \rho_k^\alpha|$, the target
    held fixed; then they are scaled to sum to K. This step uses the weights as they were before.

    alpha  strength of the pull towards a common training rate; 1.5 for NYUv2 in the paper.

    A weight does not fall below `FLOOR`: the paper does not say what keeps it positive. Differs from LibMTL's, which
    takes all shared parameters and a softmax. A gradient of zero leaves its weight to the scaling alone.
    ValueError where the first losses are not positive, or a later one is negative.
    Source: Chen et al., ICML 2018, arXiv 1711.02257, equations 1 and 2.
    """

    start, FLOOR = 1.0, 1e-3
    task_state = {"weights": ("k", 1.0), "first": ("k", math.nan)}

    def __init__(self, alpha: float = 1.5):
        super().__init__()
        self.alpha = alpha
        self.weights = nn.Parameter(torch.empty(0))
        self.first: Tensor = nn.Buffer(torch.empty(0))  # the losses of the first step, (K,)

    def forward(self, matrix: Tensor, losses: Tensor) -> Tensor:
        if (losses < 0).any() or not self.first.numel() or self.first.isnan().any():
            check_positive(losses, "GradNorm's training rate")
        # A task's first loss:  L_k^0
        self.first = torch.where(self.first.isnan(), losses, self.first) if self.first.numel() else losses.clone()
        self.begin(losses)
        weights, norms = self.weights.detach().clone(), gradient_norms(matrix).to(losses)
        check_finite(norms)  # a float32 cannot hold the norm of every float32 gradient
        # Norms of the weighted gradients:  n_k = \|w_k \nabla_W L_k\|
        actual = weights * norms
        # How far behind each task is: its loss over its first loss, relative to the mean task
        # \rho_k = (L_k / L_k^0) / mean_i(L_i / L_i^0)
        rate = losses / self.first
        rate = rate / rate.mean() if rate.any() else torch.ones_like(rate)  # all losses zero: no task is behind
        # The norm that each task should have, a constant:  \bar n \rho_k^\alpha
        target = actual.mean() * rate**self.alpha
        # Slope of the distance to it:  \partial/\partial w_k \sum_k |w_k \|\nabla_W L_k\| - target_k|
        self.weights.grad = torch.sign(actual - target) * norms
        return weights

    @torch.no_grad()
    def learn(self, rule: tuple[str, float] | None) -> None:
        # A step of the optimizer along that slope, no weight below FLOOR
        super().learn(rule)
        self.weights.clamp_(min=self.FLOOR)
        # Scale the weights so that the learning rate stays what it is:  \sum_k w_k = K
        self.weights.mul_(len(self.weights) / self.weights.sum())


PAPER, SET = "Chen et al. 2018, arXiv 1711.02257", {"alpha": (1.5, "section 5 of the paper, NYUv2")}
AT, NEEDS = "last layer", ("gradients", "losses")
register(Method("gradnorm", "GradNorm", WEIGHTING, GradNorm, "sum", PAPER, SET, level=AT, needs=NEEDS, learns=True))
