# SHIM: removed by the lead
# ruff: noqa: F401, I001
from mtl_core.methods.fairgrad import fairgrad
from mtl_core.methods.nash_mtl import STATIONARY, AlphaFairWeighting as _Bargain, _newton, alpha_fair_weights, nash_mtl
