"""Methods by name: what each is, where it comes from, what it reads, what scale it returns, its defaults.

Three kinds: *loss weighting* (K losses -> scalar), *gradient aggregation* ((K, D) -> (D,), any TorchJD `Aggregator`),
*feature rotation* (RotoGrad). Recon is none of them: it changes the architecture, then any method trains the result
(`mtl_core.methods.recon`). `METHODS` is the registry, `make` gives an instance, `combine` a step's gradients.
"""

from torchjd import aggregation, scalarization

from mtl_core.methods.averaging import DBMTL, MoCo
from mtl_core.methods.bargaining import fairgrad, nash_mtl
from mtl_core.methods.baselines import Broken, CAGrad, LogSum, NormEqualised, Static, pcgrad
from mtl_core.methods.by_gram import aligned_mtl, gradvac, imtl_g, mgda, mgda_ub, upgrad
from mtl_core.methods.combination import combine, update
from mtl_core.methods.conventions import CONVENTIONS, Convention
from mtl_core.methods.registry import ALIASES, KINDS, METHODS, Method, find, make, register
from mtl_core.methods.rotograd import RotateOnly, RotoGrad, RotoGradNorm, ScaleOnly
from mtl_core.methods.sam_gs import SAMGS
from mtl_core.methods.weighting import DWA, FAMO, IMTLL, STCH, GeometricMean, GradNorm, Uncertainty

__all__ = [
    "ALIASES", "CONVENTIONS", "KINDS", "METHODS", "SAMGS", "Convention", "Method",
    "RotateOnly", "RotoGrad", "RotoGradNorm", "ScaleOnly",
    "combine", "find", "make", "recon", "register", "update",
]  # fmt: skip

WEIGHTING, AGGREGATION = KINDS[:2]


def _row(name, title, kind, make, native_scale, paper, **more):
    register(Method(name, title, kind, make, native_scale, paper, **more))


# --- loss weightings

_row("equal", "Equal weights", WEIGHTING, scalarization.Sum, "sum", "sum of the losses (joint training)")
_row("static", "Static weights", WEIGHTING, Static, "sum", "weighted sum of the losses, weights searched")
_row("log_sum", "Sum of logs", WEIGHTING, LogSum, "sum", "Navon et al. 2022, arXiv 2202.01017")
_row("geometric_mean", "Geometric mean", WEIGHTING, GeometricMean, "mean", "Chennupati et al. 2019, arXiv 1904.08492")
_row("rlw", "Random weights (RLW)", WEIGHTING, scalarization.Random, "mean", "Lin et al. 2022, arXiv 2111.10603",
     random=True)  # fmt: skip
_row("dwa", "DWA", WEIGHTING, DWA, "sum", "Liu et al. 2019, arXiv 1803.10704",
     defaults={"temperature": (2.0, "section 4.1 of the paper"), "window": (25, "github.com/AvivNavon/nash-mtl")},
     presets={"nash-mtl": {"window": 25}, "famo": {"window": 25}})  # fmt: skip
_row("uncertainty", "Uncertainty weights", WEIGHTING, Uncertainty, "sum", "Kendall et al. 2018, arXiv 1705.07115",
     own=True)  # fmt: skip
_row("gradnorm", "GradNorm", WEIGHTING, GradNorm, "sum", "Chen et al. 2018, arXiv 1711.02257",
     level="last layer", needs=("gradients", "losses"), own=True,
     defaults={"alpha": (1.5, "section 5 of the paper, NYUv2")})  # fmt: skip
_row("imtl_l", "IMTL-L", WEIGHTING, IMTLL, "sum", "Liu et al. 2021, ICLR", own=True)
_row("famo", "FAMO", WEIGHTING, FAMO, "mean", "Liu et al. 2023, arXiv 2306.03792",
     needs=("losses", "losses after the step"),
     defaults={"rate": (0.025, "github.com/Cranial-XIX/FAMO"), "decay": (1e-3, "section 5.2 of the paper")},
     presets={"famo": {"decay": 0.01}, "samgs": {"decay": 1e-3}})  # fmt: skip
_row("stch", "Smooth Tchebycheff", WEIGHTING, STCH, "mean", "Lin et al. 2024, arXiv 2402.19078",
     defaults={"mu": (0.1, "one of the four values that the paper tries")})  # fmt: skip

# --- gradient aggregations

_row("norm_equalised", "Norm-equalised sum", AGGREGATION, NormEqualised, "sum", "control")
_row("mgda", "MGDA", AGGREGATION, mgda, "mean", "Sener & Koltun 2018, arXiv 1810.04650", needs=("Gram matrix",))
_row("mgda_ub", "MGDA-UB", AGGREGATION, mgda_ub, "mean", "Sener & Koltun 2018, arXiv 1810.04650, section 3.3",
     level="features", needs=("Gram matrix",))  # fmt: skip
