"""Networks of the dense tables: published sizes, the official code's numbers, image sizes, Recon's split, RotoGrad."""

import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mtl_core import models, recon
from mtl_core.balancer import Balancer
from mtl_core.methods.rotograd import RotoGrad
from mtl_core.models.deeplab import deeplab
from mtl_core.models.mobilenet_raspp import mobilenet_raspp
from mtl_core.models.mtan import mtan
from mtl_core.models.rotations import haar
from mtl_core.models.segnet import segnet
from mtl_core.recon import candidate_layers
from mtl_core.tasks import Task

NYUV2, CITYSCAPES, PASCAL = [13, 1, 3], [7, 1], [21, 7, 1, 3]  # channels of each task's output
SMALL = {
    "segnet": {"width": 4},
    "mtan": {"width": 4},
    "deeplab": {"width": 4, "features": 8},
    "mobilenet_raspp": {"width": 0.125},
}
LAYERS = {"segnet": 52, "mtan": 72, "deeplab": 52, "mobilenet_raspp": 108}


def tasks(K):
    return [Task(name, n, lambda p, t: (p - t).square().mean()) for name, n in zip("abc"[:K], NYUV2, strict=False)]


def total(module):
    return sum(p.numel() for p in module.parameters())


def megabytes(module, digits=3):
    return round(total(module) * 4 / 2**20, digits)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# --- sizes at the papers' widths; on the meta device nothing is allocated


def build(builder, outputs, **options):
    with torch.device("meta"):
        return builder(outputs, **options)


def kinds(model):
    layers = [model.trunk.get_submodule(name) for name in candidate_layers(model)]
    return [sum(isinstance(layer, kind) for layer in layers) for kind in (nn.Conv2d, nn.BatchNorm2d)]


def test_segnets_sizes():
    city, nyu = build(segnet, CITYSCAPES), build(segnet, NYUV2)
    assert total(city.trunk) == total(nyu.trunk) == 24_943_296 and kinds(city) == [26, 26]
    assert [total(head) for head in city.heads] == [37_383, 36_993]
    assert (megabytes(city), megabytes(nyu)) == (95.435, 95.578)
    assert sum(megabytes(build(segnet, [n]), 6) for n in CITYSCAPES) == pytest.approx(190.586, abs=5e-4)
    assert sum(megabytes(build(segnet, [n]), 6) for n in NYUV2) == pytest.approx(285.880, abs=5e-4)


def test_mtans_sizes():
    model = build(mtan, NYUV2)
    attention = total(model.trunk.encoder_att) + total(model.trunk.decoder_att)
    assert total(model.trunk) - attention == 35_163_456 and attention == 3 * 2_984_576 and kinds(model) == [36, 36]
    assert total(model.trunk) == 44_117_184 and megabytes(model) == 168.721
    assert total(build(mtan, CITYSCAPES).trunk) == 41_132_608 and megabytes(build(mtan, CITYSCAPES)) == 157.192


def test_the_pascal_networks_sizes():
    model = build(mobilenet_raspp, PASCAL)
    assert total(model.trunk) == 1_927_168 and kinds(model) == [54, 54]
    assert megabytes(model) == 8.039
    assert sum(megabytes(build(mobilenet_raspp, [n]), 6) for n in PASCAL) == pytest.approx(30.094, abs=5e-4)


def cityscapes_first_40():
    """Of the released ranking on CityScapes, as a set: all BatchNorms, and these convolutions."""
    decoder = ["decoder_block.0", "decoder_block.1", "decoder_block.2", "decoder_block.3", "conv_block_dec.0"]
    decoder += [f"conv_block_dec.{i}" for i in ("1", "2.0", "2.1", "3.0", "3.1")]
    encoder = ["encoder_block.0", "encoder_block.1", "conv_block_enc.0", "conv_block_enc.1"]
    norms = [name for name in candidate_layers(build(segnet, CITYSCAPES)) if name.endswith("bn1")]
    return [*norms, *(f"{block}.conv1" for block in [*decoder, *encoder])]


