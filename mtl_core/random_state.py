"""Torch's random state, to be kept and put back."""

import contextlib
from collections.abc import Iterator

import torch


def random_state(device: str | torch.device) -> dict:
    """Torch's random state, of the CPU and, where `device` is a GPU, of that one."""
    state, device = {"cpu": torch.get_rng_state()}, torch.device(device)
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def same_state(one: dict | None, other: dict) -> bool:
    return one is not None and all(torch.equal(one[name].cpu(), state.cpu()) for name, state in other.items())


def set_random_state(state: dict, device: str | torch.device) -> None:
    torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and torch.device(device).type == "cuda":
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


@contextlib.contextmanager
def drawing_from(state: dict | None, device: torch.device) -> Iterator[None]:
    """Inside, random numbers are those of `state`; behind, they go on as if none had been drawn. None: as ever."""
    if state is None:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        set_random_state(state, device)
        yield
