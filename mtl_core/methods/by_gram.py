# SHIM: removed by the lead
# ruff: noqa: F401, I001
from mtl_core.methods._gramian import ByGram, SolverError, _OnUnitGram, cosine_form, square_root as _root, unit_gram
from mtl_core.methods.aligned_mtl import aligned_mtl
from mtl_core.methods.gradvac import _GradVac, gradvac
from mtl_core.methods.imtl_g import imtl_g
from mtl_core.methods.mgda import mgda, mgda_ub, min_norm_weights, nnls
from mtl_core.methods.upgrad import ExactProjector as _ExactProjector, _complementary, upgrad
