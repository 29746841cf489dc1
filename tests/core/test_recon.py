"""Recon's split: what it must leave unchanged and what it must change."""

import copy

import numpy as np
import pytest
import torch
from engine import close, narrow_resnet, step_of
from torch.nn import functional as F

from mtl_core import recon
from mtl_core.models import lenet, mlp
from mtl_core.recon import candidate_layers

K = 3


@pytest.fixture(scope="module")
def plain():
    return narrow_resnet()


@pytest.fixture(scope="module")
def inputs():
    return torch.randn(5, 1, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def layers_of(model):
    return candidate_layers(model)


def random_subsets(count):
    random = np.random.default_rng(0)
    return [sorted(random.choice(41, size=random.integers(1, 41), replace=False).tolist()) for _ in range(count)]


INSIDE_A_BLOCK = [
    ["layer2.0.downsample.1"],
    ["layer2.0.downsample.0"],
    ["layer1.0.conv2"],
    ["layer1.0.bn2"],
    ["layer1.0.conv1"],
    ["layer4.1.conv2"],
    ["layer4.1.bn1", "layer2.0.bn2"],
    ["layer1.0.conv2", "layer1.1.conv1", "layer3.0.downsample.0"],
]


# --- copied weights leave the function unchanged (P8 b)


@pytest.mark.parametrize("subset", random_subsets(12), ids=lambda s: f"{len(s)} layers")
def test_evaluation_outputs_are_unchanged_for_random_subsets(plain, inputs, subset):
    names = [layers_of(plain)[i] for i in subset]
    split = recon.split(plain, names, K)
    assert not split.training
    with torch.no_grad():
        close(split(inputs), plain(inputs))


@pytest.mark.parametrize("names", INSIDE_A_BLOCK, ids="+".join)
def test_forks_inside_a_block(plain, inputs, names):
    split = recon.split(plain, names, K)
    with torch.no_grad():
        close(split(inputs), plain(inputs))
        features = split.features(inputs)
        assert isinstance(features, tuple) and len(features) == K
        close(features, [plain.features(inputs)] * K)
    # in training, batch statistics: the same function again, and each task really has its own copy
    training_plain, training_split = copy.deepcopy(plain).train(), recon.split(copy.deepcopy(plain).train(), names, K)
    assert training_split.training
    with torch.no_grad():
        close(training_split(inputs), training_plain(inputs))
        before = split(inputs)
        for name in names:
            for p in split.trunk.get_submodule(f"{name}.1").parameters():
                p.mul_(1.5).add_(0.1)
        after = split(inputs)
        close([after[0], after[2]], [before[0], before[2]])
        assert (after[1] - before[1]).abs().max() > 1e-6


def test_order_and_repetition_of_the_names_do_not_matter(plain):
    names = ["layer1.0.conv2", "conv1", "layer1.0.conv2"]
    one, other = recon.split(plain, names, K), recon.split(plain, names[1::-1], K)
    assert candidate_layers(one) == candidate_layers(other)


def test_the_model_itself_is_left_alone(plain, inputs):
    before = {n: v.clone() for n, v in plain.state_dict().items()}
    with torch.no_grad():
        split = recon.split(plain, ["conv1", "layer1.0.bn2"], K, "reinitialise")
        for p in split.parameters():
            p.add_(1)
    assert {n for n in plain.state_dict()} == set(before)
    assert all(torch.equal(v, before[n]) for n, v in plain.state_dict().items())


# --- the two ends (P8 a, c)


def test_splitting_nothing_is_the_plain_network(plain, inputs):
    split = recon.split(plain, [], K)
    assert split is not plain and candidate_layers(split) == candidate_layers(plain)
    assert isinstance(split.features(inputs), torch.Tensor)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(split(inputs), plain(inputs), strict=True))


