"""Two processes train one network: each on its part of every batch, with the same result as one process.

    torchrun --nproc-per-node=2 examples/two_processes.py

The balancer takes the place of `DistributedDataParallel`: it is given the plain module, and adds the gradients by task
up over the processes. On GPUs take "nccl" for "gloo" and move network and batches to the GPU of `LOCAL_RANK`.
"""

import torch
from torch import distributed, nn

from mtl_core import Balancer

distributed.init_process_group("gloo")
rank, size = distributed.get_rank(), distributed.get_world_size()

torch.manual_seed(0)  # the same start in every process
network = nn.ModuleDict({"trunk": nn.Linear(8, 16), "height": nn.Linear(16, 1), "width": nn.Linear(16, 1)})
balancer = Balancer("pcgrad", network)
optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
draws = torch.Generator().manual_seed(1)  # the same batches; torch's own generator moves with the method's draws

for _ in range(20):
    x = torch.randn(30, 8, generator=draws)  # the whole batch; a DistributedSampler would deal it out
    targets = {"height": x.sum(1, keepdim=True), "width": -x[:, :1]}
    mine = slice(rank, None, size)
    z = network["trunk"](x[mine]).relu()
    losses = {task: (network[task](z) - targets[task][mine]).pow(2).mean() for task in targets}
    optimizer.zero_grad()
    balancer.backward(losses, counts={task: len(z) for task in losses})
    optimizer.step()

checksum = sum(p.double().sum().item() for p in network.parameters())
print(f"process {rank} of {size}: loss {balancer.losses.sum():.5f}, sum of the parameters {checksum:.5f}")
distributed.destroy_process_group()
