"""The probe of task gradients against gradients by hand, and that it leaves the training as it is."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from mtl_core.data.problem import Split, regression
from mtl_core.seeds import numpy_generator
from mtl_lab.experiments.balanced_pairs import BalancedPairs
from mtl_lab.runs import execute, store
from mtl_lab.runs.gradient_probe import GradientProbe, cross_fitted_cosine


class Linear(nn.Module):
    """Both tasks read the same inner product: gradients are 2 (w·x − y) x, by hand."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Linear(3, 1, bias=False)

    def forward(self, inputs):
        return [self.trunk(inputs)] * 2


def test_products_of_gradients_on_two_halves():
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(12, 3, generator=generator), torch.randn(2, 12, generator=generator)
    problem = SimpleNamespace(tasks=(regression("a", "m"), regression("b", "m")), train=Split(inputs, tuple(targets)))
    model = Linear()
    probe, expected = GradientProbe(model, problem, seed=5, probe=8, every=2), []
    for step in range(1, 4):
        probe.update(SimpleNamespace(matrix=torch.tensor([[1.0, 0.0], [1.0 if step == 2 else -1.0, 0.0]])))
        order = numpy_generator(5, "batch order", f"probe {step}").permutation(12)[:8]
        halves = []
        for half in (order[:4], order[4:]):
            gap = (inputs[half] @ model.trunk.weight.detach().T).T - targets[:, half]
            halves.append(2 * gap @ inputs[half] / 4)
        if step != 2:
            expected.append((halves[0] @ halves[1].T).numpy())
    summary = probe.summary()
    assert summary["iterations"] == 3 and summary["negative_share"] == pytest.approx(2 / 3)
    np.testing.assert_allclose(summary["products"], np.mean(expected, axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(summary["labels"], np.corrcoef(targets.numpy()), rtol=1e-6)
    assert model.trunk.weight.grad is None
    again = GradientProbe(model, problem, seed=5, probe=8, every=2)
    again.load_state_dict(probe.state_dict())
    for observer in (probe, again):
        observer.update(SimpleNamespace(matrix=torch.eye(2)))
        observer.update(SimpleNamespace(matrix=torch.eye(2)))
    assert again.summary() == probe.summary() != summary


def test_cross_fitting_takes_the_noise_out_of_a_cosine():
    assert cross_fitted_cosine([[4.0, 2.0], [4.0, 9.0]]) == pytest.approx(0.5)
    assert np.isnan(cross_fitted_cosine([[-1.0, 2.0], [2.0, 9.0]])) and np.isnan(
        cross_fitted_cosine([[-1, 2], [2, -9]])
    )
    random = np.random.default_rng(0)
    a = random.normal(size=50)
    b = 0.6 * a + 0.8 * random.normal(size=50)
    true = a @ b / np.sqrt(a @ a * (b @ b))
    halves = [[v + 2 * random.normal(size=(400, 50)) for v in (a, b)] for _ in range(2)]
    products = [[float(np.mean((halves[0][i] * halves[1][j]).sum(1))) for j in range(2)] for i in range(2)]
    noisy = np.mean([u @ v / np.sqrt(u @ u * (v @ v)) for u, v in zip(*halves[0], strict=True)])
    assert cross_fitted_cosine(products) == pytest.approx(true, abs=0.05) and noisy < 0.5 * true


def test_a_probe_leaves_the_training_as_it_is(tmp_path):
    run = BalancedPairs("tiny").plan()["predictor mu + log A"][0]
    probed, plain = (execute.execute(r, store.Store(tmp_path)) for r in (run, replace(run, observe=None)))
    assert probed["final"] == plain["final"] and probed["conflict"]["iterations"] == probed["steps"] == 9
    assert plain["conflict"] is None and "test" not in probed["final"]
    values = np.array(probed["conflict"]["products"])
    assert np.isfinite(values).all() and (values != 0).all()
