"""Forty attributes of faces: Recon's Table 2, RotoGrad's Table 4, SAM-GS's Table 3, as far as settings are known.

    make run PAGE=forty_attributes P="profile=paper data_root=FOLDER paper=recon"

trains the rows of one of them. The images are the user's (`python -m mtl_core.data status`); without them the page
trains a *stand-in*, forty attributes of composites of MNIST and Fashion-MNIST (`mtl_core/data/attributes.py`).

*What is ours*: Recon prints no batch size, RotoGrad's settings and convolutional network are in an appendix that we do
not have: theirs are SAM-GS's here. Recon's split is the set that its sizes say, the 25 layers of its released ranking.
The papers report the epoch that is best on validation data (SAM-GS) or do not say; here it is the last one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mtl_core.models.resnet import released_by_recon
from mtl_core.recon import candidate_layers
from mtl_lab.experiments.registry import register_grid
from mtl_lab.runs.build import build_model, load_problem
from mtl_lab.runs.run import Run

RESNET = {"model": "resnet18", "model_options": {"channels": 3, "features": None, "pool": 2}}
CNN = {"model": "celeba_cnn", "model_options": {}}
ADAM = {"batch_size": 256, "optimizer": "adam"}
SETTINGS = {  # paper, and network where it has two -> network, logits of a task, schedule
    "recon": (RESNET, 2, {**ADAM, "epochs": 5, "learning_rate": 5e-5, "decay": [3], "factor": 0.5}),
    "rotograd": (CNN, 1, {**ADAM, "epochs": 15, "learning_rate": 3e-4}),
    "rotograd-resnet18": (RESNET, 1, {**ADAM, "epochs": 15, "learning_rate": 3e-4}),
    "sam_gs": (CNN, 1, {**ADAM, "epochs": 15, "learning_rate": 3e-4}),
}
SINGLE = "single-task"


def _named(convention: str, **rows: tuple[str, dict]) -> dict[str, dict]:
    return {
        title.replace("_", "-"): {"method": name, "method_options": options, "convention": convention}
        for title, (name, options) in rows.items()
    }


def _rotograd(size: int) -> dict[str, dict]:
    plain = {"Vanilla": ("equal", {}), "GradDrop": ("graddrop", {}), "PCGrad": ("pcgrad", {})}
    more = {"GradNorm": ("gradnorm", {}), "IMTL_G": ("imtl_g_features", {})}
    return _named("plain", **plain, **more, RotoGrad=("rotograd", {"rotation_size": size}))


ROWS = {  # printed title -> method, options and convention; the options are those that the papers or codes state
    "recon": _named("plain", Joint=("equal", {}))
    | _named("recon", CAGrad=("cagrad", {"c": 0.1, "rescale": True}))
    | _named("plain", GradDrop=("graddrop", {}), PCGrad=("pcgrad", {})),
    "rotograd": _rotograd(256),
    "rotograd-resnet18": _rotograd(1536),
    "sam_gs": _named(
        "samgs",
        LS=("equal", {}),
        SI=("log_sum", {}),
        RLW=("rlw", {}),
        DWA=("dwa", {}),
        UW=("uncertainty", {}),
        MGDA=("mgda", {}),
        PCGrad=("pcgrad", {}),
        GradDrop=("graddrop", {}),
        CAGrad=("cagrad", {"c": 0.4, "rescale": True}),
        IMTL_G=("imtl_g", {}),
        Nash_MTL=("nash_mtl", {}),
        FAMO=("famo", {}),
        Aligned_MTL=("aligned_mtl", {}),
        SAM_GS=("sam_gs", {"gamma": 0.7, "beta2": 0.99}),
    ),
}


@dataclass(frozen=True)
class Celeba:
    """The rows of one table, or of all.

    profile  how many images; `paper` is all of them. The stand-in has `tiny` alone.
    seeds    counted from 0; the papers have three, RotoGrad one.
    papers   keys of `SETTINGS`.
    methods  of the registry; None: all rows.
    epochs   None: the settings'.
    root     folder of the data sets; None: as `mtl_core.data.load` finds it.
    single   the forty single-task networks too, without which there is no Δm.
    stand_in  train the stand-in in place of faces, with narrow networks.
    """

    profile: str = "paper"
    seeds: int = 3
    papers: Sequence[str] = tuple(SETTINGS)
    methods: Sequence[str] | None = None
    epochs: int | None = None
    root: str | None = None
    single: bool = True
    stand_in: bool = False

    def base(self, paper: str) -> Run:
        """The run of a table with equal weights; its batch is no larger than the data."""
        network, logits, schedule = SETTINGS[paper]
        options = {"profile": self.profile} | ({"root": self.root} if self.root else {})
        schedule = schedule | ({"epochs": self.epochs} if self.epochs else {})
        run = Run("celeba", {**options, "logits": logits}, schedule=schedule, **network)
        if self.stand_in:
            few = {"width": 4, "channels": 1} | ({"features": None, "pool": 2} if network is RESNET else {})
            schedule = schedule | {"batch_size": 50, "learning_rate": 3e-3, "epochs": self.epochs or 2}
            data = {"profile": "tiny", "train": 1000}
            return replace(run, problem="attributes", problem_options=data, model_options=few, schedule=schedule)
        if self.root:  # a part of the set may be smaller than a batch
            schedule = {**schedule, "batch_size": min(schedule["batch_size"], len(load_problem(run).train))}
        return replace(run, schedule=schedule)

    def rows(self, paper: str) -> dict[str, list[Run]]:
        """Printed title, with " + Recon" where it is split, -> runs; "single-task" has one a task and seed."""
        base, found = self.base(paper), {}
        wanted = {t: row for t, row in ROWS[paper].items() if self.methods is None or row["method"] in self.methods}
        if not wanted:
            known = ", ".join(row["method"] for row in ROWS[paper].values())
            raise ValueError(f"none of {', '.join(self.methods or ())} is a row of {paper}, which has {known}")
        for title, row in wanted.items():
            options = dict(row["method_options"])
            if self.stand_in and "rotation_size" in options:  # as large a part of the features
                options["rotation_size"] = options["rotation_size"] * 32 // 512
            run = replace(base, **(row | {"method_options": options}))
            found[title] = run.seeds(range(self.seeds))
            if paper == "recon":
                found[f"{title} + Recon"] = replace(run, split=self.layers(base)).seeds(range(self.seeds))
        if self.single:
            tasks = range(40)
            found[SINGLE] = [one for k in tasks for one in replace(base, tasks=[k]).seeds(range(self.seeds))]
        return found

    def layers(self, run: Run) -> list[str]:
        """The 25 layers that Recon's released ranking puts first."""
        return released_by_recon(candidate_layers(build_model(run, load_problem(run))))

    def plan(self, records: Sequence[Mapping] = ()) -> dict[str, list[Run]]:
        """ "PAPER: ROW" -> runs."""
        return {f"{p}: {title}": runs for p in self.papers for title, runs in self.rows(p).items()}


def scores(records: Sequence[Mapping]) -> dict[str, np.ndarray]:
    """Task -> its metric on test data, one number a record that has it: F1, or the error, both in percent."""
    found: dict[str, list[float]] = {}
    for record in records:
        for task, of in record["final"]["test"].items():
            found.setdefault(task, []).append(100 - of["accuracy"] if "accuracy" in of else of["F1"])
    return {task: np.array(values, dtype=float) for task, values in found.items()}


def summary(of: Mapping[str, np.ndarray], single: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Statistics over tasks of their means over seeds; "delta_m" where each single-task network is above 0.

    Its sign is that of the papers: positive is better for Recon's errors, negative for SAM-GS's F1.
    """
    values = np.array([of[task].mean() for task in of])
    found = {"min": values.min(), "median": np.median(values), "mean": values.mean(), "sd": values.std()}
    if set(of) <= set(single) and all(single[task].mean() > 0 for task in of):
        base = np.array([single[task].mean() for task in of])
        found["delta_m"] = float(100 * np.mean((base - values) / base))
    return found


register_grid("celeba", Celeba)
