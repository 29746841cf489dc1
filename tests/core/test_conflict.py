"""Cosines, magnitude similarity and conflict scores: hand examples, properties, extreme scales, state."""

import numpy as np
import pytest
import torch
from engine import THRESHOLDS, linear_losses, linear_model, matrix_of, random_iterations, scored, step_of
from hypothesis import given, settings
from hypothesis import strategies as st

from mtl_core.conflict import ConflictScores, cosines, magnitude_similarity
from mtl_core.gradients import NonFiniteGradientError, TaskGradients
from mtl_core.linalg import CHUNK, gram

# Three tasks, three layers, two iterations; scores below by hand, and executed against Recon's released functions
ITERATIONS = [
    {
        "A": matrix_of([1.0, 0], [-1, 0], [0, 1]),
        "B": matrix_of([1.0, 0, 0, 1], [0, 1, -1, 0], [-1, 0, 0, 1]),
        "C": matrix_of([2.0, 0, 0], [0, 3, 0], [0, 0, 0]),
    },
    {
        "A": matrix_of([1.0, 0], [-0.05, 1], [-0.2, 1]),
        "B": matrix_of([1.0, 0, 0, 0], [-0.01, 1, 0, 0], [-0.1, 1, 0, 0]),
        "C": torch.eye(3),
    },
]


# --- cosines


def test_cosines_of_the_table():
    expected = {
        "A": ([-1, 0, 0], [-0.049938, -0.196116, 0.989151]),
        "B": ([0, 0, 0], [-0.0100, -0.099504, 0.995982]),
        "C": ([0, 0, 0], [0, 0, 0]),
    }
    for name, rows in expected.items():
        for gradients, row in zip(ITERATIONS, rows, strict=True):
            np.testing.assert_allclose(cosines(gradients[name]), row, atol=1e-6)


