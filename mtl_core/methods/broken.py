r"""A sum that is wrong on purpose, a control: a table that does not call it different cannot be trusted."""

from collections.abc import Sequence

from torch import Tensor
from torchjd import aggregation

from mtl_core.methods.registry import AGGREGATION, Method, register


class Broken(aggregation.Aggregator):
    r"""The weighted sum $\sum_k w_k g_k$ with one task's shared gradient multiplied by `factor`; (K, D) -> (D,).

    weights  one number per task; None for ones.

    As an aggregation it leaves the heads their tasks' raw gradients; static weights, a loss weighting, weigh them.
    """

    def __init__(self, weights: Sequence[float] | None = None, task: int = 0, factor: float = 0.1):
        super().__init__()
        self.weights, self.task, self.factor = weights, task, factor

    def forward(self, matrix: Tensor, /) -> Tensor:
        weights = matrix.new_ones(len(matrix)) if self.weights is None else matrix.new_tensor(self.weights)
        # The fault, then the sum:  w_task \leftarrow factor w_task;  \sum_k w_k g_k
        weights[self.task] *= self.factor
        return weights @ matrix


PURPOSE = "control: a table must call it different"
register(Method("broken", "Sum, one task × 0.1", AGGREGATION, Broken, "sum", PURPOSE))
