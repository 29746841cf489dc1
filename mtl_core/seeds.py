"""One seed, several independent streams: what one part draws never shifts what another part draws.

`wobbled` moves where a training begins by a few units in the last place: what `make wobble` sees differ then, another
processor's rounding may change as well.
"""

import os
import zlib

import numpy as np
import torch

STREAMS = ("initialisation", "batch order", "pairing", "method", "split", "null", "search", "wobble")


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


def wobble() -> str:
    """Number of the draw that `wobbled` takes, from $MTL_WOBBLE; empty, as everywhere but in a check: nothing moves."""
    return os.environ.get("MTL_WOBBLE", "")


def wobbled(start):
    """`start`, each number moved by 1 to 4 units in the last place of its dtype; `start` itself without a `wobble()`.

    start  a tensor, or a module, whose parameters move in place. Zeros, integers and booleans stay.
    ValueError where $MTL_WOBBLE is not a non-negative integer.
    """
    if not wobble():
        return start
    if isinstance(start, torch.nn.Module):
        for parameter in start.parameters():
            parameter.data = wobbled(parameter.data)
        return start
    if not start.is_floating_point():
        return start
    sizes = numpy_generator(int(wobble()), "wobble").choice((-2, -1, 1, 2), tuple(start.shape))
    # x eps is one to two units in the last place of x
    return start * (1 + torch.as_tensor(sizes).to(start) * torch.finfo(start.dtype).eps)
