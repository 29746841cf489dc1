"""The illustration: the batched study is the module's algorithm, and what the two problems are."""

import pytest
import torch
from torch import nn

from mtl_core import methods
from mtl_lab.landscapes.rotograd_example import PAIRS, _initial, _rotation, study

torch.set_num_threads(1)


@pytest.mark.parametrize("method", ["rotate_only", "scale_only", "rotograd"])
@pytest.mark.parametrize("name", list(PAIRS))
@pytest.mark.parametrize(("optimizer", "objective"), [("sgd", "code"), ("adam", "code"), ("adam", "paper")])
def test_the_batch_is_the_module_step_by_step(method, name, optimizer, objective):
    pair, seeds, steps = PAIRS[name], (3, 8), 30
    options = {"learning_rate": 0.01, "optimizer": optimizer, "objective": objective}
    result = study(
        pair, method, seeds=seeds, rates=(0.05, 0.01), starts=("identity", "haar"), steps=steps, every=1, **options
    )
    b1, W2, b2, base = _initial(seeds, ("identity", "haar"), (2, 2, 2))
    index = (1, 0, 1)  # Haar start, first rate, second seed
    trunk = nn.Sequential(nn.Linear(2, 10), nn.ReLU(), nn.Linear(10, 2)).double()
    trunk[0].bias.data, trunk[2].weight.data, trunk[2].bias.data = b1[index], W2[index], b2[index]
    parts = {"trunk": trunk, "heads": [nn.Identity()] * 2, "rotation_size": 2}
    model = methods.make(method, **parts, normalize_losses=True, objective=objective)
    model.set_rotations(_rotation(base[index]))
    network = torch.optim.SGD(model.model_parameters(), lr=0.01)
    angles = list(model.rotation_parameters()) or [nn.Parameter(torch.zeros(1))]
    rotations = (torch.optim.Adam if optimizer == "adam" else torch.optim.SGD)(angles, lr=0.05)
    decay = torch.optim.lr_scheduler.ExponentialLR(rotations, 0.99999)
    for t in range(steps):
        losses = pair.losses(torch.cat(model(torch.zeros(1, 2, dtype=torch.float64))))
        torch.testing.assert_close(losses, result.losses[t][index], rtol=1e-6, atol=1e-7)
        network.zero_grad()
        rotations.zero_grad()
        model.backward(list(losses))
        network.step()
        rotations.step()
        decay.step()
    assert result.steps.tolist() == list(range(steps + 1))
    torch.testing.assert_close(torch.stack(model.rotations), result.rotations[-1][index], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", list(PAIRS))
def test_both_tasks_can_be_solved_at_once_by_rotations_alone(name):
    pair = PAIRS[name]
    for k, optimum in enumerate(pair.optima):
        r = torch.tensor([optimum, optimum], dtype=torch.float64)
        assert pair.losses(r)[k].item() == pytest.approx(pair.minimum) and pair.losses(r)[1 - k] > pair.solved
    z = torch.tensor(pair.optima[0], dtype=torch.float64)
    turned = torch.stack([z, _rotation(torch.tensor(torch.pi, dtype=torch.float64)) @ z])
    assert (pair.losses(turned) < pair.solved).all()


def test_the_convex_pair_is_convex_and_the_other_is_not():
    def curvatures(name):
        points = torch.randn(200, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2
        hessians = [torch.autograd.functional.hessian(PAIRS[name].phi, p) for p in points]
        return torch.linalg.eigvalsh(torch.stack(hessians))

    assert (curvatures("convex") > 0).all() and (curvatures("non_convex") < 0).any()


def test_the_formula_is_that_of_the_released_example_and_defined_at_the_optimum():
    r = torch.tensor([[0.3, -0.7], [0.2, 2.0]], dtype=torch.float64)
    u = r - torch.tensor([[1.5, 1.5], [-1.5, -1.5]])
    wanted = (u.abs() - torch.sin(3 * u) / u).sum(-1)
    torch.testing.assert_close(PAIRS["non_convex"].losses(r), wanted)
    at = torch.tensor([[1.5, 1.5], [-1.5, -1.5]], dtype=torch.float64, requires_grad=True)
    losses = PAIRS["non_convex"].losses(at)
    assert losses.tolist() == [-6, -6]
    assert torch.isfinite(torch.autograd.grad(losses.sum(), at)[0]).all()


def test_seeds_are_paired_across_methods_and_independent_of_the_batch():
    some = {m: study(PAIRS["non_convex"], m, seeds=(0, 5), steps=0) for m in ("vanilla", "rotograd")}
    assert torch.equal(some["vanilla"].z, some["rotograd"].z)
    both = study(
        PAIRS["non_convex"], "rotograd", seeds=(0, 5), steps=25, starts=("haar", "identity"), rates=(0.1, 0.01)
    )
    alone = study(PAIRS["non_convex"], "rotograd", seeds=(5,), steps=25, rates=(0.01,))
    torch.testing.assert_close(both.losses[-1, 1, 1, 1], alone.losses[-1, 0, 0, 0])
    assert both.solved.shape == (2, 2, 2, 2) and both.rotations.shape == (2, 2, 2, 2, 2, 2, 2)


def test_vanilla_fails_where_rotating_can_succeed():
    vanilla = study(PAIRS["convex"], "vanilla", seeds=range(10), every=400)
    rotated = study(PAIRS["convex"], "rotograd", seeds=range(10), every=400, rates=(0.02,))
    assert vanilla.solved[-1].sum() == 0 and rotated.solved[-1].sum() >= 8


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="method is one of vanilla, scale_only, rotate_only, rotograd; got 'mgda'"):
        study(PAIRS["convex"], "mgda")
    with pytest.raises(ValueError, match="starts are of identity, haar; got random"):
        study(PAIRS["convex"], "rotograd", starts=("random",))
    for what, known in (("optimizer", "adam, sgd"), ("objective", "code, paper")):
        with pytest.raises(ValueError, match=f"{what} is one of {known}; got 'other'"):
            study(PAIRS["convex"], "rotograd", **{what: "other"})
