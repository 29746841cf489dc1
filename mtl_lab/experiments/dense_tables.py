"""The papers' tables on CityScapes, NYUv2 and PASCAL-Context, as they were published; and small, on synthetic scenes.

`make results EXPERIMENT=recon_table3 PROFILE=paper` trains the table with its published network, schedule and
convention on files that the user brings (`python -m mtl_core.data status`). Nothing is searched: rates are printed, and
none of the papers has a validation split, so that validation data are test images and select nothing. Another profile
trains a narrow network briefly; it is for a page's own run, on scenes unless `data` names a real set.

*Recon's tables*: seed by seed single-task networks and each method, and with Recon its split by a search with equal
weights. Sizes of the split are those that fit the printed sizes: 40 layers of SegNet; 13 of MTAN (the text says 22, the
released script 15; 13 alone gives the printed 169.59 MB); 85 of PASCAL's encoder. Single-task networks of MTAN's tables
are SegNets, by their printed size. "Recon*" takes the layers that the other set's search has found, once that is in
results/. *RotoGrad's table*: SegNet whose features are one vector an image, of which the first 1,024 entries rotate;
MGDA and IMTL-G at the features, where the paper has all methods; the others at the parameters. *SAM-GS's tables*: MTAN
under the conventions of its code, metrics over batches, the mean of the last ten epochs; γ and β₂ as printed (0.9).

What the papers leave open, and what is done: RotoGrad's rate, schedule and heads are those of Recon's NYUv2 table; the
losses of PASCAL-Context weigh alike; its trunk starts from `mobilenet_v2.pth` (torchvision's, on ImageNet) where that
file is in the folder of data sets, else from random weights. No network here: Cross-Stitch as a SegNet, BMTAS.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from mtl_core.data import CHECKS, data_root
from mtl_core.data.held import place
from mtl_lab import records
from mtl_lab.experiments import dense_conflict
from mtl_lab.experiments.recon import ranked
from mtl_lab.experiments.registry import register_grid
from mtl_lab.runs.run import Run

TASKS = {  # data set -> its tasks, in their order
    "nyuv2": ("semantic", "depth", "normals"),
    "cityscapes": ("semantic", "depth"),
    "pascal": ("semantic", "parts", "saliency", "normals"),
}
UP: dict[str, dict[str, bool]] = {  # task -> metric -> whether higher is better
    "semantic": {"mIoU": True, "pixel accuracy": True},
    "parts": {"mIoU": True, "pixel accuracy": True},
    "saliency": {"IoU": True},
    "depth": {"absolute error": False, "relative error": False},
    "normals": dict.fromkeys(("mean angle", "median angle"), False)
    | dict.fromkeys(("within 11.25°", "within 22.5°", "within 30°"), True),
}
KINDS = {"nyuv2": "indoor", "cityscapes": "street", "pascal": "indoor"}  # scenes in place of the set
SIZES = {"nyuv2": (288, 384), "cityscapes": (128, 256), "scenes": (36, 48)}
TITLES = {"nyuv2": "NYUv2", "cityscapes": "CityScapes", "pascal": "PASCAL-Context", "scenes": "synthetic scenes"}
WEIGHTS = "mobilenet_v2.pth"
SHORT = {"epochs": 1, "batch_size": 8, "optimizer": "adam", "learning_rate": 2e-3}  # of another profile than `paper`
ROTATED = 1_024  # entries of SegNet's features that RotoGrad rotates


def adam(rate: float, batch: int, epochs: int = 200, decay: Sequence[int] = (100,), factor: float = 0.5) -> dict:
    schedule = {"epochs": epochs, "batch_size": batch, "optimizer": "adam", "learning_rate": rate}
    return schedule | {"decay": list(decay), "factor": factor}


def of_recon(radius: float, rotograd: bool = False) -> dict[str, dict]:
    """Printed title -> what its run has; radius: CAGrad's."""
    rows = {"Joint": "equal", "MGDA": "mgda", "GradDrop": "graddrop", "PCGrad": "pcgrad", "CAGrad": "cagrad"}
    made: dict[str, dict] = {title: {"method": name, "convention": "recon"} for title, name in rows.items()}
    made["CAGrad"]["method_options"] = {"c": radius, "rescale": True}
    return made | ({"RotoGrad": rotation(0.1)} if rotograd else {})


