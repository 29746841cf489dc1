"""Recon's released layer rankings, read from the authors' repository: it has no licence, so nothing of it is kept here.

Clone github.com/moukamisama/Recon and name the folder in MTL_RECON; without it these tests are skipped.
"""

import csv
import json
import os
import pathlib

import pytest

LOGS = pathlib.Path(os.environ.get("MTL_RECON", "/nonexistent")) / "logs"
pytestmark = pytest.mark.skipif(not LOGS.is_dir(), reason="MTL_RECON does not name a checkout of Recon's repository")

# folder -> layers, most counts a layer could have, layers the paper's runs split, normalisation layers among them
RELEASED = {
    "multiFashion+MNIST_Recon": (41, 18_720, 25, 20),
    "CityScapes+SegNet_Recon": (52, 14_840, 40, 26),
    "NYUv2+MTAN_Recon": (72, 59_550, 22, 18),
}


@pytest.mark.parametrize("folder", RELEASED)
def test_released_rankings(folder):
    layers, most, split, norms = RELEASED[folder]
    (file,) = (LOGS / folder).glob("*.json")
    counts = json.loads(file.read_text())
    assert len(counts) == layers and max(counts.values()) <= most
    order = sorted(counts, key=lambda layer: -counts[layer])
    assert list(counts) == order, "the file is in the order of a stable sort of its counts"
    chosen = order[:split]
    assert sum("bn" in name or name.endswith("downsample.1") for name in chosen) == norms


def test_the_released_order_is_that_of_our_ranking():
    """Fed with the released counts in registration order, our ranking gives the released order."""
    from mtl_core import models
    from mtl_core.conflict import ConflictScores
    from mtl_core.recon import candidate_layers

    (file,) = (LOGS / "multiFashion+MNIST_Recon").glob("*.json")
    counts = json.loads(file.read_text())
    names = candidate_layers(models.resnet18([10, 10]))
    assert set(names) == set(counts)
    scores = ConflictScores(names, 2, thresholds=(-0.1,))
    scores.scores = lambda threshold: counts
    assert scores.ranking(-0.1) == list(counts)


# folder -> network, channels of its outputs, first so many layers -> megabytes (108.44 and 169.59 as printed)
SIZES = {
    "CityScapes+SegNet_Recon": ("segnet", [7, 1], {39: 108.439, 40: 108.440}),
    "NYUv2+MTAN_Recon": ("mtan", [13, 1, 3], {13: 169.592, 14: 169.599, 15: 169.607, 22: 170.183, 25: 171.321}),
}


@pytest.mark.parametrize("folder", SIZES)
def test_the_dense_networks_with_their_released_layers_have_the_printed_sizes(folder):
    import importlib

    import torch

    from mtl_core import recon

    name, outputs, sizes = SIZES[folder]
    (file,) = (LOGS / folder).glob("*.json")
    counts = json.loads(file.read_text())
    order = list(counts)
    with torch.device("meta"):
        model = getattr(importlib.import_module(f"mtl_core.models.{name}"), name)(outputs)
    # ties are in the order of registration, ours and theirs
    assert order == sorted(recon.candidate_layers(model), key=lambda layer: -counts[layer])
    for first, megabytes in sizes.items():
        split = recon.split(model, order[:first], len(outputs))
        assert round(sum(p.numel() for p in split.parameters()) * 4 / 2**20, 3) == megabytes


def test_the_summary_by_counts_is_that_of_the_released_file():
    """book/papers/recon/released_ranking.csv: counts and correlations alone, not the ranking."""
    from scipy.stats import spearmanr

    from mtl_core import models
    from mtl_lab.claims import printed_tables
    from mtl_lab.figures import plots

    (file,) = (LOGS / "multiFashion+MNIST_Recon").glob("*.json")
    counts, trunk = json.loads(file.read_text()), models.resnet18([10, 10]).trunk
    kind = {name: plots.layer_kind(trunk.get_submodule(name)) for name in counts}
    size = {name: sum(p.numel() for p in trunk.get_submodule(name).parameters()) for name in counts}
    first = list(counts)[:25]
    with open(printed_tables.ROOT / "recon" / "released_ranking.csv", encoding="utf-8") as text:
        rows = list(csv.DictReader(text))
    assert [row["kind"] for row in rows] == ["all", "normalisation", "convolution", "linear"]
    for row in rows:
        mine = [name for name in counts if row["kind"] in ("all", kind[name])]
        found = [
            len(mine),
            sum(name in first for name in mine),
            min(counts[n] for n in mine),
            max(counts[n] for n in mine),
        ]
        assert [int(row[c]) for c in ("layers", "in_first_25", "least_count", "most_count")] == found
        if row["rank_correlation_with_small_size"]:
            rho = spearmanr([counts[n] for n in mine], [-size[n] for n in mine]).statistic
            assert float(row["rank_correlation_with_small_size"]) == pytest.approx(rho, abs=5e-5)
