"""One seed, several independent streams: what one part draws never shifts what another part draws."""

import zlib

import numpy as np
import torch

STREAMS = ("initialisation", "batch order", "pairing", "method", "split", "null", "search")


def _sequence(seed, name, part=""):
    if name not in STREAMS:
        raise ValueError(f"unknown random stream {name!r}; the streams are {', '.join(STREAMS)}")
    if seed < 0:
        raise ValueError(f"a seed is a non-negative integer, got {seed}")
    words = [int(seed), zlib.crc32(name.encode())]
    return np.random.SeedSequence(words + [zlib.crc32(part.encode())] if part else words)


def numpy_generator(seed: int, name: str, part: str = "") -> np.random.Generator:
    """PCG64 stream `name` of `seed`. The names are `STREAMS`; another name is a ValueError.

    `part` (any word) is a stream of its own below that name, so that parts can be drawn in any order.
    """
    return np.random.Generator(np.random.PCG64(_sequence(seed, name, part)))


def torch_seed(seed: int, name: str) -> int:
    """A 63-bit seed for torch, drawn from stream `name` of `seed`."""
    return int(_sequence(seed, name).generate_state(1, np.uint64)[0] >> 1)


def torch_generator(seed: int, name: str, device="cpu") -> torch.Generator:
    """A torch generator that starts at stream `name` of `seed`."""
    return torch.Generator(device=device).manual_seed(torch_seed(seed, name))
