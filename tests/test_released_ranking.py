"""Recon's released layer rankings, read from the authors' repository: it has no licence, so nothing of it is kept here.

Clone github.com/moukamisama/Recon and name the folder in MTL_RECON; without it these tests are skipped.
"""

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
    from mtl_core.methods.recon import candidate_layers

    (file,) = (LOGS / "multiFashion+MNIST_Recon").glob("*.json")
    counts = json.loads(file.read_text())
    names = candidate_layers(models.resnet18([10, 10]))
    assert set(names) == set(counts)
    scores = ConflictScores(names, 2, thresholds=(-0.1,))
    scores.scores = lambda threshold: counts
    assert scores.ranking(-0.1) == list(counts)
