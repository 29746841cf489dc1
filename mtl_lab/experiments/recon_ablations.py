"""Recon's ablations on Multi-Fashion+MNIST: what other choices of layers give, and what the logs of searches say.

*Choices*, each trained with CAGrad at width 8, as in the paper's figure of K and S: the paper's own random sets (Table
7: `RSL`, 25 layers; `RSP`, as many parameters as Recon's at the paper's width; draws 0, 1, 2), the first 25 layers and
the last 25 (Table 11, `FSK` and `LSK`: its caption has the two names the other way round), and from our search the
worst K = 5 … 35 layers at S = -0.1 and the worst 25 at other S; the 25 layers first by score minus mirror tail, and the
25 smallest, which need no gradient. In "…, released skip" a block that forks inside gives its skip connection to the
first task alone, as in the released code; only the sets in which that happens have this row. BatchNorms that a set
leaves shared stay shared, as published. Rates: the best of three common ones for the released set, with one rate for
all sets.

*Logs*, of one run each with joint training's rate: under five methods the search of the plain network, its cosine over
all layers and over those that Recon keeps (`restrict`), and the same methods with the released set, and joint training
with the first random sets: Table 6. Rankings by method: Table 14; by quarters of joint training: Table 12; a second
joint search says how far two seeds are apart. Processor time of a step: the first point of Figure 11, at two tasks.

*Estimands*: the released set minus each random or positional set, and each row of the sweeps minus the released set, by
Δm, paired over three seeds from 50 on; Holm within each table or figure. Three seeds: descriptive.

About 5.4 core-hours for 97 runs. A pilot of one epoch took 21 s of processor time with the released set, 18 s with the
last 25 layers, 17 s in a search; a training has ten epochs. To stay below six hours PCGrad's columns of Tables 7 and 11
are left out, and each log is of one run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations

import numpy as np
import torch

from mtl_core import models, recon
from mtl_core.models.resnet import released_by_recon
from mtl_lab import records
from mtl_lab.checks import Check
from mtl_lab.experiments.rate_choice import SEED, Numbers, choose, contrasts
from mtl_lab.experiments.recon import ROWS, ReconExperiment, random_sets, ranked
from mtl_lab.experiments.recon_table1 import FIRST, RATES, WORST, lacking
from mtl_lab.experiments.registry import register_grid, register_rule
from mtl_lab.runs.run import Run

NAME, SEEDS, CHANCE = "recon_ablations", 3, (41**2 - 1) / (3 * 41)  # CHANCE: mean distance of two random orders
METHODS = {"equal": "Joint", "cagrad": "CAGrad", "pcgrad": "PCGrad", "graddrop": "GradDrop", "mgda": "MGDA"}
KS, THRESHOLDS = range(5, 40, 5), (-0.15, -0.1, -0.05, 0.0)
RANDOM = [f"{kind} {draw}" for kind in ("RSL", "RSP") for draw in range(3)]
POSITIONS, SWEEP_S = ["FSK", "LSK"], [f"S {s:g}" for s in THRESHOLDS if s != -0.1]
SWEEP_K, OTHERS = [f"K {k}" for k in KS], ["score − mirror", "size"]
SKIPS = ("RSL 0", "RSL 1", "RSP 0", "RSP 1", "LSK")  # sets with a block that forks inside, its input not forked
QUARTERS = ("1st quarter", "2nd quarter", "3rd quarter", "4th quarter", "all iterations")


@cache
def sizes() -> dict[str, int]:
    """Layer -> number of parameters at the paper's width, in registration order."""
    with torch.device("meta"):
        model = models.resnet18([10, 10])
    layers = recon.candidate_layers(model)
    return {name: sum(p.numel() for p in model.trunk.get_submodule(name).parameters()) for name in layers}


def published_sets() -> dict[str, list[str]]:
    """The sets that need no search: the released one, the paper's random ones and the first and last 25 layers.

    The random ones are `recon.random_sets` for each draw, with parameters counted at the paper's width.
    """
    layers, sets = [*sizes()], {"released": released_by_recon([*sizes()])}
    for draw in range(3):
        sets |= {f"{name} {draw}": of for name, of in random_sets(sizes(), sets["released"], draw).items()}
    return sets | {"FSK": layers[:WORST], "LSK": layers[-WORST:]}


