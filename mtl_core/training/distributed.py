"""Training by several processes that `torchrun` started: each takes its part of every batch, their sums are common.

What n processes do is what one does with the whole batch, to rounding, but for BatchNorm: each normalises by the
statistics of its own part. Only the first process writes checkpoints; all must see the same files.
"""

import atexit
import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn

from mtl_core import methods
from mtl_core.old_gradients import _check_finite, task_gradients
from mtl_core.training.step import Step, _random_state, _set_random_state


class ProcessLost(RuntimeError):
    """Another process ended in the middle of a step; nothing that it owed can be added up."""


class Processes:
    """This process among `world`: its part of a batch, and sums over all of them.

    weight  share of the current batch that is here; set by `share`.
    """

    def __init__(self, rank: int, world: int):
        self.rank, self.world, self.weight = rank, world, 1.0

    def share(self, batch: Tensor) -> Tensor:
        """This process's part of the indices of a batch; the parts of an uneven batch differ by one."""
        mine = batch.tensor_split(self.world)[self.rank]
        self.weight, self.start, self.total = len(mine) / len(batch), 0, len(batch)
        self.start = sum(len(part) for part in batch.tensor_split(self.world)[: self.rank])
        return mine

    def join(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over the processes, a new one."""
        total = tensor.detach().clone()
        self._add(total)
        return total

    def join_all(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes, in one exchange per data type."""
        for dtype in sorted({t.dtype for t in tensors}, key=str):
            some = [t for t in tensors if t.dtype == dtype]
            joined = torch.cat([t.detach().flatten() for t in some])
            self._add(joined)
            for t, part in zip(some, joined.split([t.numel() for t in some]), strict=True):
                t.copy_(part.view_as(t))

    def whole(self, part: Tensor) -> Tensor:
        """A tensor whose first dimension is the batch, put together from all processes' parts."""
        batch = part.new_zeros(self.total, *part.shape[1:])
        batch[self.start : self.start + len(part)] = part
        return self.join(batch)

    @torch.no_grad()
    def average_buffers(self, model: nn.Module) -> None:
        """Running statistics become their mean: each process has seen other examples."""
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.copy_(self.join(buffer) / self.world)

    def _add(self, tensor: Tensor) -> None:
        try:
            distributed.all_reduce(tensor)
        except RuntimeError as error:
            raise ProcessLost(
                f"process {self.rank} of {self.world} could not add up a step with the others; if one of "
                "them ended, start again: a fit with a checkpoint goes on from its last epoch. What "
                f"torch.distributed says: {error}"
            ) from error


def processes() -> Processes | None:
    """This process among those of `torchrun`, or of a process group that is open already; None where it is alone."""
    if not distributed.is_available():
        return None
    if not distributed.is_initialized() and distributed.is_torchelastic_launched():
        distributed.init_process_group()  # gloo for what lies on the CPU, nccl for GPUs
        atexit.register(distributed.destroy_process_group)
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return None
    return Processes(distributed.get_rank(), distributed.get_world_size())


class JoinedStep(Step):
    """`Step` on this process's part of a batch: losses and gradients are those of the whole batch.

    J itself is added up, not its Gram matrix: that lacks the products between the processes' parts. What the forward
    pass draws (dropout) comes from a stream of each process, so that methods draw the same everywhere.
    """

    def __init__(self, model, tasks, spec, method, convention, processes: Processes, observed=False):
        self.processes = processes
        self.stream: dict | None = None
        super().__init__(model, tasks, spec, method, convention, observed)
        if self.at_features:
            self.at_features, self.backward_passes = False, len(tasks)

    def __call__(self, inputs: Tensor, targets: Sequence[Tensor]) -> Tensor:
        model, join = self.model, self.processes.join
        with self._own_stream(inputs):
            if self.follows:
                self.pending = inputs, targets, _random_state(inputs)
            features = model.features(inputs)
            losses = self._losses(model.outputs(features), targets)
        values = join(torch.stack(losses))
        if self.scalar:
            self._check(values, "the loss of")
            model.zero_grad(set_to_none=True)
            whole = values.clone().requires_grad_()
            self.method(whole).backward()
            assert whole.grad is not None  # the weights of the tasks
            if self.spec.learns:
                self.method.learn(self.convention.own_optimizer)
            (whole.grad * torch.stack(losses)).sum().backward()
            self.processes.join_all([p.grad for p in model.parameters() if p.grad is not None])
            return values
        gradients = self.gradients = task_gradients(losses, model, features, out=self.gradients, check_finite=False)
        single = [p for parameters in gradients.task_parameters for p in parameters] + list(model.heads.parameters())
        self.processes.join_all([gradients.matrix, *(p.grad for p in single if p.grad is not None)])
        if self.spec.level == "features":
            gradients.features = [self.processes.whole(z) for z in gradients.features]
        _check_finite(list(values), gradients)
        methods.combine(self.method, self.spec, self.convention, gradients, values, model.heads)
        return values

    @contextlib.contextmanager
    def _own_stream(self, inputs):
        """Torch's random numbers are this process's own inside, and afterwards what they were before."""
        common = _random_state(inputs)
        if self.stream is None:
            torch.manual_seed((torch.initial_seed() + 1 + self.processes.rank) % 2**63)
        else:
            _set_random_state(self.stream, inputs)
        try:
            yield
        finally:
            self.stream = _random_state(inputs)
            _set_random_state(common, inputs)

    def _losses(self, outputs, targets) -> list[Tensor]:
        return [self.processes.weight * loss for loss in super()._losses(outputs, targets)]

    def _probe(self, inputs, targets, random) -> Tensor:
        return self.processes.join(super()._probe(inputs, targets, random))


class Autocast:
    """A model whose forward pass runs in bfloat16 where that is safe (torch.autocast); its outputs are float32.

    Parameters, gradients and what methods compute stay in float32. Everything but the forward pass is the model's.
    """

    def __init__(self, model: nn.Module, device: str):
        self.model: Any = model
        self.context = torch.autocast(torch.device(device).type, dtype=torch.bfloat16)

    def features(self, inputs):
        with self.context:
            return self.model.features(inputs)

    def outputs(self, features) -> list[Tensor]:
        with self.context:
            return [output.float() for output in self.model.outputs(features)]

    def __call__(self, inputs) -> list[Tensor]:
        return self.outputs(self.features(inputs))

    def __getattr__(self, name):
        return getattr(self.model, name)
