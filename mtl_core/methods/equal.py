r"""Equal weights, or joint training: the plain sum of the losses, $\sum_k L_k$. TorchJD's `Sum`."""

from torchjd import scalarization

from mtl_core.methods.registry import WEIGHTING, Method, register

register(Method("equal", "Equal weights", WEIGHTING, scalarization.Sum, "sum", "sum of the losses (joint training)"))
