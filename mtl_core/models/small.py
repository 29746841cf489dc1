# SHIM: removed by the lead
# ruff: noqa: F401
from mtl_core.models.lenet import lenet
from mtl_core.models.mlp import mlp
