"""Train one network on two tasks with any method: a plain PyTorch loop, to be read from top to bottom.

    python examples/train.py                      # the plain sum of the losses
    python examples/train.py --method sam_gs --epochs 3
    python examples/train.py --method famo --convention famo

The data come with the package: pictures of a handwritten digit and a garment that overlap. Task "digit" is to name the
one, task "garment" the other. Two lines make the loop multi-task: the one that makes the balancer, and
`balancer.backward(losses)` in place of `sum(losses.values()).backward()`.
"""

import argparse
import time

import torch
from torch import nn

from mtl_core import data
from mtl_core.balancer import Balancer
from mtl_core.methods import CONVENTIONS, METHODS

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
methods = [name for name, row in METHODS.items() if row.kind != "feature rotation" and name != "static"]
parser.add_argument("--method", default="equal", choices=methods, metavar="NAME", help=", ".join(methods))
parser.add_argument("--convention", default="plain", choices=CONVENTIONS)
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--batch-size", type=int, default=50)
parser.add_argument("--learning-rate", type=float, default=1e-3)
parser.add_argument("--seed", type=int, default=0)
arguments = parser.parse_args()
torch.manual_seed(arguments.seed)

# Two tasks, one set of pictures: uint8 (N, 1, 36, 36), and for each task a class from 0 to 9.
problem = data.load("multi_fashion_mnist", profile="tiny")
tasks = [task.name for task in problem.tasks]
images, labels = problem.train.inputs.float() / 255, problem.train.targets
test_images, test_labels = problem.test.inputs.float() / 255, problem.test.targets


class Network(nn.Module):
    """A small convolutional trunk and a linear head for each task. Any module will do."""

    def __init__(self):
        super().__init__()
        convolutions = [nn.Conv2d(1, 8, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 5), nn.ReLU(), nn.MaxPool2d(2)]
        self.trunk = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(16 * 6 * 6, 64), nn.ReLU())
        self.heads = nn.ModuleDict({task: nn.Linear(64, 10) for task in tasks})

    def forward(self, pictures):
        features = self.trunk(pictures)
        return features, {task: head(features) for task, head in self.heads.items()}


network = Network()
balancer = Balancer(arguments.method, network, convention=arguments.convention)
optimizer = torch.optim.Adam(network.parameters(), lr=arguments.learning_rate)


def losses_of(outputs, batch):
    return {task: nn.functional.cross_entropy(outputs[task], labels[k][batch]) for k, task in enumerate(tasks)}


for epoch in range(1, arguments.epochs + 1):
    start = time.perf_counter()
    for batch in torch.randperm(len(images)).split(arguments.batch_size):
        optimizer.zero_grad()
        features, outputs = network(images[batch])
        losses = losses_of(outputs, batch)
        balancer.backward(losses, features=features)  # instead of sum(losses.values()).backward()
        optimizer.step()
        if "losses after the step" in METHODS[arguments.method].needs:  # FAMO learns from what the step has changed
            with torch.no_grad():
                balancer.after_step(losses_of(network(images[batch])[1], batch))

    with torch.no_grad():
        _, outputs = network(test_images)
    right = {task: (outputs[task].argmax(1) == test_labels[k]).float().mean() for k, task in enumerate(tasks)}
    shown = ", ".join(f"{task} {100 * share:.1f} %" for task, share in right.items())
    cosine = "".join(f"; cosine of the gradients {value:.2f}" for value in balancer.cosines.values())
    print(f"epoch {epoch}: right on the test split: {shown}{cosine} ({time.perf_counter() - start:.1f} s)")
