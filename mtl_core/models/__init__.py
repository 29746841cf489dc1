"""Models: a shared trunk and one head per task.

A new model is a new file NAME.py in this folder with a function NAME(outputs, **options); `build` finds it by its name.
"""

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import torch

from mtl_core.models.lenet import lenet
from mtl_core.models.mlp import mlp
from mtl_core.models.multi_task import MultiTaskModel, initialise
from mtl_core.models.resnet import ResNet, resnet18
from mtl_core.models.rotations import with_rotation_layers
from mtl_core.seeds import torch_seed, wobbled
from mtl_core.tasks import Task

__all__ = [
    "MODELS",
    "MultiTaskModel",
    "ResNet",
    "build",
    "initialise",
    "lenet",
    "mlp",
    "resnet18",
    "with_rotation_layers",
]

MODELS: dict[str, Callable[..., MultiTaskModel]] = {"resnet18": resnet18, "lenet": lenet, "mlp": mlp}


def build(name: str, tasks: Sequence[Task], seed: int = 0, **options: Any) -> MultiTaskModel:
    """The model `name` with one head per task, initialised from stream "initialisation" of `seed`.

    The state of torch's own generator is left as it was. Unknown names are a ValueError that lists
    what exists; options are those of the builder (`MODELS[name]`), and `rotation_size`, which puts a
    trainable rotation of so many features in front of each head (`with_rotation_layers`).
    """
    builder = _builder(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(seed, "initialisation"))
        rotation_size = options.pop("rotation_size", None)
        model = wobbled(builder([task.outputs for task in tasks], **options))
    return model if rotation_size is None else with_rotation_layers(model, rotation_size)


def _builder(name: str):
    """The function that builds the model `name`: that of `MODELS`, else the function `name` in the file `name`.py."""
    if name in MODELS:
        return MODELS[name]
    if name.isidentifier() and importlib.util.find_spec(f"{__name__}.{name}"):
        builder = getattr(importlib.import_module(f"{__name__}.{name}"), name, None)
        if callable(builder):
            return builder
    known = ", ".join(sorted(MODELS))
    raise ValueError(f"unknown model {name!r}; there are {known}, and no function of that name in mtl_core/models/")
