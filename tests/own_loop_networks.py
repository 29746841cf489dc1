"""Small networks, and data for them that are drawn in place: what the loops of `own_loop.py` train."""

import torch
from torch import nn

TASKS = ("sum", "first", "largest")
CLASSES = 4


class Network(nn.Module):
    """A trunk and a head for each task; the outputs by task."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
        self.heads = nn.ModuleDict({task: nn.Linear(16, CLASSES) for task in TASKS})

    def forward(self, x):
        z = self.trunk(x)
        return {task: head(z) for task, head in self.heads.items()}


class InOrder(Network):
    """The outputs in a list, as `RotoGrad` gives them."""

    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList(self.heads.values())

    def forward(self, x):
        z = self.trunk(x)
        return [head(z) for head in self.heads]


class Transformer(nn.Module):
    """An encoder of sequences that are filled up to one length; `padding` (B, T) is true where there is no token."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(12, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.heads = nn.ModuleDict({task: nn.Linear(16, CLASSES) for task in TASKS})

    def forward(self, ids, padding):
        h = self.encoder(self.embedding(ids), src_key_padding_mask=padding)
        tokens = (~padding).unsqueeze(2)
        z = (h * tokens).sum(1) / tokens.sum(1)
        return {task: head(z) for task, head in self.heads.items()}


class UNet(nn.Module):
    """Two decoders, each of which reads every map of the encoder."""

    def __init__(self):
        super().__init__()
        self.down, self.deep = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.depth, self.classes = nn.Conv2d(16, 1, 1), nn.Conv2d(16, CLASSES, 1)

    def forward(self, x):
        high = self.down(x).relu()
        low = nn.functional.max_pool2d(high, 2)
        low = nn.functional.interpolate(self.deep(low).relu(), scale_factor=2)
        maps = torch.cat([high, low], 1)
        return {"depth": self.depth(maps), "classes": self.classes(maps)}


def vectors(steps: int, seed: int = 0) -> list:
    """Batches of (x (B, 8), {task: class (B,)}); each task's class comes from a direction of its own."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(len(TASKS), 8, CLASSES, generator=generator)
    xs = torch.randn(steps, 32, 8, generator=generator)
    return [(x, dict(zip(TASKS, (x @ directions).argmax(2), strict=True))) for x in xs]


def by_task(steps: int, seed: int = 0) -> list:
    """Batches of {task: (x, class)}: each task has examples of its own."""
    batches = [vectors(steps, seed + k) for k in range(len(TASKS))]
    return [
        {task: (x, y[task]) for task, (x, y) in zip(TASKS, batch, strict=True)} for batch in zip(*batches, strict=True)
    ]


def sequences(steps: int, seed: int = 0) -> list:
    """Batches of (ids (B, 10), padding (B, 10), {task: class (B,)})."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(steps):
        ids = torch.randint(12, (32, 10), generator=generator)
        padding = torch.arange(10) >= torch.randint(3, 11, (32, 1), generator=generator)
        tokens = ids.masked_fill(padding, 0)
        mean = tokens.sum(1) / (~padding).sum(1)
        labels = {"sum": (mean / 3).long(), "first": ids[:, 0] // 3, "largest": 3 - tokens.amax(1) // 3}
        batches.append((ids, padding, labels))
    return batches


def images(steps: int, seed: int = 0) -> list:
    """Batches of (x (B, 1, 16, 16), {"depth": (B, 1, 16, 16), "classes": (B, 16, 16)})."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(steps, 4, 1, 16, 16, generator=generator)
    smooth = nn.functional.avg_pool2d(x.flatten(0, 1), 3, 1, 1).view_as(x)
    classes = (smooth * CLASSES).long().clamp(max=CLASSES - 1).squeeze(2)
    return [(a, {"depth": 1 - b, "classes": c}) for a, b, c in zip(x, smooth, classes, strict=True)]
