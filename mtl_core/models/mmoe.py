"""MMoE: every task mixes the features of the same experts, with a gate of its own."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from mtl_core.models.multi_task import MultiTaskModel
from mtl_core.models.resnet import resnet18

GATE_RATE = 0.01  # of Recon's table: experts learn at 0.1, gates at 0.001


class Experts(nn.Module):
    r"""Experts $f_e$ and gates $W_k$: inputs (B, ...) -> K features (B, F), $\sum_e g_k(x)_e f_e(x)$.

    $g_k(x) = \mathrm{softmax}(W_k x)$ reads the flattened input, and starts as the mean of the experts, $W_k = 0$.
    gate_rate  how fast the gates learn, as a multiple of the learning rate. The gate is $\sqrt{r}\, V_k x$: a step of
               SGD on V_k is r times that step on W_k, with momentum too, so that one optimizer gives both their rates.
               (Weight decay, where there is some, acts on V_k. Adam, which takes out scale, gives $\sqrt{r}$.)
    """

    def __init__(self, experts: Sequence[nn.Module], inputs: int, tasks: int, gate_rate: float = GATE_RATE):
        super().__init__()
        self.experts, self.scale = nn.ModuleList(experts), gate_rate**0.5
        self.gates = nn.ModuleList(nn.Linear(inputs, len(experts), bias=False) for _ in range(tasks))
        for gate in [*self.gates]:
            nn.init.zeros_(gate.weight)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        features, pixels, mixed = [expert(x) for expert in self.experts], x.flatten(1), []
        for gate in self.gates:
            # g_k(x) = softmax(W_k x);  \sum_e g_k(x)_e f_e(x)
            g = (self.scale * gate(pixels)).softmax(1)
            mixed.append(sum(g[:, e : e + 1] * f for e, f in enumerate(features)))
        return tuple(mixed)


def mmoe(
    outputs: Sequence[int],
    experts: int = 2,
    size: int = 36,
    channels: int = 1,
    gate_rate: float = GATE_RATE,
    **options: Any,
) -> MultiTaskModel:
    """`experts` networks of `resnet18`, which is given `options`; a gate and a linear head for each task.

    size  height and width of the images in pixels.
    Its trunk can be split: Recon's layers are then those of the experts; a gate belongs to its task already.
    Source: Ma et al., KDD 2018, section 4.2, with the experts of Recon's Table 1 (arXiv 2302.11289), where neither
    the gates' input nor their parameters are told. Two experts at width 64 and the heads are 85.62 MB, as printed
    there; these gates add 0.02 MB.
    """
    networks = [resnet18(outputs, channels=channels, **options) for _ in range(experts)]
    trunk = Experts([network.trunk for network in networks], channels * size**2, len(outputs), gate_rate)
    return MultiTaskModel(trunk, networks[0].heads)
