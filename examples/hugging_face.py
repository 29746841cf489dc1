"""Two tasks on one encoder under Hugging Face's `Trainer`, with any method: its `training_step` asks a balancer.

    pip install transformers accelerate
    python examples/hugging_face.py --method pcgrad

A small BERT is made in place, and its data: one task is to name the first token, the other whether most are odd.
"""

import argparse
import tempfile

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertModel, Trainer, TrainingArguments

from mtl_core import Balancer

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--method", default="pcgrad")
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--accumulate", type=int, default=1, help="batches to a step")
arguments = parser.parse_args()
torch.manual_seed(0)


class TwoTasks(nn.Module):
    def __init__(self):
        super().__init__()
        config = BertConfig(vocab_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
        self.encoder = BertModel(config, add_pooling_layer=False)
        self.first, self.odd = nn.Linear(32, 8), nn.Linear(32, 2)

    def forward(self, input_ids, attention_mask, first, odd):
        z = self.encoder(input_ids, attention_mask=attention_mask).last_hidden_state[:, 0]
        return {"first": cross_entropy(self.first(z), first), "odd": cross_entropy(self.odd(z), odd)}


class BalancedTrainer(Trainer):
    def __init__(self, method, **more):
        super().__init__(**more)
        self.balancer = Balancer(method, self.model)

    def training_step(self, model, inputs, num_items_in_batch=None):
        model.train()
        with self.compute_loss_context_manager():  # autocast, where it is asked for
            losses = model(**self._prepare_inputs(inputs))
        losses = {task: loss / self.current_gradient_accumulation_steps for task, loss in losses.items()}
        if self.accelerator.sync_gradients:
            self.balancer.backward(losses)  # in place of self.accelerator.backward(sum of the losses)
        else:
            self.balancer.accumulate(losses)
        return sum(losses.values()).detach()


def example():
    ids = torch.randint(8, (12,))
    odd = int((ids % 2).float().mean() > 0.5)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "first": int(ids[0]), "odd": odd}


def losses_of(model, examples):
    batch = {name: torch.stack([torch.as_tensor(e[name]) for e in examples]) for name in examples[0]}
    with torch.no_grad():
        return {task: loss.item() for task, loss in model.eval()(**batch).items()}


train, test, network = [example() for _ in range(600)], [example() for _ in range(200)], TwoTasks()
with tempfile.TemporaryDirectory() as folder:
    options = {"learning_rate": 3e-3, "per_device_train_batch_size": 20, "num_train_epochs": arguments.epochs}
    options |= {"gradient_accumulation_steps": arguments.accumulate, "use_cpu": True, "disable_tqdm": True}
    options |= {"report_to": [], "save_strategy": "no", "logging_strategy": "no", "remove_unused_columns": False}
    before = losses_of(network, test)
    trainer = BalancedTrainer(
        arguments.method, model=network, args=TrainingArguments(folder, **options), train_dataset=train
    )
    trainer.train()
for task, value in losses_of(network, test).items():
    print(f"loss of {task}: {before[task]:.3f} before, {value:.3f} after")
