"""The engine against torch.autograd.grad, one full backward per task; buffers, views and cost."""

import pytest
import torch
from networks import MODELS, SPLITS, build, direct, losses_of, run
from torch import nn

from mtl_core.old_gradients import task_gradients
from mtl_core.models import MultiTaskModel


def compare(model, found, expected):
    """Everything the engine promises, against `direct`."""
    K = len(model.heads)
    parameters = dict(model.trunk.named_parameters())
    trainable = [n for n, p in parameters.items() if p.requires_grad]
    assert sorted([*found.names, *found.owners]) == sorted(trainable)
    assert found.names == [n for n in trainable if n not in found.owners]  # registration order
    for k in range(K):
        row = [expected[k][f"trunk.{n}"] for n in found.names]
        row = [torch.zeros_like(parameters[n]) if g is None else g for n, g in zip(found.names, row, strict=True)]
        row = torch.cat([g.flatten() for g in row]) if row else torch.zeros(0)
        torch.testing.assert_close(found.matrix[k], row.to(found.matrix), rtol=1e-9, atol=1e-12)
        for name, p in model.heads[k].named_parameters():
            torch.testing.assert_close(p.grad, expected[k][f"heads.{k}.{name}"], rtol=1e-12, atol=0)
    for name, task in found.owners.items():
        torch.testing.assert_close(parameters[name].grad, expected[task][f"trunk.{name}"], rtol=1e-9, atol=1e-12)
        assert all(expected[k][f"trunk.{name}"] is None for k in range(K) if k != task)
    for name in found.names:
        reached = [k for k in range(K) if expected[k][f"trunk.{name}"] is not None]
        assert len(reached) != 1 or K == 1, f"{name} belongs to task {reached}"


# --- the matrix