def rotation(rate: float) -> dict:
    return {"method": "rotograd", "method_options": {"rotation_size": ROTATED, "rotation_rate": rate}}


def of_sam_gs(decay: float) -> dict[str, dict]:
    """Printed title -> what its run has; decay: that of FAMO's logits."""
    rows = "LS equal, SI log_sum, RLW rlw, DWA dwa, UW uncertainty, MGDA mgda, PCGrad pcgrad, GradNorm gradnorm"
    rows += ", GradDrop graddrop, CAGrad cagrad, IMTL-G imtl_g, Nash-MTL nash_mtl, FAMO famo, Aligned-MTL aligned_mtl"
    made: dict[str, dict] = {
        title: {"method": name, "convention": "samgs"} for title, name in map(str.split, rows.split(", "))
    }
    made["GradNorm"]["convention"] = "plain"  # the released code has no GradNorm, and steps no weights
    made["CAGrad"]["method_options"] = {"c": 0.4, "rescale": True}
    made["FAMO"]["method_options"] = {"decay": decay}
    options = {"gamma": 0.9, "beta2": 0.9}
    return made | {"SAM-GS": {"method": "sam_gs", "method_options": options, "convention": "samgs"}}


AT_FEATURES = {"MGDA": "mgda_ub", "IMTL-G": "imtl_g_features"}
OF_ROTOGRAD: dict[str, dict] = {
    title: {"method": AT_FEATURES.get(title, name)}
    for title, name in {"Vanilla": "equal", "GradDrop": "graddrop", "PCGrad": "pcgrad", "GradNorm": "gradnorm"}.items()
} | {title: {"method": name} for title, name in AT_FEATURES.items()}


@dataclass(frozen=True)
class Published:
    """One printed table and how it was made.

    paper, table  its printed numbers, `claims.printed_tables`.
    rows          printed title -> method, its options and convention.
    threshold     S of Recon's score; layers: how many are split; searched: epochs of the search. None: no Recon here.
    other         the table whose search gives the layers of "Recon*".
    cosines       the printed table of this network's cosines, with random layers too; quarters: that of layers by
                  quarter of a run. Those runs are of profile `paper`.
    over          what metrics of depth and normals are averaged over.
    last          number of last epochs of which the paper prints the mean; 1: the last.
    """

    paper: str
    table: int
    data: str
    network: str
    schedule: Mapping
    rows: Mapping[str, Mapping]
    threshold: float | None = None
    layers: int = 0
    searched: int = 40
    other: str | None = None
    cosines: int | None = None
    quarters: int | None = None
    over: str = "image"
    last: int = 1


CITY, NYU = ("cityscapes", "segnet", adam(5e-5, 8)), ("nyuv2", "segnet", adam(1e-4, 2))
PASCAL = adam(1e-4, 6, 130, (70, 100), 0.1)
PUBLISHED = {
    "recon_table3": Published("recon", 3, *CITY, of_recon(0.2, rotograd=True), 0.0, 40, cosines=8, quarters=13),
    "recon_table4": Published("recon", 4, "pascal", "mobilenet_raspp", PASCAL, of_recon(0.1), -0.02, 85, cosines=10),
    "recon_table5": Published("recon", 5, "nyuv2", "mtan", NYU[2], of_recon(0.4), -0.02, 13, cosines=9),
    "recon_table15": Published("recon", 15, *NYU, of_recon(0.4), -0.02, 40, other="recon_table3"),
    "recon_table16": Published(
        "recon", 16, "cityscapes", "mtan", CITY[2], of_recon(0.2), 0.0, 25, other="recon_table5"
    ),
    "rotograd_table3": Published("rotograd", 3, *NYU, OF_ROTOGRAD | {"RotoGrad": rotation(0.5)}),
    "sam_gs_table1": Published(
        "sam_gs", 1, "cityscapes", "mtan", adam(1e-4, 8), of_sam_gs(0.01), over="batch", last=10
    ),
    "sam_gs_table2": Published("sam_gs", 2, "nyuv2", "mtan", adam(1e-4, 2), of_sam_gs(0.001), over="batch", last=10),
}


