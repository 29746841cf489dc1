"""Recon's Table 1 on Multi-Fashion+MNIST: does splitting layers improve every method, and beside which other systems?

*Rows*: joint training (equal weights), MGDA, PCGrad, GradDrop, CAGrad and SAM-GS, each without copies of layers, with
Recon's released set (20 BatchNorms, the stem's convolution, the four of layer1) and with *ours*: the 25 layers worst at
S = -0.1 in a search run of this network, and every BatchNorm that these leave shared. Copies start anew, options and
conventions are the published ones (`recon.ROWS`). RotoGrad has no split row, here as in the paper: its rotations turn
features that all tasks share. Beside them the table's other systems, with equal weights: Cross-Stitch, MMoE and MMoE
with the 50 worst layers of its two experts split; BMTAS, the network that one search has found, and the same with what
*ours* has of its shared layers.

*Rates*: of three common ones, the paper's and a third and three times of it, each row takes the best validation
accuracy (mean log) at half of the epochs on seed 100. *Seeds*: from 50 on, which no earlier table has used: 10 for
joint training and CAGrad, 5 for other methods, 3 for other systems. *Measure*: Δm on test data, against the single-task
networks of the table `multi_fashion_mnist`.

*Claim* "Recon improves every method", for each set: intersection-union, so that it holds at 5 % if all one-sided 95 %
lower limits of the paired gains are above 0; by more than the margin (0.3 points) if they are above that. The mean gain
over methods, paired over the seeds that all share, has a 95 % interval of its own. The systems' differences to joint
training (Holm) rest on three seeds and are descriptive.

About ten core-hours. What goes first where time is short: Cross-Stitch, GradDrop, RotoGrad (their entries in `SYSTEMS`,
`METHODS` and `SEEDS`), before any run.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mtl_core.models.bmtas import private_layers
from mtl_core.models.resnet import is_norm, released_by_recon
from mtl_lab import records
from mtl_lab.checks import Check
from mtl_lab.experiments import multi_fashion_mnist
from mtl_lab.experiments.rate_choice import SEED, Numbers, choose, contrasts, delta_scores, in_words
from mtl_lab.experiments.recon import ROWS, ReconExperiment
from mtl_lab.experiments.registry import GRIDS, register_grid, register_rule
from mtl_lab.protocol.verdict import summary
from mtl_lab.runs.run import Run

METHODS = {"equal": 10, "cagrad": 10, "mgda": 5, "pcgrad": 5, "sam_gs": 5, "graddrop": 5}  # and their seeds
SYSTEMS = {"mmoe": 3, "mmoe + ours": 3, "bmtas": 3, "bmtas + ours": 3, "cross_stitch": 3}
AGAINST = {name: (name, "equal") for name in SYSTEMS}  # pairs for `rate_choice.contrasts`
SEEDS = {m + end: n for m, n in METHODS.items() for end in ("", " + released", " + ours")} | SYSTEMS | {"rotograd": 5}
RATES, FIRST, MARGIN, WORST = (0.03, 0.1, 0.3), 50, 0.3, 25  # WORST: layers of a network that are split
OPTIONS = ROWS | {"rotograd": {"method_options": {"rotation_size": 100, "rotation_rate": 1.0}}}
STEPS = {"tiny": 20, "small": 156, "paper": 421}  # of an epoch


def worst(record: Mapping, count: int = WORST) -> list[str]:
    """The `count` worst layers of a search run, then the BatchNorms that these leave shared."""
    ranking = ReconExperiment().ranking(record)
    return ranking[:count] + [n for n in record["conflict"]["layers"] if is_norm(n) and n not in ranking[:count]]


def search(profile: str, **model_options) -> Run:
    """The run that scores the layers of the plain network, or of one with other options."""
    run = ReconExperiment(profile).search()
    return replace(run, model_options={**run.model_options, **model_options}, seed=SEED)


@dataclass(frozen=True)
class ReconTable1:
    """Rows "search, NETWORK", "rate, ROW" and, with at most as many seeds as in `SEEDS`, "METHOD", "METHOD + SET"."""

    profile: str = "small"
    seeds: int = 10

    def plan(self, records: Sequence[Mapping] = ()) -> dict[str, list[Run]]:
        """Row -> runs: searches first, then rates, then the rows at the best rate."""
        rows = {name: [run] for name, run in self.searches().items()}
        for name, run in self.networks(records).items():
            tries, best = choose(name, run, RATES, records, sign=-1, share=0.5)
            fresh = range(FIRST, FIRST + min(SEEDS[name], self.seeds))
            rows |= tries | ({name: best.seeds(fresh)} if best else {})
        return rows

    def searches(self) -> dict[str, Run]:
        """Row -> run of the search for the layers of the plain network and of MMoE, and for BMTAS's branches."""
        run = search(self.profile)
        branched = search(self.profile, total_steps=STEPS[self.profile] * run.schedule["epochs"])
        more = {"search, bmtas": replace(branched, model="bmtas", observe=None)}
        return {"search, equal": run, "search, mmoe": replace(run, model="mmoe")} | more

    def networks(self, found: Sequence[Mapping]) -> dict[str, Run]:
        """Row -> its run at any rate and seed; those that need a search are left out before it has a record."""
        base, known = ReconExperiment(self.profile).base, {record["row"]: record for record in found}
        runs = {name: replace(base, method=name, **options) for name, options in OPTIONS.items() if name in SEEDS}
        runs |= {name: replace(base, model=name) for name in ("mmoe", "cross_stitch") if name in SYSTEMS}
        if not set(self.searches()) <= set(known):
            return runs
        layers, ours = known["search, equal"]["conflict"]["layers"], worst(known["search, equal"])
        for name in METHODS:
            runs[f"{name} + released"] = replace(runs[name], split=released_by_recon(layers))
            runs[f"{name} + ours"] = replace(runs[name], split=ours)
        runs["mmoe + ours"] = replace(runs["mmoe"], split=worst(known["search, mmoe"], 2 * WORST))
        # With its default norm spelled out it is never the very run of another row
        own, named = private_layers(known["search, bmtas"]["branches"], layers), {**base.model_options, "norm": "batch"}
        runs["bmtas"] = replace(base, model_options=named, split=own)
        runs["bmtas + ours"] = replace(runs["bmtas"], split=own + [n for n in ours if n not in own])
        return runs


