r"""Recon: give each task its own copy of the layers where task gradients conflict most.

Shi, Li, Zhang, Chen, Wu: *Recon: Reducing Conflicting Gradients from the Root for Multi-Task
Learning*, ICLR 2023, arXiv 2302.11289. Three steps: train the shared network and score its layers
(`mtl_core.conflict.ConflictScores`), split the worst of the layers that can be split (`candidate_layers`,
`split`), train the result from the start with any method. `expand` brings a shared checkpoint along.

The split rewrites the network's `torch.fx` graph. A value of the graph is one node or K nodes; a split
layer, or any operation with an input that is K nodes, becomes K nodes. So what lies before the first
split runs once, and skip connections that fork inside a block are right by construction.
"""

import copy
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partialmethod
from importlib import import_module
from typing import Any

import torch
from torch import fx, nn

from mtl_core._names import did_you_mean
from mtl_core.models.multi_task import MultiTaskModel, reinitialise
from mtl_core.seeds import torch_seed

# In-place operations that traced models use: on a value that several tasks still read they would write it K times.
_OUT_OF_PLACE = {getattr(operator, f"i{name}"): getattr(operator, name) for name in ("add", "sub", "mul", "truediv")}


class SplitError(ValueError):
    """A network or a layer that cannot be split; the message names it."""


def candidate_layers(model: nn.Module) -> list[str]:
    """Names of the layers that `split` accepts, in registration order.

    A layer is one module that owns a trainable parameter, all its parameters together; a module that torch.fx cannot
    look into, such as `nn.MultiheadAttention` or `nn.TransformerEncoderLayer`, is one layer with what it contains. A
    parameter that a larger module reads by itself, such as a class token, is a layer under its own name. Names are
    those in `model.named_parameters()`; of a `MultiTaskModel`, those in its trunk.

    Not in the list: what is frozen, never called, tied to another layer, or read by one task alone.
    SplitError: a network that torch.fx cannot trace.
    """
    return [name for name, reason in _survey(model)[1].items() if not reason]


