"""A perceptron for the data set `two_domains`, with readouts that are frozen or trained."""

from collections.abc import Sequence

from torch import Tensor, nn

from mtl_core.models.mlp import mlp
from mtl_core.models.multi_task import MultiTaskModel


class _Domains(nn.Module):
    """The same layers on the inputs of each domain: (B, 2, d) -> a tensor (B, width) for each of `domains`."""

    def __init__(self, layers: nn.Module, domains: Sequence[int]):
        super().__init__()
        self.layers, self.domains = layers, list(domains)

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        return self.layers(inputs[:, self.domains]).unbind(1)


def two_domains(
    outputs: Sequence[int],
    inputs: int = 9,
    width: int = 64,
    depth: int = 2,
    readout: str = "shared",
    domains: Sequence[int] = (0, 1),
) -> MultiTaskModel:
    """`depth` hidden layers; a linear readout of each domain of `domains`, one for each task, drawn from N(0, 1/width).

    readout  "shared": one, frozen, for both domains; "independent": one for each, frozen; "trained": one for each.
             Trunk and readouts start alike whichever it is, and with one domain as with two.

    ValueError for another readout, or another number of domains than of tasks.
    """
    if readout not in ("shared", "independent", "trained") or len(domains) != len(outputs):
        raise ValueError(f"readout is shared, independent or trained, one domain a task; got {readout!r}, {domains}")
    layers = mlp([], inputs, width, depth).trunk
    heads = [nn.Linear(width, 1, bias=False) for _ in range(2)]
    for head in heads:
        nn.init.normal_(head.weight, std=width**-0.5)
        head.requires_grad_(readout == "trained")
    return MultiTaskModel(_Domains(layers, domains), [heads[0 if readout == "shared" else k] for k in domains])
