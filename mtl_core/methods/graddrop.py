r"""GradDrop: for each parameter pick a sign at random and keep the gradients of that sign. TorchJD's `GradDrop`.

With the sign purity $P = \frac12 (1 + \sum_k g_k / \sum_k |g_k|)$ and one uniform U per parameter, the update is
$\sum_k g_k \odot ([P > U][g_k > 0] + [P < U][g_k < 0])$; (K, D) -> (D,).
Source: Chen et al., NeurIPS 2020, arXiv 2010.06808, Algorithm 1, lines 10 to 15.
"""

from torchjd import aggregation

from mtl_core.methods.registry import AGGREGATION, Method, register

PAPER = "Chen et al. 2020, arXiv 2010.06808"
register(Method("graddrop", "GradDrop", AGGREGATION, aggregation.GradDrop, "sum", PAPER, random=True))
