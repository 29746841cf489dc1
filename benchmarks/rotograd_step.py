"""Time of one RotoGrad step against a plain joint step, where it goes, and the maps from skew matrices to rotations.

    python benchmarks/rotograd_step.py [--rounds 10] [--only lenet|resnet18] [--check]

LeNet: 36 x 36, d = 50, K = 5, batch 256. ResNet18, width 64: 36 x 36, d = 512, K = 10, batch 256. One thread, CPU.
Processor time is measured, which others on the machine disturb least; steps take turns within each round and the
medians of the ratios to that round's plain step are printed, because such machines drift. `--check` exits with 1 above
the limits: 1.35 for LeNet, 1.60 for ResNet18 with the fastest map.
"""

import argparse
import statistics
import sys
import time
from collections import defaultdict
from contextlib import contextmanager

import torch
from rounds import show, take_turns

from mtl_core import methods, models
from mtl_core.data.problem import classification
from mtl_core.methods import rotograd
from mtl_core.models import rotations

CASES = {"lenet": (5, 50, {}, 1.35), "resnet18": (10, 512, {}, 1.60)}
STEPS = ("rotate_only", "scale_only", "rotograd")


def seconds(call):
    start = time.process_time()
    call()
    return time.process_time() - start


def maps(K, size, rounds):
    """Milliseconds of forward, and of forward and backward, of each map for K rotations."""
    print(f"\nmaps, K = {K}, m = {size}: ms forward, forward and backward")
    for name in rotations.MAPS:
        made = rotations.Rotations(K, size, orthogonal_map=name)
        with torch.no_grad():
            made.skew.normal_(0, 0.1 / size**0.5)
        pull = torch.randn(K, size, size)
        forward = min(seconds(made.matrices) for _ in range(rounds))
        both = min(seconds(lambda made=made, pull=pull: made.matrices().backward(pull)) for _ in range(rounds))
        print(f"  {name:<14}{1000 * forward:>10.2f}{1000 * both:>10.2f}", flush=True)


@contextmanager
def clocked(spent):
    """Add up the seconds inside the parts of a step."""
    parts = {"rotations, forward": (rotations.Rotations, "matrices"), "rotating features": (rotograd, "rotate")}
    parts["after the heads"] = (rotograd.RotoGrad, "_homogenise")
    parts["trunk and rotations, backward"] = (torch.autograd, "backward")
    kept = {}
    for label, (owner, name) in parts.items():
        kept[label] = getattr(owner, name)

        def timed(*a, label=label, **more):
            start = time.process_time()
            try:
                return kept[label](*a, **more)
            finally:
                spent[label] += time.process_time() - start

        setattr(owner, name, timed)
    try:
        yield
    finally:
        for label, (owner, name) in parts.items():
            setattr(owner, name, kept[label])


def measure(name, rounds):
    K, d, options, limit = CASES[name]
    tasks = [classification(f"task {k}", 10) for k in range(K)]
    model = models.build(name, tasks, features=d, **options)
    draw = torch.Generator().manual_seed(0)
    inputs = torch.rand(256, 1, 36, 36, generator=draw)
    targets = [torch.randint(10, (256,), generator=draw) for _ in tasks]

    def losses(outputs):
        return [task.loss(o, t) for task, o, t in zip(tasks, outputs, targets, strict=True)]

    def plain():
        model.zero_grad()
        sum(losses(model(inputs))).backward()

    def step(made):
        def run():
            made.zero_grad()
            made.backward(losses(made(inputs)))

        return run

    made = {s: methods.make(s, trunk=model.trunk, heads=model.heads, rotation_size=d) for s in STEPS}
    with torch.no_grad():
        for method in made.values():
            method.rotation.skew.normal_(0, 0.1 / d**0.5)
    steps = {s: step(method) for s, method in made.items()}
    floors, ratios = take_turns(seconds, plain, steps, rounds, 1)
    print(f"\n{name}: d = m = {d}, K = {K}, batch 256, map {made['rotograd'].rotation.orthogonal_map}")
    print(f"plain joint step: median {1000 * statistics.median(floors):.1f} ms")
    late = show(ratios, {"rotograd": limit})
    spent = defaultdict(float)
    with clocked(spent):
        whole = seconds(steps["rotograd"])
    print("of one rotograd step: " + ", ".join(f"{label} {100 * s / whole:.1f} %" for label, s in spent.items()))
    print("(the part after the heads holds the backward passes of trunk and rotations)")
    return not late


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", choices=CASES)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a ratio is above its limit")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"processor time of one thread, torch {torch.__version__}")
    chosen = [arguments.only] if arguments.only else list(CASES)
    kept = []
    for name in chosen:
        maps(CASES[name][0], CASES[name][1], 2 if CASES[name][1] > 100 else 10)
        kept.append(measure(name, arguments.rounds))
    return 1 if arguments.check and not all(kept) else 0


if __name__ == "__main__":
    sys.exit(main())
