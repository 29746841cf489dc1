"""What Recon's split must refuse by name, and in-place operations, which it must not run K times on one value."""

import copy
import pickle
from collections import OrderedDict

import pytest
import torch
from engine import close, narrow_resnet
from torch import nn
from torch.nn import functional as F

from mtl_core import recon
from mtl_core.models import MultiTaskModel
from mtl_core.recon import SplitError

K = 3


@pytest.fixture(scope="module")
def plain():
    return narrow_resnet()


def test_a_model_with_rotations_is_refused(plain):
    model = copy.deepcopy(plain)
    model.rotations = nn.ModuleList(nn.Identity() for _ in range(K))
    with pytest.raises(SplitError, match="expected a model without rotations"):
        recon.split(model, ["conv1"], len(model.heads))


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
            return F.relu(z + out, inplace=True) * F.relu(out)
        elif self.way == "relu(inplace), read again":
            w = z + out
            return F.relu(w, inplace=True) + w
        elif self.way == "out=":
            return torch.add(z, out, out=torch.empty_like(z))
        elif self.way == "read again":
            w = z
            w += out
            return w + z  # z has been written to
        return z


def shortcut(way):
    torch.manual_seed(0)
    return MultiTaskModel(Shortcut(way), [nn.Linear(4, 2) for _ in range(K)]).double()


@pytest.mark.parametrize("names", [["second"], ["first"], ["first", "second"]], ids="+".join)
@pytest.mark.parametrize("way", ["+=", "-=", "*=", "/=", "relu(inplace)"])
def test_in_place_arithmetic_after_a_fork(way, names):
    """Run K times on a value that the tasks share, it would write that value K times."""
    model, x = shortcut(way), torch.randn(5, 4, dtype=torch.float64)
    with torch.no_grad():
        close(recon.split(model, names, len(model.heads))(x), model(x))
        split = recon.split(model, names, len(model.heads), "reinitialise")
        for k in range(K):  # each task alone
            alone = copy.deepcopy(model)
            for name in names:
                alone.trunk.get_submodule(name).load_state_dict(split.trunk.get_submodule(f"{name}.{k}").state_dict())
            close([split(x)[k]], [alone(x)[k]])


@pytest.mark.parametrize(
    "way, message",
    [
        ("add_", r"after it the network changes values in place \(\['add_'\]"),
        ("relu(inplace), read again", r"in place \(\['relu'\]"),
        ("out=", r"in place \(\['add'\]"),
    ],
)
def test_other_in_place_operations_after_a_fork_are_refused(way, message):
    with pytest.raises(SplitError, match=message):
        recon.split(shortcut(way), ["second"], K)


def test_a_value_that_is_read_after_it_was_written_in_place():
    with pytest.raises(SplitError, match=r"in place \(\['iadd'\]\) that others read"):
        recon.split(shortcut("read again"), ["second"], K)
    # before the fork it runs as it did
    model, x = shortcut("read again"), torch.randn(5, 4, dtype=torch.float64)
    model.trunk = nn.Sequential(model.trunk, nn.Linear(4, 4).double())
    with torch.no_grad():
        close(recon.split(model, ["1"], len(model.heads))(x), model(x))


# --- errors


def test_unknown_layers_and_arguments(plain):
    with pytest.raises(SplitError, match="'layer1.0.conv3' cannot be split: .* did you mean 'layer1.0.conv2'\\?"):
        recon.split(plain, ["conv1", "layer1.0.conv3"], K)
    with pytest.raises(
        SplitError, match="'layer1' .* no layer of that name; what can be split there is .'layer1.0.conv1'"
    ):
        recon.split(plain, ["layer1"], K)  # a container owns no parameters
    own = nn.Sequential(OrderedDict(trunk=nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))))
    with pytest.raises(
        SplitError, match="layer 'trunk.7' cannot be split"
    ):  # a network of one's own may have a "trunk"
        recon.split(own, ["trunk.7"], K)
    with pytest.raises(SplitError, match="'zzz' .* no layer of that name; there are .'conv1', 'bn1'"):
        recon.split(plain, ["zzz"], K)
    with pytest.raises(ValueError, match="init is 'copy' or 'reinitialise', got 'random'"):
        recon.split(plain, ["conv1"], K, "random")


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


