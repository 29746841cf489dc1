"""Time of one training step against its floor, one forward and K trunk backward passes.

    python benchmarks/step_time.py [--width 64] [--rounds 12] [--only NAME,NAME] [--check] [--record]

Fixed sizes: ResNet18 at 36 x 36, K = 2, batch 64, one thread, on the CPU. The methods and the floor
take turns within each round and the medians of the ratios to that round's floor are printed, because
such machines drift. Every method of the registry has a row. FAMO's second forward pass comes behind the optimizer's
step and is not in it. `--check` exits with 1 where a ratio is above its limit (Gram-type methods 1.10,
SAM-GS 1.20). `--record` writes what was measured to results/step_time/small, from where the book reads it.
"""

import argparse
import copy
import statistics
import sys
import time

import torch
from rounds import show, take_turns

from mtl_core import methods, models
from mtl_core.balancer import Balancer
from mtl_core.data.problem import classification
from mtl_lab.experiments import step_time
from mtl_lab.probes.update_comparison import arguments

LIMITS = {"mgda": 1.10, "pcgrad": 1.10, "cagrad": 1.10, "sam_gs": 1.20}


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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=64, help="width of the first stage (64: the paper's network)")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--only", default="", help="methods, with commas between; all of the registry unless given")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a ratio is above its limit")
    parser.add_argument("--record", action="store_true", help="write the committed record of the book")
    chosen = parser.parse_args()

    torch.set_num_threads(1)
    tasks = [classification("digit", 10), classification("garment", 10)]
    model = models.build("resnet18", tasks, width=chosen.width)
    draw = torch.Generator().manual_seed(0)
    inputs = torch.rand(64, 1, 36, 36, generator=draw)
    targets = tuple(torch.randint(10, (64,), generator=draw) for _ in tasks)

    rows = all_steps(model, tasks, inputs, [name for name in chosen.only.split(",") if name])
    calls = {name: lambda step=step: step(inputs, targets) for name, step in rows.items()}
    floors, ratios = take_turns(seconds, lambda: floor(model, tasks, inputs, targets), calls, chosen.rounds, 2)
    print(f"ResNet18 width {chosen.width}, 36 x 36, K = 2, batch 64, one thread, torch {torch.__version__}")
    print(f"floor: one forward and two trunk backward passes, median {1000 * statistics.median(floors):.1f} ms\n")
    late = show(ratios, LIMITS)
    if chosen.record:
        setting = {"model": "resnet18", "width": chosen.width, "image": 36, "tasks": 2, "batch": 64, "threads": 1}
        step_time.write(ratios, floors, setting)
    if late:
        print(f"\nabove the limit: {', '.join(late)}")
    return 1 if late and chosen.check else 0


if __name__ == "__main__":
    sys.exit(main())