@pytest.mark.parametrize("K", [1, 2, 3])
@pytest.mark.parametrize("name", MODELS)
def test_rows_are_the_gradients_of_the_losses(name, K):
    model, inputs, targets = build(name, K)
    expected = direct(model, inputs, targets)
    found = run(model, inputs, targets)
    compare(model, found, expected)
    assert found.matrix.dtype == torch.float64
    assert found.matrix.shape == (K, sum(p.numel() for p in model.trunk.parameters()))
    assert found.owners == {} and found.matrix.abs().sum(1).min() > 0
    total = sum(losses_of(model, model.features(inputs), targets))
    gradients = torch.autograd.grad(total, list(model.trunk.parameters()))
    torch.testing.assert_close(found.matrix.sum(0), torch.cat([g.flatten() for g in gradients]), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("K", [2, 3])
@pytest.mark.parametrize("split", SPLITS)
def test_split_networks(split, K):
    model, inputs, targets = build("resnet", K, split=split)
    expected = direct(model, inputs, targets)
    found = run(model, inputs, targets)
    compare(model, found, expected)
    assert set(found.owners.values()) == set(range(K))
    for task, parameters in enumerate(found.task_parameters):
        names = {n for n, k in found.owners.items() if k == task}
        assert {n for n, p in model.trunk.named_parameters() if any(p is q for q in parameters)} == names
        if split != "everything":
            suffixes = {n.replace(f".{task}.", ".#.") for n in names}
            assert len(suffixes) == len(names) > 0
    if split == "everything":
        assert found.matrix.shape == (K, 0) and found.layers == {}
    again = run(model, inputs, targets, out=found)
    compare(model, again, direct(model, inputs, targets))


def test_a_layer_that_two_of_three_tasks_reach_is_shared():
    class Trunk(nn.Module):
        def __init__(self):
            super().__init__()
            self.all, self.two, self.one, self.none = (nn.Linear(3, 3) for _ in range(4))

        def forward(self, x):
            z = self.all(x)
            pair = self.two(z)
            return z, pair, self.one(pair)

    model = MultiTaskModel(Trunk().double(), [nn.Linear(3, 2).double() for _ in range(3)])
    inputs, targets = torch.randn(4, 3, dtype=torch.float64), torch.randint(2, (3, 4))
    found = run(model, inputs, targets)
    compare(model, found, direct(model, inputs, targets))
    assert set(found.owners.items()) == {("one.weight", 2), ("one.bias", 2)}
    assert list(found.layers) == ["all", "two", "none"]
    assert found.layers["two"][0].abs().sum() == 0 and found.layers["two"][1:].abs().sum(1).min() > 0
    assert found.layers["none"].abs().sum() == 0


def test_features_are_the_gradients_at_the_cut():
    model, inputs, targets = build("batch norm", 3)
    features = model.features(inputs)
    losses = losses_of(model, features, targets)
    expected = [torch.autograd.grad(loss, features, retain_graph=True)[0] for loss in losses]
    found = task_gradients(losses, model, features)
    assert len(found.features) == 3
    for one, other in zip(found.features, expected, strict=True):
        assert torch.equal(one, other)


# --- layers and the buffer


def test_layers_are_views_weight_before_bias():
    model, inputs, targets = build("batch norm", 2)
    found = run(model, inputs, targets)
    sizes = {"0": 4 * 9 + 4, "1": 8, "4": 144 * 5 + 5}
    assert {name: view.shape for name, view in found.layers.items()} == {n: (2, d) for n, d in sizes.items()}
    assert torch.equal(torch.cat(list(found.layers.values()), dim=1), found.matrix)
    expected = direct(model, inputs, targets)[1]
    assert torch.allclose(found.layers["4"][1, :-5], expected["trunk.4.weight"].flatten())
    assert torch.allclose(found.layers["4"][1, -5:], expected["trunk.4.bias"])
    for view in found.layers.values():
        assert view.untyped_storage().data_ptr() == found.matrix.untyped_storage().data_ptr()
    found.layers["1"].fill_(7)
    assert (found.matrix == 7).sum() == 16


def test_out_uses_the_buffer_again_and_leaves_no_stale_values():
    model, inputs, targets = build("batch norm", 3)
    found = run(model, inputs, targets)
    place, first, layers = found.matrix.data_ptr(), found.matrix.clone(), dict(found.layers)
    again = run(model, inputs * 0.5, targets, out=found)
    assert again is found and again.matrix.data_ptr() == place
    assert all(again.layers[name] is view for name, view in layers.items())
    assert not torch.allclose(again.matrix, first)
    compare(model, again, direct(model, inputs * 0.5, targets))
    compare(model, run(model, inputs, targets, out=found), direct(model, inputs, targets))


def test_out_clears_what_no_loss_reaches_any_more():
    class Optional(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.use = nn.Linear(3, 3), nn.Linear(3, 3), True

        def forward(self, x):
            return self.second(self.first(x)) if self.use else self.first(x)

    model = MultiTaskModel(Optional().double(), [nn.Linear(3, 2).double() for _ in range(2)])
    inputs, targets = torch.randn(4, 3, dtype=torch.float64), torch.randint(2, (2, 4))
    found = run(model, inputs, targets)
    assert found.layers["second"].abs().sum(1).min() > 0
    model.trunk.use = False
    found = run(model, inputs, targets, out=found)
    assert found.layers["second"].abs().sum() == 0 and found.layers["first"].abs().sum(1).min() > 0
    compare(model, found, direct(model, inputs, targets))


def test_frozen_parameters_take_no_part():
    model, inputs, targets = build("batch norm", 2)
    model.trunk[0].bias.requires_grad_(False)
    for p in [*model.trunk[1].parameters(), *model.heads[0].parameters()]:
        p.requires_grad_(False)
    found = run(model, inputs, targets)
    assert found.names == ["0.weight", "4.weight", "4.bias"] and list(found.layers) == ["0", "4"]
    assert found.matrix.shape == (2, 36 + 725)
    expected = direct(model, inputs, targets)
    assert torch.allclose(found.layers["0"][0], expected[0]["trunk.0.weight"].flatten())
    assert all(p.grad is None for p in [*model.trunk[1].parameters(), *model.heads[0].parameters()])
    assert all(p.grad is not None for p in model.heads[1].parameters())


def test_heads_of_the_step_before_are_replaced_not_added_to():
    model, inputs, targets = build("lenet", 2)
    for p in model.parameters():
        p.grad = torch.full_like(p, 1e3)
    expected = direct(model, inputs, targets)
    for _ in range(2):
        compare(model, run(model, inputs, targets), expected)


def test_one_task_in_a_forked_trunk_counts_as_shared():
    model = MultiTaskModel(nn.Linear(3, 3), [nn.Linear(3, 2)])
    z = model.features(torch.randn(4, 3))
    found = task_gradients([model.heads[0](z).sum()], model, (z,))
    assert found.owners == {} and found.matrix.shape == (1, 12) and found.matrix.abs().sum() > 0


def test_assign_sets_views():
    model, inputs, targets = build("batch norm", 2)
    found = run(model, inputs, targets)
    update = torch.arange(found.matrix.shape[1], dtype=torch.float64)
    found.assign(update)
    assert torch.equal(torch.cat([p.grad.flatten() for p in model.trunk.parameters()]), update)
    for p in model.trunk.parameters():
        assert p.grad.shape == p.shape and p.grad.untyped_storage().data_ptr() == update.untyped_storage().data_ptr()
    heads = [p.grad.clone() for p in model.heads.parameters()]
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    assert all(torch.equal(p.grad, g) for p, g in zip(model.heads.parameters(), heads, strict=True))
    with pytest.raises(ValueError, match=r"must have shape \(773,\), got \(772,\)"):
        found.assign(update[1:])
    with pytest.raises(ValueError, match="shape"):
        found.assign(update[None])


def test_combine_is_a_weighted_sum_of_the_rows_in_a_reused_vector():
    model, inputs, targets = build("batch norm", 3)
    found = run(model, inputs, targets)
    weights = torch.tensor([0.5, -1.0, 2.0])
    first = found.combine(weights)
    torch.testing.assert_close(first, weights.double() @ found.matrix)
    assert first.dtype == torch.float64
    again = run(model, 2 * inputs, targets, out=found).combine(weights + 1)
    torch.testing.assert_close(again, (weights.double() + 1) @ found.matrix)
    assert again.data_ptr() == first.data_ptr()


# --- cost: one forward, each head once, the trunk K times, graph freed


class Counted(nn.Module):
    """The identity that counts its forward and backward passes."""

    def __init__(self):
        super().__init__()
        self.forwards = self.backwards = 0

    def forward(self, x):
        self.forwards += 1
        y = x * 1
        y.register_hook(self.count)
        return y

    def count(self, gradient):
        self.backwards += 1


@pytest.mark.parametrize("K", [1, 2, 4])
def test_trunk_is_walked_K_times_heads_once(K):
    trunk_counter, head_counters = Counted(), [Counted() for _ in range(K)]
    trunk = nn.Sequential(nn.Linear(3, 4), trunk_counter, nn.Tanh(), nn.Linear(4, 3))
    model = MultiTaskModel(trunk, [nn.Sequential(nn.Linear(3, 4), c, nn.Linear(4, 2)) for c in head_counters])
    run(model, torch.randn(5, 3), torch.randint(2, (K, 5)))
    assert (trunk_counter.forwards, trunk_counter.backwards) == (1, K)
    assert [(c.forwards, c.backwards) for c in head_counters] == [(1, 1)] * K


@pytest.mark.parametrize("split", [None, "last"])
def test_graph_is_freed(split):
    model, inputs, targets = build("resnet", 2, split=split)
    features = model.features(inputs)
    losses = losses_of(model, features, targets)
    task_gradients(losses, model, features)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        losses[0].backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        (features if split is None else features[0]).sum().backward()