def test_what_cannot_be_traced_stays_whole():
    inner = nn.Sequential(nn.Linear(4, 4), Branching())
    model, x = (
        MultiTaskModel(nn.Sequential(nn.Linear(4, 4), inner), [nn.Linear(4, 2) for _ in range(2)]),
        torch.ones(3, 4),
    )
    assert recon.candidate_layers(model) == ["0", "1.0"]
    with torch.no_grad():
        for sign in (1, -1):  # the branch is taken when the network runs
            close(recon.split(model, ["0", "1.0"], 2)(sign * x), model(sign * x))
    outside = MultiTaskModel(Outside(), [nn.Linear(4, 2) for _ in range(2)])
    with pytest.raises(SplitError, match="'b' is never called in forward"):
        recon.split(outside, ["b"], 2)

    # a module that owns its parameters is kept whole, whatever it does inside
    class Whole(Branching):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

    whole = MultiTaskModel(nn.Sequential(nn.Linear(4, 4), Whole()), [nn.Linear(4, 2) for _ in range(2)])
    assert len(recon.split(whole, ["1"], 2).features(x)) == 2


class AtTheTop(nn.Sequential):
    def forward(self, x):
        return Branching.forward(self, super().forward(x))


def test_the_module_that_fails_is_named_not_the_one_before():
    trunk = AtTheTop(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    model = MultiTaskModel(trunk, [nn.Linear(4, 2) for _ in range(2)])
    with pytest.raises(SplitError, match="cannot trace 'AtTheTop': .* control flow"):
        recon.split(model, ["0.0"], len(model.heads))
    copied = recon.split(model, [], len(model.heads))  # nothing to split, nothing to trace
    assert type(copied.trunk) is AtTheTop and copied is not model


def test_parameters_read_inside_and_outside_of_a_layer_cannot_fork():
    """Tied weights: a copy of the layer would silently cut the tie."""

    class Tied(Outside):
        def forward(self, x):
            return F.linear(self.b(self.a(x)), self.b.weight)

    model = MultiTaskModel(Tied(), [nn.Linear(4, 2) for _ in range(2)])
    with pytest.raises(SplitError, match="'b' cannot be split: the network reads .'b.weight'. outside"):
        recon.split(model, ["b"], len(model.heads))


def test_a_split_network_can_be_split_again(plain):
    split, x = recon.split(plain, ["fc"], K), torch.randn(2, 1, 32, 32, dtype=torch.float64)
    with pytest.raises(SplitError, match="'fc.1' cannot be split: 1 outputs depend on it"):
        recon.split(split, ["fc.1"], K)
    again = recon.split(split, ["layer4.1.conv2"], K)
    with torch.no_grad():
        close(again(x), plain(x))
        for p in again.trunk.get_submodule("layer4.1.conv2.1").parameters():
            p.add_(1)
        changed = [not torch.equal(a, b) for a, b in zip(again(x), split(x), strict=True)]
    assert changed == [False, True, False]


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x):
        return F.dropout(self.a(x), 0.5, self.training)


def test_a_mode_read_in_forward_is_not_frozen():
    """torch.fx turns self.training into a constant; a split network must still tell training from evaluation."""
    x = torch.ones(50, 4)
    for trunk in (Dropping(), nn.Sequential(Dropping(), nn.Tanh()), nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))):
        model = MultiTaskModel(trunk, [nn.Linear(4, 2) for _ in range(2)])
        for training in (True, False):
            split = recon.split(model.train(training), recon.candidate_layers(model), 2)
            assert model.training == split.training == training
            for twin in (split, copy.deepcopy(split), pickle.loads(pickle.dumps(split))):
                assert not torch.equal(*(twin.train().features(x)[1] for _ in range(2)))
                assert torch.equal(*(twin.eval().features(x)[1] for _ in range(2)))

    class Branch(Dropping):
        def forward(self, x):
            return self.a(x) if self.training else x

    with pytest.raises(SplitError, match="cannot trace 'Branch': .* control flow"):
        recon.split(MultiTaskModel(Branch(), [nn.Linear(4, 2)]), ["a"], 1)
