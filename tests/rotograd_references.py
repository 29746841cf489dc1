"""RotoGrad's family once more, from the equations, in float64 and sample by sample; random problems to compare on.

torch gives the derivatives of the heads and of the objective; nothing of mtl_core's rule is used for the expected side.
"""

import torch
from torch import nn
from torch.nn import functional as F

from mtl_core.methods.rotograd import RotateOnly, RotoGradNorm, ScaleOnly

SEEDS = range(5)


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


def compared(kind, seed):
    """(what, found, expected) of every gradient in four steps of a random problem."""
    draw = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # the layers' weights come from torch's own generator

    def random(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    K, B, d = 2 + seed % 3, 4 + seed, 4
    size = [4, 3, 4, 2, 4][seed]
    options = {"objective": ["code", "paper"][seed % 2], "normalize_losses": seed % 3 == 0, "burn_in": 2}
    options |= {"alpha": 0.7} if kind is RotoGradNorm else {}
    model = kind(
        nn.Linear(3, d).double(),
        [nn.Linear(d, 2).double() for _ in range(K)],
        size,
        init="haar",
        generator=draw,
        **options,
    )
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
        update, pulls, weights = restated(
            kind,
            z,
            list(S),
            list(base),
            heads_gradient,
            state,
            t,
            2,
            options["objective"],
            alpha,
            logs,
            options["normalize_losses"],
        )
        optimizer.zero_grad()
        model.backward([F.mse_loss(o, target) for o, target in zip(model(x), y, strict=True)])
        yield "trunk", model.trunk.weight.grad, update.T @ x
        yield "trunk's bias", model.trunk.bias.grad, update.sum(0)
        if pulls is None:
            assert model.rotation.skew.grad is None
        else:
            yield "rotations", model.rotation.skew.grad.tril(-1), pulls
        if weights is not None:
            yield "weights", model.log_weights.grad, weights
        optimizer.step()


def difference(kind) -> float:
    """The largest norm of found - expected over that of expected, over all gradients, steps and problems."""
    return max(
        ((found - expected).norm() / expected.norm()).item()
        for seed in SEEDS
        for _, found, expected in compared(kind, seed)
    )