@pytest.mark.parametrize("K", [1, 2, 3, 5])
def test_pairs_in_order_and_equal_to_the_formula(K):
    J = torch.randn(K, 6, generator=torch.Generator().manual_seed(K), dtype=torch.float64)
    expected = [float(J[i] @ J[j] / (J[i].norm() * J[j].norm())) for i in range(K) for j in range(i + 1, K)]
    assert cosines(J).shape == (K * (K - 1) // 2,)
    np.testing.assert_allclose(cosines(J), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("first", [1e-30, 1e-24, 1.0, 1e18, 1e30])
@pytest.mark.parametrize("second", [1e-30, 1.0, 1e30])
def test_cosines_do_not_depend_on_the_scale(first, second):
    J = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    expected = cosines(J.double())
    scaled = J * torch.tensor([[first], [second]])
    np.testing.assert_allclose(cosines(scaled), expected, rtol=1e-5)
    np.testing.assert_allclose(cosines(torch.stack([scaled[0], scaled[0]])), [1], rtol=1e-6)
    assert cosines(torch.stack([scaled[0], -scaled[0]])).item() >= -1


def test_cosines_stay_in_range_and_keep_nan():
    J = torch.full((2, 3), 0.1)
    assert (cosines(torch.cat([J, -J])).abs() <= 1).all()
    assert cosines(matrix_of([1.0, float("nan")], [1.0, 2.0])).isnan().all()
    assert torch.equal(cosines(torch.zeros(3, 4)), torch.zeros(3))
    assert torch.equal(cosines(torch.zeros(2, 0)), torch.zeros(1))
    many = torch.randn(40, 1, generator=torch.Generator().manual_seed(0))  # rounding alone would leave [-1, 1]
    wide = cosines(many @ torch.randn(1, 1001, generator=torch.Generator().manual_seed(1)))
    assert wide.abs().max() <= 1 and wide.abs().min() > 1 - 1e-5


# --- magnitude similarity


@given(st.lists(st.floats(1e-30, 1e30), min_size=2, max_size=6))
@settings(max_examples=100, deadline=None)
def test_magnitude_similarity_is_the_formula(norms):
    found = magnitude_similarity(torch.tensor(norms, dtype=torch.float64))
    n = [float(x) for x in norms]
    expected = [2 * n[i] * n[j] / (n[i] ** 2 + n[j] ** 2) for i in range(len(n)) for j in range(i + 1, len(n))]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found.dtype == torch.float64 and (found <= 1).all() and (found >= 0).all()


def test_magnitude_similarity_at_the_edges():
    psi = magnitude_similarity(matrix_of([0.0, 0.0, 3.0, 3.0, 1e-30])[0])
    #            00 0x3 0x3 0xtiny 0x3 0x3 0xtiny 33 3xtiny 3xtiny
    np.testing.assert_allclose(psi, [1, 0, 0, 0, 0, 0, 0, 1, 6.667e-31, 6.667e-31], rtol=1e-3)
    assert magnitude_similarity(torch.tensor([1.0, 2.0])).dtype == torch.float64
    # squares of float32 that would vanish or overflow
    for size in (1e-30, 1e30):
        assert magnitude_similarity(torch.tensor([1.0, 2.0]) * size).item() == pytest.approx(0.8, rel=1e-6)
    assert magnitude_similarity(torch.tensor([float("nan"), 1.0])).isnan().all()
    assert magnitude_similarity(torch.tensor([1.0, float("nan")])).isnan().all()
    # the norm ratios that the gates of SAM-GS stand for
    for gamma, ratio in ((0.1, 19.95), (0.3, 6.51), (0.5, 3.73), (0.7, 2.449), (0.9, 1.595)):
        assert magnitude_similarity(torch.tensor([1.0, ratio])).item() == pytest.approx(gamma, rel=1e-3)


# --- scores: the hand example (P1)


def test_scores_of_the_table():
    scores = scored(ITERATIONS)
    expected = {0.0: (3, 2, 0), -0.02: (3, 1, 0), -0.1: (2, 0, 0), -0.15: (2, 0, 0)}
    for threshold, counts in expected.items():
        assert scores.scores(threshold) == dict(zip("ABC", counts, strict=True))
        assert scores.ranking(threshold) == ["A", "B", "C"]
    assert scores.iterations == 2


def test_mirror_tails_of_the_table():
    scores = scored(ITERATIONS)
    assert scores.mirror(0.0) == {"A": 1, "B": 1, "C": 0}  # cos > 0, strictly
    assert scores.mirror(-0.1) == {"A": 1, "B": 1, "C": 0}
    flipped = [{n: J * torch.tensor([[-1.0], [1], [1]]) for n, J in g.items()} for g in ITERATIONS]
    for threshold in THRESHOLDS:  # flipping task 0 exchanges the tails of its pairs, not of pair (1, 2)
        low, high = scores.counts()[:, 0], scores.counts()[:, 1]
        expected = low.copy()
        expected[..., :2] = high[..., :2]
        assert np.array_equal(scored(flipped).counts()[:, 0], expected)
        assert sum(scored(flipped).scores(threshold).values()) >= 0


def test_ties_keep_registration_order():
    J = matrix_of([1.0, 0.0], [-1.0, 0.0])
    names = ["z", "a", "m", "b", "y"]
    twice = {"m": 2, "b": 2}
    scores = ConflictScores(names, 2)
    for iteration in range(2):
        scores.update({n: J if iteration < twice.get(n, 1) else torch.eye(2) for n in names})
    assert scores.ranking(0.0) == ["m", "b", "z", "a", "y"]
    assert scores.ranking(-0.1) == ["m", "b", "z", "a", "y"]


def test_zero_gradients_never_count():
    scores = scored([{"A": matrix_of([0.0, 0.0], [1.0, -1.0], [0.0, 0.0])}])
    assert scores.scores(0.0) == {"A": 0} and scores.mirror(0.0) == {"A": 0}


# --- scores: properties (P2)


@given(st.integers(0, 10**6), st.permutations(range(3)), st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=3))
@settings(max_examples=25, deadline=None)
def test_scores_ignore_positive_scale_and_order_of_tasks(seed, order, scales):
    iterations = random_iterations(seed, 4, dtype=torch.float64)
    factor = torch.tensor(scales, dtype=torch.float64)[:, None]
    plain, scaled = scored(iterations), scored([{n: J * factor for n, J in g.items()} for g in iterations])
    permuted = scored([{n: J[list(order)] for n, J in g.items()} for g in iterations])
    for threshold in THRESHOLDS:
        assert plain.scores(threshold) == scaled.scores(threshold) == permuted.scores(threshold)
        assert plain.mirror(threshold) == scaled.mirror(threshold) == permuted.mirror(threshold)


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_scores_equal_a_count_in_plain_python(seed):
    iterations = random_iterations(seed, 3)
    scores = scored(iterations)
    for threshold in THRESHOLDS:
        for name in scores.layers:
            below = above = 0
            for gradients in iterations:
                rows = gradients[name].double().numpy()
                for i in range(3):
                    for j in range(i + 1, 3):
                        cosine = rows[i] @ rows[j] / np.linalg.norm(rows[i]) / np.linalg.norm(rows[j])
                        below, above = below + (cosine < threshold), above + (cosine > -threshold)
            assert scores.scores(threshold)[name] == below and scores.mirror(threshold)[name] == above
    assert scores.scores(0.0).keys() == {"layer0", "layer1", "layer2"}


def test_weight_and_bias_of_a_module_are_one_vector():
    """The cosine of a layer is that of weight and bias together, whatever each says alone."""

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1))

    model = linear_model([1], 2)
    model.trunk.parts[0] = Layer()
    features = torch.cat([model.trunk.parts[0].weight, model.trunk.parts[0].bias])
    losses = linear_losses(model, features, [[1.0, 0.0, -3.0], [1.0, 0.0, 1.0]])
    balancer = step_of("equal", model, observed=True)
    balancer.backward(losses)
    found = balancer.gradients
    assert list(found.layers) == ["trunk.parts.0"]
    assert torch.equal(found.layers["trunk.parts.0"], matrix_of([1.0, 0, -3], [1, 0, 1]))
    scores = ConflictScores(["trunk.parts.0"], 2)
    scores.update(found)
    assert scores.scores(0.0) == {"trunk.parts.0": 1}  # the bias decides; the weights alone agree


