r"""BMTAS: a branched network, found by training all branched networks at once.

Brüggemann, Kanakis, Georgoulis, Van Gool: *Automated Search for Resource-Efficient Branched Multi-Task Networks*, BMVC
2020, arXiv 2008.10292. Every layer behind the stem has K copies, as many as tasks. Task k goes through layer l as
$\sum_j w_{kj}^l f_j^l(x)$ with $w_k^l$ from a Gumbel softmax of $\alpha_k^l$, whose temperature falls; in the end it
takes the copy of the largest $\alpha$. Tasks that have taken the same copies so far share them. To $\alpha$'s gradient
comes that of the expected cost of such a network, which pulls tasks together.

Two steps, as in the paper: train `bmtas`, read off `branches`; then train the network that these name, for two tasks
`recon.split` of the layers in `private_layers`.

What differs from the released code (github.com/brdav/bmtas), so that one training loop serves all models. *One* level:
weights and $\alpha$ learn together, on the same batches, by the same optimizer. There $\alpha$ has a fifth of the data
and an Adam of its own, and momentum and normalisation statistics start anew after each of its epochs. The schedule is
counted in forward passes, by the module itself. The cost's gradient is added where $\alpha$ enters the graph, once in
every backward pass: train it with a method of one pass, as equal weights are.
"""

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gumbel_softmax, one_hot
from torch.utils.flop_counter import FlopCounterMode

from mtl_core.models.multi_task import MultiTaskModel
from mtl_core.models.resnet import ResNet, resnet18

WARM_UP, HOT, COLD = 0.05, 5.0, 0.1  # share of the steps in which task k takes copy k; temperatures
GIGA = 0.156  # 10^9 operations of one ResNet18 of width 64 on 36 x 36 pixels: the unit in which the paper counts
BLOCKS = [f"layer{stage}.{block}." for stage in range(1, 5) for block in range(2)] + ["fc."]


class Supernet(nn.Module):
    """The shared stem, and K copies of each layer behind it: inputs (B, ...) -> K features.

    alpha   (L, K, K): of layer l, task k, copy j; zero at first.
    costs   (L,) of one copy of each layer, as shares of one whole network's cost.
    steps   forward passes in training mode so far; the schedule ends at `total_steps`.

    In evaluation mode each task takes its copy of the largest alpha alone.
    """

    def __init__(self, networks: Sequence[Any], image: Tensor, total_steps: int, resource_weight: float):
        super().__init__()
        self.total_steps, self.resource_weight = total_steps, resource_weight
        self.stem = networks[0].parts()[0]
        layers = [
            [*(block for stage in parts[1:-1] for block in stage), parts[-1]] for parts in map(ResNet.parts, networks)
        ]
        self.layers = nn.ModuleList(nn.ModuleList(copies) for copies in zip(*layers, strict=True))
        self.alpha = nn.Parameter(torch.zeros(len(self.layers), len(networks), len(networks)))
        self.steps: Tensor = nn.Buffer(torch.zeros((), dtype=torch.int64))
        self.costs: Tensor = nn.Buffer(costs(layers[0], self.stem, image))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x, weights = self.stem(x), self.weights()
        streams = [x] * weights.shape[1]
        for copies, of_tasks in zip(self.layers, weights, strict=True):
            streams = [self.mixed(copies, w, stream) for w, stream in zip(of_tasks, streams, strict=True)]
        self.steps += self.training
        return tuple(streams)

    def mixed(self, copies: Any, weights: Tensor, x: Tensor) -> Tensor:
        if not self.training:
            return copies[int(weights.argmax())](x)
        return sum(w * copy(x) for w, copy in zip(weights, copies, strict=True))

    def weights(self) -> Tensor:
        """The weights of the copies (L, K, K); in training mode drawn from torch's generator."""
        K, warm_up, step = self.alpha.shape[1], WARM_UP * self.total_steps, int(self.steps)
        if not self.training:
            return one_hot(self.alpha.argmax(-1), K).to(self.alpha)
        if step < warm_up:
            return torch.eye(K).to(self.alpha) + 0 * self.alpha
        done = min((step - warm_up) / max(self.total_steps - warm_up, 1), 1.0)
        alpha = self.alpha * 1
        if alpha.requires_grad:
            pull = self.pull()
            alpha.register_hook(lambda gradient: gradient + pull)
        return gumbel_softmax(alpha, tau=HOT + done * (COLD - HOT))

    def pull(self) -> Tensor:
        """The gradient, by alpha, of the resource loss."""
        alpha = self.alpha.detach().requires_grad_()
        cost = expected_cost(alpha.softmax(-1), self.costs)
        return torch.autograd.grad(self.resource_weight * GIGA * cost, alpha)[0]

    def branches(self) -> list[list[int]]:
        """The copy that each task takes, (L, K)."""
        return self.alpha.argmax(-1).tolist()


