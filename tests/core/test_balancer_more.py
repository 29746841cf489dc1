"""`Balancer` beside a plain reference, in situations that no other test puts to it."""

import io
import random

import pytest
import torch
from balancer_networks import NAMES, Net, batch, gradients_of, same, step
from torch import nn
from torchjd.aggregation import Aggregator

import mtl_core
from mtl_core.balancer import Balancer
from mtl_core.balancer import step as engine
from mtl_core.gradients import NonFiniteGradientError
from mtl_core.methods import METHODS, Convention, make
from mtl_lab.probes.update_comparison import arguments

STATE = {"moco", "db_mtl", "autoscale", "sam_gs", "gradvac", "nash_mtl"}
STATELESS = [
    name
    for name in NAMES
    if METHODS[name].kind == "gradient aggregation" and METHODS[name].level == "parameters" and name not in STATE
]


def losses_of(net, x, ys, scale=10):
    return {f"t{k}": scale**k * (o - y).pow(2).mean() for k, (o, y) in enumerate(zip(net(x)[1], ys, strict=True))}


# --- networks drawn at random, against J by `autograd.grad` and the bare method


class Drawn(nn.Module):
    """Layers that each task may read, modules for some of the tasks, a scalar, a tied weight, a layer called twice."""

    def __init__(self, draw):
        super().__init__()
        self.K, n = draw.randint(2, 5), draw.randint(1, 4)
        self.layers = nn.ModuleList(nn.Linear(4, 4, bias=draw.random() < 0.7) for _ in range(n))
        self.heads = nn.ModuleList(nn.Linear(4, draw.randint(1, 3)) for _ in range(self.K))
        self.some = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.norm, self.scale = nn.LayerNorm(4), nn.Parameter(torch.ones(()))
        self.of = [draw.sample(range(self.K), draw.randint(0, self.K)) for _ in range(2)]
        self.reads = [draw.sample(range(n + 1), draw.randint(1, n + 1)) for _ in range(self.K)]
        self.tied, self.twice = draw.random() < 0.3, draw.random() < 0.3
        self.double()

    def forward(self, x, tasks):
        maps = [x]
        for layer in self.layers:
            z = layer(maps[-1]).tanh()
            maps.append(layer(z) + x if self.twice else z)
        found = {}
        for k in tasks:
            z = self.norm(sum(maps[i] for i in self.reads[k]))
            for module, of in zip(self.some, self.of, strict=True):
                z = module(z).relu() + z if k in of else z
            z = z @ self.layers[0].weight.T if self.tied and k == self.K - 1 else z
            found[f"t{k}"] = (self.heads[k](z) * (self.scale if k % 2 else 1) - 1).pow(2).mean() * 10 ** (k - 1)
        return found


def reference(losses, parameters, ever, method, spec, seed):
    """What is added to `.grad`; `ever`, parameter -> tasks that have reached it, is brought up to date."""
    rows = [torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True) for loss in losses.values()]
    for task, row in zip(losses, rows, strict=True):
        for p, g in zip(parameters, row, strict=True):
            ever.setdefault(p, set()).update([task] if g is not None else [])
    shared = [i for i, p in enumerate(parameters) if len(ever[p]) > 1]
    found = [None if all(g is None for g in gs) else sum(g for g in gs if g is not None) for gs in zip(*rows)]  # noqa: B905
    if not shared or len(losses) == 1:
        return found
    matrix = torch.stack(
        [
            torch.cat([(torch.zeros_like(parameters[i]) if r[i] is None else r[i]).flatten() for i in shared])
            for r in rows
        ]
    )
    matrix = matrix[(matrix != 0).any(1)]
    update = matrix.sum(0)
    if len(matrix) > 1:
        torch.manual_seed(seed)
        update = method(matrix) * (len(matrix) if spec.native_scale == "mean" else 1)
    for i, part in zip(shared, update.split([parameters[i].numel() for i in shared]), strict=True):
        found[i] = None if found[i] is None else part.view_as(parameters[i])
    return found


