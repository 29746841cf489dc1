"""Which device a run trains on."""

import os
import re

import torch

PRECISIONS = {"": "highest", "tf32": "high", "bfloat16": "medium"}  # $MTL_PRECISION -> torch's word for it


def chosen_device(device: str | None = None) -> str:
    """`device`, else $MTL_DEVICE, else "cpu". ValueError where it is not "cpu", "cuda" or "cuda:N", or is not here."""
    set_precision()
    name = device or os.environ.get("MTL_DEVICE") or "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ValueError(f"a device is 'cpu', 'cuda' or 'cuda:N' with a GPU's number, got {name!r} (from $MTL_DEVICE?)")
    if name != "cpu" and (torch.cuda.device_count() <= (torch.device(name).index or 0)):
        raise ValueError(
            f"{name} was asked for, and torch sees {torch.cuda.device_count()} GPUs: set MTL_DEVICE=cpu, or see that "
            "the driver works (nvidia-smi) and that torch has CUDA (a .venv set up with TORCH=cpu has not)"
        )
    return name


def set_precision() -> None:
    """Let products of float32 matrices be computed as $MTL_PRECISION says; float32 itself unless given.

    "tf32" and "bfloat16" round what is multiplied, where the hardware is faster with it; sums, weights and results stay
    float32. A store keeps runs of each apart, and records name it. ValueError for another name.
    """
    if (name := os.environ.get("MTL_PRECISION", "")) not in PRECISIONS:
        raise ValueError(f"MTL_PRECISION is tf32, bfloat16 or not set, got {name!r}")
    torch.set_float32_matmul_precision(PRECISIONS[name])


def own_device(device: str) -> str:
    """Under `torchrun`, "cuda" is the GPU of this process's number on its machine; any other name stands as it is."""
    number = os.environ.get("LOCAL_RANK")
    return f"cuda:{number}" if device == "cuda" and number is not None else device
