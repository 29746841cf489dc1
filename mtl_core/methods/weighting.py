# SHIM: removed by the lead
# ruff: noqa: F401, I001
from mtl_core.methods.dwa import DWA
from mtl_core.methods.famo import FAMO
from mtl_core.methods.geometric_mean import GeometricMean
from mtl_core.methods.gradnorm import GradNorm
from mtl_core.methods.imtl_l import IMTLL
from mtl_core.methods.stch import STCH
from mtl_core.methods.uncertainty import Uncertainty