@pytest.mark.parametrize("seed", range(40))
def test_any_network_any_tasks(seed):
    """Five steps: tasks come and go, layers freeze and thaw, `.grad` is None, zero or left, the mapping turns."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    net, ever = Drawn(draw), {}
    name = STATELESS[seed % len(STATELESS)]
    balancer, method = Balancer(name, net), make(name)
    for i in range(5):
        tasks = [k for k in range(net.K) if draw.random() < 0.8] or [0]
        for p in net.parameters():
            p.requires_grad_(p.requires_grad != (draw.random() < 0.05))
        x, way = torch.randn(6, 4).double(), draw.choice(["none", "zero", "keep"])
        if way != "keep":
            net.zero_grad(set_to_none=way == "none")
        before = gradients_of(net)
        given = {task: loss for task, loss in net(x, tasks).items() if loss.requires_grad}
        if not given:
            continue
        known = [*balancer.tasks, *[task for task in given if task not in balancer.tasks]]
        trained = [p for p in net.parameters() if p.requires_grad]
        in_order = {task: given[task] for task in known if task in given}
        want = dict(zip(trained, reference(in_order, trained, ever, method, METHODS[name], i), strict=True))
        if i and set(given) <= set(balancer.tasks):
            given = dict(draw.sample([*given.items()], len(given)))
        torch.manual_seed(i)
        balancer.backward(given)
        for p, old in zip(net.parameters(), before, strict=True):
            new = want.get(p)
            total = old if new is None else new if old is None else new + old
            assert (total is None) == (p.grad is None)
            assert total is None or (total - p.grad).abs().max() <= 1e-7 * max(1, total.abs().max())
        with torch.no_grad():
            for p in net.parameters():
                p -= 0 if p.grad is None else 1e-3 * p.grad / (1 + p.grad.norm())


# --- weights go to their tasks


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_mapping_does_not_matter(name):
    options = {"weights": {"t0": 1.0, "t1": 2.0, "t2": 3.0}} if name == "static" else {}
    nets, (x, ys) = (Net(3), Net(3)), batch(3)
    balancers = [Balancer(name, net, **options) for net in nets]
    for i in range(4):
        for turned, net, balancer in zip((False, i % 2), nets, balancers, strict=True):
            net.zero_grad()
            z, outputs = net(x + i)
            losses = {f"t{k}": 10**k * (o - y).pow(2).mean() for k, (o, y) in enumerate(zip(outputs, ys, strict=True))}
            torch.manual_seed(i)
            balancer.backward(dict(reversed(losses.items())) if turned else losses, features=z)
            balancer.after_step({task: 0.9 * loss for task, loss in losses.items()})
        assert same(*map(gradients_of, nets))


def test_rotograd_knows_its_tasks_by_name():
    """Its first losses divide later ones, whatever the order of the mapping; what is wrong is named."""
    (x, ys), found = batch(3), []
    for turn in (False, True):
        net = Net(3)
        rotation = mtl_core.RotoGrad(net.trunk, net.heads, 8, normalize_losses=True).double()
        for i in range(3):
            rotation.zero_grad()
            outputs = rotation(x)
            losses = {f"t{k}": 10**k * (outputs[k][:, 0] - ys[k]).pow(2).mean() for k in range(3)}
            rotation.backward(dict(reversed(losses.items())) if turn and i else losses)
        found.append(gradients_of(rotation))
    assert same(*found)
    losses = [output.mean() for output in rotation(x)]
    with pytest.raises(NonFiniteGradientError, match="loss of 't1'"):
        rotation.backward({"t0": losses[0], "t1": losses[1] * torch.nan, "t2": losses[2]})
    with pytest.raises(ValueError, match="expected 3 losses.*got t0, t2"):
        rotation.backward({"t0": rotation(x)[0].mean(), "t1": None, "t2": losses[2]})


@pytest.mark.parametrize("way", ["plain", "scaler", "clip", "observer", "accumulate", "every"])
@pytest.mark.parametrize("name", ["uncertainty", "famo", "gradnorm", "mgda", "mgda_ub", "sam_gs", "graddrop"])
@pytest.mark.parametrize("heads", ["unit", "weighted"])
def test_what_several_tasks_reach_beside_shared(name, way, heads):
    """It gets their sum, weighted where the method weighs all or the convention heads, and there are weights."""
    if (name in ("sam_gs", "graddrop") and way == "every") or (name == "mgda_ub" and way == "accumulate"):
        return
    net, (x, ys) = Net(3), batch(3)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0) if way == "scaler" else None
    convention = Convention("test", heads=heads, clip=1e9 if way in ("clip", "every") else None)
    every = 2 if way == "every" else 1
    balancer = Balancer(name, net, shared=["trunk.0.weight"], convention=convention, every=every)
    balancer.observers += [lambda gradients: None] if way == "observer" else []
    for _ in range(every):
        net.zero_grad()
        if way == "accumulate":
            balancer.accumulate({"t1": losses_of(net, x, ys)["t1"]})
        z, outputs = net(x)
        losses = {f"t{k}": 10**k * (outputs[k] - ys[k]).pow(2).mean() for k in range(3)}
        losses["t1"] = None if way == "accumulate" else losses["t1"]
        balancer.backward(losses, features=z, scaler=scaler)
        balancer.after_step(losses_of(net, x, ys))
    weighs = bool(balancer.weights) and (METHODS[name].kind == "loss weighting" or heads == "weighted")
    factor = 3 if METHODS[name].native_scale == "mean" else 1
    total = sum((factor * balancer.weights[t] if weighs else 1) * loss for t, loss in losses_of(net, x, ys).items())
    (want,) = torch.autograd.grad(total, net.trunk[0].bias)
    assert torch.allclose(net.trunk[0].bias.grad / (64 if scaler else 1), want, rtol=1e-6)


@pytest.mark.parametrize("name", ["equal", "uncertainty", "famo"])
def test_a_graph_that_changes(name):
    """A layer is used in some steps, a task finds another one later; tasks and trained layers are as ever."""
    net, (x, ys) = Net(3), batch(3)
    net.extra, net.side = nn.Linear(8, 8).double(), nn.Linear(8, 8).double()
    balancer = Balancer(name, net)
    for i in range(4):

        def losses(i=i):
            z = net.extra(net.trunk(x)) if i % 2 else net.trunk(x)
            outputs = [head(net.side(z) if k == 2 and i > 1 else z)[:, 0] for k, head in enumerate(net.heads)]
            return {f"t{k}": (o - ys[k]).pow(2).mean() for k, o in enumerate(outputs)}

        net.zero_grad()
        balancer.backward(losses())
        balancer.after_step(losses())
        factor = 3 if name == "famo" else 1
        total = sum(factor * balancer.weights[task] * loss for task, loss in losses().items())
        assert same(gradients_of(net), torch.autograd.grad(total, [*net.parameters()], allow_unused=True))


# --- scaler, precision, what is kept


@pytest.mark.parametrize("name", ["uncertainty", "pcgrad"])
@pytest.mark.parametrize("enabled", [True, False])
def test_a_weighted_loss_under_a_fresh_scaler(name, enabled):
    """0.5 * loss is a product, and is not taken for one with the scale, which a new scaler has not made yet."""
    nets, (x, ys) = (Net(), Net()), batch()
    scalers = (None, torch.amp.GradScaler("cpu", init_scale=4.0, enabled=enabled))
    for net, scaler in zip(nets, scalers, strict=True):
        torch.manual_seed(0)
        step(Balancer(name, net), net, x, ys, loss=lambda o, y: 0.5 * (o - y).pow(2).mean(), scaler=scaler)
    want, found = map(gradients_of, nets)
    assert same([g * (4 if enabled else 1) for g in want], found)


@pytest.mark.parametrize("name", NAMES)
def test_resumed_between_steps_that_compute_weights(name):
    """Bit for bit, with tasks that come and go, and in the middle of `every`."""
    (x, ys), options = batch(3), arguments(METHODS[name], 3)
    options |= {"project": True} if name in ("sam_gs", "moco", "graddrop", "db_mtl", "norm_equalised", "broken") else {}

    def advance(balancer, net, i):
        net.zero_grad()
        z, outputs = net(x + i)
        tasks = ((0, 1, 2), (1, 2), (0, 1, 2), (0, 2), (0, 1), (0, 1, 2), (2,))[i]
        losses = {f"t{k}": (outputs[k] - ys[k]).pow(2).mean() for k in tasks}
        torch.manual_seed(i)
        balancer.backward(losses, features=z)
        balancer.after_step({task: 0.9 * loss for task, loss in losses.items()})

    net = Net(3)
    balancer, fresh = (Balancer(name, net, every=3, **options) for _ in range(2))
    for i in range(4):
        advance(balancer, net, i)
    file = io.BytesIO()
    torch.save(balancer.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    for i in range(4, 7):
        advance(balancer, net, i)
        want = gradients_of(net)
        advance(fresh, net, i)
        assert same(want, gradients_of(net), 0)


@pytest.mark.parametrize("convention", ["plain", "nash-mtl"])
@pytest.mark.parametrize("name", NAMES)
def test_what_becomes_of_grad_does_not_reach_the_method(name, convention):
    """An optimizer may clip or overwrite `.grad` in place."""
    nets, (x, ys) = (Net(3), Net(3)), batch(3)
    balancers = [Balancer(name, net, convention=convention, **arguments(METHODS[name], 3)) for net in nets]
    for i in range(3):
        for net, balancer in zip(nets, balancers, strict=True):
            net.zero_grad()
            torch.manual_seed(i)
            losses = step(balancer, net, x + i, ys)
            balancer.after_step({task: 0.9 * loss for task, loss in losses.items()})
        assert same(*map(gradients_of, nets), 0)
        for p in nets[0].parameters():
            p.grad.fill_(torch.nan)


class Momentum(Aggregator):
    """Keeps what it returns, in no buffer."""

    kept = 0

    def forward(self, matrix):
        self.kept = 0.9 * self.kept + matrix.sum(0)
        return self.kept


class Expanded(Aggregator):
    """Returns one number D times, in one place."""

    def forward(self, matrix):
        return matrix.mean().expand(matrix.shape[1])


@pytest.mark.parametrize("kind", [Momentum, Expanded])
def test_an_aggregator_may_keep_what_it_returns(kind):
    net, (x, ys) = Net(), batch()
    balancer, alone = Balancer(kind(), net, convention="plain, clipped"), kind()
    for i in range(3):
        net.zero_grad()
        step(balancer, net, x + i, ys)
        want = alone(balancer.gradients.matrix)
        want = want * min(1, 1 / (want.norm() + 1e-6))
        assert torch.allclose(torch.cat([p.grad.flatten() for p in net.trunk.parameters()]), want)
        for p in net.parameters():
            p.grad.mul_(7)


# --- memory, odd calls


def test_a_loss_weighting_makes_no_matrix():
    net, (x, ys) = Net(3), batch(3)
    for name in ("equal", "uncertainty", "famo"):
        balancer = Balancer(name, net)
        step(balancer, net, x, ys)
        assert balancer.gradients is None and "matrix" not in vars(balancer._layout.columns)


@pytest.mark.parametrize("name", ["equal", "uncertainty", "famo", "pcgrad", "gradnorm", "mgda_ub"])
def test_under_no_grad(name):
    """As `loss.backward()` may be called there."""
    nets, (x, ys) = (Net(), Net()), batch()
    for on, net in zip((True, False), nets, strict=True):
        balancer = Balancer(name, net)
        for _ in range(2):  # the second step of a loss weighting looks at no graph
            z, outputs = net(x)
            losses = [(o - y).pow(2).mean() for o, y in zip(outputs, ys, strict=True)]
            torch.manual_seed(0)
            with torch.set_grad_enabled(on):
                balancer.backward(losses, features=z)
    assert same(*map(gradients_of, nets))


def test_what_was_set_aside_is_gone_after_losses_that_are_none():
    net, (x, ys) = Net(), batch()

    def losses():
        return [(o - y).pow(2).mean() for o, y in zip(net(x)[1], ys, strict=True)]

    balancer = Balancer("equal", net)
    balancer.accumulate(losses())
    with pytest.raises(ValueError, match="one tensor"):
        balancer.backward(sum(losses()))
    balancer.backward(losses())
    alone = gradients_of(net)
    net.zero_grad()
    sum(losses()).backward()
    assert same(alone, gradients_of(net)), "no gradient of the batch set aside is in it"
    net.zero_grad()
    balancer.backward(loss for loss in losses())  # any iterable, read once
    assert same(alone, gradients_of(net))


@pytest.mark.parametrize("name", ["equal", "log_sum", "uncertainty"])
def test_a_repeated_step_of_a_loss_weighting_walks_no_graph(name, monkeypatch):
    walks, reached = [], engine.reached
    monkeypatch.setattr(engine, "reached", lambda *given: walks.append(1) or reached(*given))
    nets, (x, ys) = (Net(), Net()), batch()
    short, long = (Balancer(name, net) for net in nets)
    for number in range(3):
        for balancer, net in zip((short, long), nets, strict=True):
            outputs = net(x)[1][:: 1 if number < 2 else -1]  # at last the tasks come in another order
            tasks = ["one", "two"][:: 1 if number < 2 else -1]
            losses = dict(zip(tasks, [(o - y).pow(2).mean() for o, y in zip(outputs, ys, strict=True)], strict=True))
            net.zero_grad()
            if balancer is long:
                long._layout.seen.clear()
            balancer.backward(losses, counts=dict.fromkeys(tasks, 16))
        assert all(map(torch.equal, *map(gradients_of, nets))) and short.weights == long.weights
        assert short.losses.tolist() == [losses[task].item() for task in ("one", "two")]
    assert len(walks) == 2 + 3, "the first of each order, and each of the other balancer"
    with pytest.raises(ValueError, match="counts are finite numbers"):
        short.backward(losses, counts={"one": -1})


def test_a_pass_that_fails_leaves_nothing_in_the_numbers_of_a_method():
    convention = Convention("own", scale="raw", own_optimizer=("sgd", 0.1))
    moved = []
    for fails in (False, True):
        torch.manual_seed(0)
        net, (x, ys) = Net(), batch()
        balancer = Balancer("uncertainty", net, convention=convention)
        for number in range(3):
            losses = [(o - y).pow(2).mean() for o, y in zip(net(x)[1], ys, strict=True)]
            balancer.backward(losses)
            if fails and number == 1:
                with pytest.raises(ValueError, match="walked and freed"):
                    balancer.backward(losses)
        moved.append([p.detach().clone() for p in balancer.method.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*moved, strict=True)) and moved[0][0].any()


def test_features_that_are_no_tensors():
    net, (x, _) = Net(), batch()
    z, outputs = net(x)
    with pytest.raises(ValueError, match="features is a tensor, or several in a list or dict; got also a list"):
        Balancer("mgda_ub", net).backward([o.mean() for o in outputs], features={"maps": [z]})


def test_an_error_drops_what_was_set_aside():
    net, want, (x, ys) = Net(), Net(), batch()
    balancer = Balancer("pcgrad", net)
    balancer.accumulate(losses_of(net, x, ys))
    with pytest.raises(ValueError, match="no graph"):
        balancer.accumulate({"t0": torch.tensor(1.0)})
    for b, n in ((balancer, net), (Balancer("pcgrad", want), want)):
        torch.manual_seed(0)
        b.backward(losses_of(n, x, ys))
    assert same(gradients_of(net), gradients_of(want))


def test_gradnorm_keeps_its_weights_while_the_trunk_is_frozen():
    net, (x, ys) = Net(), batch()
    balancer = Balancer("gradnorm", net)
    for _ in range(4):
        step(balancer, net, x, 3 * ys)
    net.trunk.requires_grad_(False)
    net.zero_grad()
    step(balancer, net, x, ys)
    loss = (net(x)[1][0] - ys[0]).pow(2).mean()
    (own,) = torch.autograd.grad(loss, net.heads[0].weight)
    assert torch.allclose(net.heads[0].weight.grad, balancer.method.weights[0].double() * own, rtol=0.03)
    assert not torch.allclose(net.heads[0].weight.grad, own, rtol=0.01)