def scores(found: Sequence[Mapping], profile: str = "small", root=records.ROOT) -> dict[str, dict[int, float]]:
    """Row -> seed -> Δm on test data; {} without the records of the single-task networks."""
    return delta_scores(found, multi_fashion_mnist.table(profile), root)


def gains(rows: Numbers, layers: str) -> dict:
    """Method -> what the set "released" or "ours" adds to its Δm; `low` is the one-sided 95 % lower limit.

    And "mean", over methods on the seeds that all share, at two-sided 95 %. {} while a row is missing; rows: `scores`.
    """
    pairs = {name: (f"{name} + {layers}", name) for name in METHODS}
    each = {name: d for name in pairs for d in contrasts(rows, {name: pairs[name]}, 0.90).values()}
    if {*each} < {*pairs}:
        return {}
    seeds = set.intersection(*({*rows[row]} for pair in pairs.values() for row in pair))
    sides = [{s: np.mean([rows[row][s] for row in side]) for s in seeds} for side in zip(*pairs.values(), strict=True)]
    return each | contrasts({"with": sides[0], "without": sides[1]}, {"mean": ("with", "without")})


def table(found: Sequence[Mapping], rows: Numbers) -> dict[str, dict]:
    """Row -> task -> metric -> (mean, sd) over its seeds, and "Δm" -> the numbers of `rows`, from `scores`."""
    return {n: summary([r for r in found if r["row"] == n]) | {"Δm": [*v.values()]} for n, v in rows.items()}


