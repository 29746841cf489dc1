"""RotoGrad's tables on CIFAR-10 as ten tasks (Table 1) and on two house numbers side by side (Table 2, right half).

    make run PAGE=rotograd_objects P="profile=paper data_root=FOLDER"            and, for SVHN, data=svhn too

The images are the user's (`python -m mtl_core.data status`); without them the page trains a *stand-in*: the ten classes
of Fashion-MNIST for CIFAR-10, two digits of MNIST for SVHN.

*What is ours*: optimizer, rate, epochs and batch, the network of SVHN and how its images are paired are in an appendix
that we do not have. So is the reported epoch: here it is the last one. CIFAR-10 has no augmentation here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mtl_lab.experiments.registry import register_grid
from mtl_lab.runs.build import load_problem
from mtl_lab.runs.run import Run

SINGLE = "single-task"
SCHEDULE = {"batch_size": 128, "optimizer": "adam", "learning_rate": 1e-3, "decay": "cosine"}
SETTINGS = {  # data set -> network, features that are rotated, epochs; and of the stand-in
    "cifar10": {
        "real": Run("cifar10", model_options={"channels": 3, "features": None}, schedule={**SCHEDULE, "epochs": 50}),
        "stand-in": Run(
            "ten_classes",
            {"profile": "tiny", "train": 720},
            model="lenet",
            model_options={"size": 28, "features": 64},
            schedule={**SCHEDULE, "epochs": 3, "batch_size": 60, "learning_rate": 3e-3},
        ),
        "sizes": (512, 64),  # all features, of the set and of its stand-in
    },
    "svhn": {
        "real": Run(
            "svhn",
            model="lenet",
            model_options={"channels": 3, "size": [32, 64], "features": 50},
            schedule={**SCHEDULE, "epochs": 50},
        ),
        "stand-in": Run(
            "two_digits",
            {"profile": "tiny", "train": 1000},
            model="lenet",
            model_options={"features": 50},
            schedule={**SCHEDULE, "epochs": 3, "batch_size": 100, "learning_rate": 3e-3},
        ),
        "sizes": (50, 50),
    },
}
PLAIN = {  # printed title -> method
    "Vanilla": "equal",
    "GradDrop": "graddrop",
    "PCGrad": "pcgrad",
    "MGDA": "mgda",
    "GradNorm": "gradnorm",
    "IMTL-G": "imtl_g_features",
}


@dataclass(frozen=True)
class Objects:
    """The rows of one table: those of `PLAIN`, IMTL-G with rotations as layers, and RotoGrad of several sizes.

    data     "cifar10" or "svhn".
    methods  of the registry; None: all rows. "rotograd" has a row for each size m.
    stand_in, profile, seeds, epochs, root, single  as in `celeba.Celeba`; the papers have 5 seeds and 10.
    """

    profile: str = "paper"
    seeds: int = 5
    data: str = "cifar10"
    methods: Sequence[str] | None = None
    epochs: int | None = None
    root: str | None = None
    single: bool = True
    stand_in: bool = False

    @property
    def base(self) -> Run:
        if self.stand_in:
            run = SETTINGS[self.data]["stand-in"]
        else:
            options = {"profile": self.profile} | ({"root": self.root} if self.root else {})
            run = replace(SETTINGS[self.data]["real"], problem_options=options)
        schedule = run.schedule | ({"epochs": self.epochs} if self.epochs else {})
        if self.root and not self.stand_in:  # a part of the set may be smaller than a batch
            schedule = {**schedule, "batch_size": min(schedule["batch_size"], len(load_problem(run).train))}
        return replace(run, schedule=schedule)

    @property
    def sizes(self) -> dict[str, int]:
        """Printed title of RotoGrad's rows -> m; of SVHN there is one, of CIFAR-10 four: an eighth to all features."""
        largest = SETTINGS[self.data]["sizes"][self.stand_in]
        if self.data == "svhn":
            return {"RotoGrad": largest}
        return {f"RotoGrad: m={512 // part}": largest // part for part in (8, 4, 2, 1)}

    def rows(self) -> dict[str, list[Run]]:
        """Printed title -> runs; "single-task" has one a task and seed."""
        found = {title: replace(self.base, method=name) for title, name in PLAIN.items()}
        if self.data == "cifar10":
            layer = {**self.base.model_options, "rotation_size": SETTINGS["cifar10"]["sizes"][self.stand_in]}
            title = "IMTL-G: rotations trained on the task losses"
            found[title] = replace(self.base, method="imtl_g", model_options=layer)
        for title, size in self.sizes.items():
            found[title] = replace(self.base, method="rotograd", method_options={"rotation_size": size})
        if self.methods is not None:
            known = {run.method for run in found.values()}
            if not known & set(self.methods):
                raise ValueError(f"none of {', '.join(self.methods)} is a row; there are {', '.join(sorted(known))}")
            found = {title: run for title, run in found.items() if run.method in self.methods}
        rows = {title: run.seeds(range(self.seeds)) for title, run in found.items()}
        if self.single:
            tasks = range(10 if self.data == "cifar10" else 5)
            rows[SINGLE] = [one for k in tasks for one in replace(self.base, tasks=[k]).seeds(range(self.seeds))]
        return rows

    def plan(self, records: Sequence[Mapping] = ()) -> dict[str, list[Run]]:
        return self.rows()


def values(records: Sequence[Mapping]) -> dict[str, np.ndarray]:
    """Task -> its metric on test data, one number a record that has it; of the pixels' task the squared error."""
    found: dict[str, list[float]] = {}
    for record in records:
        for task, of in record["final"]["test"].items():
            metric = of["loss"] if task == "active pixels" else next(x for name, x in of.items() if name != "loss")
            found.setdefault(task, []).append(metric)
    return {task: np.array(numbers, dtype=float) for task, numbers in found.items()}


def changes(of: Mapping[str, np.ndarray], single: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Task -> relative change against the single-task network in percent, positive is better; means over seeds.

    Without the task of the pixels, as in the paper, and without tasks whose single-task network has a metric of 0.
    """
    found = {}
    for task, numbers in of.items():
        base = single[task].mean() if task in single else 0.0
        if task != "active pixels" and base > 0:
            change = 100 * (numbers.mean() - base) / base
            found[task] = -change if task == "sum" else change  # of the sum it is an error
    return found


register_grid("rotograd_objects", Objects)
