# SHIM: removed by the lead
# ruff: noqa: F401, I001
from mtl_core.methods._state import LearnedParameters as OwnParameters, ShapedByLoading, check_positive as positive
