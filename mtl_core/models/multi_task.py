"""The one shape that every network of the book has: trunk, then K heads."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn


class MultiTaskModel(nn.Module):
    """A shared trunk and K heads.

    The trunk maps a batch (B, ...) to features: one tensor that all heads read, or a sequence of K
    tensors, one per task, where the trunk has task-specific layers. Head k maps its features to
    the output of task k. `rotations`, where a feature rotation has trained some, turns the features
    (B, d) into K tensors, one for each head; else it is None.
    """

    rotations: nn.Module | None

    def __init__(self, trunk: nn.Module, heads: Iterable[nn.Module]):
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleList(heads)
        self.register_module("rotations", None)

    def features(self, inputs: Tensor) -> Tensor | Sequence[Tensor]:
        return self.trunk(inputs)

    def outputs(self, features: Tensor | Sequence[Tensor]) -> list[Tensor]:
        """The K task outputs of `features`, as `features()` returned them."""
        if self.rotations is not None:
            features = self.rotations(features)
        if isinstance(features, Tensor):
            return [head(features) for head in self.heads]
        if len(features) != len(self.heads):
            raise ValueError(f"the trunk gave {len(features)} feature tensors for {len(self.heads)} heads")
        return [head(f) for head, f in zip(self.heads, features, strict=True)]

    def layer_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """(name, parameter) pairs for a `Balancer`: layers of the trunk have the names that they have in the trunk."""
        heads = [(f"heads.{name}", p) for name, p in self.heads.named_parameters()]
        return [*self.trunk.named_parameters(), *heads]

    def forward(self, inputs: Tensor) -> list[Tensor]:
        return self.outputs(self.features(inputs))


@torch.no_grad()
def initialise(module: nn.Module) -> None:
    """Give the parameters that `module` itself owns new random values.

    Convolutions: He normal, fan-out, bias zero (the rule of torchvision's ResNet). Other modules:
    their own `reset_parameters`. A module that owns parameters and has neither is a TypeError.
    """
    if getattr(type(module), "reset_parameters", None) is nn.Conv2d.reset_parameters and isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif (reset := getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))) is not None:
        reset()
    elif next(module.parameters(recurse=False), None) is not None:
        raise TypeError(f"{type(module).__name__} owns parameters and has no reset_parameters()")


@torch.no_grad()
def reinitialise(layer: nn.Module | nn.Parameter, name: str) -> None:
    """Draw every parameter of a layer anew, the modules in it first. ValueError: `initialise` does not draw all."""
    parameters = dict(layer.named_parameters()) if isinstance(layer, nn.Module) else {name: layer}
    try:
        for p in parameters.values():
            p.fill_(float("nan"))  # marks what is still to be drawn
        for module in reversed(list(layer.modules()) if isinstance(layer, nn.Module) else []):
            initialise(module)
        if left := [n for n, p in parameters.items() if p.isnan().any()]:
            raise TypeError(f"no reset_parameters() draws {left[0]!r}")
    except Exception as error:  # whatever a reset_parameters of somebody's raises
        raise ValueError(f"layer {name!r} cannot be reinitialised: {error}; take init='copy'") from error