# --- blocks and the null


def test_blocks_hold_their_own_iterations():
    iterations = random_iterations(0, 7)
    scores = scored(iterations, block=3)
    counts = scores.counts()
    assert counts.shape == (3, 2, 4, 3, 3) and counts.dtype == np.int64
    parts = [scored(iterations[a:b]).counts()[0] for a, b in ((0, 3), (3, 6), (6, 7))]
    assert np.array_equal(counts, np.stack(parts))
    assert scored(iterations).counts().shape[0] == 1  # blocks of 50 by default
    assert scored(random_iterations(0, 51, sizes=(2,))).counts().shape[0] == 2


# --- errors


def test_arguments_and_gradients_out_of_range():
    with pytest.raises(ValueError, match="two tasks or more, got num_tasks=1"):
        ConflictScores(["A"], 1)
    for threshold in (0.1, -1, -1.5, float("nan")):
        with pytest.raises(ValueError, match=r"\(-1, 0\]"):
            ConflictScores(["A"], 2, (0.0, threshold))
    scores = ConflictScores(["A", "B"], 2)
    with pytest.raises(ValueError, match="no gradient for the layers B; there are A, X"):
        scores.update({"A": torch.eye(2), "X": torch.eye(2)})
    for read in (scores.scores, scores.mirror, scores.ranking, scores.at):
        with pytest.raises(ValueError, match="-0.05 was not counted; counted are"):
            read(-0.05)
    assert scores.iterations == 0 and scores.scores(0.0) == {"A": 0, "B": 0}
    assert scores.counts().shape == (0, 2, 2, 2, 1) and scores.counts().dtype == np.int64
    assert ConflictScores(["A"], 4).counts().shape == (0, 2, 2, 1, 6)


def test_a_wrong_number_of_tasks_is_refused():
    scores = ConflictScores(["A"], 3)
    with pytest.raises(ValueError, match=r"3 tasks.*got \[2\]"):
        scores.update({"A": torch.eye(2)})


def test_nan_in_a_mapping_raises_and_counts_nothing():
    scores = scored(random_iterations(0, 2))
    before = scores.counts()
    with pytest.raises(NonFiniteGradientError, match="NaN"):
        scores.update(
            dict(
                ITERATIONS[0],
                layer0=torch.full((3, 3), float("nan")),
                layer1=torch.zeros(3, 5),
                layer2=torch.zeros(3, 2),
            )
        )
    assert scores.iterations == 2 and np.array_equal(scores.counts(), before)


# --- in a training loop of one's own


