"""SAM-GS as printed, and as the reinforcement-learning experiments run it: recorded numbers, state."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from engine import agrees, conflicting, matrix_of

from mtl_core import methods
from mtl_core.methods import SAMGS

VARIANTS = json.loads((Path(__file__).parents[1] / "parity" / "samgs" / "variants.json").read_text())
A = [
    [[0.3, -0.4, 0.1], [0.2, 0.5, -0.3]],
    [[0.002, -0.001, 0.004], [0.6, 0.2, -0.9]],
    [[-0.25, 0.1, 0.05], [0.12, -0.3, 0.02]],
]
B = [
    [[0.1, 0.2, -0.1, 0.05], [0.15, -0.1, 0.1, 0], [-0.05, 0.1, 0.2, 0.1]],
    [[0.01, 0.02, -0.01, 0], [0.5, -0.3, 0.2, 0.1], [-0.04, 0.05, 0.02, 0.01]],
    [[0.12, 0, -0.05, 0.03], [0.2, -0.1, 0.05, 0], [-0.02, 0.03, 0.02, 0.01]],
]


def steps_of(trace):
    return [torch.tensor(J, dtype=torch.float64) for J in (A if "_A_" in trace else B)]


@pytest.mark.parametrize("trace", [name for name in VARIANTS if name.startswith("literal")])
def test_as_printed(trace):
    gamma, beta2 = (float(part[1:]) for part in trace.split("_")[-2:])
    method = SAMGS(gamma, 0.9, beta2, variant="printed")
    for J, step in zip(steps_of(trace), VARIANTS[trace], strict=True):
        update = method(J)
        agrees(method.dissimilarity, step["h"])
        agrees(update, step["update"])
    plain = SAMGS(gamma, 0.9, beta2)
    assert any((plain(J) - SAMGS(gamma, 0.9, beta2, variant="printed")(J)).norm() > 1e-3 for J in steps_of(trace))


def test_epsilon_stands_beside_the_root_too():
    J = matrix_of([0.6, 0.8], [0.8, -0.6], dtype=torch.float64)  # psi = 1: hhat = epsilon / (1 - beta2) = 1e-2
    root = 0.1 + 1e-4
    update = SAMGS(0.1, 0.9, 0.99, epsilon=1e-4, variant="printed")(J)
    torch.testing.assert_close(update, (J * J.abs()).sum(0) / root, rtol=1e-12, atol=0)


@pytest.mark.parametrize("trace", [name for name in VARIANTS if name.startswith("mtrl") and "gamma" in name])
def test_as_in_reinforcement_learning(trace):
    method = SAMGS(float(trace.rpartition("gamma")[2]), 0.9, 0.99, variant="reinforcement")
    for J, step in zip(steps_of(trace), VARIANTS[trace], strict=True):
        update = method(J)
        agrees(method.momentum, step["m"])
        agrees(method.dissimilarity, step["h"][0])
        agrees(update, step["g"])


def test_one_momentum_for_matrices_of_three_widths():
    rows = {
        "critic": [[0.1, 0.2, -0.1, 0.05], [0.15, -0.1, 0.1, 0.02]],
        "actor": [[0.01, 0.02, -0.03], [0.02, 0.01, -0.02]],
        "alpha": [[0.3, 0.0], [0.25, 0.0]],
    }
    method = SAMGS(0.9, 0.9, 0.99, variant="reinforcement")
    for number, (_, name, momentum, corrected, update) in enumerate(VARIANTS["mtrl_interleave"], start=1):
        found = method(torch.tensor(rows[name], dtype=torch.float64))
        agrees(method.momentum, momentum)
        agrees(method.momentum / (1 - 0.9**number), corrected)
        np.testing.assert_allclose(found, update, rtol=3e-5, atol=1e-9)


@pytest.mark.parametrize("variant", ["printed", "reinforcement"])
def test_state_loads_into_a_fresh_instance(variant):
    method, fresh = (methods.make("sam_gs", gamma=0.5, variant=variant) for _ in range(2))
    J = conflicting(3)
    method(J)
    fresh.load_state_dict(method.state_dict())
    assert torch.equal(fresh(2 * J), method(2 * J))
    assert variant == "reinforcement" or torch.allclose(method.momentum, 0.09 * J + 0.2 * J)


def test_one_task_and_unknown_variants():
    for variant in ("printed", "reinforcement"):
        assert torch.isfinite(SAMGS(variant=variant)(matrix_of([0.6, -0.8]))).all()
    with pytest.raises(ValueError, match="variant is 'released', 'printed' or 'reinforcement', got 'paper'"):
        SAMGS(variant="paper")
