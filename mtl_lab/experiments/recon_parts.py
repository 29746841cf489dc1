r"""What Recon's gain consists of: separation of the tasks, or parameters, statistics and forward passes?

Multi-Fashion+MNIST, Recon's released set, joint training (equal weights); Δm on test data, margin 0.3 points. All but
two rows are networks of streams (`mtl_core.models.resnet18_streams`), in which a BatchNorm that is shared has one
statistic over both streams.

*Separation*, a dial: stream i is trained on $(L_i + \lambda L_j) / (1 + \lambda)$ and read for task i. At λ = 0 it is
Recon; at λ = 1 it has Recon's parameters, passes and statistics, and nothing is separated. *Factorial*: the BatchNorms
{private, shared} × the five convolutions × λ {0, 1}, 10 seeds; with nothing private it is the plain network. CAGrad has
the four corners at λ = 0, 5 seeds. "released mixture": convolutions private, BatchNorms shared as the released code
does it, each stream normalised by itself and both in one running statistic.
*Conflict without parameters*: the plain network, PCGrad on Recon's 25 layers only, and on the others only; each also
with the weights of another seed's run, step by step (`runs.weights`), as a control.
*Which layers*, in a network of constant width, where convolutions are of one size: of these the five worst of a search
run, the five best, or five at random (three draws), and all BatchNorms. *Affine or statistics*: BatchNorms of which
tasks share the other half.

*Estimands*, Holm over five: separation, λ = 0 minus λ = 1 in the published split; capacity, λ = 1 minus the plain
network; norm × separation and convolution × separation, what making these private adds to λ = 0 minus λ = 1 where the
other kind is private; layers, worst minus best. Apart, at 95 % each: the interaction of the two products, and PCGrad
minus its control. *Decision*: "it is the conflict" needs separation above the
margin, and layers and PCGrad on the 25 minus its control above 0. Seeds from 50 on. Each cell of the factorial chooses
its rate as in `recon_table1`; the other rows take that of the cell that they vary.
About ten core-hours; what goes first where time is short are the last two designs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from mtl_core import models, recon
from mtl_core.models.resnet import is_norm, released_by_recon
from mtl_core.seeds import numpy_generator
from mtl_lab import records
from mtl_lab.checks import Check
from mtl_lab.experiments.rate_choice import DONORS, Numbers, choose, contrasts, in_words
from mtl_lab.experiments.recon import ROWS, ReconExperiment
from mtl_lab.experiments.recon_table1 import FIRST, MARGIN, RATES, judged, lacking, scores, search
from mtl_lab.experiments.registry import register_grid, register_rule
from mtl_lab.runs.run import Run
from mtl_lab.runs.weights import replays

PLAIN, CONSTANT = "plain", "search, constant width"
BOTH, NORM, CONV = ((f"{private}, λ 0", f"{private}, λ 1") for private in ("norm and conv", "norm", "conv"))
CONTRASTS = {"separation": BOTH, "capacity": (BOTH[1], PLAIN), "norm × separation": BOTH + CONV}
CONTRASTS |= {"convolution × separation": BOTH + NORM, "layers": ("worst five", "best five")}
APART = {f"PCGrad on {w} − control": (f"PCGrad on {w}", f"PCGrad on {w}, replayed") for w in ("25", "others")}
APART |= {"interaction": BOTH + NORM + CONV}


@dataclass(frozen=True)
class ReconParts:
    """Rows by the names in `networks`; "rate, ROW" of the factorial; and, of PCGrad, "ROW, donor", "ROW, replayed"."""

    profile: str = "small"
    seeds: int = 10

    def plan(self, records: Sequence[Mapping] = ()) -> dict[str, list[Run]]:
        """Row -> runs: first the search and the rates, then the rows at these, then what replays their weights."""
        known, best = {record["identity"] for record in records}, dict[str, Run | None]()
        rows = {CONSTANT: [search(self.profile, constant_width=True)]}
        for name, (run, like, seeds) in self.networks(records).items():
            if name == like:
                tries, best[name] = choose(name, run, RATES, records, sign=-1, share=0.5)
                rows |= tries
            if (at := best[like]) is None:
                continue
            chosen = replace(run, schedule=at.schedule)
            rows[name] = chosen.seeds(range(FIRST, FIRST + min(seeds, self.seeds)))
            if run.method == "recorded":
                rows[f"{name}, donor"] = donors = chosen.seeds(DONORS + each.seed for each in rows[name])
                rows[f"{name}, replayed"] = replays(rows[name], donors, known, form="steps")
        return {name: runs for name, runs in rows.items() if runs}

    def networks(self, found: Sequence[Mapping]) -> dict[str, tuple[Run, str, int]]:
        """Row -> its run at any rate and seed, the row whose rate it takes, its seeds; cells of the factorial first."""
        base = ReconExperiment(self.profile).base
        plain = models.resnet18([10, 10], **base.model_options)
        names, cagrad = recon.candidate_layers(plain), {"method": "cagrad", **ROWS["cagrad"]}
        chosen = released_by_recon(names)
        norms, convs = ([n for n in chosen if is_norm(n) is norm] for norm in (True, False))

        def streams(private: Sequence[str], **options) -> Run:
            options = {**base.model_options, "private": [*private], **options}
            return replace(base, model="resnet18_streams", model_options=options)

        rows = {PLAIN: (base, PLAIN, 10), "cagrad, plain": (replace(base, **cagrad), PLAIN, 5)}
        for kind, layers in (("norm", norms), ("conv", convs), ("norm and conv", chosen)):
            rows |= {f"{kind}, λ {x}": (streams(layers, other=x), f"{kind}, λ {x}", 10) for x in (0, 1)}
            rows[f"cagrad, {kind}"] = replace(streams(layers), **cagrad), f"{kind}, λ 0", 5
        rows["norm and conv, λ 0.5"] = streams(chosen, other=0.5), BOTH[0], 5
        rows["released mixture"] = replace(base, split=convs), CONV[0], 5
        for which, layers, seeds in (("25", chosen, 10), ("others", [n for n in names if n not in chosen], 5)):
            options = {"method": "pcgrad", "only": columns(plain.trunk, layers)}
            rows[f"PCGrad on {which}"] = replace(base, method="recorded", method_options=options), PLAIN, seeds
        rows |= {f"shared {h}": (streams(chosen, **{h: "shared"}), BOTH[0], 5) for h in ("affine", "statistics")}
        for record in (record for record in found if record["row"] == CONSTANT):
            order = [n for n in ReconExperiment().ranking(record) if n.startswith("layer") and ".conv" in n]
            five = {"worst": order, "best": order[::-1]}
            for d in range(3):
                five[f"random {d},"] = numpy_generator(d, "split", CONSTANT).permutation(order).tolist()
            for which, layers in five.items():
                rows[f"{which} five"] = streams(norms + layers[:5], constant_width=True), BOTH[0], 5
        return rows


def columns(trunk, layers: Sequence[str]) -> list[list[int]]:
    """Where the parameters of these layers are among all of a trunk's: ranges [start, stop)."""
    named = [(name.rpartition(".")[0], p.numel()) for name, p in trunk.named_parameters()]
    stops = accumulate(size for _, size in named)
    return [[stop - size, stop] for (name, size), stop in zip(named, stops, strict=True) if name in layers]


