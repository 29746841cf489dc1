"""Models: the same names and order as torchvision's, widths, norms, reproducible construction, shapes."""

import pytest
import torch
from torch import nn
from torchvision.models import resnet18 as torchvision_resnet18

from mtl_core import models
from mtl_core.data.problem import classification
from mtl_core.models import MultiTaskModel, ResNet, initialise

TASKS = [classification("a", 10), classification("b", 3)]


def test_resnet18_has_torchvisions_parameters_in_their_order():
    with torch.device("meta"):
        ours = ResNet(channels=3, features=1000)
        theirs = torchvision_resnet18()
    assert {n: tuple(v.shape) for n, v in ours.state_dict().items()} == {
        n: tuple(v.shape) for n, v in theirs.state_dict().items()
    }
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]


def test_resnet18_computes_what_torchvisions_computes():
    torch.manual_seed(0)
    theirs = torchvision_resnet18(num_classes=7).eval()
    ours = ResNet(channels=3, features=7).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x).relu())


@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("constant_width", [False, True])
def test_width_norm_and_constant_width(width, norm, constant_width):
    model = models.build("resnet18", TASKS, width=width, norm=norm, constant_width=constant_width, features=5)
    trunk = model.trunk
    names = ("layer1.0.conv1", "layer2.1.conv2", "layer3.0.conv1", "layer4.1.conv2")
    widths = [trunk.get_submodule(name).out_channels for name in names]
    assert widths == ([width] * 4 if constant_width else [width, 2 * width, 4 * width, 8 * width])
    kind = {"batch": nn.BatchNorm2d, "group": nn.GroupNorm}[norm]
    norms = [m for m in trunk.modules() if isinstance(m, (nn.BatchNorm2d, nn.GroupNorm))]
    assert len(norms) == 20 and all(type(m) is kind for m in norms)
    if norm == "group":
        assert all(m.num_groups == 4 for m in norms)
    x = torch.rand(2, 1, 36, 36)
    assert model.features(x).shape == (2, 5) and (model.features(x) >= 0).all()
    assert [tuple(o.shape) for o in model(x)] == [(2, 10), (2, 3)]
    strides = [trunk.get_submodule(f"layer{i}.0.conv1").stride for i in (1, 2, 3, 4)]
    assert strides == [(1, 1), (2, 2), (2, 2), (2, 2)]


def test_initialisation_is_he_normal_fan_out():
    weight = models.build("resnet18", TASKS, width=16).trunk.layer4[1].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)
    assert weight.mean().abs() < 1e-3


@pytest.mark.parametrize("name, options", [("resnet18", {"width": 4}), ("lenet", {"size": 20}), ("mlp", {"inputs": 9})])
def test_build_repeats_by_seed_and_leaves_the_global_generator_alone(name, options):
    state = torch.get_rng_state()
    first = models.build(name, TASKS, seed=3, **options).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    again, other = (models.build(name, TASKS, seed=s, **options).state_dict() for s in (3, 4))
    assert all(torch.equal(v, again[n]) for n, v in first.items())
    assert not torch.equal(first["heads.0.weight"], other["heads.0.weight"])
    trunk = next(n for n in first if n.startswith("trunk"))
    assert not torch.equal(first[trunk], other[trunk])


@pytest.mark.parametrize("size, side", [(36, 6), (28, 4), (20, 2)])
def test_lenet(size, side):
    model = models.build("lenet", TASKS, size=size, features=7)
    assert model.trunk[7].in_features == 20 * side**2
    assert [tuple(o.shape) for o in model(torch.rand(2, 1, size, size))] == [(2, 10), (2, 3)]
    assert model.features(torch.rand(2, 1, size, size)).shape == (2, 7)


@pytest.mark.parametrize("depth", [1, 3])
def test_mlp(depth):
    model = models.build("mlp", TASKS, inputs=9, width=6, depth=depth)
    assert sum(isinstance(m, nn.Linear) for m in model.trunk) == depth
    assert [tuple(o.shape) for o in model(torch.rand(2, 9))] == [(2, 10), (2, 3)]
    assert (model.features(torch.rand(2, 9)) >= 0).all()


def test_features_may_be_one_tensor_or_one_a_task():
    model = MultiTaskModel(nn.Identity(), [nn.Linear(2, 2), nn.Linear(2, 2)])
    x = torch.rand(3, 2)
    one, two = model.outputs(x), model.outputs([x, 2 * x])
    assert torch.equal(one[0], two[0])
    assert torch.equal(two[1], model.heads[1](2 * x)) and not torch.equal(one[1], two[1])
    with pytest.raises(ValueError, match="3 feature tensors for 2 heads"):
        model.outputs([x, x, x])


def test_errors():
    with pytest.raises(ValueError, match="unknown model 'resnet'; there are lenet, mlp, resnet18"):
        models.build("resnet", TASKS)
    with pytest.raises(ValueError, match="norm is one of batch, group, got 'layer'"):
        models.build("resnet18", TASKS, norm="layer")
    with pytest.raises(ValueError, match="4 stages, 2 widths"):
        ResNet([4, 4])

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

    with pytest.raises(TypeError, match="Own owns parameters"):
        initialise(Own())


def test_initialise_draws_anew():
    torch.manual_seed(0)
    for module in (nn.Conv2d(2, 3, 3), nn.Linear(2, 3), nn.BatchNorm2d(3)):
        before = {n: v.clone() for n, v in module.state_dict().items()}
        with torch.no_grad():
            for p in module.parameters():
                p.fill_(9)
        initialise(module)
        assert all((p != 9).all() for p in module.parameters())
        assert type(module) is nn.BatchNorm2d or not torch.equal(module.weight, before["weight"])
    conv = nn.Conv2d(2, 3, 3)
    initialise(conv)
    assert (conv.bias == 0).all()
    initialise(nn.ReLU())


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_float32_gradients_of_resnet_are_those_of_float64(norm):
    """A layout or a kernel that loses digits shows here: with channels last the error on a CPU was 2e-2."""
    generator, found = torch.Generator().manual_seed(0), []
    inputs, labels = torch.rand(128, 1, 36, 36, generator=generator), torch.arange(128) % 10
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(0)
        model = models.resnet18([10, 10], width=8, norm=norm).to(dtype)
        losses = [nn.functional.cross_entropy(out, labels) for out in model(inputs.to(dtype))]
        flat = [torch.autograd.grad(loss, list(model.trunk.parameters()), retain_graph=True) for loss in losses]
        found.append(torch.stack([torch.cat([g.flatten() for g in grads]).double() for grads in flat]))
    error = (found[0] - found[1]).norm(dim=1) / found[1].norm(dim=1)
    assert error.max() < 1e-4
