# SHIM: removed by the lead
# ruff: noqa: F401, I001
from mtl_core.methods._state import RunningAverages as _Averages
from mtl_core.methods.db_mtl import DBMTL
from mtl_core.methods.moco import MoCo, onto_simplex