def apart(rows: Numbers) -> dict:
    """The estimates of `APART`, each at 95 %, those that can be made; rows from `recon_table1.scores`."""
    return {name: d for name, pair in APART.items() for d in contrasts(rows, {name: pair}).values()}


def sentences(rows: Numbers) -> list[str]:
    """What the estimates of `CONTRASTS` and `APART` say, in plain words; rows from `recon_table1.scores`."""
    found, others = contrasts(rows, CONTRASTS), apart(rows)
    said = [f"{words}." for words in (in_words(found, MARGIN), in_words(others, MARGIN)) if words]
    if found and (control := others.get("PCGrad on 25 − control")):
        holds = found["separation"].low > MARGIN and found["layers"].low > 0 and control.low > 0
        said.append("It is the conflict." if holds else "That it is the conflict is not shown.")
    return said


def survives(rows: Numbers) -> str:
    """Which explanation of the gain the estimates leave, in one sentence; "" while one of `CONTRASTS` is missing."""
    found, control = contrasts(rows, CONTRASTS), apart(rows).get("PCGrad on 25 − control")
    if not found or control is None:
        return ""
    separated, capacity = (found[name].low > MARGIN for name in ("separation", "capacity"))
    if separated and found["layers"].low > 0 and control.low > 0:
        return "What survives is conflict: separating the tasks helps, most where their gradients conflict."
    if separated:
        more = ", and added parameters, passes and statistics help too" if capacity else ""
        return f"What survives is separating the tasks, not shown to matter more where their gradients conflict{more}."
    if capacity:
        return (
            "What survives is size: parameters, passes and statistics help, and separation is not shown to add to them."
        )
    return "No explanation is shown to survive: neither separation nor size is worth more than the margin."


def gain_by_size(found: Sequence[Mapping], rows: Numbers) -> dict[str, tuple]:
    """Row -> (its parameters over those of the plain network, its gain in Δm over it, low, high), of the same method.

    Paired at 95 %, without an adjustment: to look at. Networks of constant width have no plain partner and no place.
    """
    size, placed = {r["row"]: r["parameters"]["all"] for r in found}, {}
    for name in rows:
        plain = "cagrad, plain" if name.startswith("cagrad") else PLAIN
        if name not in (plain, PLAIN) and "five" not in name and not name.endswith(", donor"):
            for d in contrasts(rows, {name: (name, plain)}).values() if plain in rows else ():
                placed[name] = size[name] / size[plain], d.mean, d.low, d.high
    return placed


def checks(root=records.ROOT) -> tuple[Check, ...] | str:
    """The three comparisons that "it is the conflict" needs."""
    rows = scores(records.load("recon_parts", "small", root), root=root)
    control = "PCGrad on 25 − control"
    names = {name for pair in (*CONTRASTS.values(), APART[control]) for name in pair}
    if words := lacking(rows, {name: 5 if "five" in name else 10 for name in names}):
        return words
    found = contrasts(rows, CONTRASTS) | apart(rows)
    least = {"separation": MARGIN, "layers": 0.0, control: 0.0}
    return judged({name: found[name] for name in least}, least)


register_grid("recon_parts", ReconParts)
register_rule("it is the conflict", checks)
