"""The other systems of Recon's table: sizes to the digit, what their forward passes compute, and that they train."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from mtl_core import data, models, recon
from mtl_core.balancer import Balancer
from mtl_core.models.bmtas import BLOCKS, GIGA, bmtas, expected_cost, private_layers
from mtl_core.models.cross_stitch import cross_stitch
from mtl_core.models.mmoe import mmoe
from mtl_core.models.resnet18_streams import resnet18_streams
from mtl_core.training import Schedule, fit

SINGLE = 11_221_540 + 1_010  # parameters of one network of the paper's width


def total(model):
    return sum(p.numel() for p in model.parameters())


def megabytes(parameters):
    return round(parameters * 4 / 2**20, 2)


@pytest.fixture
def images():
    return torch.randn(6, 1, 36, 36, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# --- sizes at the paper's width


def test_sizes_beside_the_printed_ones():
    with torch.device("meta"):
        stitched, mixed = cross_stitch([10, 10]), mmoe([10, 10])
        shared = models.resnet18([10, 10])
    assert total(stitched) == 2 * SINGLE + 5 * 4 and megabytes(total(stitched)) == 85.62
    gates = 2 * 2 * 36**2  # two tasks, two experts; Recon prints 85.62, which leaves no room for them
    assert total(mixed) == 2 * SINGLE + gates and megabytes(total(mixed) - gates) == 85.62
    assert megabytes(total(mixed)) == 85.64
    layers = recon.candidate_layers(shared)
    stem = [name for name in layers if name in ("conv1", "bn1")]
    assert sum(p.numel() for n in stem for p in shared.trunk.get_submodule(n).parameters()) == 3_264
    branched = private_layers([[0, 1]] * len(BLOCKS), layers)
    assert branched == [name for name in layers if name not in stem]
    assert megabytes(total(recon.split(shared, branched, 2))) == 85.61  # what Recon prints for BMTAS


def test_sizes_of_the_sets_with_copies():
    """Recon's released set in streams and in a split network: 43.43 MB, 160,192 more; in MMoE in each expert."""
    with torch.device("meta"):
        shared, mixed = models.resnet18([10, 10]), mmoe([10, 10])
        layers = recon.candidate_layers(shared)
        released = [n for n in layers if "bn" in n or "downsample.1" in n or n == "conv1" or n.startswith("layer1.")]
        assert len(released) == 25
    streams = resnet18_streams([10, 10], private=released)
    assert total(streams) - total(shared) == 160_192 and megabytes(total(streams)) == 43.43
    assert total(recon.split(shared, released, 2)) == total(streams)
    candidates = recon.candidate_layers(mixed)
    assert len(candidates) == 2 * 41 and not any("gate" in name for name in candidates)
    split = recon.split(mixed, [f"experts.{e}.{name}" for e in range(2) for name in released], 2)
    assert total(split) - total(mixed) == 2 * 160_192 and megabytes(total(split)) == 86.86  # Recon: another set, 105.70


def test_the_released_ranking_fed_to_split():
    """Its first 25 layers, in its order: 42.81 MB before, 43.43 MB after."""
    blocks = "1.0.bn1 1.1.bn1 1.0.bn2 1.1.bn2 2.0.bn1 2.1.bn1 - 2.0.downsample.1 2.0.bn2 2.1.bn2 1.0.conv1 3.0.bn1 "
    blocks += "3.1.bn1 4.1.bn1 4.0.bn1 3.0.downsample.1 3.0.bn2 4.1.bn2 3.1.bn2 4.0.bn2 4.0.downsample.1 1.0.conv2 "
    blocks += "1.1.conv1 1.1.conv2"
    ranking = ["bn1", *("conv1" if block == "-" else f"layer{block}" for block in blocks.split())]
    with torch.device("meta"):
        shared = models.resnet18([10, 10])
    assert len(ranking) == 25 and megabytes(total(shared)) == 42.81
    assert megabytes(total(recon.split(shared, ranking, 2))) == 43.43
    # What each prefix adds
    extra = [total(recon.split(shared, ranking[:k], 2)) - total(shared) for k in (5, 10, 15, 20, 25)]
    assert extra == [640, 4_800, 43_968, 47_552, 160_192]


# --- MMoE


