r"""Random loss weighting: new random weights in every step.

$\sum_k w_k L_k$ with $w = \mathrm{softmax}(x)$, $x_k \sim N(0, 1)$; (K,) losses -> scalar. TorchJD's `Random`.
Source: Lin et al., TMLR 2022, arXiv 2111.10603, Algorithm 2.
"""

from torchjd import scalarization

from mtl_core.methods.registry import WEIGHTING, Method, register

PAPER = "Lin et al. 2022, arXiv 2111.10603"
register(Method("rlw", "Random weights (RLW)", WEIGHTING, scalarization.Random, "mean", PAPER, random=True))
