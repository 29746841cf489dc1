r"""FAMO: task weights that let all losses fall at the same rate, learnt from the losses alone."""

import math

import torch
from torch import Tensor
from torchjd import scalarization

from mtl_core.methods._state import OwnNumbers, check_positive
from mtl_core.methods.registry import WEIGHTING, Method, register


class FAMO(OwnNumbers, scalarization.FAMO):
    r"""$c \sum_k z_k \log L_k$ with $z = \mathrm{softmax}(\xi)$ and $1/c = \sum_k z_k / L_k$; (K,) losses -> scalar.

    After the step `update(losses)` gets the losses of the same batch again and moves $\xi$ with an Adam of its own
    along $(\partial z/\partial\xi)^\top(\log L_\text{before} - \log L_\text{after})$. The training loop calls it after
    every step of the model's optimizer: one more forward pass.

    rate   learning rate of $\xi$.
    decay  its weight decay; in the paper 0.01 on Cityscapes, else 0.001; 1e-5, 0.001 and 0.01 in the released code.

    Differs from the released code: a loss that is not positive is a ValueError, not NaN. The rule is TorchJD's; here
    its optimizer is part of `state_dict()`. Source: Liu et al., NeurIPS 2023, arXiv 2306.03792, Algorithm 1.
    """

    learned = "_w"
    task_state = {"_w": ("k", 0.0), "_prev_losses": ("k", math.nan)}

    def __init__(self, rate: float = 0.025, decay: float = 1e-3):
        super().__init__(0, lr=rate, weight_decay=decay)
        self.min_losses = torch.zeros(())  # one bound for all

    def forward(self, losses: Tensor, /) -> Tensor:
        check_positive(losses, "FAMO")
        # The logits, one per task, start at zero:  \xi_k = 0
        self.begin(losses)
        # Weights on the simplex; c makes the step a convex combination of the task gradients:
        # z = softmax(\xi);  c = 1 / \sum_k z_k / L_k;  c \sum_k z_k \log L_k
        return super().forward(losses)

    def update(self, losses: Tensor, /) -> None:
        """Move the logits. Losses that are not finite leave them: the next step reports what has happened."""
        if not torch.isfinite(losses).all():
            return
        check_positive(losses, "FAMO")
        if self._optimizer is None:
            self.own(torch.optim.Adam([self._w], lr=self.lr, weight_decay=self.weight_decay))
        # How far each log-loss fell in the step; a task that fell less gets more weight:
        # \xi \leftarrow Adam(\xi, (\partial z / \partial \xi)^\top (\log L_before - \log L_after))
        super().update(losses)


PAPER, NEEDS = "Liu et al. 2023, arXiv 2306.03792", ("losses", "losses after the step")
DEFAULTS = {"rate": (0.025, "github.com/Cranial-XIX/FAMO"), "decay": (1e-3, "section 5.2 of the paper")}
PRESETS = {"famo": {"decay": 0.01}, "samgs": {"decay": 1e-3}}
register(Method("famo", "FAMO", WEIGHTING, FAMO, "mean", PAPER, DEFAULTS, PRESETS, needs=NEEDS))
