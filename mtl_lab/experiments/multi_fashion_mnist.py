"""The table on Multi-Fashion+MNIST, and how its rows choose the layers that they split."""

from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from mtl_core.seeds import numpy_generator
from mtl_lab.experiments.common_rows import common_rows
from mtl_lab.experiments.recon import RECON, ranked
from mtl_lab.experiments.registry import register_table
from mtl_lab.protocol.table import SHORT_SEED, Row, Table
from mtl_lab.runs.build import build_model, load_problem
from mtl_lab.runs.run import Run

THRESHOLDS = [-0.15, -0.1, -0.05, 0.0]  # S, below which a cosine counts as a conflict


def table(profile: str = "small") -> Table:
    """Two tasks on the rebuilt pictures, ResNet18 of width 8, momentum SGD; "paper": network and schedule of Recon."""
    schedule = {"epochs": 10, "batch_size": 256, "optimizer": "sgd", "learning_rate": 0.05, "decay": "cosine"}
    options = {"profile": profile}
    if profile == "tiny":
        schedule |= {"epochs": 2, "batch_size": 64}
        options["train"] = 640
    base = Run("multi_fashion_mnist", options, model_options={"width": 8}, schedule=schedule)
    base = replace(base, **RECON["paper"]) if profile == "paper" else base
    recon_space = {"threshold": ("choice", THRESHOLDS), "layers": ("choice", [10, 15, 20, 25, 30, 35])}
    rows = common_rows(["digit", "garment"])
    for name in ("equal", "static", "pcgrad", "cagrad", "sam_gs"):
        plain = next(row for row in rows if row.name == name)
        # At most two parameters are searched, S and the number of layers; the reference's weights are its definition.
        space = plain.space | recon_space if name == "static" else recon_space
        rows.append(
            replace(
                plain,
                name=f"recon_{name}",
                title=f"{plain.title} + Recon",
                split=worst_layers,
                space=space,
                options={"gamma": 0.7, "beta2": 0.99} if name == "sam_gs" else {},
            )
        )
    rows += [
        Row("split_normalisation", "Equal weights, all normalisation layers split", split=normalisation_layers),
        Row("split_convolutions", "Equal weights, only the ranking's convolutions split", split=worst_convolutions),
        Row("split_random", "Equal weights, random layers of equal size split", split=random_layers),
        Row("equal_twice", "Equal weights at equal forward cost (twice the epochs)", epochs=2),
        # A method that needs both tasks' gradients costs less than twice a step of the weighted sum.
        Row("static_twice", "Fixed weights, twice the epochs", "static", reuses="static", control=True, epochs=2),
    ]
    # This run scores the layers before the search: equal weights, the seed of the short runs.
    ranking = replace(base, seed=SHORT_SEED, test=False, observe={"thresholds": THRESHOLDS})
    # The search up to 0.5 chose three rates in the outer tenth: each row got two more configurations, up to 2.
    rates = {"rate": (5e-3, 5e-1), "widened": (2.0, 2)}
    return Table("multi_fashion_mnist", base, rows, margin=0.3, ranking=ranking, **rates)


# --- which layers a row splits: (table, choice, conflict log of the ranking run) -> names


def worst_layers(table: Table, choice: Mapping, ranking: Mapping) -> list[str]:
    """Recon: the `layers` worst layers at S = `threshold`, both searched."""
    return ranked(ranking, choice["threshold"])[: choice["layers"]]


def normalisation_layers(table: Table, choice: Mapping, ranking: Mapping) -> list[str]:
    """All normalisation layers, whatever the gradients say."""
    trunk = _trunk(table)
    return [name for name in ranking["layers"] if not isinstance(trunk.get_submodule(name), (nn.Conv2d, nn.Linear))]


def worst_convolutions(table: Table, choice: Mapping, ranking: Mapping) -> list[str]:
    """The convolutions among Recon's published choice, the 25 worst layers at S = -0.1."""
    trunk = _trunk(table)
    return [name for name in ranked(ranking, -0.1)[:25] if isinstance(trunk.get_submodule(name), nn.Conv2d)]


def random_layers(table: Table, choice: Mapping, ranking: Mapping) -> list[str]:
    """Layers in a random order until they have as many parameters as Recon's published choice."""
    trunk = _trunk(table)
    size = {name: sum(p.numel() for p in trunk.get_submodule(name).parameters()) for name in ranking["layers"]}
    wanted, chosen = sum(size[name] for name in ranked(ranking, -0.1)[:25]), []
    for index in numpy_generator(0, "split", table.name).permutation(len(size)):
        chosen.append(ranking["layers"][index])
        if sum(size[name] for name in chosen) >= wanted:
            break
    return chosen


def _trunk(table: Table) -> nn.Module:
    return build_model(table.base, load_problem(table.base)).trunk


register_table("multi_fashion_mnist", table)
