"""Recon's split of anybody's network: attention, recurrent layers, raw parameters, own classes, several outputs."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from mtl_core import recon
from mtl_core.models import MultiTaskModel
from mtl_core.recon import SplitError

K, NAMES = 3, ["a", "b", "c"]


class WithMask(MultiTaskModel):
    """The book's model on inputs that are several tensors."""

    def features(self, inputs):
        return self.trunk(*inputs)


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.embedding = nn.Embedding(20, 8)
        self.register_buffer("positions", torch.randn(6, 8))
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2))
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1)
        self.unused = nn.Linear(8, 8)

    def forward(self, ids, mask=None):
        z = self.embedding(ids) + 2 * self.positions
        z = torch.cat([self.token.expand(ids.shape[0], -1, -1), z[:, 1:]], dim=1)
        for layer in self.layers:
            z = layer(z, src_key_padding_mask=mask)
        return self.encoder(z, src_key_padding_mask=mask)[:, 0]


class Attention(nn.Module):
    """A whole network, its outputs by task."""

    def __init__(self):
        super().__init__()
        self.attention, self.norm = nn.MultiheadAttention(8, 2, batch_first=True), nn.LayerNorm(8)
        self.heads = nn.ModuleDict({name: nn.Linear(8, 1) for name in NAMES})

    def forward(self, x, mask=None):
        z, _ = self.attention(x, x, x, key_padding_mask=mask, need_weights=False)
        z = self.norm(x + z).mean(1)
        return {name: head(z) for name, head in self.heads.items()}


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.cell = nn.LSTM(8, 4, 2, batch_first=True, bidirectional=True), nn.LSTMCell(8, 8)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        out, (h, _) = self.lstm(packed)
        out, _ = pad_packed_sequence(out, batch_first=True)
        state = (torch.zeros(x.shape[0], 8, dtype=x.dtype), torch.zeros(x.shape[0], 8, dtype=x.dtype))
        for step in range(3):
            state = self.cell(out[:, step], state)
        return state[0] + torch.cat([h[-1], h[-2]], dim=1)


class Scaled(nn.Linear):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.scale * super().forward(x)


class Drawn(Scaled):
    def reset_parameters(self):
        super().reset_parameters()
        if hasattr(self, "scale"):
            nn.init.uniform_(self.scale)


class Padded(nn.Conv2d):
    def forward(self, x):
        return super().forward(F.pad(x, (1, 1, 1, 1)))


class Block(nn.Module):
    """A module that owns a parameter and calls modules that own others."""

    def __init__(self):
        super().__init__()
        self.gain, self.tokens = nn.Parameter(torch.ones(8)), nn.ParameterList([nn.Parameter(torch.randn(8))])
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        return x + self.gain * self.linear(x) + self.tokens[0]


def own_classes():
    return nn.Sequential(Scaled(8, 8), Drawn(8, 8), nn.Unflatten(1, (2, 2, 2)), Padded(2, 2, 3), nn.Flatten())


def heads():
    return [nn.Linear(8, 2) for _ in range(K)]


X, SEQUENCE = torch.randn(5, 8, dtype=torch.float64), torch.randn(5, 6, 8, dtype=torch.float64)
IDS = torch.arange(30).reshape(5, 6) % 20
MASK = torch.arange(6) >= torch.tensor([[6], [4], [3], [5], [6]])
LENGTHS = torch.tensor([6, 4, 3, 5, 6])
NETWORKS = {  # network, inputs, its layers
    "transformer and mask": (
        lambda: WithMask(Transformer(), heads()),
        [(IDS, MASK)],
        ["token", "embedding", "layers.0", "layers.1", "encoder"],
    ),
    "transformer without mask": (
        lambda: WithMask(Transformer(), heads()),
        [(IDS,)],
        ["token", "embedding", "layers.0", "layers.1", "encoder"],
    ),
    "attention": (Attention, [SEQUENCE, MASK], ["attention", "norm"]),
    "recurrent": (Recurrent, [SEQUENCE, LENGTHS], ["lstm", "cell"]),
    "own classes": (lambda: MultiTaskModel(own_classes(), heads()), [X], ["0", "1", "3"]),
    "blocks": (
        lambda: nn.Sequential(Block(), Block()),
        [X],
        [f"{i}.{name}" for i in (0, 1) for name in ("gain", "tokens.0", "linear")],
    ),
    "one layer": (lambda: nn.Linear(8, 8), [X], ["weight", "bias"]),
}
UNDRAWN = {"token", "gain", "tokens", "weight", "bias"}


@pytest.fixture(params=NETWORKS)
def case(request):
    torch.manual_seed(0)
    build, inputs, layers = NETWORKS[request.param]
    return build().double().eval(), inputs, layers


def outputs(found):
    return list(found.values()) if isinstance(found, dict) else list(found)


