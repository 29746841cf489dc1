"""Cross-stitch networks: a network for each task, whose activations are mixed after every stage."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mtl_core.models.multi_task import MultiTaskModel
from mtl_core.models.resnet import resnet18


class CrossStitched(nn.Module):
    r"""K networks side by side: inputs (B, ...) -> K features.

    After each part but the last, network k goes on with $\tilde x_k = \sum_j \alpha_{kj} x_j$: `units` (P, K, K), one
    number for all channels and places of a part. They start at `own` for j = k; the others share the rest.
    """

    def __init__(self, networks: Sequence[Any], own: float):
        super().__init__()
        self.networks = nn.ModuleList(networks)
        K, P = len(networks), len(networks[0].parts()) - 1
        start = torch.full((K, K), (1 - own) / max(K - 1, 1)).fill_diagonal_(own if K > 1 else 1.0)
        self.units = nn.Parameter(start.expand(P, K, K).clone())

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        networks: Any = self.networks
        streams = [x] * len(networks)
        for p, of_networks in enumerate(zip(*(network.parts() for network in networks), strict=True)):
            streams = [part(stream) for part, stream in zip(of_networks, streams, strict=True)]
            if p < len(self.units):
                # \tilde x_k = \sum_j \alpha_{kj} x_j
                streams = [sum(a * s for a, s in zip(of_task, streams, strict=True)) for of_task in self.units[p]]
        return tuple(streams)


def cross_stitch(outputs: Sequence[int], own: float = 0.9, **options: Any) -> MultiTaskModel:
    """A trunk of `resnet18` for each task, given `options`, a unit after the stem and after each of the four stages.

    own  what a network takes of its own activations at the start; at 1 the networks start apart.
    Source: Misra et al., CVPR 2016, arXiv 1604.03539, section 3. There the networks start from networks that were
    trained alone, and the units learn faster than they do; here all start anew, as in Recon's tables, at one rate.
    At width 64: twice the parameters of one network, 85.62 MB, and 20 numbers.
    """
    networks = [resnet18([n], **options) for n in outputs]
    trunk = CrossStitched([network.trunk for network in networks], own)
    return MultiTaskModel(trunk, [network.heads[0] for network in networks])
