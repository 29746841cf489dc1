"""Recon on Multi-Fashion+MNIST as the paper runs it: a search run, then each method with and without the split."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mtl_core.recon import candidate_layers
from mtl_lab.experiments.registry import register_grid
from mtl_lab.runs.build import build_model, load_problem
from mtl_lab.runs.run import Run

# `paper` has the settings of Recon's authors (arXiv 2302.11289, appendix B and released code).
RECON = {
    "tiny": {
        "problem_options": {"profile": "tiny", "train": 1280},
        "model_options": {"width": 8},
        "schedule": {"epochs": 2, "batch_size": 64, "learning_rate": 0.05, "decay": "cosine"},
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

# Options and convention of each row: those of the repository that published the method, where there are any.
# Each seed trains them in this order.
ROWS = {
    "equal": {},
    "pcgrad": {},
    "cagrad": {"method_options": {"c": 0.2, "rescale": True}, "convention": "recon"},
    "mgda": {},
    "graddrop": {},
    "sam_gs": {"method_options": {"gamma": 0.7, "beta2": 0.99}, "convention": "samgs"},
}


def ranked(log: Mapping, threshold: float) -> list[str]:
    """The layers in a conflict log by falling score at S = `threshold`; ties keep registration order."""
    scores = dict(zip(log["layers"], log["scores"][str(threshold)], strict=True))
    return sorted(scores, key=scores.__getitem__, reverse=True)


def random_sets(sizes: Mapping[str, int], split: Sequence[str], draw: int) -> dict[str, list[str]]:
    """The paper's random layers: "RSL", as many as Recon's `split`, "RSP", the fewest with more parameters.

    Both are the start of a permutation by NumPy's legacy generator, with the draw as its seed. sizes: layer ->
    parameters, in registration order.
    """
    layers, most = [*sizes], sum(sizes[name] for name in split)
    order = [layers[i] for i in np.random.RandomState(draw).permutation(len(layers))]
    totals = np.cumsum([sizes[name] for name in order])
    return {"RSL": order[: len(split)], "RSP": order[: int((totals > most).argmax()) + 1]}


@dataclass(frozen=True)
class ReconExperiment:
    """Recon on Multi-Fashion+MNIST: a search run, then each method with and without the split, each with every seed.

    profile    "tiny", "small" or "paper": data, network, schedule (`RECON`).
    methods    names in the registry, one row each.
    seeds      their number; they count from 0.
    epochs     None: those of the profile.
    threshold  S of the layer score.
    layers     number of layers of which each task gets a copy, worst first.
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
        for name, least in (("seeds", 1), ("epochs", 1), ("layers", 0)):
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise ValueError(f"{name} is at least {least}, got {getattr(self, name)}")
        if not self.methods or not -1 < self.threshold <= 0:
            raise ValueError(f"expected methods and a threshold in (-1, 0], got {self.methods}, {self.threshold}")

    @property
    def base(self) -> Run:
        settings = RECON[self.profile]
        schedule = dict(settings["schedule"]) | ({"epochs": self.epochs} if self.epochs else {})
        return Run("multi_fashion_mnist", **(settings | {"schedule": schedule}))

    def search(self) -> Run:
        """The shared network, trained with equal weights, its layers scored at every step; test data unread."""
        epochs = self.epochs or SEARCH_EPOCHS.get(self.profile, self.base.schedule["epochs"])
        thresholds = sorted({0.0, -0.02, -0.05, self.threshold}, reverse=True)
        schedule = {**self.base.schedule, "epochs": epochs}
        return replace(self.base, schedule=schedule, test=False, observe={"thresholds": thresholds})

    def ranking(self, record: Mapping) -> list[str]:
        """All layers by falling score in the search run's record; ties keep registration order."""
        return ranked(record["conflict"], self.threshold)

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
        """Row name -> runs: the search alone until it is among the records, then all."""
        scored = [record for record in records if record["row"] == "search"]
        if not scored:
            return {"search": [self.search()]}
        rows = {"search": [self.search()], "single-task": self.single_task()}
        for (method, with_recon), runs in self.rows(self.split(scored[0])).items():
            rows[method + (" + Recon" if with_recon else "")] = runs
        return rows

    def all_layers(self) -> list[str]:
        return candidate_layers(build_model(self.base, load_problem(self.base)))


register_grid("recon_multi_fashion_mnist", ReconExperiment)
