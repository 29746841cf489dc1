"""RotoGrad's family: the traces of the official package, and a restatement in float64, sample by sample."""

import json
import pathlib

import pytest
import torch
from rotograd_problems import FAMILY, about
from torch import nn
from torch.nn import functional as F

from mtl_core.methods.rotograd import RotateOnly, RotoGrad, RotoGradNorm, ScaleOnly

torch.set_num_threads(1)
TRACES = json.loads((pathlib.Path(__file__).parent / "parity" / "rotograd.json").read_text())
SETUP = TRACES["setup"]


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def linear(weight, bias):
    layer = nn.Linear(len(weight[0]), len(weight), dtype=torch.float64)
    layer.weight.data, layer.bias.data = tensor(weight), tensor(bias)
    return layer


def printed(found, wanted, digits=10):
    torch.testing.assert_close(found.detach().double(), tensor(wanted).reshape(found.shape), rtol=0,
                               atol=0.6 * 10**-digits)  # fmt: skip


CASES = {
    "rotograd_identity": (RotoGrad, 3, {}),
    "rotateonly_identity": (RotateOnly, 3, {}),
    "rotograd_Rz30_Rx-45_normalized_burn1": (RotoGrad, 3, {"normalize_losses": True, "burn_in": 1}),
    "rotogradnorm_alpha0.5_identity": (RotoGradNorm, 3, {"alpha": 0.5}),
    "rotograd_subspace_m2_identity": (RotoGrad, 2, {}),
}


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
    found = model.backward(losses)
    return found


@pytest.mark.parametrize("name", CASES)
def test_traces_of_the_official_package(name):
    make, size, options = CASES[name]
    model, optimizer = official_setup(make, size, **options)
    if "Rz30" in name:
        model.set_rotations([about("z", 30), about("x", -45)])
    for step in TRACES[name]["trace"]:
        losses = official_step(model, optimizer)
        printed(losses, step["losses"], 6)
        printed(model.trunk.weight.grad, step["bb_wgrad"])
        printed(model.trunk.bias.grad, step["bb_bgrad"])
        printed(torch.stack([h.weight.grad for h in model.heads]), step["head_wgrad"])
        printed(torch.cat([h.bias.grad for h in model.heads]), step["head_bgrad"], 6)
        printed(model.rotation.skew.grad.tril(-1), step["A_grad"])
        if "w_grad" in step:
            printed(model.log_weights.grad, step["w_grad"], 6)
        optimizer.step()
        printed(torch.stack(model.rotations), step["R_after"])
        printed(model.rotation.skew, step["A_after"])
        printed(model.trunk.weight, step["W_after"])
        printed(model.trunk.bias, step["b_after"])
        if "w_after" in step:
            printed(model.weights, step["w_after"], 6)
    for head, final in zip(model.heads, TRACES[name]["final_heads"], strict=True):
        printed(head.weight, final["w"])
        printed(head.bias, final["b"])


def test_vanilla_trace_is_rotate_only_with_rotations_that_stay():
    model, _ = official_setup(RotateOnly, 3)
    optimizer = torch.optim.SGD(model.model_parameters(), lr=SETUP["lr"])
    for step in TRACES["vanilla"]["trace"]:
        printed(official_step(model, optimizer), step["losses"], 6)
        printed(model.trunk.weight.grad, step["bb_wgrad"])
        optimizer.step()
        printed(model.trunk.weight, step["W_after"])


def test_burn_in_trace():
    prefix = "rotograd_identity_normalized_burn20_lr0.01_lrrot0.005_25steps"
    model, optimizer = official_setup(RotoGrad, 3, (0.01, 0.005), normalize_losses=True, burn_in=20)
    for wanted in TRACES[prefix + "_losses"]:
        printed(official_step(model, optimizer), wanted, 6)
        optimizer.step()
    final = TRACES[prefix + "_final"]
    printed(model.trunk.weight, final["W"])
    printed(model.trunk.bias, final["b"])
    printed(torch.stack(model.rotations), final["R"])


# --- a restatement from the equations, in float64, sample by sample, on random problems


def exponential(S):
    """exp(S - S^T) from the eigenvectors of a Hermitian matrix: not how the module computes it."""
    lower = torch.tril(S, -1)
    values, vectors = torch.linalg.eigh(1j * (lower - lower.T))
    return ((vectors * torch.exp(-1j * values)) @ vectors.conj().T).real


def slope(S, base, D):
    """d <base exp(S - S^T), D> / dS below the diagonal, by Daleckii and Krein's formula."""
    lower = torch.tril(S, -1)
    values, W = torch.linalg.eigh(1j * (lower - lower.T))
    a = -1j * values
    gap = a[:, None] - a[None, :]
    quotient = (torch.exp(a)[:, None] - torch.exp(a)[None, :]) / torch.where(gap.abs() < 1e-9, 1, gap)
    quotient = torch.where(gap.abs() < 1e-9, torch.exp(a)[:, None], quotient)
    found = torch.zeros_like(S)
    for i in range(len(S)):
        for j in range(i):
            E = torch.zeros_like(W)
            E[i, j], E[j, i] = 1, -1
            found[i, j] = ((base @ (W @ (quotient * (W.conj().T @ E @ W)) @ W.conj().T).real) * D).sum()
    return found