def expected_cost(p: Tensor, costs: Tensor) -> Tensor:
    """The mean cost of a network in which task k takes copy j of layer l with probability p[l, k, j].

    p  (L, K, K); costs: (L,) of one copy. Tasks share a layer if they have taken the same copies up to it: for all ways
    in which the tasks may be grouped after each layer, their probabilities.
    """
    K, total = p.shape[1], p.new_zeros(())
    groups = {(0,) * K: p.new_ones(())}
    for of_layer, cost in zip(p, costs, strict=True):
        finer: dict[tuple[int, ...], Tensor] = {}
        for (before, chance), taken in product(groups.items(), product(range(K), repeat=K)):
            pairs = [*zip(before, taken, strict=True)]
            after = tuple([*dict.fromkeys(pairs)].index(pair) for pair in pairs)
            finer[after] = finer.get(after, 0) + chance * prod(of_layer[k, j] for k, j in enumerate(taken))
        groups = finer
        total = total + cost * sum(len({*after}) * chance for after, chance in groups.items())
    return total


@torch.no_grad()
def costs(layers: Sequence[nn.Module], stem: nn.Module, x: Tensor) -> Tensor:
    """The share of each layer in the operations that one network takes for the image x, (L,); without the stem's."""
    modules, found = nn.ModuleList([stem, *layers]).eval(), []
    for module in modules:
        with FlopCounterMode(display=False) as counter:
            x = module(x)
        found.append(counter.get_total_flops())
    modules.train()
    return torch.tensor(found[1:]) / sum(found)


class Search(MultiTaskModel):
    """The supernet with its heads; a record of its training has the branches."""

    trunk: Supernet

    def told(self) -> dict:
        return {"branches": self.trunk.branches()}


def bmtas(
    outputs: Sequence[int], total_steps: int = 1000, resource_weight: float = 1.0, size: int = 36, channels: int = 1,
    **options: Any,
) -> Search:  # fmt: skip
    """The search for a branched `resnet18`, which is given `options`, over the eight blocks and the linear layer.

    total_steps      how many steps the search takes: its schedule needs to know.
    resource_weight  of the cost, in Recon's table 1.0. The cost is that of the paper's width whatever the width here,
                     so that it weighs the same.
    size             height and width of the images in pixels.
    The stem is shared by all tasks, as in the paper's network: Recon prints 85.61 MB for BMTAS, which is a network that
    branches right after it.
    """
    networks = [resnet18([n], channels=channels, **options) for n in outputs]
    image = torch.zeros(1, channels, size, size)
    trunk = Supernet([network.trunk for network in networks], image, total_steps, resource_weight)
    return Search(trunk, [network.heads[0] for network in networks])


def private_layers(branches: Sequence[Sequence[int]], layers: Sequence[str]) -> list[str]:
    """Of a `resnet18`'s layers, by name, those of which each of two tasks has a copy in the network of `branches`.

    ValueError for more tasks: their branched networks are not all splits of one network.
    """
    if any(len(taken) != 2 for taken in branches):
        raise ValueError(f"a branched network of two tasks is a split one; got {len(branches[0])} tasks")
    first = next((n for n, (a, b) in enumerate(branches) if a != b), len(branches))
    return [layer for layer in layers if f"{layer}.".startswith(tuple(BLOCKS[first:]))]
