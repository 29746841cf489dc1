"""The networks of faces and objects: parameters and sizes as printed, features, splits that change no output."""

import pytest
import torch

from mtl_core import recon
from mtl_core.models import build, lenet, resnet18, with_rotation_layers
from mtl_core.models.celeba_cnn import celeba_cnn
from mtl_core.models.resnet import is_norm, released_by_recon
from mtl_core.recon import candidate_layers
from mtl_core.tasks import Task

FACES = {"channels": 3, "features": None, "pool": 2}


def count(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def megabytes(*modules):
    return round(count(*modules) * 4 / 2**20, 2)


def test_the_nine_layers_of_celeba():
    with torch.device("meta"):
        model = celeba_cnn([1] * 40)
        assert model.features(torch.empty(2, 3, 64, 64)).shape == (2, 512)
    assert count(model.trunk) == 5_176_640 and count(*model.heads) == 20_520
    layers = candidate_layers(model)
    assert len(layers) == 18 and sum(p.dim() > 1 for p in model.trunk.parameters()) == 9
    assert round(40 * 5_176_640 * 4 / 2**20, 1) == 789.9, "one gradient of each task"


def test_resnet18_on_faces_has_the_sizes_that_recon_prints():
    with torch.device("meta"):
        model = resnet18([2] * 40, **FACES)
        assert model.features(torch.empty(2, 3, 64, 64)).shape == (2, 2048)
        layers = candidate_layers(model)
        assert count(model.trunk) == 11_176_512 and len(layers) == 40
        assert megabytes(model) == 43.26
        assert round(40 * count(model.trunk, model.heads[0]) * 4 / 2**20, 2) == 1706.03
        split = recon.split(model, released_by_recon(layers), 40)
    assert len(released_by_recon(layers)) == 25 and sum(map(is_norm, layers)) == 20
    assert count(split) - count(model) == 39 * 166_464 and megabytes(split) == 68.03


def test_pooling_to_two_by_two_leaves_the_maps_of_64_pixels_as_they_are():
    model = build("resnet18", [Task("a", 1, None)], width=4, **FACES).eval()
    x = torch.rand(2, 3, 64, 64)
    maps = x
    for part in model.trunk.parts()[:-1]:
        maps = part(maps)
    assert maps.shape == (2, 32, 2, 2)
    torch.testing.assert_close(model.features(x), maps.flatten(1), rtol=0, atol=0)
    torch.testing.assert_close(model.trunk.parts()[-1](maps), maps.flatten(1), rtol=0, atol=0)


def test_rotograds_networks_of_objects_and_of_house_numbers():
    with torch.device("meta"):
        model = resnet18([1] * 10, channels=3, features=None)
        assert model.features(torch.empty(2, 3, 32, 32)).shape == (2, 512)
        assert count(model.trunk) == 11_176_512 and count(*model.heads) == 5_130
        assert count(with_rotation_layers(model, 512)) - count(model) == 10 * 512**2
        pairs = lenet([10, 10, 1, 1, 1], channels=3, size=(32, 64))
        assert [o.shape[1] for o in pairs(torch.empty(2, 3, 32, 64))] == [10, 10, 1, 1, 1]
    assert count(pairs.trunk) == 70_830 and count(*pairs.heads) == 23 * 51
    assert count(lenet([10], size=36)) == count(lenet([10], size=(36, 36)))


@pytest.mark.parametrize("name", ["celeba_cnn", "resnet18"])
def test_splitting_any_layers_changes_no_output(name):
    """20 random sets of layers, with statistics that are not those of a new network."""
    options = {"width": 2} if name == "celeba_cnn" else {"width": 4, **FACES}
    model = build(name, [Task(str(k), 1, None) for k in range(3)], **options)
    x, generator = torch.rand(4, 3, 32, 32), torch.Generator().manual_seed(0)
    model(x)
    model.eval()
    layers = candidate_layers(model)
    with torch.no_grad():
        for number in range(20):
            order = torch.randperm(len(layers), generator=generator)
            chosen = [layers[i] for i in order[: 1 + number % len(layers)]]
            split = recon.split(model, chosen, 3)
            assert count(split) > count(model)
            torch.testing.assert_close(split(x), model(x), rtol=1e-5, atol=1e-6)
        head = next(split.trunk.parameters())
        head += 1
        assert any(not torch.equal(a, b) for a, b in zip(split(x), model(x), strict=True)), "the test can fail"