def split(model: Any, layers: Iterable[str], tasks: Any, init: str = "copy", generator: Any = None) -> Any:
    """A new network in which each task has its own copy of the named layers.

    model      any network. One that returns a sequence of K values, one for each task, or a dict by task, returns the
               same afterwards, entry k computed with the copies of task k. One that returns anything else, a trunk,
               returns K of it, a tuple. Of a `MultiTaskModel` the trunk is split, and the heads read its K features.
    layers     names as in `candidate_layers(model)`; weight and bias of a layer go together.
    tasks      K, or the tasks' names in the order of outputs.
    init       "copy": all copies start at the shared values, so evaluation outputs do not change;
               "reinitialise": copies 1 … K-1 are drawn anew (`models.initialise`), as Recon's final run
               draws every convolution's copies independently. The released code leaves copies of
               linear layers equal; here they are drawn too.
    generator  source of the new draws; torch's own generator is not touched. None: a stream that follows from torch's
               initial seed, and is not the one that the model was drawn from.

    `model` itself is left as it is; the new network is an instance of its class with another forward. A `features` of
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
    model, names, layers = copy.deepcopy(model), _task_names(tasks), list(layers)
    network = model.trunk if isinstance(model, MultiTaskModel) else model
    if network is not model and len(names) != len(model.heads):
        raise SplitError(f"expected one task for each of the model's {len(model.heads)} heads, got {len(names)}")
    if not layers:
        return model
    graph, known = _survey(model)
    # A Balancer names the layers of the whole model, of which only the trunk is split
    layers = list(dict.fromkeys(name if name in known else str(name).removeprefix("trunk.") for name in layers))
    for name in layers:
        if reason := known[name] if name in known else _unknown(name, list(known)):
            raise SplitError(f"layer {name!r} cannot be split: {reason}")
    code = _forked_graph(graph, set(layers), names).python_code("self")
    _replace_by_copies(network, layers, len(names), init, generator)
    space = {name: value.__name__ if isinstance(value, type(torch)) else value for name, value in code.globals.items()}
    _with_forward(network, getattr(network, "_before_split", type(network)), code.src, space)
    return model


def expand(state_dict: Mapping[str, Any], layers: Iterable[str], tasks: int | Iterable[Any]) -> dict[str, Any]:
    """The checkpoint of a shared network as one of the network that `split(model, layers, tasks)` makes.

    Each copy gets the shared values. SplitError: a layer that the checkpoint does not hold.
    """
    K, result = len(_task_names(tasks)), dict(state_dict)
    for layer in dict.fromkeys(layers):
        places = [p for p in (layer, f"trunk.{layer}") if any(f"{key}.".startswith(f"{p}.") for key in result)]
        if not places:
            raise SplitError(f"the checkpoint holds no layer {layer!r}; its first entries are {list(state_dict)[:3]}")
        for key in [key for key in result if f"{key}.".startswith(f"{places[0]}.")]:
            value, end = result.pop(key), key.removeprefix(places[0])
            result |= {f"{places[0]}.{k}{end}": copy.deepcopy(value) for k in range(K)}
    return result


def _task_names(tasks: int | Iterable[Any]) -> list[Any]:
    given = range(tasks) if isinstance(tasks, int) else tasks if isinstance(tasks, Iterable) else ()
    names = [getattr(task, "name", task) for task in given]
    if not names or len(set(names)) < len(names) or isinstance(tasks, str):
        raise SplitError(f"tasks is their number or a list of their names, all different, got {tasks!r}")
    return names


def _survey(model: Any) -> tuple[fx.Graph, dict[str, str]]:
    """The graph, and its layers in registration order -> why they cannot be split, or ""."""
    network = model.trunk if isinstance(model, MultiTaskModel) else model
    if network is not model and model.rotations is not None:
        raise SplitError("expected a model without rotations: these turn features that all tasks share; split first")
    ends = (graph := _trace(network)).output_node().all_input_nodes
    nodes = {node.target: node.op for node in graph.nodes if node.op in ("call_module", "get_attr")}
    names: dict[nn.Parameter, list[str]] = {}  # several where it is tied
    for name, p in model.named_parameters(remove_duplicate=False):
        names.setdefault(p, []).append(name if network is model else name.removeprefix("trunk."))
    layers: dict[str, dict[str, nn.Parameter]] = {}
    for name, p in network.named_parameters(remove_duplicate=False):
        around = [name[:i] for i, letter in enumerate(name) if letter == "."]
        own = name if name in nodes or not around else around[-1]
        layers.setdefault(next((m for m in around if nodes.get(m) == "call_module"), own), {})[name] = p
    survey = {}
    for layer, parameters in layers.items():
        downstream = _downstream(graph, {layer})
        elsewhere = [n for p in parameters.values() for n in names[p] if not f"{n}.".startswith(f"{layer}.")]
        outside = [name for name in parameters if name in nodes and name != layer]
        in_place = [found for node in downstream if (found := _in_place(node))]
        reached = sum(end in downstream for end in ends)
        reasons = {
            f"it shares a parameter with {elsewhere}, and copies would cut that tie": elsewhere,
            f"{layer!r} is never called in forward, so a copy of it would do nothing": layer not in nodes,
            "it is frozen: nothing in it requires a gradient": not any(p.requires_grad for p in parameters.values()),
            "it has no shapes yet; run one batch": any(map(nn.parameter.is_lazy, parameters.values())),
            f"the network reads {outside} outside of that layer's forward": outside,
            f"after it the network changes values in place ({in_place}) that others read; write x = f(x)": in_place,
            f"{reached} outputs depend on it, so there is nothing to split": reached < min(2, len(ends)),
        }
        survey[layer] = next((reason for reason, holds in reasons.items() if holds), "")
    return graph, survey


def _unknown(name: str, known: Sequence[str]) -> str:
    near = [layer for layer in known if layer.startswith(f"{name}.") or name.startswith(f"{layer}.")]
    hint = f"; what can be split there is {near[:3]}" if near else did_you_mean(name, known)
    return f"the network calls no layer of that name{hint or f'; there are {list(known[:3])} …'}"


def _record(self: fx.Proxy, operation: Any, other: Any) -> fx.Proxy:
    return self.tracer.create_proxy("call_function", operation, (self, other), {})


# x += y recorded as what it is: torch.fx itself traces x + y, and a later reader of x misses the change
_Proxy: Any = type("_Proxy", (fx.Proxy,), {f"__{f.__name__}__": partialmethod(_record, f) for f in _OUT_OF_PLACE})
# Functions that torch.fx calls at once although a size depends on the input
_FACTORIES = (torch.arange, torch.empty, torch.eye, torch.full, torch.ones, torch.rand, torch.randn, torch.zeros)
_PACKING = (nn.utils.rnn.pack_padded_sequence, nn.utils.rnn.pad_packed_sequence)


class _Tracer(fx.Tracer):
    """Looks into modules, except those in `whole`, PyTorch's own and those whose parameters are all their own.

    A module's `training` is read when the network runs, not when it is traced.
    """

    whole: set[str]
    proxy_buffer_attributes = True  # else what is computed from buffers alone would be a constant

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, torch.Tensor) and a not in self.tensor_attrs:
            raise ValueError("it makes a tensor without its inputs, which a trace would fix on one device")
        return super().create_arg(a)

    def is_leaf_module(self, m: nn.Module, name: str) -> bool:
        alone = 0 < len(list(m.parameters(recurse=False))) == len(list(m.parameters()))
        return alone or name in self.whole or super().is_leaf_module(m, name)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        found = super().create_args_for_root(root_fn, is_module, concrete_args)
        for name, module in self.root.named_modules():
            if not name or not self.is_leaf_module(module, name):
                vars(module)["training"] = self.create_proxy("get_attr", f"{name}.training".lstrip("."), (), {})
        return found


def _trace(network: nn.Module) -> fx.Graph:
    """The graph of the forward pass, with every module whole that torch.fx cannot look into."""
    graph = _graph(network, {})
    for node in graph.find_nodes(op="placeholder"):  # "if mask is not None" is decided here, not when the network runs
        if node.args == (None,) and _steps(_graph(network, {node.target: None})) != _steps(graph):
            with graph.inserting_before(next(n for n in graph.nodes if n.op != "placeholder")):
                graph.call_function(_is_given, (node, node.target))
    return graph


def _is_given(value: Any, name: str) -> None:
    if value is None:
        raise SplitError(f"a split network whose forward does other things without {name!r} must be given it")


def _steps(graph: fx.Graph) -> list[Any]:
    return [(n.op, n.target) for n in graph.nodes if n.op != "placeholder" and "assert" not in str(n.target)]


def _graph(network: nn.Module, fixed: dict[str, Any]) -> fx.Graph:
    modes, whole = [(module, module.training) for module in network.modules()], set[str]()
    while True:
        tracer = _Tracer(autowrap_functions=_FACTORIES + _PACKING)
        tracer.whole, tracer._autowrap_search = whole, [*tracer._autowrap_search, torch, nn.utils.rnn]
        try:
            return tracer.trace(network, fixed)
        except Exception as error:  # torch.fx raises many types
            stack, leaf = tracer.module_stack.values(), tracer.is_leaf_module
            inner = [name for name, _ in stack if not leaf(network.get_submodule(name), name)]
            if not inner:
                what = f"torch.fx cannot trace {type(network).__name__!r}: {error}"
                raise SplitError(f"{what}. Put what depends on values into a module that forward calls") from error
            whole.add(inner[-1])
        finally:
            for module, mode in modes:
                vars(module)["training"] = mode


def _with_forward(network: Any, base: Any, source: str, space: Mapping[str, Any]) -> Any:
    """Give `network` the forward in `source`, for copies and pickles too. Its class stays a base of the new one."""
    members = {name: import_module(value) if isinstance(value, str) else value for name, value in space.items()}
    exec(source, members)

    def reduce(self: Any, protocol: Any) -> Any:
        return _with_forward, (base.__new__(base), base, source, space), object.__reduce_ex__(self, 2)[2]

    members = {"forward": members["forward"], "__reduce_ex__": reduce, "_before_split": base}
    network.__class__ = type(base.__name__, (base,), members | {"__module__": base.__module__})
    return network


def _replace_by_copies(network: nn.Module, layers: Iterable[str], K: int, init: str, generator: Any) -> None:
    """Put K copies of each layer where it was in the module tree; "reinitialise" draws all but the first anew."""
    seed = torch_seed(torch.initial_seed(), "split")
    with torch.random.fork_rng(devices=[]):
        if init == "reinitialise":
            torch.manual_seed(seed if generator is None else int(torch.randint(2**62, (), generator=generator)))
        for name in layers:
            module, leaf = network.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
            original = getattr(module, leaf)
            copies = [original, *(copy.deepcopy(original) for _ in range(K - 1))]
            for layer in copies[1:] if init == "reinitialise" else []:
                reinitialise(layer, name)
            module._parameters.pop(leaf, None)
            setattr(module, leaf, (nn.ModuleList if isinstance(original, nn.Module) else nn.ParameterList)(copies))


def _downstream(graph: fx.Graph, layers: set[str]) -> dict[fx.Node, None]:
    """The nodes that these layers change, themselves included, in order."""
    found: dict[fx.Node, None] = {}
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr") and node.target in layers or found.keys() & node.all_input_nodes:
            found[node] = None
    return found


def _forked_graph(old: fx.Graph, layers: set[str], names: Sequence[Any]) -> fx.Graph:
    """The network's graph with every value either one node or K nodes."""
    graph, K = fx.Graph(), len(names)
    forked = _downstream(old, layers)  # a value forks at a split layer, and stays forked from there on
    values: dict[fx.Node, list[fx.Node]] = {}  # old node -> its one new node, or one for each task

    def task(k: int) -> Callable[[fx.Node], fx.Node]:  # the argument map of task k: forked values give their k-th node
        return lambda node: values[node][k % len(values[node])]

    for node in list(old.nodes)[:-1]:
        node.meta = {}  # else the code registers wrapped functions under names that torch.fx does not find again
        values[node] = [graph.node_copy(node, task(k)) for k in range(K if node in forked else 1)]
        is_split = node.op in ("call_module", "get_attr") and node.target in layers
        for k, new in enumerate(values[node] if node in forked else []):
            new.target = f"{node.target}.{k}" if is_split else _OUT_OF_PLACE.get(node.target, node.target)
            new.kwargs = {n: v for n, v in new.kwargs.items() if (n, node.op) != ("inplace", "call_function")}
    output, streams = old.output_node(), iter(range(K))
    value: Any = output.args[0]
    if isinstance(value, fx.Node):
        value = (value,) * K
    elif len(output.all_input_nodes) != K or isinstance(value, dict) and names[0] != 0 and list(value) != names:
        raise SplitError(f"the network returns {value}; expected one value, or one for each of the tasks {names}")
    graph.output(fx.node.map_arg(value, lambda end: task(next(streams))(end)))
    for new in [new for node in reversed(forked) if node.users for new in values[node]]:
        if not new.users:  # of the heads of a network, task k needs its own alone
            graph.erase_node(new)
    return graph


def _in_place(node: Any) -> str | None:
    """The name of an operation that must not run K times, on a value that other tasks read."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    method = node.op in ("call_method", "call_function") and name.endswith("_") and not name.endswith("__")
    again = node.target in _OUT_OF_PLACE or node.op == "call_function" and node.kwargs.get("inplace")
    again = again and any(user > node for user in node.all_input_nodes[0].users)
    return name if method or again or node.kwargs.get("out") else None
