"""The experiments of the book as grids of runs: the same for a notebook, `make results` and a test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from mtl_core import protocol, results
from mtl_core.data.qm9 import TARGETS
from mtl_core.methods.recon import candidate_layers
from mtl_core.runs import Run, build_model, load_problem

# Recon's own settings (arXiv 2302.11289, appendix B and released code) are those of `paper`.
RECON = {
    "tiny": {
        "problem_options": {"profile": "tiny", "train": 1280},
        "model_options": {"width": 8},
        "schedule": {"epochs": 3, "batch_size": 64, "learning_rate": 0.05, "decay": "cosine"},
    },
    "small": {
        "problem_options": {"profile": "small"},
        "model_options": {"width": 8},
        "schedule": {"epochs": 10, "batch_size": 256, "learning_rate": 0.05, "decay": "cosine"},
    },
    "paper": {
        "problem_options": {"profile": "paper"},
        "model_options": {"width": 64},
        "schedule": {"epochs": 120, "batch_size": 256, "learning_rate": 0.1, "decay": [60, 90]},
    },
}
SEARCH_EPOCHS = {"paper": 40}  # of `paper`'s 120: before the learning rate first falls; elsewhere the whole schedule

# How each row is run: the preset of the repository that published it, where the registry has one.
ROWS = {
    "equal": {},
    "mgda": {},
    "pcgrad": {},
    "graddrop": {},
    "cagrad": {"method_options": {"c": 0.2, "rescale": True}, "convention": "recon"},
    "sam_gs": {"method_options": {"gamma": 0.7, "beta2": 0.99}, "convention": "samgs"},
}


@dataclass(frozen=True)
class ReconExperiment:
    """Recon on Multi-Fashion+MNIST: a search run, then rows with and without the split, each with every seed.

    profile    "tiny", "small" or "paper": data, network, schedule (`RECON`).
    methods    rows of the table; names in the registry.
    seeds      how many, from 0.
    epochs     another length than the profile's, None to keep it.
    threshold  S of the layer score; layers: how many of the worst layers each task gets to itself.
    """

    profile: str = "tiny"
    methods: Sequence[str] = tuple(ROWS)
    seeds: int = 1
    epochs: int | None = None
    threshold: float = -0.1
    layers: int = 25

    def __post_init__(self):
        if self.profile not in RECON:
            raise ValueError(f"profile is one of {', '.join(RECON)}; got {self.profile!r}")
        if self.seeds < 1:
            raise ValueError(f"seeds counts from 1, got {self.seeds}")

    @property
    def base(self) -> Run:
        settings = RECON[self.profile]
        schedule = dict(settings["schedule"]) | ({"epochs": self.epochs} if self.epochs else {})
        return Run("multi_fashion_mnist", **(settings | {"schedule": schedule}))

    def search(self) -> Run:
        """The shared network, trained with equal weights, its layers scored at every step; test data unread."""
        epochs = self.epochs or SEARCH_EPOCHS.get(self.profile, self.base.schedule["epochs"])
        thresholds = sorted({0.0, -0.02, -0.05, self.threshold}, reverse=True)
        return replace(self.base, schedule={**self.base.schedule, "epochs": epochs}, test=False,
                       observe={"thresholds": thresholds})  # fmt: skip

    def ranking(self, record: Mapping) -> list[str]:
        """All layers by falling score in the search run's record; ties keep registration order."""
        scores = record["conflict"]["scores"][str(self.threshold)]
        order = sorted(range(len(scores)), key=lambda place: -scores[place])
        return [record["conflict"]["layers"][place] for place in order]

    def split(self, record: Mapping) -> list[str]:
        """The layers that Recon splits: the worst `layers` of the ranking."""
        return self.ranking(record)[: self.layers]

    def single_task(self) -> list[Run]:
        return [run for k in (0, 1) for run in replace(self.base, tasks=[k]).seeds(range(self.seeds))]

    def rows(self, split: Sequence[str]) -> dict[tuple[str, bool], list[Run]]:
        """(method, with Recon?) -> its runs, one per seed. Unsplit rows also log the cosine over the kept layers."""
        kept = [layer for layer in self.all_layers() if layer not in set(split)]
        rows = {}
        for name in self.methods:
            run = replace(self.base, method=name, **ROWS.get(name, {}))
            rows[name, False] = replace(run, observe={"restrict": kept}).seeds(range(self.seeds))
            rows[name, True] = replace(run, split=list(split), observe={}).seeds(range(self.seeds))
        return rows

    def plan(self, records: Sequence[Mapping]) -> dict[str, list[Run]]:
        """Row name -> runs, as far as the records made so far decide them: first the search, then the rest."""
        scored = [record for record in records if record["row"] == "search"]
        if not scored:
            return {"search": [self.search()]}
        rows = {name + (" + Recon" if was else ""): found
                for (name, was), found in self.rows(self.split(scored[0])).items()}  # fmt: skip
        return {"search": [self.search()], "single-task": self.single_task()} | rows

    def all_layers(self) -> list[str]:
        return candidate_layers(build_model(self.base, load_problem(self.base)))