_row("pcgrad", "PCGrad", AGGREGATION, pcgrad, "sum", "Yu et al. 2020, arXiv 2001.06782",
     needs=("Gram matrix",), random=True)  # fmt: skip
_row("gradvac", "GradVac", AGGREGATION, gradvac, "sum", "Wang et al. 2021, arXiv 2010.05874",
     needs=("Gram matrix",), random=True, defaults={"beta": (0.5, "TorchJD and LibMTL")})  # fmt: skip
_row("graddrop", "GradDrop", AGGREGATION, aggregation.GradDrop, "sum", "Chen et al. 2020, arXiv 2010.06808",
     random=True)  # fmt: skip
_row("cagrad", "CAGrad", AGGREGATION, CAGrad, "mean", "Liu et al. 2021, arXiv 2110.14048",
     needs=("Gram matrix",), defaults={"c": (0.4, "run scripts of github.com/Cranial-XIX/CAGrad")},
     presets={"recon": {"c": 0.2, "rescale": True}, "nash-mtl": {"c": 0.4, "rescale": True},
              "famo": {"c": 0.4, "rescale": True}})  # fmt: skip
_row("imtl_g", "IMTL-G", AGGREGATION, imtl_g, "mean", "Liu et al. 2021, ICLR", needs=("Gram matrix",))
_row("imtl_g_features", "IMTL-G at the features", AGGREGATION, imtl_g, "mean", "Liu et al. 2021, ICLR",
     level="features", needs=("Gram matrix",))  # fmt: skip
_row("nash_mtl", "Nash-MTL", AGGREGATION, nash_mtl, "sum", "Navon et al. 2022, arXiv 2202.01017",
     needs=("Gram matrix",),
     presets={name: {"normalise": False} for name in ("nash-mtl", "famo", "samgs")})  # fmt: skip
_row("fairgrad", "FairGrad", AGGREGATION, fairgrad, "sum", "Ban & Ji 2024, arXiv 2402.15638",
     needs=("Gram matrix",), defaults={"alpha": (2.0, "run scripts of github.com/OptMN-Lab/fairgrad")})  # fmt: skip
_row("aligned_mtl", "Aligned-MTL", AGGREGATION, aligned_mtl, "mean", "Senushkin et al. 2023, CVPR",
     needs=("Gram matrix",))  # fmt: skip
_row("aligned_mtl_ub", "Aligned-MTL-UB", AGGREGATION, aligned_mtl, "mean", "Senushkin et al. 2023, CVPR",
     level="features", needs=("Gram matrix",))  # fmt: skip
_row("moco", "MoCo", AGGREGATION, MoCo, "mean", "Fernando et al. 2023, arXiv 2210.12624",
     defaults={"beta": (0.5, "LibMTL; over √t"), "gamma": (0.1, "LibMTL; over √t"),
               "rho": (0.0, "LibMTL")})  # fmt: skip
_row("db_mtl", "DB-MTL", AGGREGATION, DBMTL, "sum", "Lin et al. 2023, arXiv 2308.12029",
     needs=("gradients", "losses"), defaults={"beta": (0.9, "LibMTL")})  # fmt: skip
_row("upgrad", "UPGrad", AGGREGATION, upgrad, "mean", "Quinton & Rey 2024, arXiv 2406.16232", needs=("Gram matrix",))
_row("sam_gs", "SAM-GS", AGGREGATION, SAMGS, "sum", "Borsani et al. 2025, arXiv 2506.06130",
     defaults={"gamma": (0.1, "Algorithm 1"), "beta1": (0.9, "Algorithm 1"), "beta2": (0.99, "Algorithm 1")},
     presets={"samgs": {"gamma": 0.7, "beta2": 0.99}, "mtrl": {"gamma": 0.9, "variant": "reinforcement"}})  # fmt: skip
_row("broken", "Sum, one task × 0.1", AGGREGATION, Broken, "sum", "control: a table must call it different")

# --- feature rotations: made around a model's trunk and heads, with a rotation_size

for _name, _title, _make in (
    ("rotate_only", "RotateOnly", RotateOnly), ("scale_only", "ScaleOnly", ScaleOnly),
    ("rotograd", "RotoGrad", RotoGrad), ("rotograd_norm", "RotoGradNorm", RotoGradNorm),
):  # fmt: skip
    _row(_name, _title, KINDS[2], _make, "sum", "Javaloy & Valera 2022, arXiv 2103.02631", level="features",
         defaults={"rotation_rate": (0.5, "the paper's text: below the network's, such as half of it"),
                   "burn_in": (20, "github.com/adrianjav/rotograd 0.1.6")})  # fmt: skip