def nyuv2_first_13():
    """Of the released ranking on NYUv2, as a set."""
    norms = ["decoder_block.0", "decoder_block.2", "conv_block_dec.0", "conv_block_dec.1"]
    norms += [f"decoder_block_att.{i}" for i in range(4)] + [f"encoder_block_att.{i}" for i in range(3)]
    return [f"{block}.bn1" for block in norms] + ["decoder_block_att.0.conv1", "decoder_block_att.1.conv1"]


def test_sizes_with_recon_as_printed():
    city, nyu = build(segnet, CITYSCAPES), build(segnet, NYUV2)
    forty = cityscapes_first_40()
    without = [name for name in forty if name != "conv_block_enc.2.0.bn1"]  # any BatchNorm of 256 channels
    assert len(forty) == 40 and len(nyuv2_first_13()) == 13
    for model, layers, K, printed in (
        (city, without, 2, 108.439), (city, forty, 2, 108.440), (nyu, without, 3, 121.585), (nyu, forty, 3, 121.589),
        (build(mtan, NYUV2), nyuv2_first_13(), 3, 169.592),
    ):  # fmt: skip
        assert megabytes(recon.split(model, layers, K)) == printed


# --- what they compute


def filled(model):
    """Every parameter from a formula, by its number; norm weights near one."""
    model = model.to_empty(device="cpu").double().eval()
    for number, p in enumerate(model.parameters()):
        waves = torch.sin(0.3 * torch.arange(1009, dtype=torch.float64) ** 2 + number).repeat(p.numel() // 1009 + 1)
        p.data = (waves[: p.numel()] * (4 / max(p[0].numel(), 4) if p.ndim > 1 else 1) ** 0.5).view_as(p)
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.weight.data = 1 + 0.3 * norm.weight.data
        norm.reset_running_stats()
    return model


def picture(height, width):
    return torch.sin(0.01 * torch.arange(3 * height * width, dtype=torch.float64)).view(1, 3, height, width)


# what the official classes give for `filled` and `picture` at channel 0, place (17, 21)
OFFICIAL = {
    # github.com/lorenmt/mtan, c36c30b: log-probability, depth, unit normal
    "segnet": (segnet, NYUV2, (32, 64), [-4.100123362046213, 0.46202097379660434, 0.8100586107124224]),
    "mtan": (mtan, NYUV2, (32, 64), [-3.0625942511376314, 3.8776272287066824, 0.9710168730303168]),
    # github.com/brdav/bmtas, e37b8d1, nothing branched
    "mobilenet_raspp": (
        mobilenet_raspp,
        PASCAL,
        (64, 96),
        [2.783112286603184, 0.8354290647481912, 0.8265130225675715, 3.7136718375132736],
    ),
}


@pytest.mark.parametrize("name", OFFICIAL)
@torch.no_grad()
def test_outputs_are_those_of_the_official_code(name):
    builder, outputs, size, expected = OFFICIAL[name]
    found = filled(build(builder, outputs))(picture(*size))
    if name != "mobilenet_raspp":
        found = [F.log_softmax(found[0], 1), found[1], F.normalize(found[2])]
    torch.testing.assert_close([float(output[0, 0, 17, 21]) for output in found], expected, rtol=1e-6, atol=0)


@torch.no_grad()
def test_deeplabs_backbone_is_torchvisions_dilated_one():
    import torchvision

    theirs = torchvision.models.resnet50(replace_stride_with_dilation=[False, False, True]).eval()
    ours = deeplab([1]).trunk.eval()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if k[:3] != "fc."}, strict=False)
    x = stem = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(torch.randn(1, 3, 32, 48)))))
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        x = getattr(theirs, stage)(x)
        stem = getattr(ours, stage)(stem)
    assert x.shape[-2:] == (2, 3)
    torch.testing.assert_close(stem, x)