@dataclass(frozen=True)
class TaskPairs:
    """QM9's targets by twos: each pair trained together with equal weights and logged, each target also alone.

    One network, schedule and rate for all: two heads or one, nothing else differs. The rate is the median of those
    that the search of the table `qm9` chose for the eleven single-task networks.
    """

    profile: str = "small"
    seeds: int = 10

    def plan(self, records: Sequence[Mapping] = ()) -> dict[str, list[Run]]:
        """Row, as in "alone mu" or "mu + alpha", -> one run per seed."""
        base = protocol.TABLES["qm9"](self.profile).base
        base = replace(base, schedule={**base.schedule, "learning_rate": 0.0056})
        names = list(TARGETS)
        rows = {f"alone {name}": replace(base, tasks=[k]) for k, name in enumerate(names)}
        rows |= {f"{names[i]} + {names[j]}": replace(base, tasks=[i, j], observe={"thresholds": [0.0], "every": 5})
                 for i, j in combinations(range(len(names)), 2)}  # fmt: skip
        return {name: run.seeds(range(self.seeds)) for name, run in rows.items()}


# The doses of ConflictDose: offset of the garment against the digit in pixels, and the network.
DOSES = {
    f"offset {offset}, width {width}": (offset, "resnet18", {"width": width})
    for offset in (8, 4, 0)
    for width in (4, 8, 16)
} | {
    "GroupNorm": (8, "resnet18", {"width": 8, "norm": "group"}),
    "constant width": (8, "resnet18", {"width": 8, "constant_width": True}),
    "LeNet": (8, "lenet", {}),
}


@dataclass(frozen=True)
class ConflictDose:
    """Multi-Fashion+MNIST with more or less overlap, in narrower and wider trunks, and in three other networks.

    Each dose trains both tasks together with equal weights, logging conflict, and each task alone, for half the
    length of the protocol's table. Rate and weight decay are those that the table's search chose for equal
    weights and for the single-task networks, at offset 8 and width 8 (before there is one: 0.05 and 0).
    """

    profile: str = "small"
    seeds: int = 5

    def plan(self, records: Sequence[Mapping] = ()) -> dict[str, list[Run]]:
        """Row, as in "together, DOSE", "digit, DOSE" and "garment, DOSE", -> one run per seed."""
        table = protocol.TABLES["multi_fashion_mnist"](self.profile)
        chosen = (results.search_of(table.name, self.profile) or {"rows": {}})["rows"]
        if not {"equal", "single digit", "single garment"} <= set(chosen):
            chosen = {}  # all of them or none: networks of another search could not be compared
        rows = {}
        for dose, (offset, model, options) in DOSES.items():
            base = replace(table.base, problem_options={**table.base.problem_options, "offset": offset}, model=model,
                           model_options=options)  # fmt: skip
            for label, name, change in (
                ("together", "equal", {"observe": {"thresholds": [0.0, -0.1], "every": 3}}),
                ("digit", "single digit", {"tasks": [0]}),
                ("garment", "single garment", {"tasks": [1]}),
            ):
                choice = chosen[name]["choice"] if name in chosen else {}
                own = {key: choice[key] for key in ("learning_rate", "weight_decay") if key in choice}
                schedule = base.schedule | own | {"epochs": max(1, base.schedule["epochs"] // 2)}
                rows[f"{label}, {dose}"] = replace(base, schedule=schedule, **change).seeds(range(self.seeds))
        return rows


@dataclass(frozen=True)
class ReconExchange:
    """Method and configuration taken apart: two rows of the table with Recon, each as the other's search chose.

    On Multi-Fashion+MNIST the rows of equal weights and of PCGrad with Recon differ in the method and in what ten
    draws have found for each: layers, S, rate, decay. Here each method trains on the other's configuration; the other
    half of the 2 x 2 is the table's own. Decided when seven of the table's ten seeds had been seen.
    """

    profile: str = "small"
    seeds: int = 3
    pair: tuple[str, str] = ("recon_equal", "recon_pcgrad")

    def plan(self, records: Sequence[Mapping] = ()) -> dict[str, list[Run]]:
        """Row, as in "recon_equal as recon_pcgrad" (method first), -> its runs; {} before the search is whole."""
        table = protocol.TABLES["multi_fashion_mnist"](self.profile)
        search = results.search_of(table.name, self.profile)
        if search is None or {row.name for row in table.searched()} - set(search["rows"]):
            return {}
        found = table.expected({name: entry["choice"] for name, entry in search["rows"].items()}, self.seeds)
        rows = {}
        for own, other in (self.pair, self.pair[::-1]):
            method = {key: getattr(found[own][0], key) for key in ("method", "method_options", "convention")}
            rows[f"{own} as {other}"] = [replace(run, **method) for run in found[other]]
        return rows


@dataclass(frozen=True)
class RotationRates:
    """RotateOnly on the digit problem with rotations that learn slower or faster than the network, and without them.

    After Figure 3 of RotoGrad's submission: the network's rate is the printed 1e-3; the other rates there, but for half
    of it, were not recovered. Data, network and the rest of the schedule are those of the table `two_digits`.
    """

    profile: str = "small"
    seeds: int = 20

    def plan(self, records: Sequence[Mapping] = ()) -> dict[str, list[Run]]:
        """Row, "no rotation" or the rotations' rate as a multiple of the network's, -> one run per seed."""
        table = protocol.TABLES["two_digits"](self.profile)
        plain = replace(table.base, schedule={**table.base.schedule, "learning_rate": 1e-3})
        size, rows = table.row("rotate_only").options, {"no rotation": plain}
        for rate in (0.125, 0.5, 1.0, 2.0, 8.0):
            options = {**size, "rotation_rate": rate}
            rows[f"{rate:g}"] = replace(plain, method="rotate_only", method_options=options)
        return {name: run.seeds(range(self.seeds)) for name, run in rows.items()}


EXPERIMENTS = {
    "recon_multi_fashion_mnist": ReconExperiment,
    "task_pairs": TaskPairs,
    "conflict_dose": ConflictDose,
    "recon_exchange": ReconExchange,
    "rotation_rates": RotationRates,
}
