r"""Recon: give each task its own copy of the layers where task gradients conflict most.

Shi, Li, Zhang, Chen, Wu: *Recon: Reducing Conflicting Gradients from the Root for Multi-Task
Learning*, ICLR 2023, arXiv 2302.11289. Three steps: train the shared network and score its layers
(`mtl_core.conflict.ConflictScores` as an observer of `training.fit`), split the worst layers
(`split_layers`), train the result from the start with any method.

The split rewrites the trunk's `torch.fx` graph. A value of the graph is one node or K nodes; a split
layer, or any operation with an input that is K nodes, becomes K nodes. So what lies before the first
split runs once, and skip connections that fork inside a block are right by construction.
"""

import copy
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import fx, nn

from mtl_core._names import did_you_mean
from mtl_core.models.multi_task import MultiTaskModel, initialise
from mtl_core.seeds import torch_seed

# In-place operations that traced models use: on a value that several tasks still read they would write it K times.
_OUT_OF_PLACE = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}


class SplitError(ValueError):
    """A trunk or a layer that cannot be split; the message names it."""


def candidate_layers(model: MultiTaskModel) -> list[str]:
    """Names of the trunk's layers, in registration order: the modules that own a trainable parameter."""
    modules = [(name, module) for name, module in model.trunk.named_modules() if name]
    return [name for name, module in modules if any(p.requires_grad for p in module.parameters(recurse=False))]


def split_layers(
    model: MultiTaskModel, layers: Iterable[str], init: str = "copy", generator: torch.Generator | None = None
) -> MultiTaskModel:
    """A new model in which each task has its own copy of the named trunk layers.

    layers     names as in `candidate_layers(model)`; weight and bias of a layer go together.
    init       "copy": all copies start at the shared values, so evaluation outputs do not change;
               "reinitialise": copies 1 … K-1 are drawn anew (`models.initialise`), as Recon's final run
               draws every convolution's copies independently. The released code leaves copies of
               linear layers equal; here they are drawn too.
    generator  source of the new draws; torch's own generator is not touched. None: a stream that follows from torch's
               initial seed, and is not the one that the model was drawn from.

    `model` itself is left as it is. Splitting nothing returns a plain copy; splitting everything gives
    K independent trunks. A shared layer after a fork is applied K times; a BatchNorm among them then
    mixes K streams in its running statistics, as in the released code.
    SplitError: unknown layer names (with a suggestion), a trunk that cannot be traced (naming the
    module), parameters that the trunk uses outside of the layer's own forward, a K-stream trunk, a model with
    rotations.
    """
    if init not in ("copy", "reinitialise"):
        raise ValueError(f"init is 'copy' or 'reinitialise', got {init!r}")
    if model.rotations is not None:
        raise SplitError(
            "expected a model without rotations, which belong to features that all tasks share; split the trunk before "
            "RotoGrad trains it, or leave it whole"
        )
    layers, K = list(dict.fromkeys(layers)), len(model.heads)
    _check_names(layers, candidate_layers(model))
    model = copy.deepcopy(model)
    if not layers:
        return model
    trunk = _trace(model.trunk)
    for name in layers:
        if not any(node.op == "call_module" and node.target == name for node in trunk.graph.nodes):
            raise SplitError(f"layer {name!r} is not called as a module in the trunk's forward, so it cannot be split")
        if any(node.op == "get_attr" and node.target.startswith(f"{name}.") for node in trunk.graph.nodes):
            raise SplitError(f"the trunk reads parameters of {name!r} outside of that layer, so it cannot be split")
    _replace_by_copies(trunk, layers, K, init, generator)
    split = MultiTaskModel(fx.GraphModule(trunk, _forked_graph(trunk, set(layers), K)), model.heads)
    return split.train(model.training)


def _check_names(layers: Sequence[str], known: Sequence[str]) -> None:
    for name in layers:
        if name not in known:
            suggestion = did_you_mean(name, known) or f"; its layers are {', '.join(known[:3])} …"
            raise SplitError(f"the trunk has no layer {name!r}{suggestion}")


class _Proxy(fx.Proxy):
    """Records x += y as what it is: torch.fx itself traces x + y, and a later reader of x misses the change."""


for _operation in _OUT_OF_PLACE:
    setattr(
        _Proxy,
        f"__{_operation.__name__}__",
        lambda self, other, operation=_operation: self.tracer.create_proxy(
            "call_function", operation, (self, other), {}
        ),
    )


