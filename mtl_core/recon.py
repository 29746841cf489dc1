r"""Recon: give each task its own copy of the layers where task gradients conflict most.

Shi, Li, Zhang, Chen, Wu: *Recon: Reducing Conflicting Gradients from the Root for Multi-Task
Learning*, ICLR 2023, arXiv 2302.11289. Three steps: train the shared network and score its layers
(`mtl_core.conflict.ConflictScores`), split the worst of the layers that can be split (`candidate_layers`,
`split`), train the result from the start with any method. `expand` brings a shared checkpoint along.

The split rewrites the network's `torch.fx` graph (`mtl_core.models.forks`). What lies before the first split runs once,
and skip connections that fork inside a block are right by construction.
"""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from mtl_core.models import forks
from mtl_core.models.forks import SplitError
from mtl_core.models.multi_task import MultiTaskModel

__all__ = ["SplitError", "candidate_layers", "expand", "split"]


def candidate_layers(model: nn.Module) -> list[str]:
    """Names of the layers that `split` accepts, in registration order.

    A layer is one module that owns a trainable parameter, all its parameters together; a module that torch.fx cannot
    look into, such as `nn.MultiheadAttention` or `nn.TransformerEncoderLayer`, is one layer with what it contains. A
    parameter that a larger module reads by itself, such as a class token, is a layer under its own name. Names are
    those in `model.named_parameters()`; of a `MultiTaskModel`, those in its trunk.

    Not in the list: what is frozen, never called, tied to another layer, or read by one task alone.
    SplitError: a network that torch.fx cannot trace.
    """
    return [name for name, reason in forks.survey(model)[1].items() if not reason]


def split(model: Any, layers: Iterable[str], tasks: Any, init: str = "copy", generator: Any = None) -> Any:
    """A new network in which each task has its own copy of the named layers.

    model      any network. One that returns a sequence of K values, one for each task, or a dict by task, returns the
               same afterwards, entry k computed with the copies of task k. One that returns anything else, a trunk,
               returns K of it, a tuple. Of a `MultiTaskModel` the trunk is split, and the heads read its K features.
    layers     names as in `candidate_layers(model)`; weight and bias of a layer go together.
    tasks      K, or the tasks' names in the order of outputs.
    init       "copy": all copies start at the shared values, so evaluation outputs do not change;
               "reinitialise": copies 1 … K-1 get new random values (`models.initialise`), as in Recon's final run
               every convolution's copies do independently. The released code leaves copies of
               linear layers equal; here they get new values too.
    generator  source of the new values; torch's own generator is not touched. None: a stream that follows from torch's
               initial seed, and is not the one that the model's values came from.

    `model` itself is not changed; the new network is an instance of its class with another forward. A `features` of
    your own in a subclass of `MultiTaskModel` must pass the trunk's K features on. What a layer does inside is not
    looked at: one that writes into its input (`x *= w`) would do so K times. Splitting nothing returns a plain copy;
    splitting everything gives K independent trunks. A shared layer after a fork is applied K times; a BatchNorm among
    them then mixes K streams in its running statistics, as in the released code.
    SplitError: layers that cannot be split, each with the reason; a network that torch.fx cannot trace, naming the
    module; another number of tasks than the model has; a model with rotations; "reinitialise" for a layer whose
    parameters no `reset_parameters` draws.
    """
    if init not in ("copy", "reinitialise"):
        raise ValueError(f"init is 'copy' or 'reinitialise', got {init!r}")
    model, names, layers = copy.deepcopy(model), forks.task_names(tasks), list(layers)
    network = model.trunk if isinstance(model, MultiTaskModel) else model
    if network is not model and len(names) != len(model.heads):
        raise SplitError(f"expected one task for each of the model's {len(model.heads)} heads, got {len(names)}")
    if not layers:
        return model
    graph, known = forks.survey(model)
    # A Balancer names the layers of the whole model, of which only the trunk is split
    layers = list(dict.fromkeys(n if network is model or n in known else str(n).removeprefix("trunk.") for n in layers))
    for name in layers:
        if reason := known[name] if name in known else forks.unknown(name, list(known)):
            raise SplitError(f"layer {name!r} cannot be split: {reason}")
    forked = forks.forked_graph(graph, set(layers), names)
    forks.replace_by_copies(network, layers, len(names), init, generator)
    forks.run_as(network, forked)
    return model


def expand(state_dict: Mapping[str, Any], layers: Iterable[str], tasks: int | Iterable[Any]) -> dict[str, Any]:
    """The checkpoint of a shared network as one of the network that `split(model, layers, tasks)` makes.

    Each copy gets the shared values. SplitError: a layer that the checkpoint does not hold.
    """
    K, result = len(forks.task_names(tasks)), dict(state_dict)
    for layer in dict.fromkeys(layers):
        places = [p for p in (layer, f"trunk.{layer}") if any(f"{key}.".startswith(f"{p}.") for key in result)]
        if not places:
            raise SplitError(f"the checkpoint holds no layer {layer!r}; its first entries are {list(state_dict)[:3]}")
        for key in [key for key in result if f"{key}.".startswith(f"{places[0]}.")]:
            value, end = result.pop(key), key.removeprefix(places[0])
            result |= {f"{places[0]}.{k}{end}": copy.deepcopy(value) for k in range(K)}
    return result