@pytest.mark.parametrize("init", ["copy", "reinitialise"])
def test_splitting_everything_is_K_independent_trunks(plain, inputs, init):
    base = copy.deepcopy(plain).train()
    split = recon.split(base, layers_of(base), K, init)
    parameters = sum(p.numel() for p in plain.trunk.parameters())
    assert sum(p.numel() for p in split.trunk.parameters()) == K * parameters
    targets = torch.tensor([[0, 1, 2, 0, 1], [2, 2, 1, 0, 0], [1, 1, 1, 2, 0]])
    features = split.features(inputs)
    losses = [F.cross_entropy(o, t) for o, t in zip(split.outputs(features), targets, strict=True)]
    balancer = step_of("equal", split, observed=True)
    balancer.backward(losses)
    assert balancer.gradients.matrix.shape == (K, 0)
    for k in range(K):
        single = copy.deepcopy(base)
        for name in layers_of(base):
            single.trunk.get_submodule(name).load_state_dict(split_copy(split, base, name, k))
        output = single.heads[k](single.trunk(inputs))
        close([output], [split.outputs(features)[k].detach()])
        F.cross_entropy(output, targets[k]).backward()
        for name in layers_of(base):
            for p, q in zip(
                single.trunk.get_submodule(name).parameters(),
                split.trunk.get_submodule(f"{name}.{k}").parameters(),
                strict=True,
            ):
                torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-12)


def split_copy(split, base, name, k):
    """State of copy k, with running statistics as before the forward pass that this test has made."""
    state = dict(split.trunk.get_submodule(f"{name}.{k}").state_dict())
    unused = base.trunk.get_submodule(name).state_dict()
    return state | {n: v for n, v in unused.items() if "running" in n or "num" in n}


# --- what runs how often, and who learns from whom (P8 d)


@pytest.mark.parametrize("names", [["layer2.0.conv2"], ["layer3.0.downsample.1", "layer4.0.bn1"], ["fc"]], ids="+".join)
def test_modules_before_the_first_split_run_once(plain, inputs, names):
    split = recon.split(plain, names, K)
    calls = {}
    for name, module in split.trunk.named_modules():
        if next(module.parameters(recurse=False), None) is not None:
            module.register_forward_hook(lambda *_, name=name: calls.update({name: calls.get(name, 0) + 1}))
    with torch.no_grad():
        split(inputs)
    order = layers_of(plain)
    first = min(order.index(name) for name in names)
    for i, name in enumerate(order):
        if name in names:
            assert [calls[f"{name}.{k}"] for k in range(K)] == [1] * K and name not in calls
        elif i < first:
            assert calls[name] == 1, name
    assert calls.get("fc", calls.get("fc.0")) == (1 if names == ["fc"] else K)
    if names == ["layer2.0.conv2"]:  # the shortcut of the same block lies beside the fork: once, too
        assert calls["layer2.0.downsample.0"] == calls["layer2.0.downsample.1"] == 1
        assert calls["layer2.0.bn2"] == K


def test_copies_of_other_tasks_get_no_gradient(plain, inputs):
    names = ["conv1", "layer1.0.conv2", "layer2.0.downsample.1", "fc"]
    for k in range(K):
        split = recon.split(plain, names, K)
        split(inputs)[k].square().sum().backward()
        for name in names:
            for task in range(K):
                for p in split.trunk.get_submodule(f"{name}.{task}").parameters():
                    assert (p.grad is not None and p.grad.abs().sum() > 0) == (task == k), (name, task)
        assert split.trunk.get_submodule("layer4.1.conv1").weight.grad.abs().sum() > 0


def test_a_step_on_one_loss_moves_that_tasks_copies_only(plain, inputs):
    split = recon.split(plain, ["layer1.0.conv2", "layer4.0.bn2"], K)
    before = {n: p.detach().clone() for n, p in split.named_parameters()}
    optimizer = torch.optim.SGD(split.parameters(), lr=0.1)
    split(inputs)[1].square().sum().backward()
    optimizer.step()
    moved = {n for n, p in split.named_parameters() if not torch.equal(p, before[n])}
    assert {n for n in moved if "conv2.1." in n and "layer1.0" in n} == {"trunk.layer1.0.conv2.1.weight"}
    assert not any(
        n.startswith(f"trunk.{name}.{k}.") for n in moved for k in (0, 2) for name in ("layer1.0.conv2", "layer4.0.bn2")
    )
    assert {"trunk.conv1.weight", "heads.1.weight", "trunk.layer4.0.bn2.1.bias"} <= moved
    assert not moved & {"heads.0.weight", "heads.2.weight"}


# --- how copies start


def copies(model, name):
    return [model.trunk.get_submodule(f"{name}.{k}") for k in range(len(model.heads))]


def test_copied_weights_are_equal_and_not_shared(plain):
    split = recon.split(plain, ["conv1", "bn1"], K)
    for name in ("conv1", "bn1"):
        first, *others = copies(split, name)
        for other in others:
            for n, value in other.state_dict().items():
                same = first.state_dict()[n]
                assert torch.equal(value, same) and value.data_ptr() != same.data_ptr()


