"""Loss weightings that need more than TorchJD gives: state that can be saved, and errors that name the task."""

import copy

import torch
from torch import Tensor, nn
from torchjd import scalarization

from mtl_core.conflict import row_norms
from mtl_core.methods.own_parameters import OwnParameters, positive


class GeometricMean(scalarization.GeometricMean):
    r"""$(\prod_k L_k)^{1/K}$, (K,) losses -> scalar; losses must be positive.

    The direction of the sum of logs, times the geometric mean. TorchJD's, which accepts a loss of 0 and gives NaN
    gradients there. Source: Chennupati et al., MultiNet++, CVPR Workshops 2019.
    """

    def forward(self, losses: Tensor, /) -> Tensor:
        positive(losses, "the geometric mean")
        return super().forward(losses)


class DWA(scalarization.DWA):
    r"""Dynamic weight average: $\sum_k w_k L_k$ with $w = K\,\mathrm{softmax}(r / T)$, (K,) losses -> scalar.

    $r_k$ is the mean loss of the last window of steps over that of the window before; the weights are 1 until
    there are two windows.

    window       steps of a window. The paper's is an epoch: give the number of steps of one.
    temperature  T.

    Differs from nash-mtl's, which slides over the last 2 x 25 losses, starts from losses of one, and takes the mean
    over tasks. TorchJD's rule, with its history in `state_dict()`.
    Source: Liu, Johns, Davison, CVPR 2019, arXiv 1803.10704, equation 7.
    """

    def __init__(self, window: int = 25, temperature: float = 2.0):
        super().__init__(temperature)
        if window < 1:
            raise ValueError(f"a window has at least one step, got {window}")
        self.window = window

    def forward(self, losses: Tensor, /) -> Tensor:
        if self._n_batches == self.window:
            self.step()
        return super().forward(losses)

    def get_extra_state(self) -> dict:
        return {"sum": self._loss_sum, "steps": self._n_batches, "averages": self._previous_averages}

    def set_extra_state(self, state: dict) -> None:
        self._loss_sum, self._n_batches = state["sum"], state["steps"]
        self._previous_averages = list(state["averages"])


class Uncertainty(OwnParameters, scalarization.UW):
    r"""$\sum_k \frac12 e^{-s_k} L_k + \frac12 s_k$, the log-variances s learnt; (K,) losses -> scalar.

    s starts at 0, so that the step starts as half the sum. The convention's `own_optimizer` moves s; in the released
    code of SAM-GS, and on CelebA in FAMO's, nothing does, and the weighting is half the sum for ever.
    Source: Kendall, Gal, Cipolla, CVPR 2018, arXiv 1705.07115; the factor 1/2 at every task is that of the codes.
    """

    own = "log_var"

    def __init__(self):
        super().__init__(0)

    def forward(self, losses: Tensor, /) -> Tensor:
        self.begin(losses)
        return super().forward(losses)


class IMTLL(OwnParameters, scalarization.IMTLL):
    r"""$\sum_k e^{s_k} L_k - s_k$, the log-scales s learnt; (K,) losses -> scalar.

    s starts at 0; the optimum is $e^{s_k} = 1/L_k$. Twice the uncertainty weighting of −s.
    Source: Liu et al., ICLR 2021, section 3.2 (loss balance).
    """

    own = "log_scale"

    def __init__(self):
        super().__init__(0)

    def forward(self, losses: Tensor, /) -> Tensor:
        self.begin(losses)
        return super().forward(losses)


