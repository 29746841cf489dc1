"""Core-seconds of one image of the dense tables at the published width: forward alone, and forward and backward.

    python benchmarks/dense_step.py [--rounds 3] [--record]

SegNet with CityScapes' tasks and MTAN with NYUv2's, at 128 x 256 pixels; MobileNetV2 with R-ASPP at 512 x 512. One
thread, on the CPU, made-up pictures; what is counted is the processor's time. `--record` writes
results/dense_step/paper,
from which the book computes what each table would cost.
"""

import argparse
import time

import torch

from mtl_core import models
from mtl_core.data import dense, pascal_tasks
from mtl_lab.experiments import dense_step

IMAGES = 2  # at once, since a mean over one pooled image has no variance
TASKS = {
    "segnet": [dense.segmentation(7), dense.depth()],
    "mtan": [dense.segmentation(13), dense.depth(), dense.normals()],
    "mobilenet_raspp": [
        dense.segmentation(21),
        dense.segmentation(7, "parts"),
        pascal_tasks.saliency(),
        dense.normals(),
    ],
}


def passes(network):
    """Pass -> function that takes it once."""
    model, inputs = models.build(network, TASKS[network]), torch.rand(IMAGES, 3, *dense_step.SIDES[network])

    def forward():
        with torch.no_grad():
            model.eval()(inputs)

    def gradient():
        model.zero_grad()
        sum(output.square().mean() for output in model.train()(inputs)).backward()

    return {"forward": forward, "gradient": gradient}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--record", action="store_true", help="write the committed record of the book")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    seconds = {}
    for network in dense_step.MEASURED:
        seconds[network] = {name: [] for name in dense_step.PASSES}
        calls = passes(network)
        for number in range(1 + chosen.rounds):  # the first warms up
            for name, call in calls.items():
                start = time.process_time()
                call()
                if number:
                    seconds[network][name].append((time.process_time() - start) / IMAGES)
                    print(f"{network:<18}{name:<12}{seconds[network][name][-1]:8.2f} s", flush=True)
    if chosen.record:
        dense_step.write(seconds)


if __name__ == "__main__":
    main()