def test_reinitialised_copies_differ_and_repeat_by_generator(plain):
    names, state = ["conv1", "layer1.0.conv2", "fc", "bn1"], torch.get_rng_state()

    def draw(seed):
        return recon.split(plain, names, K, "reinitialise", torch.Generator().manual_seed(seed))

    one, same, other = draw(1), draw(1), draw(2)
    assert torch.equal(torch.get_rng_state(), state)
    for name in names[:3]:
        a, b, c = copies(one, name)
        assert torch.equal(a.weight, plain.trunk.get_submodule(name).weight)
        assert not torch.equal(a.weight, b.weight) and not torch.equal(b.weight, c.weight)
        assert torch.equal(b.weight, copies(same, name)[1].weight)
        assert not torch.equal(b.weight, copies(other, name)[1].weight)
    for module in copies(one, "bn1")[1:]:
        assert (module.weight == 1).all() and (module.bias == 0).all()
        assert (module.running_mean == 0).all() and (module.running_var == 1).all()
    conv = copies(one, "layer1.0.conv2")[1]  # He, fan-out: standard deviation sqrt(2 / (4 * 9))
    assert 0.17 < conv.weight.std() < 0.30
    # a generator goes on: a second split draws other numbers
    generator = torch.Generator().manual_seed(1)
    first, second = (recon.split(plain, names, K, "reinitialise", generator) for _ in range(2))
    assert not torch.equal(copies(first, "conv1")[1].weight, copies(second, "conv1")[1].weight)


def test_reinitialise_without_generator_repeats_by_the_global_seed_and_leaves_it_alone(plain):
    torch.manual_seed(7)
    state = torch.get_rng_state()
    one = recon.split(plain, ["conv1"], K, "reinitialise")
    assert torch.equal(torch.get_rng_state(), state)
    for init in ("copy", "reinitialise"):  # drawn from the same seed, the model's first layer is another draw
        torch.manual_seed(7)
        first, second = copies(recon.split(mlp([2, 2], inputs=4, width=8), ["0"], 2, init), "0")
        assert torch.equal(first.weight, second.weight) is (init == "copy")
    for seed, same in ((7, True), (8, False)):
        torch.manual_seed(seed)
        other = recon.split(plain, ["conv1"], K, "reinitialise")
        assert torch.equal(copies(one, "conv1")[1].weight, copies(other, "conv1")[1].weight) == same


# --- the result is a network like any other


def test_state_and_deepcopy_and_layers_of_a_split_network(plain, inputs, tmp_path):
    names = ["conv1", "layer1.0.bn2", "layer3.0.downsample.0"]
    split = recon.split(plain, names, K, "reinitialise", torch.Generator().manual_seed(0))
    torch.save(split.state_dict(), tmp_path / "state.pt")
    fresh = recon.split(plain, names, K)
    with torch.no_grad():
        twin, expected = copy.deepcopy(split), split(inputs)
        fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        assert all(torch.equal(a, b) for a, b in zip(fresh(inputs), expected, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(twin(inputs), expected, strict=True))
        for p in split.parameters():
            p.zero_()
        assert all(torch.equal(a, b) for a, b in zip(twin(inputs), expected, strict=True))
    # what each task has for itself cannot be split again
    assert candidate_layers(twin) == [name for name in candidate_layers(plain) if name not in names]
    assert list(twin.state_dict()) == list(split.state_dict()) and type(twin.trunk).__mro__[1] is type(plain.trunk)
    assert twin.train().trunk.bn1.training and not twin.eval().trunk.bn1.training


def test_networks_without_normalisation():
    torch.manual_seed(0)
    model, x = lenet([2, 2], size=16), torch.randn(4, 1, 16, 16)
    assert candidate_layers(model) == ["0", "3", "7"]
    for names in (["0"], ["3"], ["7"], ["0", "7"]):
        with torch.no_grad():
            torch.testing.assert_close(recon.split(model, names, 2)(x), model(x))
    model.trunk[0].requires_grad_(False)
    assert candidate_layers(model) == ["3", "7"]
    model.trunk[3].weight.requires_grad_(False)
    assert candidate_layers(model) == ["3", "7"]  # its bias still learns
