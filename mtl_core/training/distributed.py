"""Training by several processes that `torchrun` started: each takes its part of every batch, their sums are common.

What n processes do is what one does with the whole batch, to rounding, but for BatchNorm: each normalises by the
statistics of its own part. Only the first process writes checkpoints; all must see the same files.
"""

import atexit

import torch
from torch import Tensor, distributed, nn

from mtl_core._inputs import add_up, several


def started() -> int:
    """How many processes there are: `torchrun` started them, or a process group is open already; else 1."""
    if distributed.is_available() and not distributed.is_initialized() and distributed.is_torchelastic_launched():
        distributed.init_process_group()  # gloo for what lies on the CPU, nccl for GPUs
        atexit.register(distributed.destroy_process_group)
    return distributed.get_world_size() if several() else 1


def rank() -> int:
    return distributed.get_rank() if started() > 1 else 0


def share(batch: Tensor) -> Tensor:
    """This process's part of the indices of a batch; the parts of an uneven batch differ by one."""
    return batch.tensor_split(started())[rank()]


@torch.no_grad()
def average_buffers(model: nn.Module) -> None:
    """Running statistics become their mean: each process has seen other examples."""
    for buffer in model.buffers() if started() > 1 else ():
        if buffer.is_floating_point():
            buffer.copy_(add_up(buffer.clone()) / started())