class FAMO(scalarization.FAMO):
    r"""$c \sum_k z_k \log L_k$ with $z = \mathrm{softmax}(\xi)$ and $1/c = \sum_k z_k / L_k$; (K,) losses -> scalar.

    After the step `update(losses)` gets the losses of the same batch again and moves $\xi$ with an Adam of its own
    along $(\partial z/\partial\xi)^\top(\log L_\text{before} - \log L_\text{after})$. `mtl_core.steps.Step` calls it
    behind every step of the model's optimizer: one more forward pass.

    rate   learning rate of $\xi$.
    decay  its weight decay; in the paper 0.01 on Cityscapes, else 0.001; 1e-5, 0.001 and 0.01 in the released code.

    Differs from the released code: a loss that is not positive is an error, not NaN. TorchJD's rule, with its
    optimizer in `state_dict()`. Source: Liu et al., NeurIPS 2023, arXiv 2306.03792, Algorithm 1.
    """

    def __init__(self, rate: float = 0.025, decay: float = 1e-3):
        super().__init__(0, lr=rate, weight_decay=decay)
        self.saved = None

    def forward(self, losses: Tensor, /) -> Tensor:
        positive(losses, "FAMO")
        if not self._w.numel():
            self._w = nn.Parameter(torch.zeros_like(losses))
            self.min_losses = torch.zeros_like(losses)
        return super().forward(losses)

    def update(self, losses: Tensor, /) -> None:
        """Move the logits. Losses that are not finite leave them: the next step reports what has happened."""
        if not torch.isfinite(losses).all():
            return
        positive(losses, "FAMO")
        if self._optimizer is None and self.saved is not None:
            self._optimizer = torch.optim.Adam([self._w], lr=self.lr)
            self._optimizer.load_state_dict(self.saved)
        super().update(losses)

    def get_extra_state(self) -> dict | None:
        return self.saved if self._optimizer is None else self._optimizer.state_dict()

    def set_extra_state(self, state: dict | None) -> None:
        self.saved, self._optimizer = copy.deepcopy(state), None

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        if f"{prefix}_w" in state_dict:
            self._w = nn.Parameter(torch.empty_like(state_dict[f"{prefix}_w"]))
            self.min_losses = torch.empty_like(self._w.detach())
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class STCH(scalarization.STCH):
    r"""$\mu \log \sum_k \exp(L_k / \mu)$, a smooth maximum; (K,) losses -> scalar. The weights of the tasks sum to 1.

    mu  smoothing, in the unit of the losses; the paper tries 0.01 to 1.

    All preferences are 1, so that mu does not depend on K; TorchJD's default is 1/K, which is this with mu K instead.
    Differs from LibMTL's and the official multi-task code, which take $\log(L_k / L_k^\text{nadir})$ for $L_k$.
    Source: Lin et al., ICML 2024, arXiv 2402.19078, equation 9.
    """

    def __init__(self, mu: float = 0.1):
        super().__init__(mu)

    def forward(self, losses: Tensor, /) -> Tensor:
        return super().forward(len(losses) * losses)  # times TorchJD's preference 1/K


class GradNorm(OwnParameters):
    r"""Weights that bring the tasks' gradient norms to a common scale; (K, D) gradients, (K,) losses -> (K,) weights.

    With $n_k = \|w_k \nabla_W L_k\|$ at the trunk's last layer W and the relative inverse training rate
    $\rho_k = (L_k / L_k^0) / \mathrm{mean}$, the weights descend $\sum_k |n_k - \bar n \rho_k^\alpha|$, the target
    held fixed; then they are scaled to sum to K. This step uses the weights as they were before.

    alpha  strength of the pull towards a common training rate; 1.5 for NYUv2 in the paper.

    A weight does not fall below `FLOOR`: the paper does not say what keeps it positive. Differs from LibMTL's, which
    takes all shared parameters and a softmax. A gradient of zero leaves its weight to the scaling alone.
    Source: Chen et al., ICML 2018, arXiv 1711.02257, equations 1 and 2.
    """

    start, FLOOR = 1.0, 1e-3

    def __init__(self, alpha: float = 1.5):
        super().__init__()
        self.alpha = alpha
        self.weights = nn.Parameter(torch.empty(0))
        self.register_buffer("first", torch.empty(0))  # the losses of the first step

    def forward(self, matrix: Tensor, losses: Tensor) -> Tensor:
        if (losses < 0).any() or not self.first.numel():
            positive(losses, "GradNorm's training rate")
        if not self.first.numel():
            self.first = losses.clone()
        self.begin(losses)
        weights, norms = self.weights.detach().clone(), row_norms(matrix).to(losses)
        # n_k;  \rho_k;  \bar n \rho_k^\alpha
        actual, rate = weights * norms, losses / self.first
        rate = rate / rate.mean() if rate.any() else torch.ones_like(rate)  # all losses zero: no task is behind
        target = actual.mean() * rate**self.alpha
        # d/dw_k \sum_k |w_k n_k - target_k|
        self.weights.grad = torch.sign(actual - target) * norms
        return weights

    @torch.no_grad()
    def learn(self, rule: tuple[str, float] | None) -> None:
        super().learn(rule)
        self.weights.clamp_(min=self.FLOOR)
        self.weights.mul_(len(self.weights) / self.weights.sum())
