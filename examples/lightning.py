"""Two tasks in a LightningModule with any method: manual optimisation, and a balancer in place of `manual_backward`.

    pip install pytorch-lightning
    python examples/lightning.py --method pcgrad

The data are drawn in place: noisy vectors, of which one task is to find the group, the other to tell the length.
"""

import argparse
import logging
import warnings

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, TensorDataset

from mtl_core import Balancer

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--method", default="pcgrad")
parser.add_argument("--epochs", type=int, default=5)
arguments = parser.parse_args()


class TwoTasks(pl.LightningModule):
    def __init__(self, method):
        super().__init__()
        self.automatic_optimization = False  # Lightning then leaves backward() and step() to training_step
        self.trunk = nn.Sequential(nn.Linear(8, 32), nn.ReLU())
        self.group, self.length = nn.Linear(32, 4), nn.Linear(32, 1)
        self.balancer = Balancer(method, self)  # no module: Lightning neither moves nor saves it

    def forward(self, x):
        z = self.trunk(x)
        return self.group(z), self.length(z).squeeze(1)

    def losses(self, batch):
        x, group, length = batch
        groups, lengths = self(x)
        return {"group": cross_entropy(groups, group), "length": mse_loss(lengths, length)}

    def training_step(self, batch, number):
        optimizer = self.optimizers()
        losses = self.losses(batch)
        optimizer.zero_grad()
        self.balancer.backward(losses)  # in place of self.manual_backward(sum(losses.values()))
        optimizer.step()
        self.log_dict({f"cosine {a}-{b}": cosine for (a, b), cosine in self.balancer.cosines.items()})

    def validation_step(self, batch, number):
        self.log_dict({f"loss of {task}": loss for task, loss in self.losses(batch).items()})

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)

    def on_save_checkpoint(self, checkpoint):
        checkpoint["balancer"] = self.balancer.state_dict()

    def on_load_checkpoint(self, checkpoint):
        self.balancer.load_state_dict(checkpoint["balancer"])


logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="pytorch_lightning")
pl.seed_everything(0, verbose=False)
centres, group = torch.randn(4, 8), torch.randint(4, (1200,))
x = centres[group] + 0.3 * torch.randn(1200, 8)
data = TensorDataset(x, group, x.norm(dim=1))
train, validation = torch.utils.data.random_split(data, [1000, 200])
without = {f"enable_{part}": False for part in ("checkpointing", "progress_bar", "model_summary")}
trainer = pl.Trainer(max_epochs=arguments.epochs, accelerator="cpu", logger=False, **without)
model, loader = TwoTasks(arguments.method), DataLoader(validation, 200)
(before,) = trainer.validate(model, loader, verbose=False)
trainer.fit(model, DataLoader(train, 50, shuffle=True))
(after,) = trainer.validate(model, loader, verbose=False)
for name, value in after.items():
    print(f"{name}: {before[name]:.3f} before, {value:.3f} after")
