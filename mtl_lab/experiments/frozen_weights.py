r"""What of a method is its answer to the step, and what the weights that it ends up with? A ladder, QM9, K = 11.

Methods whose update is $\sum_k w_k g_k$. Rungs: *adaptive*; *lag n*, its own weights of n steps ago (78: an epoch);
*steps*, the weights of another seed's run, step by step; *epochs*, their mean of each epoch; *shuffled epochs*, those
in random order; *constant*, the geometric mean of $w_k / \sum_j w_j$ (MGDA has zeros: the arithmetic mean); *static*,
the weights that the search of the table `qm9` found. Heads keep their own gradients on all rungs. Each rung without lag
chooses its rate of three on a seed of its own by validation data. Sensitivity, at the rate of the rung that they belong
to and with half of the seeds: other means, the lags, and *length*, the lengths of the donor's updates replayed too.

Contrasts, in Δm on test data, paired over 10 seeds, whose donors have seeds of their own: feedback, adaptive minus
steps; timing, steps minus epochs; order, epochs minus shuffled; spread, shuffled minus constant; place, constant minus
static. Holm over five for each method, margin that of the table (2 points). SAM-GS at $\gamma = 1$, where it is a
weighted sum.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mtl_lab import records
from mtl_lab.experiments import qm9
from mtl_lab.experiments.rate_choice import DONORS, SEED, Numbers, choose, contrasts, delta_scores, in_words
from mtl_lab.experiments.registry import register_grid
from mtl_lab.protocol import committed
from mtl_lab.runs.run import Run
from mtl_lab.runs.weights import replays
from mtl_lab.statistics.paired import PairedDifference

METHODS = {"norm_equalised": {}, "cagrad": {}, "mgda": {}, "log_sum": {}, "sam_gs": {"gamma": 1.0}}
CONVENTION = {"sam_gs": "samgs"}  # of the others: plain
RATES = (0.0028, 0.0056, 0.0112)
LAGS = (4, 20, 78, 390)
RUNGS = ("adaptive", "steps", "epochs", "shuffled epochs", "constant", "static")
CONTRASTS = ("feedback", "timing", "order", "spread", "place")  # of neighbours


@dataclass(frozen=True)
class FrozenWeights:
    """The ladder of each method, in rows "METHOD, RUNG"; those of "METHOD, donor" have the weights that are replayed.

    The last rung is the same for all methods of a convention: its row is "CONVENTION, static".
    """

    profile: str = "small"
    seeds: int = 10

    def plan(self, records: Sequence[Mapping] = ()) -> dict[str, list[Run]]:
        """Row -> runs: first rates, then the adaptive rung and donors, then what replays them."""
        rows = {row: runs for method in METHODS for row, runs in self.ladder(method, records).items()}
        return {row: runs for row, runs in rows.items() if runs}

    def ladder(self, method: str, found: Sequence[Mapping]) -> dict[str, list[Run]]:
        known, table = {record["identity"] for record in found}, qm9.table(self.profile)
        base = replace(table.base, convention=CONVENTION.get(method, "plain"))
        few, rows = range(self.seeds // 2), dict[str, list[Run]]()

        def rung(name: str, kind: str, options: Mapping) -> Run | None:
            run = replace(base, method=kind, method_options=options)
            row = f"{base.convention if name == 'static' else method}, {name}"
            tries, chosen = choose(row, run, RATES, found)
            rows.update(tries | ({row: chosen.seeds(range(self.seeds))} if chosen else {}))
            return chosen

        if search := committed.search_of(table):
            rung("static", "replayed", {"weights": search["rows"]["static"]["choice"]["weights"]})
        own = {"method": method, "options": METHODS[method]}
        if not (adaptive := rung("adaptive", "recorded", own)):
            return rows
        for lag in LAGS:
            rows[f"{method}, lag {lag}"] = replace(adaptive, method_options=own | {"lag": lag}).seeds(few)
        rows[f"{method}, donor"] = donors = adaptive.seeds(DONORS + s for s in (*range(self.seeds), SEED))
        constant = "arithmetic" if method == "mgda" else "geometric"
        for name in RUNGS[1:-1]:
            form = constant if name == "constant" else name
            tried = replays([base], donors[-1:], known, form=form)
            if tried and (chosen := rung(name, "replayed", tried[0].method_options)):
                runs = replace(base, schedule=chosen.schedule).seeds(range(self.seeds))
                rows[f"{method}, {name}"] = replays(runs, donors[:-1], known, form=form)
                half = runs[: len(few)], donors[: len(few)], known
                if name != "shuffled epochs":
                    rows[f"{method}, {name}, length"] = replays(*half, form=form, lengths=True)
                for other in sorted({"arithmetic", "last third"} - {form}) if name == "constant" else ():
                    rows[f"{method}, {other}"] = replays(*half, form=other)
        return rows


def scores(found: Sequence[Mapping], profile: str = "small", root=records.ROOT) -> dict[str, dict[int, float]]:
    """Row -> seed -> Δm on test data, against the single-task networks of the table `qm9`; {} without its records."""
    return delta_scores(found, qm9.table(profile), root)


def ladder_contrasts(rows: Numbers, method: str) -> dict[str, PairedDifference]:
    """`CONTRASTS` of a method, each rung minus the next, from `scores`; {} while a rung is missing."""
    names = [*(f"{method}, {rung}" for rung in RUNGS[:-1]), f"{CONVENTION.get(method, 'plain')}, {RUNGS[-1]}"]
    return contrasts(rows, dict(zip(CONTRASTS, zip(names, names[1:], strict=False), strict=True)))


def sentence(rows: Numbers, method: str) -> str:
    """What the ladder of a method says, in plain words; empty while a rung is missing."""
    said = in_words(ladder_contrasts(rows, method), qm9.table().margin)
    return said and f"{method}, points of Δm: {said}."


register_grid("frozen_weights", FrozenWeights)