@pytest.mark.parametrize("name", SMALL)
def test_a_small_network_has_one_start_and_trains(name):
    """Outputs as large as the images, the same parameters twice, a gradient for each."""
    model, again = (models.build(name, tasks(3), seed=1, **SMALL[name]) for _ in range(2))
    pairs = zip(model.state_dict().items(), again.state_dict().items(), strict=True)
    assert all(a == b and torch.equal(v, w) for (a, v), (b, w) in pairs)
    images = torch.randn(2, 3, 36, 48)
    outputs = model(images)
    assert [tuple(y.shape) for y in outputs] == [(2, n, 36, 48) for n in NYUV2]
    balancer = Balancer("cagrad", model.layer_parameters())
    balancer.backward({task.name: task.loss(y, torch.ones_like(y)) for task, y in zip(tasks(3), outputs, strict=True)})
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    if name == "mtan":
        shared = {column.rpartition(".")[0] for column in balancer.gradients.names}
        assert shared == {*candidate_layers(model)}, "attention is no column of J"


@pytest.mark.parametrize("builder", [segnet, mtan])
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (63, 34)])
def test_sides_that_32_does_not_divide(builder, size):
    assert all(y.shape[-2:] == size for y in builder([2, 1], width=2)(torch.randn(2, 3, *size)))


@pytest.mark.parametrize("name, size, expected", [
    ("segnet", (31, 64), "at least 32 x 32 pixels, got 31 x 64"), ("mtan", (64, 16), "at least 32 x 32"),
    ("deeplab", (36, 46), "both multiples of 4, got 36 x 46"), ("mobilenet_raspp", (35, 48), "both multiples of 4"),
])  # fmt: skip
def test_a_size_that_does_not_do_is_named(name, size, expected):
    model = models.build(name, tasks(2), **SMALL[name]).eval()
    for network in (model, recon.split(model, candidate_layers(model)[:1], 2)):
        with pytest.raises(ValueError, match=f"{expected}.*; resize or pad them"):
            network(torch.zeros(1, 3, *size))


def test_weights_are_read_from_a_file(tmp_path):
    import torchvision

    source = torchvision.models.mobilenet_v2()
    torch.save(source.state_dict(), tmp_path / "w.pth")
    trunk = mobilenet_raspp([1], weights=tmp_path / "w.pth").trunk
    assert all(torch.equal(v, source.state_dict()[f"features.{k}"]) for k, v in trunk.features.state_dict().items())
    source = torchvision.models.resnet18()
    torch.save(source.state_dict(), tmp_path / "w.pth")
    trunk = deeplab([1], backbone="resnet18", weights=tmp_path / "w.pth").trunk
    assert torch.equal(trunk.layer4[1].conv2.weight, source.layer4[1].conv2.weight)
    with pytest.raises(ValueError, match="backbone is one of resnet18, .*; got 'vgg16'"):
        deeplab([1], backbone="vgg16")


# --- Recon's split


@pytest.mark.parametrize("name, K", [("segnet", 3), ("mtan", 2), ("deeplab", 3), ("mobilenet_raspp", 2)])
@torch.no_grad()
def test_copied_weights_leave_outputs_unchanged(name, K):
    """Pooling's indices, skips and dilated stages fork as their streams do: 20 random sets of layers, float64."""
    model = models.build(name, tasks(K), **SMALL[name]).double()
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.normal_(norm.bias)
    images = torch.randn(3, 3, 36, 48, dtype=torch.float64)
    model(images)  # running statistics of their own
    model.eval()
    layers, expected, draw = candidate_layers(model), model(images), random.Random(0)
    assert len(layers) == LAYERS[name]
    for number in range(20):
        chosen = draw.sample(layers, draw.randint(1, len(layers)))
        split = recon.split(model, chosen, K)
        found = split(images)
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
        if number < 4:  # copies are what their names say: task 0's change task 0's output alone
            for layer in chosen:
                for p in split.trunk.get_submodule(f"{layer}.0").parameters():
                    p.mul_(1.5)
            changed = [not torch.equal(a, b) for a, b in zip(split(images), found, strict=True)]
            assert changed == [True] + [False] * (K - 1)