def test_gates_start_at_the_mean_and_learn_at_a_hundredth(images):
    model = mmoe([10, 10], width=4)
    model.eval()
    experts = [expert(images) for expert in model.trunk.experts]
    for features in model.features(images):
        assert torch.allclose(features, sum(experts) / 2, atol=1e-6)
    gate = model.trunk.gates[0]
    before, W = gate.weight.detach().clone(), torch.zeros(2, 36**2, requires_grad=True)
    optimizer, plain = (torch.optim.SGD([p], lr=r, momentum=0.9) for p, r in ((gate.weight, 0.1), (W, 0.001)))
    for _ in range(3):
        for step, loss in ((optimizer, model.features(images)[0]), (plain, None)):
            if loss is None:  # the same gate with W itself, at the gates' rate
                g = (images.flatten(1) @ W.T).softmax(1)
                loss = sum(g[:, e : e + 1] * f.detach() for e, f in enumerate(experts))
            step.zero_grad()
            (100 * loss).square().mean().backward(inputs=[gate.weight if step is optimizer else W])
            step.step()
    assert not torch.equal(gate.weight, before)
    assert torch.allclose(0.1 * gate.weight, W, rtol=1e-3, atol=1e-7)


def test_a_split_mmoe_gives_what_it_gave(images):
    model = mmoe([10, 10], width=4).eval()
    layers = recon.candidate_layers(model)
    split = recon.split(model, layers[:30:2], 2).eval()
    for a, b in zip(model(images), split(images), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


# --- Cross-Stitch


def test_cross_stitch_without_mixing_is_networks_alone(images):
    model = cross_stitch([10, 10], own=1.0, width=4).eval()
    for network, head, output in zip(model.trunk.networks, model.heads, model(images), strict=True):
        assert torch.allclose(head(network(images)), output, atol=1e-6)
    model = cross_stitch([10, 10], width=4).eval()
    first, second = model.trunk.networks
    a, b = first.parts()[0](images), second.parts()[0](images)
    assert model.trunk.units[0].tolist() == [pytest.approx([0.9, 0.1]), pytest.approx([0.1, 0.9])]
    x, y = 0.9 * a + 0.1 * b, 0.1 * a + 0.9 * b
    with torch.no_grad():
        model.trunk.units[1:] = torch.eye(2)
    for network, stream, features in zip((first, second), (x, y), model.features(images), strict=True):
        for part in network.parts()[1:]:
            stream = part(stream)
        assert torch.allclose(stream, features, atol=1e-5)


# --- BMTAS


def test_expected_cost_is_the_mean_over_sampled_networks():
    random = np.random.default_rng(0)
    p, costs = torch.tensor(random.dirichlet([1.0] * 3, (4, 3))), torch.tensor([1.0, 2.0, 4.0, 8.0])
    draws, N = [[random.choice(3, 4_000, p=p[n, k].numpy()) for k in range(3)] for n in range(4)], 4_000
    found = np.zeros(N)
    for i in range(N):
        for n in range(4):
            paths = {tuple(draws[m][k][i] for m in range(n + 1)) for k in range(3)}
            found[i] += costs[n].item() * len(paths)
    error = found.std() / N**0.5
    assert abs(expected_cost(p, costs).item() - found.mean()) < 4 * error
    same = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).expand(4, 2, 2)
    assert expected_cost(same, costs) == 15 and expected_cost(torch.eye(2).expand(4, 2, 2), costs) == 30
    # After a layer apart, the same choice is no more sharing
    assert expected_cost(torch.stack([torch.eye(2), *same[1:]]), costs) == 30


def test_costs_are_the_shares_of_the_layers():
    trunk = bmtas([10, 10], width=64).trunk
    assert len(trunk.costs) == len(BLOCKS) and 0.9 < trunk.costs.sum() < 1  # the rest is the stem's
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        models.resnet18([10], width=64).trunk(torch.zeros(1, 1, 36, 36))
    assert counter.get_total_flops() / 1e9 == pytest.approx(GIGA, rel=0.02)


def test_the_schedule_of_the_supernet(images):
    model = bmtas([10, 10], width=4, total_steps=100)
    trunk = model.trunk
    assert torch.equal(trunk.weights(), torch.eye(2).expand(9, 2, 2))
    for _ in range(5):
        model(images)
    assert int(trunk.steps) == 5
    drawn = trunk.weights()
    assert torch.allclose(drawn.sum(-1), torch.ones(9, 2)) and drawn.min() > 0
    hot = torch.stack([trunk.weights() for _ in range(60)]).amax(-1).mean()
    trunk.steps.fill_(100)
    cold = torch.stack([trunk.weights() for _ in range(60)]).amax(-1).mean()
    assert hot < 0.7 and cold > 0.9
    with torch.no_grad():
        trunk.alpha[3, 1] = torch.tensor([2.0, 1.0])
    model.eval()
    outputs, taken = model(images), trunk.branches()
    assert taken[3] == [0, 0] and int(trunk.steps) == 100
    stream = trunk.stem(images)
    for copies in trunk.layers:
        stream = copies[0](stream)
    assert torch.allclose(outputs[1], model.heads[1](stream), atol=1e-6)


