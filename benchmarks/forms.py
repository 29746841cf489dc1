"""One training step in each form that `bench.py` times: ours and the peers', each as its documentation writes it.

A form takes a `Case` and returns the step, a function without arguments that leaves gradients in `.grad`. It builds
what it needs first. Whatever it raises, in building or in its first step, is its entry in the table.
"""

import copy
import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from mtl_core import Balancer, methods, models
from mtl_core.data.problem import classification, regression
from mtl_lab.experiments import below_the_floor as study

PEERS = Path(os.environ.get("MTL_PEERS", Path(__file__).parents[1] / ".venv" / "peers"))


@dataclass
class Case:
    """A network in two parts, trunk and heads, its made-up batch, and the losses of the outputs."""

    title: str
    trunk: nn.Module
    heads: nn.ModuleList
    inputs: torch.Tensor
    losses: Callable[[list], list]
    setting: dict = field(default_factory=dict)

    def __post_init__(self):
        self.net = nn.ModuleDict({"trunk": self.trunk, "heads": self.heads})

    def outputs(self, features):
        return [head(features) for head in self.heads]

    def clear(self):
        for p in self.net.parameters():  # as an optimizer does
            p.grad = None


class Transformer(nn.Module):
    """Four layers of width 128 on 32 vectors of 64 numbers; features: the mean over places."""

    def __init__(self):
        super().__init__()
        self.inputs = nn.Linear(64, 128)
        layer = nn.TransformerEncoderLayer(128, 4, 256, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)

    def forward(self, x):
        return self.layers(self.inputs(x)).mean(1)


