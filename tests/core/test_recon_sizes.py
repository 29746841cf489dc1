"""Parameters of split networks against the integers and sizes that Recon prints."""

import numpy as np
import pytest
import torch

from mtl_core import recon
from mtl_core.models import resnet18
from mtl_core.recon import candidate_layers

# --- sizes at the paper's width; on the meta device nothing is allocated


@pytest.fixture(scope="module")
def paper():
    with torch.device("meta"):
        model = resnet18([10, 10])
    order = candidate_layers(model)
    sizes = {n: sum(p.numel() for p in model.trunk.get_submodule(n).parameters(recurse=False)) for n in order}
    return model, order, sizes


def total(model):
    return sum(p.numel() for p in model.parameters())


def test_size_of_the_shared_network(paper):
    model, order, sizes = paper
    assert len(order) == 41 and sum(sizes.values()) == sum(p.numel() for p in model.trunk.parameters()) == 11_221_540
    assert sum("bn" in n or "downsample.1" in n for n in order) == 20
    assert [sum(p.numel() for p in head.parameters()) for head in model.heads] == [1010, 1010]
    assert order[0] == "conv1" and order[-1] == "fc"
    assert round(total(model) * 4 / 2**20, 2) == 42.81
    assert round(2 * (11_221_540 + 1010) * 4 / 2**20, 2) == 85.62


def test_extra_parameters_of_the_published_sets(paper):
    model, order, _ = paper
    batch_norm = [n for n in order if "bn" in n or "downsample.1" in n]
    top25 = [*batch_norm, "conv1", *(f"layer1.{block}.conv{i}" for block in (0, 1) for i in (1, 2))]
    for names, extra in ((batch_norm, 9_600), (top25, 160_192), ([], 0), (order, 11_221_540)):
        split = recon.split(model, names, 2)
        assert total(split) - total(model) == extra, len(names)
    assert round((total(model) + 160_192) * 4 / 2**20, 2) == 43.43


def random_set(order, sizes, seed, kind):
    """Recon's random ablations: NumPy's legacy generator, a permutation of the layers in registration order."""
    permuted = [order[i] for i in np.random.RandomState(seed).permutation(41)]
    if kind == "RSL":
        return permuted[:25]
    count = next(i for i in range(42) if sum(sizes[n] for n in permuted[:i]) > 160_192)
    return permuted[:count]


PUBLISHED = {"RSL": (73.02, 83.63, 76.33), "RSP": (52.25, 51.96, 47.50)}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("kind", PUBLISHED)
def test_sizes_of_the_random_sets(paper, kind, seed):
    model, order, sizes = paper
    names = random_set(order, sizes, seed, kind)
    if kind == "RSL":
        assert sum("bn" in n or "downsample.1" in n for n in names) == (11, 10, 12)[seed]
    else:
        assert len(names) == (9, 4, 6)[seed]
    assert round(total(recon.split(model, names, 2)) * 4 / 2**20, 2) == PUBLISHED[kind][seed]


def test_members_of_the_random_sets(paper):
    _, order, sizes = paper
    members = {
        0: "layer1.0.conv2 layer2.0.conv1 layer2.0.bn1 layer3.0.downsample.1 layer3.1.bn1 layer3.1.bn2 layer4.0.bn1 "
        "layer4.0.downsample.1 layer4.1.conv1",
        1: "layer1.0.conv1 layer1.0.bn1 layer3.0.bn2 layer4.1.conv2",
        2: "conv1 layer1.0.conv1 layer1.1.bn2 layer2.0.downsample.0 layer3.1.bn1 layer4.0.conv1",
    }
    for seed, names in members.items():
        assert set(random_set(order, sizes, seed, "RSP")) == set(names.split())


def test_sizes_of_the_first_and_last_25_layers(paper):
    model, order, _ = paper
    assert round(total(recon.split(model, order[:25], 2)) * 4 / 2**20, 2) == 48.90
    assert round(total(recon.split(model, order[-25:], 2)) * 4 / 2**20, 2) == 84.17
    assert order[-25] == "layer2.1.conv1"