def sentences(found: Sequence[Mapping], rows: Numbers) -> list[str]:
    """What the records say, in plain words: of each set, then of the other systems. rows: from `scores`."""
    said = []
    for name in ("released", "ours"):
        if of := gains(rows, name):
            mean, lowest = in_words({"mean gain": of.pop("mean")}, MARGIN), min(d.low for d in of.values())
            word = f"improves{f', by more than {MARGIN},' if lowest > MARGIN else ''}"
            word = word if lowest > 0 else "is not shown to improve"
            split = next(r["config"]["split"] for r in found if r["row"] == f"equal + {name}")
            limits = "; ".join(f"{method} {d.mean:+.1f}, at least {d.low:+.1f}" for method, d in of.items())
            size = f"{len(split)} layers, {sum(map(is_norm, split))} of them BatchNorms"
            said.append(f"Recon with the {name} set ({size}) {word} every method. Gains: {limits}; {mean}.")
    words = in_words(contrasts(rows, AGAINST), MARGIN)
    return said + ([f"Against joint training, three seeds: {words}."] if words else [])


def lacking(rows: Mapping[str, Sequence], wanted: Mapping[str, int]) -> str:
    """In words how many of the `wanted` runs, row -> number, are not in `rows`; "" where all are."""
    here, of = sum(min(len(rows.get(name, ())), n) for name, n in wanted.items()), sum(wanted.values())
    return "" if here == of else f"needs runs: {here} of {of} here"


def judged(found: Mapping, least: Mapping | float = 0.0) -> tuple[Check, ...]:
    """A check for each difference: is it above `least`? Open where its interval holds that number."""
    checks = []
    for name, d in found.items():
        limit = least[name] if isinstance(least, Mapping) else least
        text = f"{name}: {d.mean:+.2f} [{d.low:+.2f}, {d.high:+.2f}], {d.n} seeds, above {limit:g}"
        checks.append(Check(text, True if d.low > limit else False if d.high < limit else None))
    return tuple(checks)


def every_method(layers: str, margin: float = 0.0, root=records.ROOT) -> tuple[Check, ...] | str:
    """The claim on each method with a set, "released" or "ours": intersection-union, the limits one-sided at 95 %."""
    rows = scores(records.load("recon_table1", "small", root), root=root)
    names = {m + end: n for m, n in METHODS.items() for end in ("", f" + {layers}")}
    return lacking(rows, names) or judged({m: d for m, d in gains(rows, layers).items() if m != "mean"}, margin)


def known(head: Sequence[str], lines: Sequence[Sequence], names: int = 1) -> tuple[list[str], list[list[str]]]:
    """A table of text without columns, then lines, that wait for their runs; the first `names` columns are kept."""
    waiting, texts = re.compile("(0 of [0-9]+|–|reference|no verdict yet)?"), [[str(c) for c in line] for line in lines]
    kept = [k for k in range(len(head)) if k < names or not all(waiting.fullmatch(line[k]) for line in texts)]
    texts = [[line[k] for k in kept] for line in texts]
    return [head[k] for k in kept], [line for line in texts if not all(map(waiting.fullmatch, line[names:]))]


def named(plan, found: Sequence[Mapping]) -> list[Mapping]:
    """The records by the rows of a grid's plan: where two rows are one run, both have its record."""
    known = {r["identity"]: r for r in found}
    planned = [(row, known.get(run.identity)) for row, runs in plan.plan(found).items() for run in runs]
    return [{**record, "row": row} for row, record in planned if record]


def of_pairs(experiment: str, pairs, seeds: int, least: float = 0.0, root=records.ROOT) -> tuple[Check, ...] | str:
    """Whether in each of `pairs` the first row's Δm is larger by more than `least`; the row "single-task" has Δm 0."""
    rows = scores(named(GRIDS[experiment](profile="small"), records.load(experiment, "small", root)), root=root)
    rows = {**rows, "single-task": {s: 0.0 for of in rows.values() for s in of}}
    wanted = {name: seeds for pair in pairs for name in pair if name != "single-task"}
    return lacking(rows, wanted) or judged(contrasts(rows, {f"{a} against {b}": (a, b) for a, b in pairs}), least)


register_grid("recon_table1", ReconTable1)
register_rule("recon improves every method", every_method)
register_rule("recon pairs", of_pairs)
