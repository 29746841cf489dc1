"""SAM-GS against numbers of the official class, an independent restatement, and every edge of its formula."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from engine import linear_losses, linear_model, matrix_of

from mtl_core import methods
from mtl_core.conflict import magnitude_similarity
from mtl_core.gradients import NonFiniteGradientError, task_gradients
from mtl_core.methods import SAMGS, Convention

TRACES = sorted((Path(__file__).parent / "parity" / "samgs").glob("[AB]_*.json"))
TOLERANCE = 2e-5  # the traces are float32, printed with six digits


def load(path):
    return json.loads(path.read_text())


def agrees(found, printed):
    np.testing.assert_allclose(np.asarray(found, dtype=float), printed, rtol=TOLERANCE, atol=1e-9)


def restatement(matrices, gamma, beta1, beta2, epsilon=1e-8):
    """SAM-GS in numpy, float64, straight from the update rule; (update, branch) of each step."""
    m, h, results = 0.0, 0.0, []
    for t, J in enumerate(matrices, start=1):
        K, n = len(J), [float(np.sqrt(np.sum(g * g))) for g in J]
        pairs = [2 * n[i] * n[j] / (n[i] ** 2 + n[j] ** 2) for i in range(K) for j in range(i + 1, K)]
        psi = sum(pairs) / len(pairs) if pairs else 1.0
        m = beta1 * m + (1 - beta1) * J
        h = beta2 * h + (1 - beta2) * (1 - psi) ** 2 + epsilon
        if psi < gamma:
            results.append((sum(n) / K * sum(g / k for g, k in zip(J, n, strict=True)), "equalise"))
        else:
            weights = np.abs(m / (1 - beta1**t)) / np.sqrt(h / (1 - beta2**t))
            results.append(((J * weights).sum(0), "momentum"))
    return results


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
    K, row = trace["K"], methods.METHODS["sam_gs"]
    convention = methods.CONVENTIONS["samgs"]
    assert convention.clip == 1.0 and convention.scale == "K times" and convention.heads == "unit"
    if trace["max_norm"] <= 0:
        convention = Convention("samgs without clip", scale="K times")
    method = methods.make("sam_gs", gamma=trace["gamma"], beta1=trace["beta1"], beta2=trace["beta2"])
    model = linear_model(trace["split"], K)
    found = None
    for step in trace["steps"]:
        features = model.features(None)
        losses = linear_losses(model, features, step["task_grads"], coefficients=[1.0, 2.0, 3.0][:K])
        found = task_gradients(losses, model, features, out=found)
        agrees(found.matrix, step["task_grads"])
        methods.combine(method, row, convention, found, torch.stack(losses).detach(), model.heads)
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
    row = methods.METHODS["sam_gs"]
    assert {k: v for k, (v, _) in row.defaults.items()} == {"gamma": 0.1, "beta1": 0.9, "beta2": 0.99}


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


# --- edges: samgs.md table of edge cases; what the official class turns into NaN is defined here


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
    [({"gamma": -0.1}, "gamma must lie in \\[0, 1\\]"), ({"gamma": 1.1}, "gamma"),
     ({"beta1": 1.0}, "beta1.*\\[0, 1\\)"), ({"beta2": 1.0}, "beta2"), ({"beta2": -1.0}, "beta2"),
     ({"epsilon": 0.0}, "epsilon must be positive"), ({"gamma": float("nan")}, "gamma")],
)  # fmt: skip
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


# --- state


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_state_loads_into_a_fresh_instance_and_goes_on_identically(dtype, tmp_path):
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randn(3, 5, generator=generator, dtype=dtype) * 10.0 ** torch.randn(3, 1, generator=generator)
            for _ in range(8)]  # fmt: skip
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