class Balancer:
    """What `attach` needs of a Balancer."""

    def __init__(self):
        self.observers = []

    def step(self, layers):
        names = [f"{name}.weight" for name in layers]
        matrix = torch.cat(list(layers.values()), dim=1) if layers else torch.zeros(3, 0)
        for observer in self.observers:
            observer(TaskGradients(matrix, layers, names, {}))


def test_attached_it_finds_layers_and_tasks():
    balancer, iterations = Balancer(), random_iterations(3, 4)
    scores = ConflictScores(thresholds=THRESHOLDS).attach(balancer)
    assert isinstance(scores, ConflictScores) and balancer.observers == [scores]
    with pytest.raises(ValueError, match=r"0.0 was not counted; counted are .* in 0 layers"):
        scores.ranking(0.0)
    for gradients in iterations:
        balancer.step(gradients)
    expected = scored(iterations)
    assert (scores.layers, scores.num_tasks, scores.iterations, scores.skipped) == (expected.layers, 3, 4, 0)
    assert np.array_equal(scores.counts(), expected.counts())
    fresh = ConflictScores(thresholds=THRESHOLDS)
    fresh.load_state_dict(scores.state_dict())
    assert fresh.ranking(-0.1) == scores.ranking(-0.1)
    fresh.update(iterations[0])
    assert fresh.iterations == 5 and scores.iterations == 4


def test_steps_without_all_tasks_are_not_counted():
    iterations = random_iterations(4, 5)
    two = [{name: J[:2] for name, J in gradients.items()} for gradients in iterations]
    one = {name: J[:1] for name, J in iterations[0].items()}
    balancer, given = Balancer(), Balancer()
    scores = ConflictScores(thresholds=THRESHOLDS).attach(balancer)
    known = ConflictScores(list(iterations[0]), 3, THRESHOLDS).attach(given)
    for gradients in (one, two[0], two[1], iterations[0], two[2], {}, iterations[1]):
        balancer.step(gradients)
        given.step(gradients)
    expected = scored(iterations[:2])
    for found in (scores, known):
        assert (found.iterations, found.skipped, found.num_tasks) == (2, 5, 3)
        assert np.array_equal(found.counts(), expected.counts())
    with pytest.raises(ValueError, match=r"3 tasks need as many rows in each layer, got \[4\]"):
        given.step({name: torch.cat([J, J[:1]]) for name, J in iterations[0].items()})
    for wrong, message in ((one, r"2 tasks .*got \[1\]"), ({}, r"2 tasks .*got \[\]")):
        with pytest.raises(ValueError, match=message):
            ConflictScores().update(wrong)


def test_a_layer_of_several_modules_is_one_vector():
    """Names as in `recon.candidate_layers`: attention owns some parameters, and a module in it owns others."""
    parts = dict(zip(["block.attention", "block.attention.out", "block", "blocks.0"], [2, 3, 4, 5], strict=True))
    gradients = random_iterations(5, 1, sizes=tuple(parts.values()))[0]
    gradients = dict(zip(parts, gradients.values(), strict=True))
    whole = torch.cat([gradients["block.attention"], gradients["block.attention.out"]], dim=1)
    scores = ConflictScores(["block.attention", "blocks.0"], thresholds=THRESHOLDS)
    scores.update(gradients)
    expected = scored([{"block.attention": whole, "blocks.0": gradients["blocks.0"]}])
    assert np.array_equal(scores.counts(), expected.counts())
    of_model = ConflictScores(["block.attention", "blocks.0"], 3, THRESHOLDS)
    of_model.update({f"trunk.{name}": J for name, J in gradients.items()})
    assert np.array_equal(of_model.counts(), expected.counts())


def test_long_gradients_are_summed_exactly():
    """Ten million float32 columns: one product is wrong by 5e-4 of itself, sums of chunks are not."""
    draw = torch.Generator().manual_seed(0)
    matrix = torch.randn(2, 60 * CHUNK + 7, generator=draw) * torch.rand(1, generator=draw)
    matrix[1] += 0.1 * matrix[0]
    exact = matrix.double() @ matrix.double().T
    torch.testing.assert_close(gram(matrix), exact, rtol=2e-6, atol=0)
    cosine = exact[0, 1] / (exact[0, 0] * exact[1, 1]).sqrt()
    torch.testing.assert_close(cosines(matrix)[0].double(), cosine, rtol=2e-6, atol=0)