def restated(kind, z, S, base, heads_gradient, state, t, burn_in, objective, alpha, log_weights, normalise):
    """(feature gradient, rotation gradients, weights' gradient), from lists of samples."""
    K, m = len(S), len(S[0])
    R = [base[k] @ exponential(S[k]) for k in range(K)]
    losses, tilde = heads_gradient(R)
    losses = [loss.item() for loss in losses]
    if t == 0 or t == burn_in:
        state["L0"] = losses
    if normalise:
        tilde = [g / state["L0"][k] for k, g in enumerate(tilde)]
    turn = [torch.block_diag(R[k], torch.eye(z.shape[1] - m, dtype=z.dtype)) for k in range(K)]
    G = [torch.stack([turn[k].T @ row for row in tilde[k]]) for k in range(K)]
    norm = [float(torch.sqrt((g * g).sum())) for g in G]
    if t == 0 or t == burn_in:
        state["G0"] = norm
    U = [g / n for g, n in zip(G, norm, strict=True)]
    V = sum(U) / K
    m0 = float(torch.sqrt(((sum(G) / K) ** 2).sum()))

    def objective_of(k, matrix):
        full = torch.block_diag(matrix, torch.eye(z.shape[1] - m, dtype=z.dtype))
        if objective == "paper":
            return -sum((full.T @ tilde[k][n]) @ V[n] for n in range(len(z)))
        return sum(((full @ (m0 * V[n]) - tilde[k][n]) ** 2).sum() for n in range(len(z)))

    pulls = []
    for k in range(K):
        matrix = R[k].clone().requires_grad_()
        pulls.append(slope(S[k], base[k], torch.autograd.grad(objective_of(k, matrix), matrix)[0]))
    weight_gradient = None
    if kind is RotateOnly:
        update = sum(G)
    elif kind is RotoGradNorm:
        a = log_weights.clone().requires_grad_()
        w = K * torch.exp(a) / torch.exp(a).sum()
        update = sum(wk * g for wk, g in zip(w.detach(), G, strict=True))
        ratio = [x / l0 for x, l0 in zip(losses, state["L0"], strict=True)]
        target = float(torch.sqrt((update**2).sum())) / K
        terms = [abs(w[k] * norm[k] - target * (ratio[k] / (sum(ratio) / K)) ** alpha) for k in range(K)]
        (weight_gradient,) = torch.autograd.grad(sum(terms), a)
    else:
        rho = [n / n0 for n, n0 in zip(norm, state["G0"], strict=True)]
        C = sum(r / sum(rho) * n for r, n in zip(rho, norm, strict=True))
        update = C * sum(U)
    return update, None if kind is ScaleOnly else torch.stack(pulls), weight_gradient


@pytest.mark.parametrize("kind", FAMILY)
@pytest.mark.parametrize("seed", range(5))
def test_restatement_on_random_problems(kind, seed):
    draw = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    K, B, d = 2 + seed % 3, 4 + seed, 4
    size = [4, 3, 4, 2, 4][seed]
    options = {"objective": ["code", "paper"][seed % 2], "normalize_losses": seed % 3 == 0, "burn_in": 2}
    options |= {"alpha": 0.7} if kind is RotoGradNorm else {}
    model = kind(nn.Linear(3, d).double(), [nn.Linear(d, 2).double() for _ in range(K)], size, init="haar",
                 generator=draw, **options)  # fmt: skip
    model.rotation.skew.data = 0.3 * random(K, size, size)
    x, y = random(B, 3), random(K, B, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    state, alpha = {}, options.get("alpha")
    for t in range(4):
        z = model.trunk(x).detach()

        def heads_gradient(R, z=z):
            losses, tilde = [], []
            for k, head in enumerate(model.heads):
                r = torch.cat([z[:, :size] @ R[k].T, z[:, size:]], 1).requires_grad_()
                losses.append(F.mse_loss(head(r), y[k]))
                tilde.append(torch.autograd.grad(losses[-1], r)[0])
            return losses, tilde

        S, base = model.rotation.skew.detach().clone(), model.rotation.base
        logs = model.log_weights.detach() if kind is RotoGradNorm else None
        update, pulls, weights = restated(kind, z, list(S), list(base), heads_gradient, state, t, 2,
                                          options["objective"], alpha, logs, options["normalize_losses"])  # fmt: skip
        optimizer.zero_grad()
        model.backward([F.mse_loss(o, target) for o, target in zip(model(x), y, strict=True)], retain_graph=True)
        exact = {"rtol": 1e-10, "atol": 1e-10}
        torch.testing.assert_close(model.trunk.weight.grad, update.T @ x, **exact)
        torch.testing.assert_close(model.trunk.bias.grad, update.sum(0), **exact)
        if pulls is None:
            assert model.rotation.skew.grad is None
        else:
            torch.testing.assert_close(model.rotation.skew.grad.tril(-1), pulls, **exact)
        if weights is not None:
            torch.testing.assert_close(model.log_weights.grad, weights, **exact)
        optimizer.step()


def test_the_objectives_differ_by_twice_the_norm_of_the_mean_gradient():
    printed_gradients = {}
    for objective in ("code", "paper"):
        model, optimizer = official_setup(RotoGrad, 3, objective=objective)
        official_step(model, optimizer)
        printed_gradients[objective] = model.rotation.skew.grad.clone()
    torch.testing.assert_close(printed_gradients["code"], 2.226567 * printed_gradients["paper"], rtol=1e-6, atol=1e-9)
    wanted = [-0.002479, 0.100420, -0.070666]
    printed(printed_gradients["paper"][0][[1, 2, 2], [0, 0, 1]], wanted, 6)
