r"""A network's forward pass as a graph in which a value is one node, or one node for each task.

`torch.fx` traces the network. A layer of which each task has a copy, or any operation with an input that is K nodes,
becomes K nodes. `survey` says which layers can have copies, and why others cannot.
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


def task_names(tasks: int | Iterable[Any]) -> list[Any]:
    given = range(tasks) if isinstance(tasks, int) else tasks if isinstance(tasks, Iterable) else ()
    names = [getattr(task, "name", task) for task in given]
    if not names or len(set(names)) < len(names) or isinstance(tasks, str):
        raise SplitError(f"tasks is their number or a list of their names, all different, got {tasks!r}")
    return names


def survey(model: Any) -> tuple[fx.Graph, dict[str, str]]:
    """The graph, and its layers in registration order -> why they cannot be split, or ""."""
    network = model.trunk if isinstance(model, MultiTaskModel) else model
    if network is not model and model.rotations is not None:
        raise SplitError("expected a model without rotations: these turn features that all tasks share; split first")
    ends = (graph := trace(network)).output_node().all_input_nodes
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
        after = downstream(graph, {layer})
        elsewhere = [n for p in parameters.values() for n in names[p] if not f"{n}.".startswith(f"{layer}.")]
        outside = [name for name in parameters if name in nodes and name != layer]
        writes = [found for node in after if (found := in_place(node))]
        reached = sum(end in after for end in ends)
        reasons = {
            f"it shares a parameter with {elsewhere}, and copies would cut that tie": elsewhere,
            f"{layer!r} is never called in forward, so a copy of it would do nothing": layer not in nodes,
            "it is frozen: nothing in it requires a gradient": not any(p.requires_grad for p in parameters.values()),
            "it has no shapes yet; run one batch": any(map(nn.parameter.is_lazy, parameters.values())),
            f"the network reads {outside} outside of that layer's forward": outside,
            f"after it the network changes values in place ({writes}) that others read; write x = f(x)": writes,
            f"{reached} outputs depend on it, so there is nothing to split": reached < min(2, len(ends)),
        }
        survey[layer] = next((reason for reason, holds in reasons.items() if holds), "")
    return graph, survey


def unknown(name: str, known: Sequence[str]) -> str:
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


def trace(network: nn.Module) -> fx.Graph:
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


def run_as(network: nn.Module, graph: fx.Graph) -> None:
    """From now on the network's forward pass is the graph; its class stays a base of the new one."""
    code = graph.python_code("self")
    space = {name: value.__name__ if isinstance(value, type(torch)) else value for name, value in code.globals.items()}
    _with_forward(network, getattr(network, "_before_split", type(network)), code.src, space)


def _with_forward(network: Any, base: Any, source: str, space: Mapping[str, Any]) -> Any:
    """Give `network` the forward in `source`, for copies and pickles too."""
    members = {name: import_module(value) if isinstance(value, str) else value for name, value in space.items()}
    exec(source, members)

    def reduce(self: Any, protocol: Any) -> Any:
        return _with_forward, (base.__new__(base), base, source, space), object.__reduce_ex__(self, 2)[2]

    members = {"forward": members["forward"], "__reduce_ex__": reduce, "_before_split": base}
    network.__class__ = type(base.__name__, (base,), members | {"__module__": base.__module__})
    return network


def replace_by_copies(network: nn.Module, layers: Iterable[str], K: int, init: str, generator: Any) -> None:
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


def downstream(graph: fx.Graph, layers: set[str]) -> dict[fx.Node, None]:
    """The nodes that these layers change, themselves included, in order."""
    found: dict[fx.Node, None] = {}
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr") and node.target in layers or found.keys() & node.all_input_nodes:
            found[node] = None
    return found


def forked_graph(old: fx.Graph, layers: set[str], names: Sequence[Any]) -> fx.Graph:
    """The network's graph with every value either one node or K nodes."""
    graph, K = fx.Graph(), len(names)
    forked = downstream(old, layers)  # a value forks at a split layer, and stays forked from there on
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


def in_place(node: Any) -> str | None:
    """The name of an operation that must not run K times, on a value that other tasks read."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    method = node.op in ("call_method", "call_function") and name.endswith("_") and not name.endswith("__")
    again = node.target in _OUT_OF_PLACE or node.op == "call_function" and node.kwargs.get("inplace")
    again = again and any(user > node for user in node.all_input_nodes[0].users)
    return name if method or again or node.kwargs.get("out") else None
