"""TorchJD's property tests of aggregators, restated for every aggregation of the registry, in float32 as there.

Its matrices: of any rank, and Pareto stationary (weights > 0 under which the gradients cancel), weakly so (weights of
some tasks alone), or not; with more tasks than parameters and fewer.
"""

import pytest
import torch
from test_methods_properties import NAMES, SYMMETRIC, method_of
from torch.nn.functional import normalize

from mtl_core.gradients import NonFiniteGradientError

DRAWS = torch.Generator().manual_seed(0)
ORDINARY = [(1, 1, 1), (4, 3, 1), (4, 3, 2), (4, 3, 3), (9, 11, 5), (9, 11, 9)]  # tasks, parameters, rank
LARGER = [(20, 10, 10), (20, 10, 5), (20, 10, 1), (20, 100, 1), (20, 100, 19)]


def normal(*shape):
    return torch.randn(*shape, generator=DRAWS)


def beside(Q):
    """An orthonormal basis of what is at right angles to the columns of Q, (m, k) -> (m, m - k)."""
    m, k = Q.shape
    A = normal(m, m - k)
    return torch.linalg.qr(A - Q @ (Q.T @ A)).Q


def with_left_vectors(U, columns, rank):
    V = beside(torch.zeros(columns, 0))
    return U[:, :rank] @ torch.diag(normal(rank).abs()) @ V[:, :rank].T


def any_matrix(tasks, columns, rank):
    return with_left_vectors(beside(torch.zeros(tasks, 0)), columns, rank)


def stationary(tasks, columns, rank):
    return with_left_vectors(beside(normalize(normal(tasks, 1).abs(), dim=0)), columns, rank)


def weakly_stationary(tasks, columns, rank):
    u, first = normal(tasks).abs(), torch.randperm(tasks, generator=DRAWS) < tasks // 2
    cancel, others = normalize(u * first, dim=0), normalize(u * ~first, dim=0)
    return with_left_vectors(torch.cat([others[:, None], beside(torch.stack([cancel, others], 1))], 1), columns, rank)


def not_stationary(tasks, columns, rank):
    u = normalize(normal(tasks, 1).abs(), dim=0)
    return with_left_vectors(torch.cat([u, beside(u)], 1), columns, rank)


MATRICES = {("any", shape): any_matrix(*shape) for shape in ORDINARY}
MATRICES |= {(f.__name__, d): f(*d) for f in (stationary, weakly_stationary, not_stationary) for d in LARGER}
NEARLY_CANCEL = ("nash_mtl", "fairgrad")  # their weights grow without bound towards a weakly stationary point


def update(name, J):
    torch.manual_seed(0)
    return method_of(name, len(J))(J)


@pytest.mark.parametrize("name", NAMES)
def test_structure(name):
    for (kind, shape), J in MATRICES.items():
        for scale in (0.0, 1e-10, 1.0, 1e3, 1e5, 1e10, 1e15):
            try:
                found = update(name, scale * J)
            except NonFiniteGradientError as error:
                assert name == "sam_gs" and scale > 1e9 and "quadratic" in str(error)
                continue
            assert found.shape == (shape[1],) and found.isfinite().all(), (kind, shape, scale)


@pytest.mark.parametrize("name", [n for n in SYMMETRIC if n != "mgda"])  # Frank-Wolfe stops on the way
def test_order(name):
    for (kind, shape), J in MATRICES.items():
        if name in NEARLY_CANCEL and kind == "weakly_stationary":
            continue
        one = update(name, J)
        for seed in range(5):
            order = torch.randperm(len(J), generator=torch.Generator().manual_seed(seed))
            torch.testing.assert_close(update(name, J[order]), one, rtol=1e-4, atol=1e-4, msg=f"{kind} {shape}")


@pytest.mark.parametrize("name", ["upgrad", "mgda_ub", "exact mgda"])
def test_no_conflict(name):
    for key, J in MATRICES.items():
        slopes = J @ update(name, J)
        assert slopes.clamp(max=0).norm() <= 4e-4 * (1 + slopes.norm()), key


@pytest.mark.parametrize("name", ["upgrad", "broken"])
def test_linear_in_the_tasks_own_scales(name):
    for key, J in MATRICES.items():
        for seed in range(5):
            one, other = torch.rand(2, len(J), 1, generator=torch.Generator().manual_seed(seed))
            expected = 0.3 * update(name, one * J) + 0.6 * update(name, other * J)
            found = update(name, (0.3 * one + 0.6 * other) * J)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4, msg=f"{key}")


def test_upgrad_rests_only_where_all_gradients_cancel():
    for (kind, shape), J in MATRICES.items():
        if kind != "any":
            assert (update("upgrad", J).norm() > 4e-3 * J.norm()) == (kind != "stationary"), (kind, shape)
