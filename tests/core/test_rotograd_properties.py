"""What holds for RotoGrad's family whatever the problem: who gets which gradient, Proposition 3.1, the rotations."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rotograd_problems import FAMILY, at_features, gradients, losses_of, small
from torch import nn
from torch.nn import functional as F

from mtl_core.methods.rotograd import RotateOnly, RotoGrad, RotoGradNorm, ScaleOnly, magnitudes
from mtl_core.models.rotations import MAPS, Rotations, orthogonal


@pytest.mark.parametrize("make", FAMILY)
def test_losses_are_given_in_a_list_or_by_name_in_the_heads_order(make):
    found = []
    for wrap in (list, tuple, lambda losses: dict(zip("abc", losses, strict=True))):
        model, x, y = small(make, init="haar", generator=torch.Generator().manual_seed(1))
        model.backward(wrap(losses_of(model, x, y)))
        found.append(gradients(model))
    assert set(found[0]) >= {"trunk.0.weight", "heads.2.bias"}
    assert all(g.norm() > 1e-6 for name, g in found[0].items() if name != "log_weights")
    for other in found[1:]:
        assert found[0].keys() == other.keys() and all(torch.equal(found[0][n], other[n]) for n in other)
    with pytest.raises(ValueError, match="got one tensor: take list"):
        model.backward(torch.stack(losses_of(model, x, y)))


def test_heads_get_their_own_plain_gradient_and_rotations_none_of_the_task_losses():
    model, x, y = small(RotoGrad, init="haar")
    losses = losses_of(model, x, y)
    wanted = [
        torch.autograd.grad(losses[k], list(head.parameters()), retain_graph=True) for k, head in enumerate(model.heads)
    ]
    model.backward(losses)
    for head, plain in zip(model.heads, wanted, strict=True):
        for p, g in zip(head.parameters(), plain, strict=True):
            assert torch.equal(p.grad, g)
    assert model.rotation.skew.grad.norm() > 1e-3
    alone, x, y = small(RotateOnly, K=1, init="haar")  # one task is aligned with the mean, whatever its loss
    alone.backward(losses_of(alone, x, y))
    assert alone.rotation.skew.grad.abs().max() < 1e-12


def test_rotate_only_gives_the_trunk_the_true_gradient_of_the_sum():
    model, x, y = small(RotateOnly, init="haar")
    model.backward(losses_of(model, x, y))
    found = [p.grad.clone() for p in model.trunk.parameters()]
    model.eval()
    wanted = torch.autograd.grad(sum(losses_of(model, x, y)), list(model.trunk.parameters()))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_gradients_add_up_like_any_backward():
    model, x, y = small(RotateOnly)
    model.backward(losses_of(model, x, y))
    once = gradients(model)
    model.backward(losses_of(model, x, y))
    assert all(torch.allclose(p.grad, 2 * once[n]) for n, p in model.named_parameters())


def test_scaling_sends_equally_long_gradients_of_the_weighted_mean_length():
    model, x, y = small(ScaleOnly, burn_in=0)

    def losses(model):
        return [(1 + 9 * k) * loss for k, loss in enumerate(losses_of(model, x, y))]

    for _ in range(2):  # at the second step the alphas differ
        model.zero_grad()
        G = at_features(model, losses)
        model.backward(losses(model))
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.02 * (p.grad if p.grad is not None else 0)
    norms = G.flatten(1).norm(dim=1)
    shares, C = magnitudes(norms, model.initial_norms)
    assert shares.sum() == pytest.approx(1) and shares.std() > 1e-3
    assert C.item() == pytest.approx((shares * norms).sum().item())
    update = (C / norms)[:, None, None] * G
    torch.testing.assert_close(model.trunk[2].bias.grad, update.sum((0, 1)), rtol=1e-10, atol=1e-12)


def test_the_weights_of_rotograd_norm_compare_losses_with_their_first_ones():
    """At the first step no task is behind, however large its loss: all get one target."""
    model, x, y = small(RotoGradNorm)

    def losses(model):
        return [loss + 20 * (k == 1) for k, loss in enumerate(losses_of(model, x, y))]

    G = at_features(model, losses)
    model.backward(losses(model))

    def slope(ratios):
        a = model.log_weights.detach().requires_grad_()
        target = (G.sum(0) / 3).norm() * (ratios / ratios.mean()) ** 1.5
        return torch.autograd.grad((3 * a.softmax(0) * G.flatten(1).norm(dim=1) - target).abs().sum(), a)[0]

    assert not torch.allclose(slope(torch.ones(3)), slope(model.losses)), "the losses alone would say something else"
    torch.testing.assert_close(model.log_weights.grad, slope(torch.ones(3)), rtol=1e-9, atol=1e-12)


class Free(nn.Module):
    """Features that are parameters: the trunk's gradient is the feature gradient."""

    def __init__(self, features):
        super().__init__()
        self.z = nn.Parameter(features)

    def forward(self, x):
        return self.z