def close(found, expected):
    expected = [expected] * K if isinstance(expected, torch.Tensor) else outputs(expected)
    for a, b in zip(outputs(found), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def subsets(layers):
    return [*([layer] for layer in layers), list(layers)]


def owned(network, layers):
    """(task, parameter) of the copies of these layers."""
    named = [(name.removeprefix("trunk."), p) for name, p in network.named_parameters()]
    mine = [
        (name.removeprefix(f"{layer}."), p) for name, p in named for layer in layers if name.startswith(f"{layer}.")
    ]
    return [(int(name.partition(".")[0]), p) for name, p in mine]


def test_what_can_be_split(case):
    network, _, layers = case
    assert recon.candidate_layers(network) == layers
    assert not any(name.startswith("_tensor") for name in vars(network))


def test_copies_leave_the_outputs_unchanged_and_belong_to_one_task(case):
    network, inputs, layers = case
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for subset in subsets(layers):
        split = recon.split(network, subset, NAMES)
        assert isinstance(split, type(network))
        close(split(*inputs), network(*inputs))
        copies = owned(split, subset)
        assert {task for task, _ in copies} == {0, 1, 2}
        for k in range(K):
            split.zero_grad()
            outputs(split(*inputs))[k].square().sum().backward()
            reached = {task for task, p in copies if p.grad is not None and p.grad.abs().sum() > 0}
            assert reached == {k}, subset
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_shared_checkpoint_in_the_split_network(case):
    network, inputs, layers = case
    for subset in subsets(layers):
        split, state = recon.split(network, subset, K), network.state_dict()
        with torch.no_grad():
            for p in split.parameters():
                p.add_(1)
        expanded = recon.expand(state, subset, K)
        split.load_state_dict(expanded)
        close(split(*inputs), network(*inputs))
        assert list(state) == list(network.state_dict()) and set(expanded) == set(split.state_dict())
        if isinstance(network, MultiTaskModel):  # names as a Balancer gives them, and the trunk alone
            full = [f"trunk.{layer}" for layer in subset]
            assert (
                set(recon.expand(state, full, NAMES))
                == set(expanded)
                == set(recon.split(network, full, K).state_dict())
            )
            alone = recon.expand(network.trunk.state_dict(), subset, K)
            assert set(alone) == set(split.trunk.state_dict())


def test_copy_pickle_and_training_mode(case):
    network, inputs, layers = case
    split, buffer = recon.split(network, layers, K), io.BytesIO()
    torch.save(split, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(split), torch.load(buffer, weights_only=False)):
        assert isinstance(twin, type(network)) and list(twin.state_dict()) == list(split.state_dict())
        close(twin(*inputs), split(*inputs))
        for p in twin.parameters():
            assert not any(p is q for q in split.parameters())
        assert all(module.training for module in twin.train().modules())


def test_reinitialise_draws_every_parameter_or_refuses_by_name(case):
    network, inputs, layers = case
    for layer in layers:
        if set(layer.split(".")) & UNDRAWN:
            with pytest.raises(ValueError, match=f"layer '{layer}' cannot be reinitialised: no reset_parameters"):
                recon.split(network, [layer], K, "reinitialise")
        elif isinstance(network, MultiTaskModel) and type(network.trunk.get_submodule(layer)) is Scaled:
            with pytest.raises(ValueError, match=f"layer '{layer}' cannot be reinitialised: .* draws 'scale'"):
                recon.split(network, [layer], K, "reinitialise")
        else:
            split = recon.split(network, [layer], K, "reinitialise")
            first, second, third = (
                torch.cat([p.flatten() for task, p in owned(split, [layer]) if task == k]) for k in range(K)
            )
            assert second.isfinite().all() and all(out.isfinite().all() for out in outputs(split(*inputs)))
            same = isinstance(network.get_submodule(layer), nn.LayerNorm) if layer == "norm" else False
            assert torch.equal(first, second) == torch.equal(second, third) == same


def test_classes_of_layers_are_kept():
    model = MultiTaskModel(own_classes(), heads())
    split = recon.split(model, ["0", "1", "3"], K)
    kinds = [[type(split.trunk.get_submodule(f"{name}.{k}")) for k in range(K)] for name in ("0", "1", "3")]
    assert kinds == [[Scaled] * K, [Drawn] * K, [Padded] * K] and isinstance(split.trunk, nn.Sequential)


# --- outputs by task


class TwoEncoders(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
        self.heads = nn.ModuleList(nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 1)) for _ in range(K))

    def forward(self, x, y):
        u, v = self.a(x), self.b(y)
        return self.heads[0](u), self.heads[1](u + v), self.heads[2](u * v)


def test_each_head_runs_once_and_on_its_own_stream():
    torch.manual_seed(0)
    network = TwoEncoders().double()
    assert recon.candidate_layers(network) == ["a", "b"]
    split = recon.split(network, ["b"], K).train()
    found = split(X, X)
    assert isinstance(found, tuple)
    assert [int(head[0].num_batches_tracked) for head in split.heads] == [1, 1, 1]
    close(found, network.train()(X, X))
    split.zero_grad()
    split(X, X)[0].sum().backward()
    assert all(p.grad is None for _, p in owned(split, ["b"])), "task 0 does not read b"
    with pytest.raises(SplitError, match="'heads.1.1' cannot be split: 1 outputs depend on it"):
        recon.split(network, ["heads.1.1"], K)
    with pytest.raises(
        SplitError, match=r"returns \(heads_0_1.*expected one value, or one for each of the tasks \[0, 1\]"
    ):
        recon.split(network, ["a"], 2)


