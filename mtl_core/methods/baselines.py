# SHIM: removed by the lead
# ruff: noqa: F401, I001
from mtl_core.methods.broken import Broken
from mtl_core.methods.cagrad import CAGrad, _CAGradWeighting
from mtl_core.methods.log_sum import LogSum
from mtl_core.methods.norm_equalised import NormEqualised
from mtl_core.methods.pcgrad import pcgrad
from mtl_core.methods.static import Static