def test_the_resource_loss_reaches_alpha_once_a_step(images):
    """With losses that do not depend on the features alpha's gradient is that of the cost alone."""
    model = bmtas([10, 10], width=4, total_steps=10, resource_weight=2.0)
    model.trunk.steps.fill_(5)
    with torch.no_grad():
        model.trunk.alpha[:, 0, 0] = 1.0
    alpha = model.trunk.alpha.detach().clone().requires_grad_()
    (2.0 * GIGA * expected_cost(alpha.softmax(-1), model.trunk.costs)).backward()
    door = Balancer("equal", model.layer_parameters())
    for factor in (0.0, 1.0):
        model.zero_grad()
        losses = {f"{k}": factor * out.square().mean() for k, out in enumerate(model(images))}
        door.backward(losses)
        assert torch.allclose(model.trunk.alpha.grad, alpha.grad, atol=1e-7) == (factor == 0.0)


def trained(model, problem, seed=0, epochs=2, **options):
    schedule = Schedule(epochs=epochs, batch_size=64, learning_rate=0.05)
    return fit(model, problem, "equal", schedule, seed=seed, **options)


@pytest.fixture(scope="module")
def problem():
    return data.load("multi_fashion_mnist", profile="tiny", train=256, validation=64, test=64)


@pytest.mark.parametrize("name", ["mmoe", "cross_stitch", "bmtas", "resnet18_streams"])
def test_each_system_trains_and_reproduces_from_a_seed(name, problem):
    options = {"width": 4} | ({"total_steps": 8, "resource_weight": 100.0} if name == "bmtas" else {})
    options |= {"private": ["bn1"], "other": 0.5} if name == "resnet18_streams" else {}
    found = []
    for seed in (0, 0, 1):
        model = models.build(name, problem.tasks, seed=seed, **options)
        start = [p.detach().clone() for p in model.parameters()]
        history = trained(model, problem, seed)
        assert history.diverged is None and history.epochs[-1]["train_loss"]["digit"] < 2.6
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        assert all(not torch.equal(a, b) for a, b in zip(start, model.parameters(), strict=True)), "a part never learns"
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_a_search_goes_on_from_a_checkpoint_bit_for_bit(problem):
    def made():
        return models.build("bmtas", problem.tasks, width=4, total_steps=8)

    states, whole = [], made()
    trained(whole, problem, after_epoch=lambda training: states.append(copy.deepcopy(training.state())))
    again = made()
    trained(again, problem, start=states[0])
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))


def test_a_large_resource_weight_keeps_tasks_together(problem):
    model = models.build("bmtas", problem.tasks, width=4, total_steps=8, resource_weight=1000.0)
    with torch.no_grad():  # task 0 leans to copy 0: then so is the other pulled
        model.trunk.alpha[:, 0, 0] = 0.5
    trained(model, problem)
    assert all(a == b for a, b in model.told()["branches"])


def test_what_branches_say_of_layers():
    layers = recon.candidate_layers(models.resnet18([10, 10], width=4))
    assert private_layers([[0, 0]] * 9, layers) == []
    last = private_layers([[0, 0]] * 8 + [[1, 0]], layers)
    assert last == ["fc"]
    third = private_layers([[1, 1], [0, 0], [0, 1], *[[0, 0]] * 6], layers)
    assert third[0] == "layer2.0.conv1" and third == layers[layers.index("layer2.0.conv1") :]
    with pytest.raises(ValueError, match="3 tasks"):
        private_layers([[0, 1, 2]], layers)


# --- streams


@pytest.fixture
def names():
    return recon.candidate_layers(models.resnet18([10, 10], width=4))


