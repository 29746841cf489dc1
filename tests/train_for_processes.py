"""What tests/core/test_processes.py starts under torchrun: train all methods, then, told to go, train until killed."""

import json
import os
import sys
import time
from pathlib import Path

import torch
from engine import small_model, small_problem
from torch import nn

from mtl_core import methods
from mtl_core.training import loop
from mtl_core.training.schedule import Schedule
from mtl_lab.files import write_atomically
from mtl_lab.runs.checkpoints import fit_from

OPTIONS = {"static": {"weights": [0.5, 1.0, 1.5]}}
SPECIAL = {"feature rotation": {"rotation_size": 4, "normalize_losses": True, "burn_in": 3}}


def compare(folder, rank, world):
    problem, parts = small_problem(3, examples=70), set()
    schedule = Schedule(epochs=2, batch_size=33, learning_rate=0.05)
    for name, spec in methods.METHODS.items():
        parts.clear()
        model = small_model(3)
        model.trunk.register_forward_pre_hook(lambda trunk, given: parts.add(len(given[0])) if trunk.training else None)
        start = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
        history = loop.fit(model, problem, name, schedule, method_options=OPTIONS.get(name, SPECIAL.get(spec.kind, {})))
        moved = (
            torch.cat([p.detach().flatten() for p in [*model.trunk.parameters(), *model.heads.parameters()]]) - start
        )
        if rank == 0:
            losses = [x for e in history.epochs for x in e["train_loss"].values()]
            found = {
                "model": model.state_dict(),
                "losses": losses,
                "parts": sorted(parts),
                "moved": moved.norm().item(),
            }
            torch.save(found | {"diverged": history.diverged}, folder / f"{world}-{name}.pt")


def draw(folder, rank):
    """Methods that draw, on a network that draws as well: this process's masks and where its training ends."""
    found = {}
    for name in [name for name, spec in methods.METHODS.items() if spec.random]:
        model, masks = small_model(3), []
        model.trunk.append(nn.Dropout(0.5))
        model.trunk[-1].register_forward_hook(lambda module, _, out, masks=masks: masks.append(out.detach() == 0))
        schedule = Schedule(epochs=1, batch_size=33, learning_rate=0.05)
        loop.fit(model, small_problem(3, examples=70), name, schedule)
        found[name] = torch.cat([p.detach().flatten() for p in model.parameters()])
    torch.save({"weights": found, "masks": masks[:2]}, folder / f"drawn-{rank}.pt")


def die(folder, rank):
    write_atomically(folder / f"pid-{rank}.json", json.dumps({"pid": os.getpid(), "rank": rank}))
    while not (folder / "go").exists():
        time.sleep(0.02)
    schedule = Schedule(epochs=400, batch_size=32, learning_rate=0.05)
    given = small_model(3), small_problem(3, examples=640), "mgda", schedule
    fit_from(folder / "c.pt", "three tasks", *given)


if __name__ == "__main__":
    torch.set_num_threads(1)
    here, place = Path(sys.argv[1]), int(os.environ["RANK"])
    compare(here, place, int(os.environ["WORLD_SIZE"]))
    draw(here, place)
    die(here, place)
