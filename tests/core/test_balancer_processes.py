"""Two gloo processes do what one does with the whole batch: one pair for all checks, a pair takes long to start."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from balancer_networks import NAMES
from balancer_processes import train


@pytest.mark.supports("several processes (gloo)", "yes")
@pytest.mark.supports("uneven parts of a batch", "yes")
def test_two_processes_are_one(tmp_path):
    """Every method, masked labels, uneven parts, an absent task, accumulation, NaN and overflow in one of the two."""
    torch.save({name: train(name) for name in NAMES}, tmp_path / "want.pt")
    root = Path(__file__).parents[2]
    command = [sys.executable, str(root / "tests" / "balancer_processes.py"), str(tmp_path)]
    pair = [
        subprocess.Popen(
            command,
            cwd=root,
            env={**os.environ, "RANK": str(rank), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        for process in pair:
            _, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors[-3000:]
    finally:
        for process in pair:
            process.kill()