def test_lambda_0_is_the_split_network(images, names):
    """With the same values in it, a network of streams gives what `recon.split` gives, in training mode too."""
    private = [n for n in names if "bn" in n or "downsample.1" in n or n == "conv1"]
    split = recon.split(models.resnet18([10, 10], width=4), private, 2, "reinitialise")
    streams = resnet18_streams([10, 10], private=private, width=4)
    values = split.state_dict()
    keys = {key: key.replace(".copies.", ".") for key in streams.state_dict()}
    assert {*keys.values()} == {*values}
    streams.load_state_dict({key: values[name] for key, name in keys.items()})
    for training in (True, False):
        for a, b in zip(split.train(training)(images), streams.train(training)(images), strict=True):
            assert torch.allclose(a, b, atol=1e-5)


def test_a_stream_is_trained_on_both_losses(images, names):
    """The gradient of copy i is that of (L_i + lambda L_j) / (1 + lambda) on stream i; each task counts once."""
    labels = [torch.randint(10, (6,)) for _ in range(2)]
    (task, _) = data.load("multi_fashion_mnist").tasks
    for other, weight in ((0.0, 0.0), (0.5, 1 / 3), (1.0, 0.5)):
        model = resnet18_streams([10, 10], private=["bn1", "fc"], other=other, width=4)
        sum(task.loss(out, y) for out, y in zip(model(images), labels, strict=True)).backward()
        found = {name: p.grad.clone() for name, p in model.named_parameters()}
        model.zero_grad()
        features = model.features(images)
        loss = 0.0
        for k, (head, y) in enumerate(zip(model.heads, labels, strict=True)):
            own, far = (nn.functional.cross_entropy(head(features[j]), y) for j in (k, 1 - k))
            loss = loss + (1 - weight) * own + weight * far
        loss.backward()
        for name, p in model.named_parameters():
            assert torch.allclose(p.grad, found[name], atol=1e-6), name
        model.zero_grad()  # copy 1 of a layer hears of task 0 only where lambda is not 0
        task.loss(model(images)[0], labels[0]).backward()
        grad = model.trunk.fc.copies[1].weight.grad
        assert (grad is None or not grad.any()) == (other == 0)
        outputs = model.eval()(images)
        assert [out.shape for out in outputs] == [(6, 10)] * 2


def test_what_is_shared_starts_alike(names):
    """Whatever is private, shared layers and heads start from the same draws, and copies differ."""

    def made(**options):
        torch.manual_seed(3)
        return resnet18_streams([10, 10], width=4, **options)

    plain, split = made(), made(private=["conv1", "bn1"])
    for name, value in plain.state_dict().items():
        if not name.startswith(("trunk.conv1.", "trunk.bn1.")):
            assert torch.equal(value, split.state_dict()[name]), name
    first, second = split.trunk.conv1.copies
    assert torch.equal(first.weight, plain.trunk.conv1.weight) and not torch.equal(first.weight, second.weight)
    gammas = torch.stack([norm.weight for norm in split.trunk.bn1.copies])
    assert 0 < (gammas - 1).abs().max() < 0.06 and not torch.equal(*gammas)


def test_affine_and_statistics_are_shared_apart(images):
    x = torch.cat([torch.randn(8, 4, 3, 3), 3 + torch.randn(8, 4, 3, 3)])
    of = {
        key: resnet18_streams([10, 10], private=["bn1"], affine=key[0], statistics=key[1], jitter=0, width=4).trunk.bn1
        for key in (("private", "private"), ("private", "shared"), ("shared", "private"))
    }
    apart, together, reverse = (module(x) for module in of.values())
    assert torch.allclose(apart, reverse, atol=1e-5) and apart[8:].mean().abs() < 1e-4
    assert together.mean().abs() < 1e-4 and together[8:].mean() > 0.5
    counts = [sum(p.numel() for p in module.parameters()) for module in of.values()]
    assert counts == [16, 16, 8]
    means = [sum(b.numel() for n, b in module.named_buffers() if n.endswith("mean")) for module in of.values()]
    assert means == [8, 4, 8]
    shared = resnet18_streams([10, 10], private=["conv1"], width=4)
    assert isinstance(shared.trunk.bn1, nn.BatchNorm2d)


def test_streams_say_what_they_cannot_do():
    for options, message in (
        ({"other": 0.3}, "lambda is 0"),
        ({"private": ["bn9"]}, "no layer 'bn9'"),
        ({"affine": "both"}, "at least one private"),
        ({"affine": "shared", "statistics": "shared"}, "at least one private"),
    ):
        with pytest.raises(ValueError, match=message):
            resnet18_streams([10, 10], width=4, **options)
