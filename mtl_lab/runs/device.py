"""Which device a run trains on."""

import os
import re

import torch


def chosen_device(device: str | None = None) -> str:
    """`device`, else $MTL_DEVICE, else "cpu". ValueError where it is not "cpu", "cuda" or "cuda:N", or is not here."""
    name = device or os.environ.get("MTL_DEVICE") or "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ValueError(f"a device is 'cpu', 'cuda' or 'cuda:N' with a GPU's number, got {name!r} (from $MTL_DEVICE?)")
    if name != "cpu" and (torch.cuda.device_count() <= (torch.device(name).index or 0)):
        raise ValueError(
            f"{name} was asked for, and torch sees {torch.cuda.device_count()} GPUs: set MTL_DEVICE=cpu, or see that "
            "the driver works (nvidia-smi) and that torch has CUDA (a .venv set up with TORCH=cpu has not)"
        )
    return name


def own_device(device: str) -> str:
    """Under `torchrun`, "cuda" is the GPU of this process's number on its machine; any other name stands as it is."""
    number = os.environ.get("LOCAL_RANK")
    return f"cuda:{number}" if device == "cuda" and number is not None else device
