"""Core-seconds of a training step on Multi-Fashion+MNIST at the paper's scale: ResNet18 of width 64, batches of 256.

    python benchmarks/paper_step.py [--rounds 3] [--record]

Each kind of run that the profile `paper` plans takes one step a round, on made-up pictures, one thread, on the CPU.
What is counted is the processor's time, so that other work on the machine hardly matters. `--record` writes
results/paper_step/paper, from which the book computes what the whole would cost.
"""

import argparse
import time

import torch
from step_time import made

from mtl_core import models, recon
from mtl_core.data.problem import classification
from mtl_core.models.resnet import released_by_recon
from mtl_lab.experiments import paper_step
from mtl_lab.experiments.recon import RECON

PAPER = RECON["paper"]


def steps():
    """Kind of run -> function that takes one step."""
    draw, batch = torch.Generator().manual_seed(0), PAPER["schedule"]["batch_size"]
    tasks = [classification("digit", 10), classification("garment", 10)]
    inputs = torch.rand(batch, 1, 36, 36, generator=draw)
    targets = [torch.randint(10, (batch,), generator=draw) for _ in tasks]

    def step(kind):
        method, split = paper_step.KINDS[kind]
        of = tasks[:1] if kind == "single" else tasks
        model = models.build("resnet18", of, **PAPER["model_options"])
        if split:
            layers = released_by_recon(recon.candidate_layers(model))
            model = recon.split(model, layers, 2, "reinitialise", torch.Generator().manual_seed(0))
        if method is None:
            model.eval()
            return lambda: torch.no_grad()(model)(inputs)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
        backward = made(method, model, of, 0)
        return lambda: (backward(inputs, targets[: len(of)]), optimizer.step())

    return {kind: step(kind) for kind in paper_step.KINDS}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--record", action="store_true", help="write the committed record of the book")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    calls = steps()
    seconds = {kind: [] for kind in calls}
    for number in range(1 + chosen.rounds):  # the first warms up
        for kind, call in calls.items():
            start = time.process_time()
            call()
            if number:
                seconds[kind].append(time.process_time() - start)
                print(f"{kind:<24}{seconds[kind][-1]:8.2f} s", flush=True)
    if chosen.record:
        paper_step.write(seconds)


if __name__ == "__main__":
    main()