@pytest.mark.parametrize("name", SMALL)
def test_gradients_of_copies_add_up_to_the_shared_one(name):
    """Copies overwrite nothing that a backward pass needs; and a step in training mode works."""
    model = models.build(name, tasks(2), **SMALL[name]).double()
    images = torch.randn(2, 3, 36, 48, dtype=torch.float64)
    model(images)
    chosen = random.Random(1).sample(candidate_layers(model), 20)
    split = recon.split(model, chosen, 2)
    for network in (model.eval(), split.eval()):
        sum(y.square().mean() for y in network(images)).backward()
    added: dict[str, torch.Tensor] = {}
    for key, p in split.named_parameters():
        layer = next((f"trunk.{c}" for c in chosen if key.startswith(f"trunk.{c}.")), None)
        key = key if layer is None else f"{layer}.{key.rpartition('.')[2]}"
        added[key] = added.get(key, 0) + p.grad
    torch.testing.assert_close(added, {key: p.grad for key, p in model.named_parameters()}, rtol=1e-8, atol=1e-12)
    split.zero_grad()
    sum(y.square().mean() for y in split.train()(images)).backward()
    assert all(p.grad.isfinite().all() for p in split.parameters())


@torch.no_grad()
def test_decoders_start_as_published():
    decoder = deeplab([21], backbone="resnet18").heads[0]
    assert (
        decoder.conv_logits.weight.std().item() == pytest.approx(0.01, rel=0.05) and not decoder.conv_logits.bias.any()
    )
    # He normal, fan out
    assert decoder.conv_2[0].weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.02)


def test_copies_of_segnet_are_drawn_as_it_is():
    model = segnet([7, 1], width=32)
    split = recon.split(model, ["conv_block_enc.3.0.conv1"], 2, init="reinitialise")
    first, second = split.trunk.conv_block_enc[3][0].conv1
    assert not torch.equal(first.weight, second.weight) and not second.bias.any()
    for layer in (first, second):  # Xavier normal: variance 2 / (fan in + fan out)
        assert layer.weight.std().item() == pytest.approx((2 / (2 * 9 * 256)) ** 0.5, rel=0.02)


# --- RotoGrad


def test_rotograd_on_segnet_as_published():
    """The first 1,024 of each image's features, one vector: 103.43 MB in Recon's CityScapes table."""
    model = build(segnet, CITYSCAPES, flat=(128, 256))
    with torch.device("meta"):
        assert megabytes(RotoGrad(model.trunk, model.heads, 1024), 2) == 103.43


@pytest.mark.parametrize("flat", [True, False])
def test_rotograd_rotates_pixels_of_the_first_channel_or_channels(flat):
    size, m = (36, 48), 100 if flat else 4
    plain = models.build("segnet", tasks(3), width=4)
    model = models.build("segnet", tasks(3), width=4, flat=size) if flat else plain
    rotated = RotoGrad(model.trunk, model.heads, m, post_shape=() if flat else size)
    images = torch.randn(2, 3, *size)
    torch.testing.assert_close(rotated(images), plain(images))  # rotations start as the identity
    losses = [y.square().mean() for y in rotated(images)]
    rotated.backward(losses)
    assert all(p.grad is not None for p in rotated.parameters()) and rotated.rotation.skew.grad.any()
    with torch.no_grad():
        rotated.set_rotations(haar(3, m, None))
        features = torch.randn_like(model.trunk(images))
        moved = (rotated.rotation(features)[0] != features).view(2, 4, *size)
    pixels = moved[:, 0].flatten(1) if flat else moved.movedim(1, -1)
    assert pixels[..., :m].float().mean() > 0.9 and not pixels[..., m:].any() and (not flat or not moved[:, 1:].any())
