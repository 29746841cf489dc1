"""Nine ways to train a narrow SegNet on synthetic scenes, indoor (three tasks) and street (two), in three streams.

The scenes are made up (`mtl_core.data.scenes`): what holds on them need not hold on NYUv2 or CityScapes, and no number
of this experiment stands in a row of those sets. They have the tasks of both, and one can train on them here.

*Hypotheses*, set down before any run. H1: equal weights are worse than single-task networks (Δm below 0) on indoor
scenes, where three losses of unequal size meet. H2: static weights, the sum of logs and the norm-equalised sum, which
all undo the losses' sizes, are better than equal weights there. H3: Recon's defaults, the 40 worst of 52 layers at
S = 0 in a search with equal weights, are better than none, on equal weights and on CAGrad. H4: CAGrad, SAM-GS and
RotoGrad are not better than static weights by more than the margin. On street scenes the same are exploratory.

*Estimand*: the difference of the expected Δm on test data of two procedures, a method with its search; Δm is the mean
over tasks of the mean relative change of a task's metrics against single-task networks of the same stream. *Unit*: the
stream, which has a search seed (100 + s) and two evaluation seeds (2 s, 2 s + 1), whose mean it takes; a seed
decides initial weights, batches and train images. *Margin*: 1 point of Δm. *Rule*: t intervals over the three streams,
Bonferroni over the contrasts of a kind, in the words of `paired.outcome`. With two degrees of freedom and, say, 0.3
points of standard deviation between streams a half-width is about 2 points: only large effects can be told.

*Search*: each row tries three rates at half of the epochs and takes the best mean ±log of its validation metrics;
static weights, L_k^-a with the stream's single-task validation losses, try a = 1/3, 2/3, 1 at the rate of equal
weights, which are a = 0. SAM-GS has the options and convention of the paper (γ = β₂ = 0.9), CAGrad c = 0.4. RotoGrad
rotates all four channels, alike at every pixel.

*Cost*: a pilot of 20 steps, before anything else was run, took 46 to 101 core-milliseconds for a step of 16 images,
more indoor than on streets; behind a split each task passes by itself. A run of 5,000 presentations is then 15 to 70
core-seconds with its evaluation, and all 351 runs, of which tries take half, about 2.5 core-hours.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log

import numpy as np

from mtl_lab import records
from mtl_lab.experiments.dense_tables import TASKS, UP
from mtl_lab.experiments.recon import ranked
from mtl_lab.experiments.registry import register_grid
from mtl_lab.protocol.table import delta_m
from mtl_lab.runs.run import Run
from mtl_lab.statistics.paired import PairedDifference, outcome, paired_difference
from mtl_lab.statistics.streams import at_once

NAME, KINDS, STREAMS, MARGIN = "dense_scenes", {"indoor": TASKS["nyuv2"], "street": TASKS["cityscapes"]}, 3, 1.0
RATES, POWERS, LAYERS, EVALUATIONS, SHORT_SEED = (1e-3, 3e-3, 1e-2), (1 / 3, 2 / 3, 1.0), 40, 2, 100
METHODS: dict[str, dict] = {
    "equal": {},
    "log_sum": {},
    "norm_equalised": {},
    "cagrad": {"method_options": {"c": 0.4}},
    "sam_gs": {"method_options": {"gamma": 0.9, "beta2": 0.9}, "convention": "samgs"},
    "rotograd": {"method_options": {"rotation_size": 4, "post_shape": [36, 48]}},
}
SPLIT = ("equal", "cagrad")
ROWS = ("static", *METHODS, *(f"{name} + Recon" for name in SPLIT))
CONTRASTS = {
    "H1": [("equal", None)],
    "H2": [(name, "equal") for name in ("static", "log_sum", "norm_equalised")],
    "H3": [(f"{name} + Recon", name) for name in SPLIT],
    "H4": [(name, "static") for name in ("cagrad", "sam_gs", "rotograd")],
}
SIZES = {"tiny": (160, 40, 80), "small": (2_500, 400, 800), "paper": (2_500, 400, 800)}  # train, validation, test


def score(record: Mapping) -> float:
    """Mean over tasks of the mean ±log of their validation metrics; -inf for a run that diverged."""
    if record["diverged"] is not None:
        return -float("inf")
    of = record["final"]["validation"]
    signed = [[(1 if up else -1) * log(max(of[t][m], 1e-12)) for m, up in UP[t].items()] for t in of]
    return float(np.mean([np.mean(values) for values in signed]))


@dataclass(frozen=True)
class DenseScenes:
    """Rows "KIND, STREAM, search", "KIND, STREAM, try, ROW" and "KIND, STREAM, ROW"; `seeds` counts streams."""

    profile: str = "small"
    seeds: int = STREAMS

    def base(self, kind: str) -> Run:
        sizes = dict(zip(("train", "validation", "test"), SIZES[self.profile], strict=True))
        schedule = {"epochs": 2, "batch_size": 16, "optimizer": "adam", "learning_rate": RATES[1], "decay": "cosine"}
        options = {"profile": self.profile, "kind": kind, **sizes}
        return Run("scenes", options, model="segnet", model_options={"width": 4}, schedule=schedule)

    def plan(self, records: Sequence[Mapping] = ()) -> dict[str, list[Run]]:
        """Row -> runs: searches and what tries rates first, then each row at its best."""
        rows, found = dict[str, list[Run]](), {record["identity"]: record for record in records}
        for stream in range(self.seeds):
            for kind in KINDS:
                rows |= {f"{kind}, {stream}, {name}": runs for name, runs in self.stream(kind, stream, found).items()}
        return rows

    def stream(self, kind: str, stream: int, found: Mapping[str, Mapping]) -> dict[str, list[Run]]:
        """One stream of one kind of scenes; found: identity -> record."""
        base, rows, best = self.base(kind), dict[str, list[Run]](), dict[str, Run]()
        half = max(base.schedule["epochs"] // 2, 1)

        def tries(name: str, runs: Iterable[Run]) -> None:
            """Try runs, and plan the best of them with the stream's seeds once all have a record."""
            short = [
                replace(r, schedule={**r.schedule, "epochs": half}, test=False, seed=SHORT_SEED + stream) for r in runs
            ]
            rows[f"try, {name}"] = short
            if all(r.identity in found for r in short):
                first = max(short, key=lambda r: score(found[r.identity]))
                best[name] = replace(first, schedule={**base.schedule, **rate_of(first)}, test=True)
                rows[name] = best[name].seeds(EVALUATIONS * stream + n for n in range(EVALUATIONS))

        def at_rates(run: Run) -> list[Run]:
            return [replace(run, schedule={**run.schedule, "learning_rate": rate}) for rate in RATES]

        search = replace(base, test=False, observe={"thresholds": [0.0]}, seed=SHORT_SEED + stream)
        rows["search"] = [search]
        for k, task in enumerate(KINDS[kind]):
            tries(f"single {task}", at_rates(replace(base, tasks=[k])))
        for name, options in METHODS.items():
            tries(name, at_rates(replace(base, method=name, **options)))
        if search.identity in found:
            layers = ranked(found[search.identity]["conflict"], 0.0)[:LAYERS]
            for name in SPLIT:
                run = replace(base, method=name, split=layers, **METHODS[name])
                tries(f"{name} + Recon", at_rates(run))
        if {"equal", *(f"single {task}" for task in KINDS[kind])} <= set(best):
            losses = np.array([self.loss(rows[f"try, single {task}"], task, found) for task in KINDS[kind]])
            weights = {a: records_rounded(losses**-a * len(losses) / (losses**-a).sum()) for a in POWERS}
            static = replace(base, method="static", schedule={**base.schedule, **rate_of(best["equal"])})
            tries("static", [replace(static, method_options={"weights": weights[a]}) for a in POWERS])
        return rows

    @staticmethod
    def loss(tried: Sequence[Run], task: str, found: Mapping[str, Mapping]) -> float:
        """The validation loss of the best single-task network of the stream."""
        record = max((found[run.identity] for run in tried), key=score)
        return record["final"]["validation"][task]["loss"]