class _Tracer(fx.Tracer):
    """Keeps modules that own parameters whole, and remembers the module it is in, for the error message."""

    def __init__(self) -> None:
        super().__init__()
        self.path: list[str] = []

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return super().is_leaf_module(module, name) or any(True for _ in module.parameters(recurse=False))

    def call_module(
        self, module: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        self.path.append(self.path_of_module(module))
        result = super().call_module(module, forward, args, kwargs)
        self.path.pop()
        return result


def _trace(trunk: nn.Module) -> fx.GraphModule:
    evaluation, training = (_graph(trunk.train(mode)) for mode in (False, True))
    if evaluation.python_code("self").src != training.python_code("self").src:
        raise SplitError(
            "the trunk's forward reads self.training, which a traced graph would fix for ever; use a module such as "
            "nn.Dropout in place of the function"
        )
    return fx.GraphModule(trunk, training)


def _graph(trunk: nn.Module) -> fx.Graph:
    tracer = _Tracer()
    try:
        return tracer.trace(trunk)
    except Exception as error:  # torch.fx raises many types
        module = tracer.path[-1] if tracer.path else type(trunk).__name__
        raise SplitError(
            f"torch.fx cannot trace {module!r} of the trunk ({type(trunk).__name__}): {error}. Keep control flow that "
            "depends on values inside a module that owns parameters."
        ) from error


def _replace_by_copies(
    trunk: fx.GraphModule, layers: Sequence[str], K: int, init: str, generator: torch.Generator | None
) -> None:
    """Put K copies of each layer where it was in the module tree; "reinitialise" draws all but the first anew."""
    seed = None
    if init == "reinitialise":
        given = None if generator is None else int(torch.randint(2**62, (), generator=generator).item())
        seed = torch_seed(torch.initial_seed(), "split") if given is None else given
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        for name in layers:
            original = trunk.get_submodule(name)
            copies = [original] + [copy.deepcopy(original) for _ in range(K - 1)]
            if init == "reinitialise":
                for module in copies[1:]:
                    initialise(module)
            parent, _, leaf = name.rpartition(".")
            setattr(trunk.get_submodule(parent), leaf, nn.ModuleList(copies))


def _forked_graph(trunk: fx.GraphModule, split: set[str], K: int) -> fx.Graph:
    """The trunk's graph with every value either one node or K nodes."""
    graph = fx.Graph()
    values: dict[fx.Node, list[fx.Node]] = {}  # old node -> its one new node, or one for each task

    def task(k: int) -> Callable[[fx.Node], fx.Node]:  # the argument map of task k: forked values give their k-th node
        return lambda node: values[node][min(k, len(values[node]) - 1)]

    for node in trunk.graph.nodes:
        if node.op == "output":
            streams = [fx.node.map_arg(node.args[0], task(k)) for k in range(K)]
            forked = any(len(values[n]) > 1 for n in node.all_input_nodes)
            if forked and not isinstance(node.args[0], fx.Node):
                raise SplitError("the trunk returns several values; only a trunk with one output can be split")
            graph.output(tuple(streams) if forked else streams[0])
            continue
        layer_is_split = node.op == "call_module" and node.target in split
        # A value forks at a split layer, and stays forked from there on
        count = K if layer_is_split or any(len(values[n]) > 1 for n in node.all_input_nodes) else 1
        values[node] = []
        for k in range(count):
            new = graph.node_copy(node, task(k))
            new.target = f"{node.target}.{k}" if layer_is_split else _out_of_place(node, count)
            values[node].append(new)
    graph.lint()
    return graph


def _out_of_place(node: fx.Node, count: int) -> Any:
    """The operation that may run `count` times on a value that other tasks read."""
    target: Any = node.target
    first: Any = node.args[0] if node.args else None
    if count == 1:
        return target
    if node.op == "call_method" and target.endswith("_") and not target.endswith("__"):
        raise SplitError(
            f"the trunk calls the in-place method {target!r} after a fork; use the form without underscore"
        )
    if node.op == "call_function" and node.kwargs.get("inplace"):
        raise SplitError(f"the trunk calls {target.__name__} in place after a fork; drop inplace=True")
    if target in _OUT_OF_PLACE and any(user > node for user in first.users):
        raise SplitError(
            "after a fork the trunk changes a value in place (such as x += y) that it reads again under another name; "
            "write x = x + y"
        )
    return _OUT_OF_PLACE.get(target, target)
