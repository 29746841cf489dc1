"""SAM-GS at every edge of its formula: zero, equal, opposite, tiny, huge and long gradients; wrong arguments."""

import numpy as np
import pytest
import torch
from engine import agrees, matrix_of, restatement

from mtl_core.gradients import NonFiniteGradientError
from mtl_core.methods import SAMGS

# --- edges: what the official class turns into NaN is defined here


@pytest.mark.parametrize("beta2, expected", [(0.99, (1000.0, 280.0)), (0.9, (3162.28, 885.438))])
def test_equal_norms_give_the_largest_gain(beta2, expected):
    method = SAMGS(beta2=beta2)
    for _ in range(2):  # the same at t = 1 and t = 2
        agrees(method(matrix_of([0.6, 0.8], [0.8, -0.6])), expected)


@pytest.mark.parametrize("gamma", [0.0, 0.1, 1.0])
def test_opposite_gradients_give_zero_for_ever(gamma):
    method = SAMGS(gamma)
    for _ in range(5):
        assert torch.equal(method(matrix_of([0.3, -0.7, 2.0], [-0.3, 0.7, -2.0])), torch.zeros(3))


@pytest.mark.parametrize("s", [1e-3, 1e2])
def test_momentum_branch_is_quadratic_and_equalise_branch_linear_in_the_scale(s):
    generator = torch.Generator().manual_seed(5)
    rows = [torch.randn(3, 7, generator=generator, dtype=torch.float64) for _ in range(3)]
    for gamma, power in ((0.0, 2), (1.0, 1)):
        plain, scaled = SAMGS(gamma), SAMGS(gamma)
        for J in rows:
            torch.testing.assert_close(scaled(s * J), s**power * plain(J), rtol=1e-10, atol=0)
            assert scaled.dissimilarity.item() == pytest.approx(plain.dissimilarity.item(), rel=1e-12)


def test_one_zero_gradient_takes_no_part_in_the_equalised_sum():
    method = SAMGS()
    update = method(matrix_of([0.0, 0.0], [3.0, -4.0]))
    agrees(update, [1.5, -2.0])  # mean norm 2.5 along the one direction there is
    agrees(method.dissimilarity, 0.01 + 1e-8)  # psi = 0
    assert torch.isfinite(method(matrix_of([1.0, 0.0], [3.0, -4.0]))).all()


def test_one_zero_gradient_in_the_momentum_branch():
    update = SAMGS(gamma=0.0)(matrix_of([0.0, 0.0], [3.0, -4.0], dtype=torch.float64))
    gain = (1 + 1e-8 / 0.01) ** -0.5  # psi = 0, so h is (1 - beta2) + epsilon
    assert torch.allclose(update, gain * matrix_of([9.0, -16.0], dtype=torch.float64)[0], rtol=1e-12)


@pytest.mark.parametrize("gamma", [0.1, 1.0])
def test_all_gradients_zero(gamma):
    method = SAMGS(gamma)
    assert torch.equal(method(torch.zeros(3, 4)), torch.zeros(4))
    assert method.dissimilarity.item() == pytest.approx(1e-8)  # psi counts as 1
    assert torch.isfinite(method(torch.ones(3, 4))).all()


def test_one_task():
    method = SAMGS(gamma=1.0)  # psi counts as 1, so never equalised
    agrees(method(matrix_of([0.6, -0.8])), [360.0, -640.0])


@pytest.mark.parametrize("size", [1e-24, 1e25])
def test_norms_whose_squares_leave_float32(size):
    J = matrix_of([3.0, 4.0, 0.0], [0.0, -20.0, 400.0]) * size
    update = SAMGS(gamma=0.5)(J)  # norms 5 and 400.5: psi = 0.025, equalised
    exact, _ = restatement([J.double().numpy() / size], 0.5, 0.9, 0.99)[0]
    np.testing.assert_allclose(update.double() / size, exact, rtol=1e-5)


@pytest.mark.parametrize("size", [2**15 - 1, 2**15, 2**15 + 1, 3_000_000])
def test_long_float32_gradients_keep_their_digits(size):
    """A plain float32 norm of millions of entries is wrong by 1e-4 and more."""
    J = torch.rand(2, size, generator=torch.Generator().manual_seed(0)).pow_(3)
    J[1] *= 5
    for gamma in (0.0, 1.0):
        exact, _ = restatement([J.double().numpy()], gamma, 0.9, 0.99)[0]
        assert np.abs(SAMGS(gamma)(J).double().numpy() - exact).max() < 3e-6 * np.abs(exact).max()


def test_tiny_gradients_in_the_momentum_branch_vanish_but_are_no_nan():
    update = SAMGS()(matrix_of([0.6, 0.8], [0.8, -0.6]) * 1e-24)
    assert torch.isfinite(update).all() and update.abs().max() < 1e-40


@pytest.mark.parametrize("ratio", [1e-45, 1e-39])
def test_norms_further_apart_than_float32_holds(ratio):
    """The weight nbar / n_k overflows float32 while the equalised gradient does not."""
    J = torch.zeros(2, 2)
    J[0, 0], J[1, 1] = ratio, 2.0
    update = SAMGS()(J)
    np.testing.assert_allclose(update, [1.0, 1.0], rtol=1e-5)


def test_huge_gradients_overflow_the_momentum_branch_with_a_message():
    with pytest.raises(NonFiniteGradientError, match="quadratic.*1.0e[+]25.*Scale"):
        SAMGS()(matrix_of([0.6, 0.8], [0.8, -0.6]) * 1e25)
    # just inside the range: no error
    assert torch.isfinite(SAMGS()(matrix_of([0.6, 0.8], [0.8, -0.6]) * 1e17)).all()


def test_an_overflow_from_the_momentum_of_earlier_steps_is_seen_too():
    method = SAMGS(gamma=0.1)
    method(matrix_of([1e30, 0.0], [0.0, 1.0]))  # equalised: finite
    with pytest.raises(NonFiniteGradientError, match="quadratic"):
        method(matrix_of([1e10, 0.0], [0.0, 1e10]))  # small enough by itself


def test_a_finite_update_whose_sum_overflows_is_no_error():
    update = SAMGS(gamma=0.0)(torch.full((2, 200), 6e16))  # 200 entries of 7e36
    assert torch.isfinite(update).all() and not torch.isfinite(update.sum())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_input_is_refused_and_leaves_the_state_alone(bad):
    method = SAMGS()
    method(matrix_of([1.0, 2.0], [2.0, 1.0], [1.0, 1.0]))
    before = {name: value.clone() for name, value in method.state_dict().items()}
    with pytest.raises(NonFiniteGradientError, match="task 0, 2"):
        method(matrix_of([1.0, bad], [2.0, 1.0], [bad, 1.0]))
    for name, value in method.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"gamma": -0.1}, "gamma must lie in \\[0, 1\\]"),
        ({"gamma": 1.1}, "gamma"),
        ({"beta1": 1.0}, "beta1.*\\[0, 1\\)"),
        ({"beta2": 1.0}, "beta2"),
        ({"beta2": -1.0}, "beta2"),
        ({"epsilon": 0.0}, "epsilon must be positive"),
        ({"gamma": float("nan")}, "gamma"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        SAMGS(**arguments)


def test_a_matrix_of_another_shape_is_refused():
    method = SAMGS()
    method(torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"\(2, 3\), got \(2, 4\): make a new instance"):
        method(torch.ones(2, 4))
    with pytest.raises(ValueError, match="got \\(3, 3\\)"):
        method(torch.ones(3, 3))