def test_a_small_step_on_the_features_lowers_both_losses_of_two_tasks():
    """Proposition 3.1 for K = 2; with exactly opposite gradients the step is zero, not a descent."""
    for seed in range(10):
        torch.manual_seed(seed)
        trunk = Free(torch.randn(6, 4, dtype=torch.float64))
        heads = [nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)).double() for _ in range(2)]
        model = ScaleOnly(trunk, heads, 4)
        factors, y = (1.0, 30.0), torch.randn(2, 6, 1, dtype=torch.float64)

        def losses(model=model, y=y, factors=factors):
            return [f * F.mse_loss(o, t) for f, o, t in zip(factors, model(None), y, strict=True)]

        model.backward(losses())
        trunk.z.data -= 1e-4 * trunk.z.grad
        assert (torch.stack(losses()) < model.losses).all()
    model = ScaleOnly(Free(torch.ones(2, 3)), [nn.Identity()] * 2, 3)
    one, other = model(None)
    model.backward([one.square().sum(), -3 * other.square().sum()])
    assert model.trunk.z.grad.abs().max() < 1e-5


def quadratic(G):
    """ScaleOnly on K losses whose gradients at the features z = 0 are the rows of G (K, B, d), curvature one."""
    model = ScaleOnly(Free(torch.zeros(G.shape[1:], dtype=G.dtype)), [nn.Identity()] * len(G), G.shape[-1], burn_in=0)

    def losses():
        return [(g * o).sum() + o.square().sum() / 2 for g, o in zip(G, model(None), strict=True)]

    return model, losses


@settings(max_examples=40, deadline=None)
@given(K=st.integers(3, 8), seed=st.integers(0, 2**31), spread=st.floats(0.0, 6.0))
def test_a_small_step_on_the_features_lowers_all_losses_whose_gradients_do_not_conflict(K, seed, spread):
    """Proposition 3.1 for K > 2: all pairwise cosines at least zero, lengths that differ by up to e^6."""
    generator = torch.Generator().manual_seed(seed)
    G = torch.rand(K, 3, 4, generator=generator, dtype=torch.float64)  # no negative entry: no negative cosine
    G *= (spread * torch.rand(K, generator=generator, dtype=torch.float64)).exp()[:, None, None]
    model, losses = quadratic(G)
    model.backward(losses())
    step = model.trunk.z.grad
    assert all((g * step).sum() > 0 for g in G), "the update is a descent direction of each task"
    shortest = min((g * step).sum() for g in G) / step.square().sum()
    model.trunk.z.data -= 0.5 * shortest * step
    assert (torch.stack(losses()) < model.losses).all()


def test_with_three_tasks_that_conflict_a_loss_may_rise():
    """What the proposition excludes: two tasks that agree outvote a third, however small the step."""
    G = torch.tensor([[[1.0, 0.2]], [[1.0, -0.2]], [[-1.0, 0.0]]], dtype=torch.float64)
    model, losses = quadratic(G)
    model.backward(losses())
    model.trunk.z.data -= 1e-4 * model.trunk.z.grad
    assert losses()[2] > model.losses[2] and losses()[0] < model.losses[0]


@pytest.mark.parametrize("orthogonal_map", ["matrix_exp", "cayley", "householder"])
def test_training_rotations_brings_the_gradients_together(orthogonal_map):
    model, x, y = small(RotateOnly, orthogonal_map=orthogonal_map, objective="paper")
    optimizer = torch.optim.Adam(model.rotation_parameters(), lr=0.02)
    cosines = []
    for _ in range(60):
        optimizer.zero_grad()
        model.backward(losses_of(model, x, y))
        U = F.normalize(at_features(model, lambda model: losses_of(model, x, y)).flatten(1), dim=1)
        cosines.append(((U @ U.T).sum() - 3).item() / 6)
        optimizer.step()
    assert cosines[-1] > cosines[0] + 0.2
    for R in model.rotations:
        torch.testing.assert_close(R @ R.T, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-12)
        assert torch.linalg.det(R) > 0


