"""Methods by name: what each is, where it comes from, what it reads, what scale it returns, its defaults.

There are three kinds. A *loss weighting* maps K losses to a scalar. A *gradient aggregation* maps the matrix of task
gradients (K, D) to one vector (D,); any TorchJD `Aggregator` is one. A *feature rotation* (RotoGrad) is a module around
trunk and heads. Recon is none of them: it changes the network, then any method trains the result (`mtl_core.recon`).

`METHODS` is the registry, `make` gives an instance, `mtl_core.Balancer` takes steps with it. Each method
lies in the file of its name, with its entry in the registry at the file's foot.
"""

# ruff: noqa: E402, F401 (the methods come before all else, in an order of their own; the imports are the public names)

from importlib import import_module

# The files of the methods, in the order in which METHODS, and so every page, lists them. Nothing else that this file
# imports may come first: it would register its own methods before them.
FILES = (
    "equal static log_sum geometric_mean rlw dwa uncertainty gradnorm imtl_l famo stch norm_equalised mgda pcgrad "
    "gradvac graddrop cagrad imtl_g nash_mtl fairgrad aligned_mtl moco db_mtl autoscale upgrad sam_gs broken rotograd"
)
for _file in FILES.split():
    import_module(f"mtl_core.methods.{_file}")

from mtl_core.methods._gramian import SolverError
from mtl_core.methods.conventions import CONVENTIONS, Convention, named
from mtl_core.methods.registry import ALIASES, KINDS, METHODS, ROTATION, Method, find, instance, make, register
from mtl_core.methods.rotograd import RotateOnly, RotoGrad, RotoGradNorm, ScaleOnly
from mtl_core.methods.sam_gs import SAMGS
