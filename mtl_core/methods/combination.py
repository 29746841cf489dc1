# SHIM: removed by the lead
# ruff: noqa: F401, I001
from mtl_core.methods.backward import combine, feature_matrix, gradients_read as _read, no_common_features
from mtl_core.methods.backward import task_weights, update, weigh_heads