def test_feature_maps_rotate_their_channels():
    torch.manual_seed(0)
    trunk, heads = nn.Conv2d(1, 6, 3).double(), [nn.Sequential(nn.Flatten(), nn.Linear(54, 1)).double() for _ in "ab"]
    model = RotoGrad(trunk, heads, 4, post_shape=(3, 3), init="haar")
    x = torch.randn(5, 1, 5, 5, dtype=torch.float64)

    def losses(model):
        return [o.square().mean() for o in model(x)]

    outputs = model(x)
    z = trunk(x)
    for k, R in enumerate(model.rotations):
        r = torch.cat([torch.einsum("ij,bjhw->bihw", R, z[:, :4]), z[:, 4:]], 1)
        torch.testing.assert_close(outputs[k], heads[k](r), rtol=1e-12, atol=1e-13)
    results, G = {}, at_features(model, losses)
    for objective in ("code", "paper"):
        model.objective = objective
        model.zero_grad()
        model.backward(losses(model))
        results[objective] = model.rotation.skew.grad.clone()
    mean_norm = (G.sum(0) / 2).norm()
    wanted = 2 * mean_norm / 5 * results["paper"]  # the package's mean over the batch where post_shape is given
    torch.testing.assert_close(results["code"], wanted, rtol=1e-9, atol=1e-14)
    norms = G.flatten(1).norm(dim=1)
    _, C = magnitudes(norms, model.initial_norms)
    update = torch.tensordot(C / norms, G, 1)
    wanted = torch.autograd.grad(trunk(x), trunk.weight, update)[0]
    torch.testing.assert_close(trunk.weight.grad, wanted, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match=r"do not end in post_shape \(9,\)"):
        RotoGrad(trunk, heads, 4, post_shape=(9,))(x)


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_maps_start_at_the_identity_and_stay_in_the_rotations(name, size):
    zero = torch.zeros(2, size, size, dtype=torch.float64)
    assert torch.allclose(orthogonal(zero, name), torch.eye(size, dtype=torch.float64))
    S = torch.randn(2, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(size))
    Q = orthogonal(S, name)
    torch.testing.assert_close(Q @ Q.mT, torch.eye(size, dtype=torch.float64).expand(2, size, size))
    assert (torch.linalg.det(Q) > 0).all()
    assert torch.equal(orthogonal(S.tril(-1), name), Q), "what lies above the diagonal does not count"
    if size > 1:
        assert (orthogonal(S, name) - orthogonal(S.flip(0), name)).abs().max() > 0.1
    if name != "householder":  # near zero a step of S along A is one along A, for both maps
        small = 1e-4 * S.tril(-1)
        torch.testing.assert_close(orthogonal(small, name), torch.eye(size) + small - small.mT, rtol=0, atol=1e-6)


def test_the_default_map_is_the_published_one_where_it_is_cheap():
    assert Rotations(2, 64).orthogonal_map == "matrix_exp" and Rotations(2, 65).orthogonal_map == "cayley"
    assert Rotations(2, 512, orthogonal_map="matrix_exp").orthogonal_map == "matrix_exp"


def test_matrices_are_computed_once_per_value_where_no_graph_is_kept(monkeypatch):
    from mtl_core.models import rotations

    calls = []
    monkeypatch.setattr(rotations, "orthogonal", lambda *a: calls.append(1) or orthogonal(*a))
    made = Rotations(2, 3)
    with torch.no_grad():
        first = made.matrices()
        assert made.matrices() is first and len(calls) == 1
        made.skew.add_(0.1)
        assert not torch.equal(made.matrices(), first) and len(calls) == 2
        made.set([torch.eye(3)] * 2)
        assert torch.equal(made.matrices(), torch.eye(3).expand(2, 3, 3)) and len(calls) == 3
        made.double()
        assert made.matrices().dtype == torch.float64
