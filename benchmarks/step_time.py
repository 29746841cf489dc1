"""Time of one training step against its floor, one forward and K trunk backward passes.

    python benchmarks/step_time.py [--cases resnet18,qm9,mlp40] [--rounds 12] [--only NAME,NAME] [--check] [--record]

Three fixed cases, one thread, on the CPU: ResNet18 at 36 x 36 with two tasks, the network of QM9's table with its
eleven, and a wider one with forty. The methods and the floor take turns within each round and the medians of the
ratios to that round's floor are printed, because such machines drift. Every method of the registry has a row. FAMO's
second forward pass comes behind the optimizer's step and is not in it. `--check` exits with 1 where a ratio is above
its limit. `--record` writes what was measured on ResNet18 to results/step_time/small, from where the book reads it.
"""

import argparse
import copy
import statistics
import sys
import time
import warnings

import torch
from rounds import show, take_turns

from mtl_core import methods, models
from mtl_core.balancer import Balancer
from mtl_core.data.problem import classification, regression
from mtl_lab.experiments import step_time
from mtl_lab.probes.update_comparison import arguments

GRAM = [name for name, spec in methods.METHODS.items() if "Gram matrix" in spec.needs and spec.level == "parameters"]
LIMITS = {
    "resnet18": {"mgda": 1.10, "pcgrad": 1.10, "cagrad": 1.10, "sam_gs": 1.20},
    "qm9": dict.fromkeys(GRAM, 1.20),
    "mlp40": dict.fromkeys(GRAM, 1.30),
}


def case(name):
    """(title, model, tasks, inputs, targets) on made-up data of the right shapes."""
    draw = torch.Generator().manual_seed(0)
    if name == "resnet18":
        tasks = [classification("digit", 10), classification("garment", 10)]
        inputs, targets = torch.rand(64, 1, 36, 36, generator=draw), [torch.randint(10, (64,), generator=draw)] * 2
        return "ResNet18, 36 x 36, K = 2, batch 64", models.build("resnet18", tasks), tasks, inputs, targets
    K, B, sizes = {
        "qm9": (11, 256, {"inputs": 74, "width": 128, "depth": 3}),
        "mlp40": (40, 128, {"inputs": 64, "width": 256, "depth": 4}),
    }[name]
    tasks = [regression(f"target {k}", "") for k in range(K)]
    inputs, *targets = torch.randn(B, sizes["inputs"], generator=draw), *torch.randn(K, B, generator=draw)
    title = f"MLP {sizes['depth']} x {sizes['width']}, K = {K}, batch {B}"
    return title, models.build("mlp", tasks, **sizes), tasks, inputs, targets


def floor(model, tasks, inputs, targets):
    """The least that any method needing J can do: the same passes, the gradients thrown away."""
    features = model.features(inputs)
    losses = [task.loss(o, t) for task, o, t in zip(tasks, model.outputs(features), targets, strict=True)]
    trunk = list(model.trunk.parameters())
    pulls = [
        torch.autograd.grad(loss, [features, *head.parameters()])[0]
        for loss, head in zip(losses, model.heads, strict=True)
    ]
    for k, pull in enumerate(pulls):
        torch.autograd.grad(features, trunk, pull, retain_graph=k + 1 < len(pulls))


def seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def made(name, model, tasks, features, convention="plain", observed=False):
    """A step of that method, a function of inputs and targets; a rotation gets a copy of the model."""
    spec = methods.find(name)
    given = arguments(spec, len(tasks), features)
    if spec.kind == methods.ROTATION:
        model = copy.deepcopy(model)
        door = methods.make(name, trunk=model.trunk, heads=model.heads, **given).train()
    else:
        door = Balancer(name, model, convention=convention, **given)
    if observed:
        door.observers.append(lambda gradients: None)

    parameters = list(model.parameters())

    def step(inputs, targets):
        for p in parameters:  # as an optimizer does; a module would look its parameters up in every step
            p.grad = None
        features = None if spec.kind == methods.ROTATION else model.features(inputs)
        outputs = door(inputs) if features is None else model.outputs(features)
        losses = {t.name: t.loss(output, y) for t, output, y in zip(tasks, outputs, targets, strict=True)}
        door.backward(losses, features=features)

    return step


def all_steps(model, tasks, inputs, only=()):
    """label -> step: every method of the registry, or of `only`; the plain sum and SAM-GS in a second way as well."""
    features = model.features(inputs[:2]).shape[1]
    found = {name: made(name, model, tasks, features) for name in only or methods.METHODS}
    for label, name, more in (
        ("equal, observed", "equal", {"observed": True}),
        ("sam_gs, clipped", "sam_gs", {"convention": "samgs"}),
    ):
        if name in found:
            found[label] = made(name, model, tasks, features, **more)
    return found


def measure(name, only, rounds):
    """(title, number of tasks, seconds of the floor, step -> ratios to it) of a case."""
    title, model, tasks, inputs, targets = case(name)
    calls = {
        label: lambda step=step: step(inputs, targets) for label, step in all_steps(model, tasks, inputs, only).items()
    }
    again = 1 if name == "resnet18" else 5  # steps that one measurement holds
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "famo waits for after_step")
        return (
            title,
            len(tasks),
            *take_turns(
                lambda call: sum(seconds(call) for _ in range(again)) / again,
                lambda: floor(model, tasks, inputs, targets),
                calls,
                rounds,
                2,
            ),
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default="resnet18,qm9,mlp40", help="with commas between")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--only", default="", help="methods, with commas between; all of the registry unless given")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a ratio is above its limit")
    parser.add_argument("--record", action="store_true", help="write the committed record of the book")
    chosen = parser.parse_args()

    torch.set_num_threads(1)
    late = []
    for name in chosen.cases.split(","):
        only = [method for method in chosen.only.split(",") if method]
        title, K, floors, ratios = measure(name, only, chosen.rounds)
        print(f"{title}, one thread, torch {torch.__version__}")
        print(f"floor: one forward and {K} trunk backward passes, median {1000 * statistics.median(floors):.1f} ms\n")
        late += [f"{label} in {name}" for label in show(ratios, LIMITS[name])]
        print()
        if chosen.record and name == "resnet18":
            setting = {"model": "resnet18", "width": 64, "image": 36, "tasks": 2, "batch": 64, "threads": 1}
            step_time.write(ratios, floors, setting)
    if late:
        print(f"above the limit: {', '.join(late)}")
    return 1 if late and chosen.check else 0


if __name__ == "__main__":
    sys.exit(main())
