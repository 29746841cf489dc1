# SHIM: removed by the lead
# ruff: noqa: F401, I001
from mtl_core.recon import SplitError, _check_names, _forked_graph, _trace, candidate_layers, split_layers