class LastState(nn.Module):
    """Two layers of LSTM of width 128 on 32 vectors of 64 numbers; features: the last state."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(64, 128, 2, batch_first=True)

    def forward(self, x):
        return self.lstm(x)[0][:, -1]


def convolutions():
    """Four stages of two convolutions without normalisation, 64 x 64 -> 64 features."""
    widths, layers = (3, 16, 32, 64, 64), []
    for a, b in zip(widths, widths[1:], strict=False):
        layers += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.Conv2d(b, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def case(name: str, device: str = "cpu") -> Case:
    """The case `name`, the same for every form: weights and batch from seed 0."""
    torch.manual_seed(0)
    draw = torch.Generator().manual_seed(0)
    title, K, shape, width, made = CASES[name]
    classes = name == "resnet18"
    tasks = [classification(f"task {k}", 10) if classes else regression(f"task {k}", "") for k in range(K)]
    network = made(tasks)
    if isinstance(network, models.MultiTaskModel):
        trunk, heads = network.trunk, network.heads
    else:
        trunk, heads = network, nn.ModuleList(nn.Linear(width, 1) for _ in tasks)
    inputs = torch.randn(*shape, generator=draw)
    if classes:
        targets = [torch.randint(10, shape[:1], generator=draw).to(device) for _ in tasks]
        losses = [nn.functional.cross_entropy] * K
    else:
        with torch.no_grad():
            size = heads[0](trunk(inputs[:2])).shape[1:]
        targets = [torch.randn(shape[0], *size, generator=draw).to(device) for _ in tasks]
        losses = [nn.functional.mse_loss] * K

    def all_losses(outputs):
        return [loss(output, y) for loss, output, y in zip(losses, outputs, targets, strict=True)]

    setting = {"tasks": K, "batch": shape[0], "parameters": sum(p.numel() for p in trunk.parameters())}
    return Case(title, trunk.to(device), nn.ModuleList(heads).to(device), inputs.to(device), all_losses, setting)


def perceptron(width):
    """Four hidden layers on 64 numbers."""
    return lambda tasks: models.build("mlp", tasks, inputs=64, width=width, depth=4)


# Name -> (title, tasks, shape of the inputs, features, function of the tasks that makes network or trunk).
CASES = {
    "qm9": ("QM9's MLP, 3 x 128", 11, (256, 74), 128, lambda t: models.build("mlp", t, inputs=74, width=128, depth=3)),
    "mlp40": ("MLP, 4 x 256", 40, (128, 64), 256, perceptron(256)),
    "mlp2": ("MLP, 4 x 256", 2, (128, 64), 256, perceptron(256)),
    "mlp8": ("MLP, 4 x 256", 8, (128, 64), 256, perceptron(256)),
    "narrow8": ("MLP, 4 x 64", 8, (128, 64), 64, perceptron(64)),
    "wide8": ("MLP, 4 x 1024", 8, (128, 64), 1024, perceptron(1024)),
    "lstm": ("LSTM, 2 x 128", 8, (32, 32, 64), 128, lambda t: LastState()),
    "transformer": ("Transformer, 4 layers of 128", 8, (32, 32, 64), 128, lambda t: Transformer()),
    "resnet18": ("ResNet18, 36 x 36", 2, (64, 1, 36, 36), 512, lambda t: models.build("resnet18", t)),
    "cnn40": ("CNN, 64 x 64", 40, (32, 3, 64, 64), 64, lambda t: convolutions()),
    "segnet": ("SegNet, 72 x 96", 3, (4, 3, 72, 96), 8, lambda t: models.build("segnet", t, width=8)),
}


def floor(case):
    """One forward pass and K backward passes of the trunk: the least for a method that reads each gradient."""
    trunk = list(case.trunk.parameters())

    def step():
        features = case.trunk(case.inputs)
        losses = case.losses(case.outputs(features))
        pulls = [
            torch.autograd.grad(loss, [features, *head.parameters()])[0]
            for loss, head in zip(losses, case.heads, strict=True)
        ]
        for k, pull in enumerate(pulls):
            torch.autograd.grad(features, trunk, pull, retain_graph=k + 1 < len(pulls))

    return step


def joint(case):
    def step():
        case.clear()
        sum(case.losses(case.outputs(case.trunk(case.inputs)))).backward()

    return step


def ours(method):
    def make(case):
        balancer = Balancer(method, case.net)

        def step():
            case.clear()
            balancer.backward(case.losses(case.outputs(case.trunk(case.inputs))))

        return step

    return make


def cheaper(form):
    """PCGrad in a form of `below_the_floor`; where weights come in every n-th step, a call takes n steps."""

    def make(case):
        every, *_ = of = study.FORMS[form]
        trunk = study.Cheaper(case.trunk, len(case.heads), study.RULES["pcgrad"], *of).to(case.inputs.device)
        rule = study.Rule(trunk)

        def step():
            for _ in range(every):
                case.clear()
                outputs = [head(z) for head, z in zip(case.heads, trunk(case.inputs), strict=True)]
                rule(torch.stack(case.losses(outputs))).backward()

        step.steps = every
        return step

    return make


def our_rotograd(case):
    size = case.trunk(case.inputs[:2]).shape[1]
    net = methods.make("rotograd", trunk=case.trunk, heads=case.heads, rotation_size=size).train()

    def step():
        net.zero_grad()
        net.backward(case.losses(net(case.inputs)))

    return step


def peers():
    """The folder that `make bench` installs them into, for this process alone."""
    if not PEERS.exists():
        raise ModuleNotFoundError("the peers are not installed: make bench does it")
    if str(PEERS) not in sys.path:
        sys.path.append(str(PEERS))


def imported_again():
    """TorchJD's UPGrad needs a solver that lies among the peers, and looks for it when it is imported."""
    peers()
    for module in [module for module in sys.modules if module.partition(".")[0] == "torchjd"]:
        del sys.modules[module]