def searched_sets(log: Mapping) -> dict[str, list[str]]:
    """The sets that follow from the log of a search: by K, by S, by score minus mirror tail; and by size alone."""
    names, key = log["layers"], "-0.1"
    sets = {f"K {k}": ranked(log, -0.1)[:k] for k in KS}
    sets |= {f"S {s:g}": ranked(log, s)[:WORST] for s in THRESHOLDS if s != -0.1}
    net = dict(zip(names, np.subtract(log["scores"][key], log["mirror"][key]).tolist(), strict=True))
    return sets | {
        "score − mirror": sorted(names, key=net.__getitem__, reverse=True)[:WORST],
        "size": sorted(names, key=sizes().__getitem__)[:WORST],
    }


@dataclass(frozen=True)
class ReconAblations:
    """Rows "search, METHOD" and "log, METHOD"; "rate, released"; then "plain" and one for each set of layers."""

    profile: str = "small"
    seeds: int = SEEDS

    def plan(self, records: Sequence[Mapping] = ()) -> dict[str, list[Run]]:
        """Row -> runs: the logs and the rates first, then the sets at the best rate."""
        rows, base = self.logs(), ReconExperiment(self.profile).base
        base, sets = replace(base, method="cagrad", **ROWS["cagrad"]), published_sets()
        tries, best = choose("released", replace(base, split=sets["released"]), RATES, records, sign=-1, share=0.5)
        rows |= tries
        if best is None:
            return rows
        for record in (r for r in records if r["row"] == "search, equal" and r["config"]["seed"] == SEED):
            sets |= searched_sets(record["conflict"])
        runs = {"plain": replace(best, split=())} | {n: replace(best, split=layers) for n, layers in sets.items()}
        for name in SKIPS:
            runs[f"{name}, released skip"] = replace(runs[name], model="resnet18_released_skip")
        fresh = range(FIRST, FIRST + min(self.seeds, SEEDS))
        return rows | {name: run.seeds(fresh) for name, run in runs.items()}

    def logs(self) -> dict[str, list[Run]]:
        """Row -> the runs that log cosines and scores at every step, without test data."""
        sets = published_sets()
        kept = [name for name in sizes() if name not in sets["released"]]
        observe = {"thresholds": sorted(THRESHOLDS, reverse=True), "restrict": kept, "quarters": True}
        plain = replace(ReconExperiment(self.profile).base, test=False, seed=SEED)
        rows = {}
        for name in METHODS:
            run = replace(plain, method=name, **ROWS[name])
            rows[f"search, {name}"] = [replace(run, observe=observe)]
            rows[f"log, {name}"] = [replace(run, split=sets["released"], observe={})]
        rows["search, equal"] += [replace(rows["search, equal"][0], seed=SEED + 1)]
        return rows | {f"log, {n}": [replace(plain, split=sets[n], observe={})] for n in ("RSL 0", "RSP 0")}


# --- what the records of trainings say


def drops(rows: Numbers) -> dict[str, dict]:
    """Figure or table -> row -> what it differs by: the released set minus it in tables, it minus the set elsewhere.

    rows: from `recon_table1.scores`. A table or figure with a row that lacks two seeds is {}.
    """
    skips = {t: [f"{n}, released skip" for n in names if n in SKIPS] for t, names in (("7", RANDOM), ("11", POSITIONS))}
    of = {"Table 7": RANDOM + skips["7"], "Table 11": POSITIONS + skips["11"]}
    found = {title: contrasts(rows, {name: ("released", name) for name in names}) for title, names in of.items()}
    for title, names in {"Figure 3, K": SWEEP_K, "Figure 3, S": SWEEP_S, "rankings": OTHERS}.items():
        found[title] = contrasts(rows, {name: (name, "released") for name in names})
    return found


# --- what the logs say


def rank_distance(one: Sequence[str], other: Sequence[str]) -> float:
    """How far two orders of the same layers are apart: the mean over layers of the difference of its places."""
    place = {name: i for i, name in enumerate(other)}
    return sum(abs(i - place[name]) for i, name in enumerate(one)) / len(place)


def by_quarters(log: Mapping, threshold: float = -0.1) -> dict[tuple[str, str], float]:
    """Table 12: (later, earlier) as it is printed -> distance of the two rankings."""
    parts = [*log["quarters"][str(threshold)], log["scores"][str(threshold)]]
    orders = [ranked(log | {"scores": {str(threshold): part}}, threshold) for part in parts]
    pairs = combinations(zip(QUARTERS, orders, strict=True), 2)
    return {(late, early): rank_distance(a, b) for (early, a), (late, b) in pairs}


