"""RotoGrad's family: the traces of the official package, and a restatement in float64, sample by sample."""

import pytest
import torch
from rotograd_problems import FAMILY
from rotograd_references import SEEDS, compared
from rotograd_traces import BURN_IN, CASES, followed, official_setup, official_step, tensor

from mtl_core.methods.rotograd import RotoGrad

torch.set_num_threads(1)


def printed(found, wanted, digits=10):
    torch.testing.assert_close(
        found.detach().double(), tensor(wanted).reshape(found.shape), rtol=0, atol=0.6 * 10**-digits
    )


@pytest.mark.parametrize("name", [*CASES, "vanilla", BURN_IN])
def test_traces_of_the_official_package(name):
    lines = 0
    for _, found, wanted, digits in followed(name):
        printed(found, wanted, digits)
        lines += 1
    assert lines > 8


@pytest.mark.parametrize("kind", FAMILY)
@pytest.mark.parametrize("seed", SEEDS)
def test_restatement_on_random_problems(kind, seed):
    """From the equations, in float64, sample by sample (`rotograd_references`)."""
    for _, found, expected in compared(kind, seed):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_the_objectives_differ_by_twice_the_norm_of_the_mean_gradient():
    printed_gradients = {}
    for objective in ("code", "paper"):
        model, optimizer = official_setup(RotoGrad, 3, objective=objective)
        official_step(model, optimizer)
        printed_gradients[objective] = model.rotation.skew.grad.clone()
    torch.testing.assert_close(printed_gradients["code"], 2.226567 * printed_gradients["paper"], rtol=1e-6, atol=1e-9)
    wanted = [-0.002479, 0.100420, -0.070666]
    printed(printed_gradients["paper"][0][[1, 2, 2], [0, 0, 1]], wanted, 6)
