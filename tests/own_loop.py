"""Training loops as people write them, each before and after a method is put into it: pairs of functions that run.

`in_your_own_loop.ipynb` shows what changes from one to the other, counts the lines, and runs both.
"""

import contextlib
import difflib
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass

import torch
from own_loop_networks import (
    TASKS,
    InOrder,
    Network,
    Transformer,
    UNet,
    by_task,
    images,
    sequences,
    vectors,
)
from torch import distributed, nn
from torch.nn.functional import cross_entropy, mse_loss

from mtl_core import Balancer, ConflictScores, RotoGrad, recon

# --- the loops


def plain_before(net, batches):
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for x, labels in batches:
        outputs = net(x)
        losses = {t: cross_entropy(outputs[t], labels[t]) for t in TASKS}
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()


def plain_after(net, batches):
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    balancer = Balancer("sam_gs", net)
    for x, labels in batches:
        outputs = net(x)
        losses = {t: cross_entropy(outputs[t], labels[t]) for t in TASKS}
        optimizer.zero_grad()
        balancer.backward(losses)
        optimizer.step()


def transformer_before(net, batches):
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for ids, padding, labels in batches:
        outputs = net(ids, padding)
        losses = {t: cross_entropy(outputs[t], labels[t]) for t in TASKS}
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()


def transformer_after(net, batches):
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    balancer = Balancer("pcgrad", net)
    for ids, padding, labels in batches:
        outputs = net(ids, padding)
        losses = {t: cross_entropy(outputs[t], labels[t]) for t in TASKS}
        optimizer.zero_grad()
        balancer.backward(losses)
        optimizer.step()


def unet_before(net, batches):
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for x, targets in batches:
        outputs = net(x)
        depth = mse_loss(outputs["depth"], targets["depth"])
        classes = cross_entropy(outputs["classes"], targets["classes"])
        optimizer.zero_grad()
        (depth + classes).backward()
        optimizer.step()


def unet_after(net, batches):
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    balancer = Balancer("cagrad", net)
    for x, targets in batches:
        outputs = net(x)
        depth = mse_loss(outputs["depth"], targets["depth"])
        classes = cross_entropy(outputs["classes"], targets["classes"])
        optimizer.zero_grad()
        balancer.backward({"depth": depth, "classes": classes})
        optimizer.step()


def own_batches_before(net, batches):
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for batch in batches:
        losses = {t: cross_entropy(net(x)[t], y) for t, (x, y) in batch.items()}
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()


def own_batches_after(net, batches):
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    balancer = Balancer("pcgrad", net)
    for batch in batches:
        losses = {t: cross_entropy(net(x)[t], y) for t, (x, y) in batch.items()}
        optimizer.zero_grad()
        balancer.backward(losses)
        optimizer.step()


def from_one_batch(net, batches):
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    balancer = Balancer("pcgrad", net)
    for batch in batches:
        losses = {t: cross_entropy(net(batch["x"])[t], batch[t]) for t in TASKS}
        optimizer.zero_grad()
        balancer.backward(losses)
        optimizer.step()


def amp_before(net, batches):
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu")
    for x, labels in batches:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = net(x)
            losses = {t: cross_entropy(outputs[t], labels[t]) for t in TASKS}
        optimizer.zero_grad()
        scaler.scale(sum(losses.values())).backward()
        scaler.step(optimizer)
        scaler.update()


def amp_after(net, batches):
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu")
    balancer = Balancer("pcgrad", net)
    for x, labels in batches:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = net(x)
            losses = {t: cross_entropy(outputs[t], labels[t]) for t in TASKS}
        optimizer.zero_grad()
        balancer.backward(losses, scaler=scaler)
        scaler.step(optimizer)
        scaler.update()


def accumulation_before(net, batches):
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for n, (x, labels) in enumerate(batches, 1):
        outputs = net(x)
        losses = {t: cross_entropy(outputs[t], labels[t]) / 4 for t in TASKS}
        sum(losses.values()).backward()
        if n % 4 > 0:
            continue
        optimizer.step()
        optimizer.zero_grad()


def accumulation_after(net, batches):
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    balancer = Balancer("pcgrad", net)
    for n, (x, labels) in enumerate(batches, 1):
        outputs = net(x)
        losses = {t: cross_entropy(outputs[t], labels[t]) / 4 for t in TASKS}
        if n % 4 > 0:
            balancer.accumulate(losses)
            continue
        balancer.backward(losses)
        optimizer.step()
        optimizer.zero_grad()


def processes_before(net, batches):
    replica = nn.parallel.DistributedDataParallel(net)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for x, labels in batches:
        outputs = replica(x)
        losses = {t: cross_entropy(outputs[t], labels[t]) for t in TASKS}
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()