def torchjd(aggregator, chunk=None):
    """Its page on multi-task learning: `mtl_backward` and `jac_to_grad`; with chunk 1 one task after another."""

    def make(case):
        imported_again()
        from torchjd import aggregation
        from torchjd.autojac import jac_to_grad, mtl_backward

        rule, shared = getattr(aggregation, aggregator)(), list(case.trunk.parameters())

        def step():
            case.clear()
            features = case.trunk(case.inputs)
            losses = case.losses(case.outputs(features))
            mtl_backward(losses, features=features, parallel_chunk_size=chunk)
            jac_to_grad(shared, rule)

        return step

    return make


def torchjd_gramian(weighting):
    """Its page on autogram: weights from the Gram matrix, then one backward pass of the weighted sum."""

    def make(case):
        imported_again()
        from torchjd import aggregation
        from torchjd.autogram import Engine

        engine, rule = Engine(case.trunk, batch_dim=None), getattr(aggregation, weighting)()

        def step():
            case.clear()
            losses = torch.stack(case.losses(case.outputs(case.trunk(case.inputs))))
            losses.backward(rule(engine.compute_gramian(losses)))

        return step

    return make


def libmtl(weighting):
    """Its Trainer makes the model like this; the Trainer itself takes no device but cuda:0.

    The release on the index looks for one function where torchvision no longer has it, and is shown where it is.
    """

    def make(case):
        peers()
        sys.modules["torchvision.models.utils"] = importlib.import_module("torchvision._internally_replaced_utils")
        from LibMTL import weighting as weightings
        from LibMTL.architecture import HPS

        class MTLmodel(HPS, getattr(weightings, weighting)):
            def __init__(self, names, decoders, device):
                super().__init__(names, lambda: case.trunk, decoders, rep_grad=False, multi_input=False, device=device)
                self.init_param()

        names = [f"task {k}" for k in range(len(case.heads))]
        model = MTLmodel(names, nn.ModuleDict(zip(names, case.heads, strict=True)), case.inputs.device)

        def step():
            predicted = model(case.inputs)
            found = case.losses([predicted[name] for name in names])
            losses = torch.zeros(len(names), device=case.inputs.device)
            for k, loss in enumerate(found):
                losses[k] = loss
            case.clear()
            model.backward(losses)

        return step

    return make


def rotograd_package(case):
    peers()
    from rotograd import RotoGrad

    size = case.trunk(case.inputs[:2]).shape[1]
    net = RotoGrad(case.trunk, list(case.heads), size, normalize_losses=True).to(case.inputs.device)
    net.train()

    def step():
        net.zero_grad()
        case.clear()
        net.backward(case.losses(net(case.inputs)))

    return step


# Form -> function of a case. The same rule in several libraries has one name behind the colon.
FORMS = {
    "floor": floor,
    "joint": joint,
    "ours: PCGrad": ours("pcgrad"),
    "ours: UPGrad": ours("upgrad"),
    "ours: RotoGrad": our_rotograd,
    "ours, every 16: PCGrad": cheaper("every 16"),
    "ours, features: PCGrad": cheaper("features"),
    "ours, features, every 16: PCGrad": cheaper("features, every 16"),
    "TorchJD, default: PCGrad": torchjd("PCGrad"),
    "TorchJD, default: UPGrad": torchjd("UPGrad"),
    "TorchJD, sequential: PCGrad": torchjd("PCGrad", 1),
    "TorchJD, sequential: UPGrad": torchjd("UPGrad", 1),
    "TorchJD, autogram: PCGrad": torchjd_gramian("PCGradWeighting"),
    "TorchJD, autogram: UPGrad": torchjd_gramian("UPGradWeighting"),
    "LibMTL: EW": libmtl("EW"),
    "LibMTL: PCGrad": libmtl("PCGrad"),
    "rotograd package: RotoGrad": rotograd_package,
}


def fresh(name: str, form: str, device: str):
    """(step, setting) of a form on a case of its own, whose floor ran once: kernels keep buffers, whatever the form."""
    made = case(name, device)
    floor(made)()
    return FORMS[form](made), copy.copy(made.setting) | {"title": made.title}
