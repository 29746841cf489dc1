"""What Recon's split must refuse by name, and in-place operations, which it must not run K times on one value."""

import copy

import pytest
import torch
from engine import close, narrow_resnet
from torch import nn
from torch.nn import functional as F

from mtl_core.models import MultiTaskModel
from mtl_core.recon import SplitError, split_layers

K = 3


@pytest.fixture(scope="module")
def plain():
    return narrow_resnet()


def test_a_model_with_rotations_is_refused(plain):
    model = copy.deepcopy(plain)
    model.rotations = nn.ModuleList(nn.Identity() for _ in range(K))
    with pytest.raises(SplitError, match="expected a model without rotations"):
        split_layers(model, ["conv1"])


# --- in-place operations


class Shortcut(nn.Module):
    """A residual block with the sum written one way or another."""

    def __init__(self, way):
        super().__init__()
        self.first, self.second, self.relu, self.way = nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU(inplace=True), way

    def forward(self, x):
        z = self.first(x)
        out = self.relu(self.second(z))
        if self.way == "+=":
            z += out
        elif self.way == "-=":
            z -= out
        elif self.way == "*=":
            z *= out
        elif self.way == "/=":
            z /= out + 1
        elif self.way == "add_":
            z.add_(out)
        elif self.way == "relu(inplace)":
            return F.relu(z + out, inplace=True)
        elif self.way == "read again":
            w = z
            w += out
            return w + z  # z has been written to
        return z


def shortcut(way):
    torch.manual_seed(0)
    return MultiTaskModel(Shortcut(way), [nn.Linear(4, 2) for _ in range(K)]).double()


@pytest.mark.parametrize("names", [["second"], ["first"], ["first", "second"]], ids="+".join)
@pytest.mark.parametrize("way", ["+=", "-=", "*=", "/="])
def test_in_place_arithmetic_after_a_fork(way, names):
    """Run K times on a value that the tasks share, it would write that value K times."""
    model, x = shortcut(way), torch.randn(5, 4, dtype=torch.float64)
    with torch.no_grad():
        close(split_layers(model, names)(x), model(x))
        split = split_layers(model, names, "reinitialise")
        for k in range(K):  # each task alone
            alone = copy.deepcopy(model)
            for name in names:
                alone.trunk.get_submodule(name).load_state_dict(split.trunk.get_submodule(f"{name}.{k}").state_dict())
            close([split(x)[k]], [alone(x)[k]])


@pytest.mark.parametrize(
    "way, message",
    [("add_", "in-place method 'add_' after a fork"), ("relu(inplace)", "calls relu in place after a fork")],
)
def test_other_in_place_operations_after_a_fork_are_refused(way, message):
    with pytest.raises(SplitError, match=message):
        split_layers(shortcut(way), ["second"])


def test_a_value_that_is_read_after_it_was_written_in_place():
    with pytest.raises(SplitError, match="reads again under another name"):
        split_layers(shortcut("read again"), ["second"])
    # before the fork it runs as it did
    model, x = shortcut("read again"), torch.randn(5, 4, dtype=torch.float64)
    model.trunk = nn.Sequential(model.trunk, nn.Linear(4, 4).double())
    with torch.no_grad():
        close(split_layers(model, ["1"])(x), model(x))


# --- errors


def test_unknown_layers_and_arguments(plain):
    with pytest.raises(SplitError, match="no layer 'layer1.0.conv3'; did you mean 'layer1.0.conv2'\\?"):
        split_layers(plain, ["conv1", "layer1.0.conv3"])
    with pytest.raises(SplitError, match="no layer 'layer1'"):
        split_layers(plain, ["layer1"])  # a container owns no parameters
    with pytest.raises(SplitError, match="no layer 'zzz'; its layers are conv1, bn1"):
        split_layers(plain, ["zzz"])
    with pytest.raises(ValueError, match="init is 'copy' or 'reinitialise', got 'random'"):
        split_layers(plain, ["conv1"], "random")


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Outside(nn.Module):
    """Uses a layer's parameters outside of that layer's forward."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return F.linear(self.a(x), self.b.weight)


def test_what_cannot_be_traced_is_named():
    trunk = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), Branching()))
    model = MultiTaskModel(trunk, [nn.Linear(4, 2) for _ in range(2)])
    with pytest.raises(SplitError, match="cannot trace '1.1' of the trunk"):
        split_layers(model, ["0"])
    outside = MultiTaskModel(Outside(), [nn.Linear(4, 2) for _ in range(2)])
    with pytest.raises(SplitError, match="layer 'b' is not called as a module"):
        split_layers(outside, ["b"])

    # a module with parameters is kept whole, whatever it does inside
    class Whole(Branching):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

    whole = MultiTaskModel(nn.Sequential(nn.Linear(4, 4), Whole()), [nn.Linear(4, 2) for _ in range(2)])
    assert len(split_layers(whole, ["1"]).features(torch.ones(3, 4))) == 2


class AtTheTop(nn.Sequential):
    def forward(self, x):
        return Branching.forward(self, super().forward(x))


def test_the_module_that_fails_is_named_not_the_one_before():
    trunk = AtTheTop(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    model = MultiTaskModel(trunk, [nn.Linear(4, 2) for _ in range(2)])
    with pytest.raises(SplitError, match="cannot trace 'AtTheTop' of the trunk"):
        split_layers(model, ["0.0"])
    copied = split_layers(model, [])  # nothing to split, nothing to trace
    assert type(copied.trunk) is AtTheTop and copied is not model


def test_parameters_read_inside_and_outside_of_a_layer_cannot_fork():
    """Tied weights: a copy of the layer would silently cut the tie."""

    class Tied(Outside):
        def forward(self, x):
            return F.linear(self.b(self.a(x)), self.b.weight)

    model = MultiTaskModel(Tied(), [nn.Linear(4, 2) for _ in range(2)])
    with pytest.raises(SplitError, match="reads parameters of 'b' outside"):
        split_layers(model, ["b"])


def test_a_trunk_with_K_streams_is_refused(plain):
    split = split_layers(plain, ["fc"])
    with pytest.raises(SplitError, match="only a trunk with one output"):
        split_layers(split, ["conv1"])


def test_a_mode_read_in_forward_is_not_frozen_silently():
    """torch.fx turns self.training into a constant; a split network must still tell training from evaluation."""

    class Dropping(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x):
            return F.dropout(self.a(x), 0.5, self.training)

    model = MultiTaskModel(Dropping(), [nn.Linear(4, 2) for _ in range(2)]).train()
    for training in (True, False):
        with pytest.raises(SplitError, match="reads self.training"):
            split_layers(model.train(training), ["a"])
        assert model.training == training
    # as a module it keeps its mode
    model = MultiTaskModel(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)), [nn.Linear(4, 2) for _ in range(2)])
    split, x = split_layers(model, ["0"]), torch.ones(50, 4)
    assert (split.features(x)[0] == 0).any() and not (split.eval().features(x)[0] == 0).any()