def rate_of(run: Run) -> dict:
    return {"learning_rate": run.schedule["learning_rate"]}


def records_rounded(weights) -> list[float]:
    return records.rounded([float(w) for w in weights])


# --- what the records say


def scores(found: Sequence[Mapping], kind: str) -> dict[str, dict[int, float]]:
    """Row -> stream -> Δm on test data, the mean over the stream's evaluation seeds; only what is whole."""
    tests: dict[tuple[int, str], list[Mapping]] = {}
    for record in found:
        of, stream, row = record["row"].split(", ", 2)
        if of == kind and record["final"].get("test"):
            tests.setdefault((int(stream), row), []).append(record["final"]["test"])
    rows: dict[str, dict[int, float]] = {}
    for (stream, row), of_row in tests.items():
        alone = [tests.get((stream, f"single {task}"), []) for task in KINDS[kind]]
        if row in ROWS and len(of_row) == EVALUATIONS and all(len(of) == EVALUATIONS for of in alone):
            zero = {t: mean(of, t) for t, of in zip(KINDS[kind], alone, strict=True)}
            values = {t: mean(of_row, t) for t in KINDS[kind]}
            rows.setdefault(row, {})[stream] = delta_m(values, zero, {t: UP[t] for t in KINDS[kind]})
    return rows


def mean(tests: Sequence[Mapping], task: str) -> dict[str, float]:
    return {metric: float(np.mean([test[task][metric] for test in tests])) for metric in UP[task]}


def contrasts(rows: Mapping[str, Mapping[int, float]]) -> dict[str, tuple[PairedDifference, str]]:
    """ "H2: static − equal" -> its interval and the word for it; {} until all streams of all rows are whole."""
    if any(len(rows.get(row, ())) < STREAMS for row in ROWS):
        return {}
    level = at_once(sum(map(len, CONTRASTS.values())))
    found = {}
    for name, pairs in CONTRASTS.items():
        for a, b in pairs:
            zero = np.zeros(STREAMS) if b is None else [rows[b][s] for s in range(STREAMS)]
            d = paired_difference([rows[a][s] for s in range(STREAMS)], zero, level)
            found[f"{name}: {a} − {b or 'single-task'}"] = d, outcome(d.low, d.high, MARGIN)
    return found


def counted(found: Sequence[Mapping], streams: int = STREAMS) -> str:
    """ "n of N" runs, those that try rates included."""
    each = len(RATES) + EVALUATIONS
    return f"{len(found)} of {streams * sum(1 + each * (len(tasks) + len(ROWS)) for tasks in KINDS.values())}"


def told(kind: str, profile: str = "small", root=records.ROOT) -> list[list[str]]:
    """A line for each row of one kind of scenes: Δm by stream, or how many streams are here."""
    rows = scores(records.load(NAME, profile, root), kind)
    lines = []
    for row in ROWS:
        of = rows.get(row, {})
        mean = f"{np.mean([*of.values()]):+.1f}" if len(of) == STREAMS else f"{len(of)} of {STREAMS} streams"
        lines.append([row, *(f"{of[s]:+.1f}" if s in of else "–" for s in range(STREAMS)), mean])
    return lines


register_grid(NAME, DenseScenes)
