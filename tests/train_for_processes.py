"""What tests/test_processes.py starts, by itself and under torchrun: FOLDER compare | die."""

import json
import os
import sys
from pathlib import Path

import torch
from engine import small_model, small_problem

from mtl_core import methods
from mtl_core.tasks import Split
from mtl_core.training import loop
from mtl_core.training.schedule import Schedule

OPTIONS = {"static": {"weights": [0.5, 1.0, 1.5]}}
SPECIAL = {"feature rotation": {"rotation_size": 4, "normalize_losses": True, "burn_in": 3}}


def compare(folder, rank, world):
    plain = small_problem(3, examples=70)
    parts = []

    class Counted(Split):
        def batch(self, index):
            if isinstance(index, torch.Tensor):
                parts.append(len(index))
            return super().batch(index)

        def to(self, device):
            return self

    problem = type(plain)(
        plain.tasks, Counted(plain.train.inputs, plain.train.targets), plain.validation, plain.test, plain.source
    )
    schedule = Schedule(epochs=2, batch_size=33, learning_rate=0.05)
    for name, spec in methods.METHODS.items():
        parts.clear()
        model = small_model(3)
        start = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
        history = loop.fit(
            model, problem, name, schedule, test=False, method_options=OPTIONS.get(name, SPECIAL.get(spec.kind, {}))
        )
        moved = (
            torch.cat([p.detach().flatten() for p in [*model.trunk.parameters(), *model.heads.parameters()]]) - start
        )
        if rank == 0:
            losses = [x for e in history.epochs for x in e["train_loss"].values()]
            found = {"model": model.state_dict(), "losses": losses, "parts": list(parts), "moved": moved.norm().item()}
            torch.save(found | {"diverged": history.diverged}, folder / f"{world}-{name}.pt")


def die(folder, rank):
    (folder / f"pid-{rank}.json").write_text(json.dumps({"pid": os.getpid(), "rank": rank}))
    schedule = Schedule(epochs=400, batch_size=32, learning_rate=0.05)
    loop.fit(small_model(3), small_problem(3, examples=640), "mgda", schedule, checkpoint=folder / "c.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    here, what = Path(sys.argv[1]), sys.argv[2]
    place, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    compare(here, place, size) if what == "compare" else die(here, place)