def processes_after(net, batches):
    balancer = Balancer("pcgrad", net)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for x, labels in batches:
        outputs = net(x)
        losses = {t: cross_entropy(outputs[t], labels[t]) for t in TASKS}
        optimizer.zero_grad()
        balancer.backward(losses)
        optimizer.step()


def log_before(net, batches, log):
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    balancer = Balancer("mgda", net)
    for ids, padding, labels in batches:
        outputs = net(ids, padding)
        losses = {t: cross_entropy(outputs[t], labels[t]) for t in TASKS}
        optimizer.zero_grad()
        balancer.backward(losses)
        optimizer.step()


def log_after(net, batches, log):
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    balancer = Balancer("mgda", net)
    for ids, padding, labels in batches:
        outputs = net(ids, padding)
        losses = {t: cross_entropy(outputs[t], labels[t]) for t in TASKS}
        optimizer.zero_grad()
        balancer.backward(losses)
        optimizer.step()
        log({f"weight of {t}": w for t, w in balancer.weights.items()})
        log({f"cosine of {a}/{b}": c for (a, b), c in balancer.cosines.items()})


def rotograd_before(net, batches):
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for x, labels in batches:
        outputs = net(x)
        losses = [*map(cross_entropy, outputs, labels.values())]
        optimizer.zero_grad()
        sum(losses).backward()
        optimizer.step()


def rotograd_after(net, batches):
    net = RotoGrad(net.trunk, net.heads, rotation_size=16)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for x, labels in batches:
        outputs = net(x)
        losses = [*map(cross_entropy, outputs, labels.values())]
        optimizer.zero_grad()
        net.backward(losses)
        optimizer.step()
    net.fold_into_heads()


def recon_before(build, batches, train):
    net = build()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for x, labels in batches:
        outputs = net(x)
        losses = {t: cross_entropy(outputs[t], labels[t]) for t in TASKS}
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()


def recon_after(build, batches, train):
    net = build()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    balancer = Balancer("equal", net)
    scores = ConflictScores(recon.candidate_layers(net)).attach(balancer)
    for x, labels in batches:
        outputs = net(x)
        losses = {t: cross_entropy(outputs[t], labels[t]) for t in TASKS}
        optimizer.zero_grad()
        balancer.backward(losses)
        optimizer.step()
    worst = scores.ranking(0.0)[:1]
    net = recon.split(build(), worst, TASKS)
    train(net, batches)


# --- what changes from one to the other


@dataclass(frozen=True)
class Case:
    """A loop before and after.

    network  what makes a network; batches: how many -> so many batches for it.
    target   how many lines may be new or changed.
    """

    title: str
    before: Callable
    after: Callable
    network: Callable[[], nn.Module] = Network
    batches: Callable[[int], list] = vectors
    target: int = 10

    def run(self, loop: Callable, steps: int, log: Callable[[dict], object] = dict) -> nn.Module:
        """The network that one of the two loops has trained, always from the same start."""
        torch.manual_seed(0)
        given = {"net": self.network(), "batches": self.batches(steps), "log": log}
        given |= {"build": self.network, "train": plain_before}
        loop(**{name: given[name] for name in inspect.signature(loop).parameters})
        return given["net"]

    def difference(self) -> list[str]:
        """All lines of both: "+ " before one that is new or changed, "- " before one that goes, else blanks."""
        lines = difflib.ndiff(*(_body(loop) for loop in (self.before, self.after)))
        return [line.rstrip() for line in lines if not line.startswith("?")]

    def added(self) -> int:
        """How many lines are new or changed; the line of the import is not counted."""
        return sum(line.startswith("+") for line in self.difference())


def _body(loop: Callable) -> list[str]:
    return textwrap.dedent(inspect.getsource(loop).partition(":\n")[2]).splitlines()


@contextlib.contextmanager
def one_process():
    """An open process group of this process alone, for the loop with `DistributedDataParallel`."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


CASES = {
    "plain": Case("SAM-GS in a plain loop", plain_before, plain_after, target=2),
    "transformer": Case("Transformer, padding mask", transformer_before, transformer_after, Transformer, sequences, 2),
    "unet": Case("U-Net with skips", unet_before, unet_after, UNet, images, 2),
    "own batches": Case("A batch for each task", own_batches_before, own_batches_after, batches=by_task, target=2),
    "from one batch": Case("The same, from one batch", from_one_batch, own_batches_after, batches=by_task, target=1),
    "amp": Case("Mixed precision", amp_before, amp_after),
    "accumulation": Case("Gradient accumulation", accumulation_before, accumulation_after),
    "processes": Case("Several processes", processes_before, processes_after),
    "log": Case("Weights and cosines logged", log_before, log_after, Transformer, sequences),
    "rotograd": Case("RotoGrad", rotograd_before, rotograd_after, InOrder, target=3),
    "recon": Case("Recon, trained twice", recon_before, recon_after, target=6),
}
