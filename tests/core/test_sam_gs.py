"""SAM-GS against numbers of the official class, an independent restatement; order, state."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from engine import agrees, linear_losses, linear_model, matrix_of, restatement

from mtl_core import methods
from mtl_core.balancer import Balancer
from mtl_core.conflict import magnitude_similarity
from mtl_core.methods import SAMGS, Convention

TRACES = sorted((Path(__file__).parents[1] / "parity" / "samgs").glob("[AB]_*.json"))


def load(path):
    return json.loads(path.read_text())


# --- parity


def test_all_traces_are_here():
    assert len(TRACES) == 7
    branches = {step["branch"] for path in TRACES for step in load(path)["steps"]}
    assert branches == {"momentum", "equalise"}
    assert sum(load(path)["max_norm"] <= 0 for path in TRACES) == 2


@pytest.mark.parametrize("path", TRACES, ids=lambda p: p.stem)
def test_aggregator_agrees_with_the_official_class(path):
    trace = load(path)
    method = SAMGS(trace["gamma"], trace["beta1"], trace["beta2"])
    for t, step in enumerate(trace["steps"], start=1):
        matrix = torch.tensor(step["task_grads"])
        norms = torch.linalg.vector_norm(matrix, dim=1)
        agrees(norms, step["norms"])
        agrees(magnitude_similarity(norms), step["pair_psi"])
        agrees(magnitude_similarity(norms).mean(), step["psi_mean_pairs"])
        update = method(matrix)
        assert method.steps == t == step["step"]
        agrees(method.momentum, step["m"])
        agrees(method.dissimilarity, step["h"])
        second = method.dissimilarity.item() / (1 - trace["beta2"] ** t)
        agrees(second, step["hhat"])
        agrees(second**-0.5, step["inv_sqrt_hhat"])
        agrees(update, step["g_sum"])
        rebuilt = {  # what each branch would give; the one that the trace names must be the update
            "equalise": norms.mean() * (matrix / norms[:, None]).sum(0),
            "momentum": (matrix * method.momentum.abs()).sum(0) / (1 - trace["beta1"] ** t) * second**-0.5,
        }
        agrees(update, rebuilt[step["branch"]])
        other = rebuilt["momentum" if step["branch"] == "equalise" else "equalise"]
        assert (update - other).norm() > 1e-3 * update.norm()


@pytest.mark.parametrize("path", TRACES, ids=lambda p: p.stem)
def test_whole_pipeline_agrees_with_the_official_class(path):
    """Losses -> J -> SAM-GS -> times K, clip 1 -> the .grad that an optimizer sees; heads raw."""
    trace = load(path)
    K = trace["K"]
    convention = methods.CONVENTIONS["samgs"]
    assert convention.clip == 1.0 and convention.scale == "K times" and convention.heads == "unit"
    if trace["max_norm"] <= 0:
        convention = Convention("samgs without clip", scale="K times")
    method = methods.make("sam_gs", gamma=trace["gamma"], beta1=trace["beta1"], beta2=trace["beta2"])
    model = linear_model(trace["split"], K)
    balancer = Balancer(method, model, convention=convention)
    for step in trace["steps"]:
        features = model.features(None)
        losses = linear_losses(model, features, step["task_grads"], coefficients=[1.0, 2.0, 3.0][:K])
        model.zero_grad()
        balancer.backward(losses)
        agrees(balancer.gradients.matrix, step["task_grads"])
        gradient = torch.cat([p.grad for p in model.trunk.parameters()])
        agrees(gradient, step["final_grad"])
        if trace["max_norm"] <= 0:
            agrees(gradient, step["gradK"])
        else:
            assert gradient.norm() <= 1 + 1e-6
        agrees([head.weight.grad.item() for head in model.heads], step["head_grads"])


# --- independent restatement


@pytest.mark.parametrize("K", range(1, 9))
@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_restatement_in_float64(K, gamma):
    random = np.random.default_rng(1000 * K + int(100 * gamma))
    branches = set()
    for beta1, beta2, epsilon in ((0.9, 0.99, 1e-8), (0.0, 0.0, 1e-4), (0.5, 0.9, 1e-8)):
        spread = np.array([0.02, 3.0, 1.0, 0.05, 2.0, 0.5])[:, None, None]
        sizes = np.exp(spread * random.normal(size=(6, K, 1)))
        matrices = list(random.normal(size=(6, K, 13)) * sizes)
        method = SAMGS(gamma, beta1, beta2, epsilon)
        results = restatement(matrices, gamma, beta1, beta2, epsilon)
        for matrix, (expected, branch) in zip(matrices, results, strict=True):
            update = method(torch.from_numpy(matrix))
            assert update.dtype == torch.float64 and update.shape == (13,)
            np.testing.assert_allclose(update, expected, rtol=1e-10, atol=1e-10 * np.abs(expected).max())
            branches.add(branch)
    if K > 1 and gamma in (0.5, 0.9):
        assert branches == {"momentum", "equalise"}
    if gamma == 0 or K == 1:
        assert branches == {"momentum"}


def test_defaults_are_those_of_algorithm_1():
    method = SAMGS()
    assert (method.gamma, method.beta1, method.beta2, method.epsilon) == (0.1, 0.9, 0.99, 1e-8)
    spec = methods.METHODS["sam_gs"]
    assert {k: v for k, (v, _) in spec.defaults.items()} == {"gamma": 0.1, "beta1": 0.9, "beta2": 0.99}


def test_gate_is_strict_and_h_moves_in_both_branches():
    J = matrix_of([3.0, 4.0], [0.0, 5.0], dtype=torch.float64)  # equal norms: psi = 1, never below gamma = 1
    method = SAMGS(gamma=1.0)
    assert torch.allclose(method(J), (J * J.abs()).sum(0) * 1000, rtol=1e-9)
    method = SAMGS(gamma=0.5)
    low = matrix_of([1.0, 0.0], [0.0, 100.0], dtype=torch.float64)
    method(low)
    psi = 200 / 10001
    assert method.dissimilarity.item() == pytest.approx(0.01 * (1 - psi) ** 2 + 1e-8, rel=1e-12)
    assert torch.allclose(method.momentum, 0.1 * low)


# --- order of tasks and of coordinates


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_order_of_tasks_and_coordinates_does_not_matter(gamma):
    generator = torch.Generator().manual_seed(3)
    plain, tasks, columns = SAMGS(gamma), SAMGS(gamma), SAMGS(gamma)
    row_order, column_order = torch.tensor([2, 0, 3, 1]), torch.randperm(9, generator=generator)
    for _ in range(4):
        J = torch.randn(4, 9, generator=generator, dtype=torch.float64)
        update = plain(J)
        torch.testing.assert_close(tasks(J[row_order]), update, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(columns(J[:, column_order]), update[column_order], rtol=1e-12, atol=1e-12)


# --- state


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_state_loads_into_a_fresh_instance_and_goes_on_identically(dtype, tmp_path):
    generator = torch.Generator().manual_seed(1)
    rows = [
        torch.randn(3, 5, generator=generator, dtype=dtype) * 10.0 ** torch.randn(3, 1, generator=generator)
        for _ in range(8)
    ]
    method = SAMGS(gamma=0.5)
    for J in rows[:4]:
        method(J)
    torch.save(torch.nn.ModuleList([method]).state_dict(), tmp_path / "state.pt")
    fresh = torch.nn.ModuleList([SAMGS(gamma=0.5)])
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert set(method.state_dict()) == {"momentum", "dissimilarity", "steps"}
    assert fresh[0].momentum.dtype == dtype and fresh[0].steps == 4
    for J in rows[4:]:
        assert torch.equal(fresh[0](J), method(J))
    assert all(torch.equal(fresh[0].state_dict()[name], value) for name, value in method.state_dict().items())


def test_the_state_of_an_unused_method_loads_and_the_loaded_state_is_a_copy():
    fresh = SAMGS()
    fresh.load_state_dict(SAMGS().state_dict())
    assert fresh(torch.ones(2, 2)).shape == (2,)
    used = SAMGS()
    used(torch.ones(2, 3))
    fresh.load_state_dict(used.state_dict())  # another shape than fresh had
    used(torch.ones(2, 3))
    assert fresh.steps == 1 and torch.allclose(fresh.momentum, torch.full((2, 3), 0.1))


def test_input_is_not_written_and_output_is_not_state():
    for gamma in (0.0, 1.0):
        method = SAMGS(gamma)
        J = matrix_of([1.0, 2.0], [5.0, 1.0])
        kept, J2 = J.clone(), J.clone().requires_grad_()
        update = method(J)
        assert torch.equal(J, kept)
        state = {name: value.clone() for name, value in method.state_dict().items()}
        update.zero_()
        assert all(torch.equal(value, state[name]) for name, value in method.state_dict().items())
        assert not SAMGS(gamma)(J2).requires_grad