def by_methods(found: Sequence[Mapping], threshold: float = -0.1) -> dict[tuple[str, str], float]:
    """Table 14: (method, method) as it is printed -> distance of their rankings; ("Joint", "Joint"): of two seeds."""
    logs = {(r["row"], r["config"]["seed"]): r["conflict"] for r in found if r["row"].startswith("search")}
    orders = [(METHODS[n], ranked(log, threshold)) for n in METHODS if (log := logs.get((f"search, {n}", SEED)))]
    apart = {(b, a): rank_distance(x, y) for (a, x), (b, y) in combinations(orders, 2)}
    if again := logs.get(("search, equal", SEED + 1)):
        apart["Joint", "Joint"] = rank_distance(ranked(again, threshold), dict(orders)["Joint"])
    return apart


def reductions(found: Sequence[Mapping], below: float = -0.01) -> dict[str, float]:
    """Table 6: row -> by how many percent cosines below -0.01 are rarer than in joint training over all layers.

    "METHOD", "METHOD + Recon", joint training's "RSL" and "RSP"; and what the table lacks, "METHOD, kept layers": the
    network without a split, its cosine over the layers that Recon keeps shared. {} without joint training's log.
    """
    logs = {r["row"]: r["conflict"] for r in found if r["row"][:3] in ("sea", "log") and r["config"]["seed"] == SEED}
    if "search, equal" not in logs:
        return {}
    titles = {f"search, {n}": t for n, t in METHODS.items()} | {f"log, {n}": f"{t} + Recon" for n, t in METHODS.items()}
    titles |= {f"log, {name} 0": name for name in ("RSL", "RSP")}
    mass = {titles[row]: share_below(log["all"]["histogram"], below) for row, log in logs.items()}
    kept = {f"{titles[row]}, kept layers": log["restricted"] for row, log in logs.items() if "restricted" in log}
    mass |= {name: share_below(log["histogram"], below) for name, log in kept.items()}
    return {name: 100 * (1 - share / mass["Joint"]) for name, share in mass.items()}


def share_below(histogram: Mapping[str, int], cosine: float) -> float:
    """Of the cosines in a log's histogram (bins of width 0.001, from -1 on) the share below `cosine`."""
    return sum(n for b, n in histogram.items() if int(b) < round(1000 * (1 + cosine))) / sum(histogram.values())


def step_seconds(found: Sequence[Mapping]) -> dict[str, float]:
    """Processor time of a step, by method: of its trainings with a log, so that all bear that cost alike."""
    return {METHODS[n]: r["core_seconds"] / r["steps"] for n in METHODS for r in found if r["row"] == f"search, {n}"}


def checks(of: str, least: float = 0.0, most: float = 0.0, root=records.ROOT) -> tuple[Check, ...] | str:
    """What one run each says, without an interval. `of`:

    "surgery"   with the set every reduction is larger than the largest that a method alone has.
    "halved"    with the set every reduction is at least `least` percent.
    "kept"      it is larger than without a split, over the same layers.
    "quarters", "methods"  rankings of quarters of a run, of methods, are at most `most` places apart.
    """
    found = records.load(NAME, "small", root)
    rows = {r["row"]: [r] for r in found}
    rows["search, equal"] = [r for r in found if r["row"] == "search, equal"]
    if words := lacking(rows, {row: len(runs) for row, runs in ReconAblations().logs().items()}):
        return words
    if of in ("quarters", "methods"):
        one = next(r for r in rows["search, equal"] if r["config"]["seed"] == SEED)
        apart = by_quarters(one["conflict"]) if of == "quarters" else by_methods(found)
        return tuple(Check(f"{a} and {b}: {d:.2f}, at most {most:g}", d <= most) for (a, b), d in apart.items())
    by = reductions(found)
    largest, seen = max(by[name] for name in METHODS.values()), []
    for name in METHODS.values():
        limit = {"surgery": largest, "halved": least, "kept": by[f"{name}, kept layers"]}[of]
        here = by[f"{name} + Recon"]
        seen.append(Check(f"{name} with the set: {here:.1f} % rarer, compared with {limit:.1f} %", here > limit))
    return tuple(seen)


register_grid(NAME, ReconAblations)
register_rule("recon logs", checks)
