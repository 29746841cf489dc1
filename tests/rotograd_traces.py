"""The traces of the released RotoGrad package in tests/parity/rotograd.json, and our classes on the same problem."""

import json
import pathlib

import torch
from rotograd_problems import about
from torch import nn
from torch.nn import functional as F

from mtl_core.methods.rotograd import RotateOnly, RotoGrad, RotoGradNorm

TRACES = json.loads((pathlib.Path(__file__).parent / "parity" / "rotograd.json").read_text())
SETUP = TRACES["setup"]
BURN_IN = "rotograd_identity_normalized_burn20_lr0.01_lrrot0.005_25steps"
CASES = {
    "rotograd_identity": (RotoGrad, 3, {}),
    "rotateonly_identity": (RotateOnly, 3, {}),
    "rotograd_Rz30_Rx-45_normalized_burn1": (RotoGrad, 3, {"normalize_losses": True, "burn_in": 1}),
    "rotogradnorm_alpha0.5_identity": (RotoGradNorm, 3, {"alpha": 0.5}),
    "rotograd_subspace_m2_identity": (RotoGrad, 2, {}),
}


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def linear(weight, bias):
    layer = nn.Linear(len(weight[0]), len(weight), dtype=torch.float64)
    layer.weight.data, layer.bias.data = tensor(weight), tensor(bias)
    return layer


def official_setup(make, size, rates=(SETUP["lr"], SETUP["lr_rot"]), **options):
    trunk, heads = linear(SETUP["W0"], SETUP["b0"]), [linear(h["w"], h["b"]) for h in SETUP["heads"]]
    model = make(trunk, heads, size, **options)
    parameters = [{"params": list(model.model_parameters()), "lr": rates[0]}]
    own = list(model.rotation_parameters()) + (list(model.weight_parameters()) if make is RotoGradNorm else [])
    if own:
        parameters.append({"params": own, "lr": rates[1]})
    return model, torch.optim.SGD(parameters)


def official_step(model, optimizer):
    outputs = model(tensor(SETUP["X"]))
    losses = [F.mse_loss(o, tensor(y)) for o, y in zip(outputs, SETUP["Y"], strict=True)]
    optimizer.zero_grad()
    model.backward(losses)
    return model.losses


def followed(name):
    """(what, found, printed, decimals) of everything that the trace `name` prints, step by step."""
    if name == "vanilla":
        yield from _vanilla()
        return
    if name == BURN_IN:
        yield from _burn_in()
        return
    make, size, options = CASES[name]
    model, optimizer = official_setup(make, size, **options)
    if "Rz30" in name:
        model.set_rotations([about("z", 30), about("x", -45)])
    for step in TRACES[name]["trace"]:
        yield "losses", official_step(model, optimizer), step["losses"], 6
        yield "trunk gradient", model.trunk.weight.grad, step["bb_wgrad"], 10
        yield "trunk gradient", model.trunk.bias.grad, step["bb_bgrad"], 10
        yield "head gradients", torch.stack([h.weight.grad for h in model.heads]), step["head_wgrad"], 10
        yield "head gradients", torch.cat([h.bias.grad for h in model.heads]), step["head_bgrad"], 6
        yield "rotation gradients", model.rotation.skew.grad.tril(-1), step["A_grad"], 10
        if "w_grad" in step:
            yield "weight gradients", model.log_weights.grad, step["w_grad"], 6
        optimizer.step()
        yield "rotations", torch.stack(model.rotations), step["R_after"], 10
        yield "rotations", model.rotation.skew, step["A_after"], 10
        yield "trunk", model.trunk.weight, step["W_after"], 10
        yield "trunk", model.trunk.bias, step["b_after"], 10
        if "w_after" in step:
            yield "weights", model.weights, step["w_after"], 6
    for head, final in zip(model.heads, TRACES[name]["final_heads"], strict=True):
        yield "heads", head.weight, final["w"], 10
        yield "heads", head.bias, final["b"], 10


def _vanilla():
    """RotateOnly with rotations that stay: the plain sum."""
    model, _ = official_setup(RotateOnly, 3)
    optimizer = torch.optim.SGD(model.model_parameters(), lr=SETUP["lr"])
    for step in TRACES["vanilla"]["trace"]:
        yield "losses", official_step(model, optimizer), step["losses"], 6
        yield "trunk gradient", model.trunk.weight.grad, step["bb_wgrad"], 10
        optimizer.step()
        yield "trunk", model.trunk.weight, step["W_after"], 10


def _burn_in():
    model, optimizer = official_setup(RotoGrad, 3, (0.01, 0.005), normalize_losses=True, burn_in=20)
    for wanted in TRACES[BURN_IN + "_losses"]:
        yield "losses", official_step(model, optimizer), wanted, 6
        optimizer.step()
    final = TRACES[BURN_IN + "_final"]
    yield "trunk", model.trunk.weight, final["W"], 10
    yield "trunk", model.trunk.bias, final["b"], 10
    yield "rotations", torch.stack(model.rotations), final["R"], 10
