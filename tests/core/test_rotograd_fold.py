"""Rotations multiplied into the heads: the network alone gives what it gave with them, or nothing changes."""

import pytest
import torch
from torch import nn

from mtl_core.methods import RotoGrad


@pytest.mark.parametrize("size", [5, 8])
def test_the_network_alone_gives_the_same(size):
    torch.manual_seed(0)
    trunk, heads = nn.Linear(6, 8), [nn.Sequential(nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 1)), nn.Linear(8, 2)]
    method, x = RotoGrad(trunk, heads, size, init="haar").eval(), torch.randn(9, 6)
    before, unfolded = method(x), [head(trunk(x)) for head in heads]
    assert (before[0] - unfolded[0]).abs().max() > 1e-2
    method.fold_into_heads()
    for one, head, again in zip(before, heads, method(x), strict=True):
        assert torch.allclose(one, head(trunk(x)), atol=1e-6) and torch.allclose(one, again, atol=1e-6)


def test_maps_of_features():
    torch.manual_seed(0)
    trunk, heads = nn.Conv2d(1, 4, 3), [nn.Sequential(nn.Conv2d(4, 2, 1), nn.Flatten()) for _ in range(2)]
    method, x = RotoGrad(trunk, heads, 4, post_shape=(6, 6), init="haar").eval(), torch.randn(2, 1, 8, 8)
    before = method(x)
    method.fold_into_heads()
    assert all(torch.allclose(one, head(trunk(x)), atol=1e-5) for one, head in zip(before, heads, strict=True))


@pytest.mark.parametrize("head", [nn.Sequential(nn.ReLU(), nn.Linear(8, 1)), nn.BatchNorm1d(8), nn.Identity()])
def test_a_head_that_cannot_take_it_is_named_and_nothing_changes(head):
    method = RotoGrad(nn.Linear(6, 8), [nn.Linear(8, 1), head], 5, init="haar")
    before = {name: value.clone() for name, value in method.state_dict().items()}
    with pytest.raises(ValueError, match="head 1 must begin"):
        method.fold_into_heads()
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())