def partial(name: str) -> dict[str, int]:
    """Split -> images, where the files that the user brought are a part of the published set; else {}.

    They are counted and not read, so that runs on a part never pass for runs on the whole.
    """
    folder = place(None, CHECKS[name])
    if name == "pascal":
        lists = {"train": folder / "ImageSets/Context/train.txt", "test": folder / "ImageSets/Context/val.txt"}
        there = {split: len(file.read_text().split()) for split, file in lists.items() if file.is_file()}
    else:
        images = {"train": folder / "train/image", "test": folder / "val/image"}
        there = {split: len([*of.glob("*.npy")]) for split, of in images.items() if of.is_dir()}
    return {} if there == dict(CHECKS[name].published) else {split: n for split, n in there.items() if n}


@dataclass(frozen=True)
class DenseTable:
    """A published table: rows "search", "single TASK", "METHOD", "METHOD + Recon", "METHOD + Recon*".

    Where there is a search, the first seed of "METHOD" and "METHOD + Recon" logs its cosines (`dense_conflict`).

    methods  names in the registry; None: those of the table.
    data     a set of `TASKS`, or "scenes"; None: the table's own at profile `paper`, else scenes.
    epochs   None: those of the profile.
    """

    published: ClassVar[Published]
    profile: str = "paper"
    seeds: int = 3
    methods: Sequence[str] | None = None
    data: str | None = None
    epochs: int | None = None
    own: Mapping = field(default_factory=dict)  # problem options that differ

    @property
    def on(self) -> str:
        return self.data or (self.published.data if self.profile == "paper" else "scenes")

    @property
    def tasks(self) -> tuple[str, ...]:
        kind = {"indoor": TASKS["nyuv2"], "street": TASKS["cityscapes"]}[KINDS[self.published.data]]
        return kind if self.on == "scenes" else TASKS[self.on]

    @property
    def base(self) -> Run:
        p, options = self.published, {"profile": self.profile}
        if self.on == "scenes":
            options |= {"kind": KINDS[p.data], "over": p.over}
        else:
            options |= partial(self.on) | ({} if self.on == "pascal" else {"over": p.over})
        schedule = {**(p.schedule if self.profile == "paper" else SHORT)}
        schedule |= {"epochs": self.epochs} if self.epochs else {}
        if self.on != "scenes" and (there := partial(self.on).get("train")):
            schedule["batch_size"] = min(schedule["batch_size"], there)
        return Run(
            self.on, options | self.own, model=p.network, model_options=self.network(p.network), schedule=schedule
        )

    def network(self, name: str) -> dict:
        if name != "mobilenet_raspp":
            return {} if self.profile == "paper" else {"width": 4}
        if self.profile != "paper":
            return {"width": 0.25}
        return {"weights": WEIGHTS} if (data_root() / WEIGHTS).is_file() else {}

    def search(self) -> Run:
        """The shared network with equal weights, its layers scored at every step; test data unread."""
        epochs = self.epochs or (self.published.searched if self.profile == "paper" else SHORT["epochs"])
        base = self.base
        observe = {"thresholds": [self.published.threshold]}
        return replace(base, schedule={**base.schedule, "epochs": epochs}, test=False, observe=observe)

    def plain(self) -> dict[str, Run]:
        """Method -> its run without Recon."""
        base, rows = self.base, {}
        for changes in self.published.rows.values():
            run = replace(base, **changes)
            if run.method == "rotograd":
                size = 128 if self.on == "scenes" else ROTATED  # of scenes too the first lines of a channel
                flat = {**run.model_options, "flat": list(SIZES[self.on])}
                run = replace(run, model_options=flat, method_options={**run.method_options, "rotation_size": size})
            rows[run.method] = run
        unknown = [name for name in self.methods or () if name not in rows]
        if unknown:
            raise ValueError(f"the table has no method {unknown[0]!r}; it has {', '.join(rows)}")
        return {name: run for name, run in rows.items() if self.methods is None or name in self.methods}

    def plan(self, records: Sequence[Mapping] = ()) -> dict[str, list[Run]]:
        """Row -> runs. Rows that log cosines are left out until the search is among the records."""
        p, plain, rows = self.published, self.plain(), dict[str, list[Run]]()
        base, alone = self.base, "segnet" if p.network == "mtan" else p.network
        if p.threshold is not None:
            rows["search"] = [self.search()]
        for k, task in enumerate(self.tasks):
            run = replace(base, tasks=[k], model=alone, model_options=self.network(alone))
            rows[f"single {task}"] = run.seeds(range(self.seeds))
        splits, log = self.splits(records), self.logged(records, self.search()) if "search" in rows else None
        init = "copy" if "weights" in base.model_options else "reinitialise"
        observe: dict = {"thresholds": [p.threshold], "quarters": True}
        if log:
            observe["restrict"] = [name for name in log["layers"] if name not in splits["Recon"]]
        for name, run in plain.items():
            if p.threshold is None or run.method == "rotograd":
                rows[name] = run.seeds(range(self.seeds))
            elif log:
                rows[name] = self.row(run, observe)
        for end, split in splits.items():
            for name, run in plain.items():
                if run.method != "rotograd":
                    run = replace(run, split=split, split_init=init)
                    rows[f"{name} + {end}"] = self.row(run, {})
        if log and self.profile == "paper" and "equal" in plain:
            joint = replace(plain["equal"], split_init=init)
            rows |= dense_conflict.random_rows(p.network, joint, splits["Recon"]) if p.cosines else {}
            if p.quarters and (whole_run := self.logged(records, rows["equal"][0])):
                quarters = dense_conflict.by_quarter(whole_run, float(p.threshold or 0), p.layers)
                rows |= dense_conflict.quarter_rows(joint, self.seeds, splits["Recon"], quarters)
        return rows

    def row(self, run: Run, observe: Mapping) -> list[Run]:
        """A run with each seed, the first of which logs its cosines."""
        return [replace(run, observe=observe), *run.seeds(range(1, self.seeds))]

    @staticmethod
    def logged(found: Sequence[Mapping], run: Run) -> Mapping | None:
        """What the record of a run has logged; None without it."""
        return next((record["conflict"] for record in found if record["identity"] == run.identity), None)

    def splits(self, found: Sequence[Mapping]) -> dict[str, list[str]]:
        """ "Recon" and "Recon*" -> the layers that each splits, as far as searches have records."""
        p, logs = self.published, dict[str, tuple[Mapping, Published]]()
        if p.threshold is not None and (log := self.logged(found, self.search())):
            logs["Recon"] = log, p
        if p.other and self.profile == "paper" and self.on == p.data:
            for record in records.load(p.other, self.profile):
                if record["row"] == "search" and whole(record):
                    logs["Recon*"] = record["conflict"], PUBLISHED[p.other]
        return {end: ranked(log, float(of.threshold or 0))[: of.layers] for end, (log, of) in logs.items()}


def whole(record: Mapping) -> bool:
    """Whether a record is of a real set, all of it: only then it stands beside a printed number."""
    return not record["source"]["synthetic"] and bool(record["source"].get("complete"))


for _name, _published in PUBLISHED.items():
    register_grid(_name, type(_name, (DenseTable,), {"published": _published}))