def test_outputs_by_name_must_be_in_the_order_of_the_tasks():
    network = Attention()
    assert list(recon.split(network, ["norm"], NAMES)(SEQUENCE.float())) == NAMES
    with pytest.raises(SplitError, match="one for each of the tasks .'c', 'b', 'a'"):
        recon.split(network, ["norm"], NAMES[::-1])


# --- what is refused, each by name


class Optional(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(8, 8)

    def forward(self, x, mask=None):
        z = self.a(x)
        return z if mask is None else z.masked_fill(mask[..., None], 0.0)


def test_an_argument_that_changes_forward_must_be_given():
    network = Optional().double()
    split = recon.split(network, ["a"], K)
    close(split(SEQUENCE, MASK), network(SEQUENCE, MASK))
    close(split(SEQUENCE, mask=MASK), network(SEQUENCE, MASK))
    with pytest.raises(ValueError, match="without 'mask' must be given it"):
        split(SEQUENCE)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(8, 8) for _ in range(4))
        self.b.weight, self.again = self.a.weight, self.c

    def forward(self, x):
        return self.d(self.again(self.c(self.b(self.a(x)))))


def test_tied_weights_are_refused():
    assert recon.candidate_layers(Tied()) == ["d"]
    for name, other in (("a", "b.weight"), ("b", "a.weight"), ("c", "again.weight"), ("again", "c.weight")):
        with pytest.raises(SplitError, match=f"'{name}' cannot be split: it shares a parameter with .'{other}'"):
            recon.split(Tied(), [name], K)
    model = MultiTaskModel(nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 8)), [nn.Linear(8, 20) for _ in range(K)])
    model.heads[1].weight = model.trunk[0].weight
    assert recon.candidate_layers(model) == ["1"]
    with pytest.raises(SplitError, match="'0' cannot be split: it shares a parameter with .'heads.1.weight'"):
        recon.split(model, ["0"], K)


class Drawing(nn.Linear):
    def forward(self, x):
        return super().forward(x) + torch.rand(8)


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(8, 8)

    def forward(self, x):
        return self.a(x) + torch.rand(8)


def frozen():
    network = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    network[0].requires_grad_(False)
    return network


@pytest.mark.parametrize(
    "network, layer, message",
    [
        (Transformer, "unused", "'unused' is never called in forward"),
        (Attention, "attention.out_proj", "no layer of that name; what can be split there is .'attention'"),
        (Transformer, "layers.0.linear1", "what can be split there is .'layers.0'"),
        (Transformer, "layers", "what can be split there is .'layers.0', 'layers.1'"),
        (frozen, "0", "it is frozen: nothing in it requires a gradient"),
        (lambda: nn.Sequential(nn.LazyLinear(8)), "0", "it has no shapes yet"),
        (Noisy, "a", "'Noisy': it makes a tensor without its inputs"),
        (lambda: nn.TransformerEncoderLayer(8, 2), "linear1", "cannot trace 'TransformerEncoderLayer'"),
    ],
)
def test_refusals(network, layer, message):
    with pytest.raises(SplitError, match=message):
        recon.split(network(), [layer], K)


def test_frozen_networks_and_random_draws_inside_a_layer():
    assert recon.candidate_layers(frozen()) == ["1"]
    assert recon.candidate_layers(frozen().requires_grad_(False)) == []
    network = nn.Sequential(Drawing(8, 8), Noisy())  # whole, so that each pass draws anew
    assert recon.candidate_layers(network) == ["0", "1"]
    split, x = recon.split(network, ["1"], K), X.float()
    assert not torch.equal(split(x)[0], split(x)[0])


@pytest.mark.parametrize("tasks", [0, -1, "abc", ["a", "a", "b"], [], None, 2.5])
def test_tasks_that_cannot_be_meant(tasks):
    for call in (recon.split, lambda *a: recon.expand({"0.weight": X}, ["0"], tasks)):
        with pytest.raises(ValueError, match="tasks is their number or a list of their names"):
            call(nn.Sequential(nn.Linear(8, 8)), ["0"], tasks)


def test_tasks_and_heads_and_checkpoints_that_do_not_fit():
    model = MultiTaskModel(nn.Sequential(nn.Linear(8, 8)), heads())
    with pytest.raises(SplitError, match="one task for each of the model's 3 heads, got 2"):
        recon.split(model, ["0"], 2)
    with pytest.raises(SplitError, match="holds no layer '1'; its first entries are .'trunk.0.weight'"):
        recon.expand(model.state_dict(), ["1"], K)
