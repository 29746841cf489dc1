"""One training loop for every method: fit trains, evaluate measures."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mtl_core import methods
from mtl_core._inputs import add_up
from mtl_core.balancer import Balancer
from mtl_core.data.batches import Batch, batches, moved
from mtl_core.data.problem import Split
from mtl_core.gradients import NonFiniteGradientError
from mtl_core.random_state import drawing_from, random_state, set_random_state
from mtl_core.seeds import torch_generator, torch_seed
from mtl_core.tasks import Task
from mtl_core.training.distributed import average_buffers, rank, share, started
from mtl_core.training.schedule import Schedule


@dataclass
class History:
    """What a fit leaves: plain numbers only, so that it goes into a record unchanged.

    epochs     one entry per finished epoch: mean train losses, validation metrics, seconds.
    diverged   None, or where and why training stopped; the model then has the weights of the last finite epoch.
    """

    epochs: list = field(default_factory=list)
    diverged: dict | None = None
    steps: int = 0
    trunk_backward_passes: int = 0
    seconds: float = 0.0
    core_seconds: float = 0.0


@torch.no_grad()
def evaluate(model: nn.Module, tasks: Sequence[Task], split, batch_size: int = 500) -> dict:
    """Loss and metrics of each task over a split: task -> {"loss": mean over its labels, metric: value}.

    The model is in evaluation mode meanwhile.
    split  as in `data.batches`; metrics see the targets unchanged, so that a masked task needs masked metrics.
    """
    training, names = model.training, [task.name for task in tasks]
    model.eval()
    metrics = [{name: make() for name, make in task.metrics.items()} for task in tasks]
    losses, labels = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)
    for batch in batches(split, names, batch_size):
        for inputs, targets in moved(batch, next(model.parameters()).device):
            for task, output, of_task in zip(tasks, model(inputs), metrics, strict=True):
                if task.name not in targets or not (count := int(task.labels(targets[task.name]))):
                    continue
                labels[task.name] += count
                losses[task.name] += task.loss(output, targets[task.name]).item() * count
                for metric in of_task.values():
                    metric.update(output.cpu(), targets[task.name].cpu())
    model.train(training)
    measured = [{name: float(metric.compute()) for name, metric in of_task.items()} for of_task in metrics]
    return {n: {"loss": losses[n] / max(labels[n], 1), **values} for n, values in zip(names, measured, strict=True)}


def fit(
    model, problem, method="equal", schedule=Schedule(epochs=1), *, spec=None, method_options=None, convention="plain",  # noqa: B008
    seed=0, observers=(), start=None, after_epoch=None, device="cpu",
) -> History:  # fmt: skip
    """Train `model` in place; the History of it.

    method       name in the registry, with `method_options`; or an instance, with its registry entry `spec`.
                 A feature rotation is made around the model's trunk and heads; what it trains becomes
                 the model's `rotations`.
    convention   name in `methods.CONVENTIONS`, or a Convention.
    seed         batches come from its stream "batch order"; torch's generator, which a method may
                 draw from, starts at its stream "method" and is put back at the end.
    observers    objects with update(TaskGradients), state_dict(), load_state_dict(); called each step.
    after_epoch  called after each epoch with what is being trained: `history`, the epochs so far, and `state()`, all
                 that a run needs to go on, which torch.save writes and torch.load(…, weights_only=True) reads.
    start        such a state: training goes on from there and ends bit for bit where the undisturbed run ends (same
                 machine, same versions; on a GPU as far as its kernels are deterministic).

    Started by `torchrun`, each process trains on its part of every batch (`distributed`), on a device of its own.
    Gradients, losses or validation metrics that are not finite end the run: History.diverged says where.
    """
    options = dict(method_options or {})
    if isinstance(method, str) and methods.find(method).kind == methods.ROTATION:
        spec, options = methods.find(method), options | {"trunk": model.trunk, "heads": model.heads}
    elif spec is None or spec.kind != methods.ROTATION:
        spec, method = methods.instance(method, spec, options)
    convention = methods.named(convention)
    if isinstance(problem.train, Split) and len(problem.train) < schedule.batch_size:
        raise ValueError(f"a batch of {schedule.batch_size} needs as many examples; there are {len(problem.train)}")
    gpus = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):  # named, or torch wakes every GPU of the machine
        torch.manual_seed(torch_seed(seed, "method"))
        model = model.to(device)
        if isinstance(method, str):  # a feature rotation: its start may be drawn
            method = methods.make(method, **options)
        loop = _Loop(model, problem, spec, method.to(device), schedule, convention, seed, observers, device)
        return loop.run(start, after_epoch)


class _Loop:
    """What is being trained, and its way to and from a checkpoint."""

    def __init__(self, model, problem, spec, method, schedule, convention, seed, observers, device):
        if getattr(model, "rotations", None) is not None:
            raise ValueError("the model has rotations of an earlier fit: train a fresh model")
        self.model, self.method, self.schedule, self.observers = model, method, schedule, observers
        self.problem, self.device = problem, torch.device(device)
        splits = problem.train, problem.validation
        self.train, self.validation = [x.to(device) if isinstance(x, Split) else x for x in splits]
        self.convention, self.names = convention.of(spec.name), [task.name for task in problem.tasks]
        if (several := started()) > schedule.batch_size:
            raise ValueError(f"a batch of {schedule.batch_size} cannot be shared by {several} processes")
        parameters: Any = model.parameters()
        if spec.kind == methods.ROTATION:
            if method.trunk is not model.trunk or [*method.heads] != [*model.heads]:
                raise ValueError("a feature rotation is made with the trunk and heads of the model that is trained")
            self.door: Any = method.train()  # or a Balancer, whose backward takes the same
            method.convention, model.rotations = self.convention, method.rotation
            parameters = method.parameter_groups(schedule.learning_rate)
        else:
            self.door = Balancer(method, model.layer_parameters(), convention=convention, spec=spec)
            self.door.tasks += self.names  # J's rows are in their order, whichever comes first
        self.door.observers += [observer.update for observer in observers]
        self.optimizer, self.scheduler = schedule.make(parameters)
        self.order = torch_generator(seed, "batch order")
        self.history = History()
        self.last = self.weights()  # of the last epoch that ended with finite numbers

    def weights(self) -> dict:
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def run(self, start, after_epoch) -> History:
        if start is not None:
            self.load(start)
        if rank():  # dropout of its own in each part of a batch; what methods draw is agreed on
            torch.manual_seed((torch.initial_seed() + rank()) % 2**63)
        history = self.history
        while len(history.epochs) < self.schedule.epochs and history.diverged is None:
            self.epoch()
            if after_epoch is not None:
                after_epoch(self)
        self.model.load_state_dict(self.last)
        return history

    def epoch(self) -> None:
        clock, cpu = time.perf_counter(), time.process_time()
        history, size, before = self.history, self.schedule.batch_size, self.history.steps
        self.model.train()
        total, labels = torch.zeros(2, len(self.names), dtype=torch.float64, device=self.device)
        try:
            for batch in batches(self.train, self.names, size, self.order):
                losses, counts = self.step(moved(batch, self.device, share))
                total[counts > 0] += losses * counts[counts > 0]
                labels += counts
                history.steps += 1
                history.trunk_backward_passes += self.door.passes
            self.scheduler.step()
            average_buffers(self.model)
            values = evaluate(self.model, self.problem.tasks, self.validation)
            measured = [(f"{task}, {name}", value) for task, m in values.items() for name, value in m.items()]
            if wrong := [name for name, value in measured if not math.isfinite(value)]:
                raise NonFiniteGradientError(f"after the epoch, on validation data, not finite: {'; '.join(wrong)}")
        except NonFiniteGradientError as error:
            step = history.steps - before
            history.diverged = {"epoch": len(history.epochs), "step": step, "message": str(error)}
        else:
            means = dict(zip(self.names, (total / labels).tolist(), strict=True))
            history.epochs.append({"train_loss": means, "validation": values, "seconds": time.perf_counter() - clock})
            self.last = self.weights()
        history.seconds += time.perf_counter() - clock
        history.core_seconds += time.process_time() - cpu

    def step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """One optimisation step on a batch, of which this process has a part; losses and labels of all of it, (K,).

        A batch without any label makes no step and has no losses.
        """
        door, random = self.door, random_state(self.device)
        self.optimizer.zero_grad()
        losses, features = self.losses(batch)
        targets = {name: target for _, of_tasks in batch for name, target in of_tasks.items()}
        counts = {t.name: int(t.labels(targets[t.name])) if t.name in targets else 0 for t in self.problem.tasks}
        labels = torch.tensor([float(counts[name]) for name in self.names], dtype=torch.float64, device=self.device)
        if not add_up(labels).any():  # in any process
            return labels[:0], labels
        door.backward(losses, features=features, counts=counts)
        self.optimizer.step()
        if isinstance(door, Balancer) and door.waits:
            door.after_step(self.probe(batch, random))
        return door.losses, labels

    def losses(self, batch: Batch) -> tuple[dict[str, Tensor], Any]:
        """Task -> loss of a batch; and the features, where all tasks share them."""
        losses, features, model = dict[str, Tensor](), None, self.model
        rotates = not isinstance(self.door, Balancer) and torch.is_grad_enabled()
        for inputs, targets in batch:
            features = None if rotates else model.features(inputs)
            outputs = self.door(inputs) if rotates else model.outputs(features)
            for task, output in zip(self.problem.tasks, outputs, strict=True):
                if task.name in targets:
                    losses[task.name] = task.loss(output, targets[task.name])
        return losses, features if len(batch) == 1 else None

    @torch.no_grad()
    def probe(self, batch: Batch, random) -> dict[str, Tensor]:
        """The losses of the same batch after the step, as `convention.probe` says.

        random  torch's random state before the step: "frozen" draws the same masks again.
        """
        frozen, kept = self.convention.probe == "frozen", [buffer.clone() for buffer in self.model.buffers()]
        self.model.train(self.convention.probe != "evaluation")
        with drawing_from(random if frozen else None, self.device):
            losses, _ = self.losses(batch)
        for buffer, value in zip(self.model.buffers(), kept, strict=True) if frozen else ():
            buffer.copy_(value)
        self.model.train()
        return losses

    def parts(self) -> dict[str, Any]:
        """What has a state_dict."""
        found = {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler, "method": self.method}
        return found | {f"observer {n}": observer for n, observer in enumerate(self.observers)}

    def state(self) -> dict:
        state = {name: part.state_dict() for name, part in self.parts().items()}
        state |= {"order": self.order.get_state(), "random": random_state(self.device), "last": self.last}
        return state | {"history": asdict(self.history)}

    def load(self, state: Mapping) -> None:
        for name, part in self.parts().items():
            part.load_state_dict(state[name])
        for moments in [moments for moments in self.optimizer.state.values() if "step" in moments]:
            moments["step"] = moments["step"].cpu()  # Adam counts on the host: a GPU would wait for each count
        self.order.set_state(state["order"].cpu())
        set_random_state(state["random"], self.device)
        self.last, self.history = state["last"], History(**state["history"])
