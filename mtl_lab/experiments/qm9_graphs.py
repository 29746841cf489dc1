r"""QM9 by message passing: do the ranks of methods survive another architecture, and does RotoGrad converge there?

*Fixed before any run.* Seven methods at their papers' defaults, each on two networks with the same molecules (2,000 /
500 / 2,000, the first of each block of `data.qm9`): the papers' message-passing network at width 16 on graphs, and the
perceptron of the table `qm9` on descriptors. Adam, cosine, 30 epochs, batches of 64. Each method chooses its rate of
four on each network, by validation data on a seed of its own, and is then trained with five seeds. `static` has the
weights that the search of the table `qm9` found on 20,000 molecules, on both networks.

*Estimands.* A run's error is 100 times the mean over the 11 targets of the log of its MAE on test molecules: a
difference of 1 is about one percent. (1) Gain of each method over `static`, on each network, paired over seeds, Holm
over six. (2) The difference between the two gains, likewise. (3) Kendall's $\tau$ between the two networks' orders of
methods, for each seed; beside it $\tau$ between seeds of one network, which is what chance leaves.

*Hypothesis 1*: ranks survive. It holds if the 95 % interval of the mean $\tau$ over seeds is above zero and no method
is better than `static` by the margin on one network and worse by it on the other; it fails if a method is, or if the
interval is below zero; else it is open. Margin: 2 points, that of the table `qm9`.
*Hypothesis 2*: RotoGrad does not converge on message passing (reported of 11 targets by a study of 16 optimisers). A
run converged if no target's test loss is 1 or more, which the mean of the targets reaches. Said as n of N runs.

*Cost.* A pilot on the embedded molecules, on a core shared with others: 0.04 s a step on a weighted sum, 0.26 s with
eleven gradients. Nine runs of 930 steps for each method make about 2.5 core-hours, perceptrons included; the plan ends
at 4. `paper` is the published schedule on 130,831 molecules (width 64, 300 epochs of batches of 120, rate 1e-3, three
seeds) with single-task networks; `cost` says what it takes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from mtl_core.data.qm9 import TARGETS
from mtl_core.data.qm9_graphs import COUNTS
from mtl_lab.experiments import qm9
from mtl_lab.experiments.rate_choice import Numbers, by_row, choose, contrasts, log_error
from mtl_lab.experiments.registry import register_grid
from mtl_lab.protocol import committed
from mtl_lab.runs.run import Run
from mtl_lab.statistics.paired import PairedDifference, outcome, paired_difference

METHODS = {  # name -> convention
    "equal": "plain",
    "static": "plain",
    "log_sum": "plain",
    "norm_equalised": "plain",
    "cagrad": "plain",
    "sam_gs": "samgs",
    "rotograd": "plain",
}
GRADIENTS = ("norm_equalised", "cagrad", "sam_gs")  # those that need a gradient of each task
REFERENCE, MARGIN = "static", 2.0
NETWORKS = ("graph", "descriptors")
RATES = (0.001, 0.0025, 0.0063, 0.016)


@dataclass(frozen=True)
class Qm9Graphs:
    """Rows "NETWORK, METHOD", "rate, NETWORK, METHOD" of tries, and in `paper` "graph, single TARGET"."""

    profile: str = "small"
    seeds: int = 5

    def base(self, network: str) -> Run:
        """The run of equal weights on a network."""
        paper, tiny = self.profile == "paper", self.profile == "tiny"
        schedule = {"epochs": 300 if paper else 2 if tiny else 30, "batch_size": 120 if paper else 64}
        schedule |= {"optimizer": "adam", "learning_rate": 1e-3, "decay": "cosine"}
        if network == "graph":
            sizes = (
                {"width": 64, "edge_width": 128, "groups": 8} if paper else {"width": 16, "edge_width": 32, "groups": 2}
            )
            problem, options, model = "qm9_graphs", {"profile": self.profile}, ("qm9_mpnn", sizes)
        else:
            problem, options = "qm9", {"profile": self.profile, **COUNTS[self.profile]}
            model = "mlp", {"inputs": 74, "width": 128, "depth": 3}
        return Run(problem, options, model=model[0], model_options=model[1], schedule=schedule)

    def plan(self, records: Sequence[Mapping] = ()) -> dict[str, list[Run]]:
        """Row -> runs: first those that try rates, then those at the best of them; `paper` tries none."""
        rows = dict[str, list[Run]]()
        search = committed.search_of(qm9.table())
        for network in NETWORKS[:1] if self.profile == "paper" else NETWORKS:
            base = self.base(network)
            for method, convention in METHODS.items():
                options = {"rotation_size": base.model_options["width"]} if method == "rotograd" else {}
                if method == "static":
                    if not search:
                        continue
                    options = {"weights": search["rows"]["static"]["choice"]["weights"]}
                run = Run(**vars(base) | {"method": method, "method_options": options, "convention": convention})
                name = f"{network}, {method}"
                if self.profile == "paper":
                    rows[name] = run.seeds(range(self.seeds))
                    continue
                tries, chosen = choose(name, run, RATES, records)
                rows |= tries | ({name: chosen.seeds(range(self.seeds))} if chosen else {})
        if self.profile == "paper":
            for k, target in enumerate(TARGETS):
                alone = Run(**vars(self.base("graph")) | {"tasks": [k]})
                rows[f"graph, single {target}"] = alone.seeds(range(self.seeds))
        return rows


def steps(profile: str) -> int:
    """Steps of one run on graphs."""
    schedule = Qm9Graphs(profile).base("graph").schedule
    return COUNTS[profile]["train"] // schedule["batch_size"] * schedule["epochs"]


def cost(forward: float, backward: float, profile: str = "paper", seeds: int = 3) -> dict[str, float]:
    """Row on graphs -> core-hours of its evaluated runs, from the seconds of a forward and of a backward pass.

    A method of `GRADIENTS` goes back once for each of the 11 targets; evaluation is not counted.
    """
    rows = [*METHODS, *(f"single {target}" for target in TARGETS if profile == "paper")]
    passes = {row: len(TARGETS) if row in GRADIENTS else 1 for row in rows}
    return {row: seeds * steps(profile) * (forward + n * backward) / 3600 for row, n in passes.items()}


def scores(found: Sequence[Mapping]) -> dict[str, dict[int, float]]:
    """Row -> seed -> error on test molecules, `rate_choice.log_error`; without runs that diverged."""
    return by_row([record for record in found if record["diverged"] is None], log_error)


def gains(rows: Numbers, network: str) -> dict[str, PairedDifference]:
    """Method -> how much smaller its error is than that of `static`, Holm intervals; {} while a row is missing."""
    others = [method for method in METHODS if method != REFERENCE]
    return contrasts(rows, {m: (f"{network}, {REFERENCE}", f"{network}, {m}") for m in others})


def changes(rows: Numbers) -> dict[str, PairedDifference]:
    """Method -> its gain on graphs minus that on descriptors, Holm intervals; {} while a row is missing."""
    pairs = {
        method: tuple(f"{network}, {row}" for network in NETWORKS for row in (REFERENCE, method))
        for method in METHODS
        if method != REFERENCE
    }
    return contrasts(rows, pairs)


def kendall(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    """Kendall's τ between the orders of the same keys: 1 the same, -1 reversed; ties count as neither."""
    signs = [(a[x] - a[y]) * (b[x] - b[y]) for x, y in combinations(a, 2)]
    return sum((s > 0) - (s < 0) for s in signs) / len(signs)


def orders(rows: Numbers) -> dict[str, list[float]]:
    """τ between the networks, for each seed that all rows have; and between such seeds of each network. {}: none."""
    of = {network: {m: rows.get(f"{network}, {m}", {}) for m in METHODS} for network in NETWORKS}
    seeds = sorted(set.intersection(*(set(by_seed) for by_method in of.values() for by_seed in by_method.values())))
    if not seeds:
        return {}
    at = {n: [{m: values[s] for m, values in by_method.items()} for s in seeds] for n, by_method in of.items()}
    between = {"between networks": [kendall(a, b) for a, b in zip(*at.values(), strict=True)]}
    return between | {f"between seeds, {n}": [kendall(a, b) for a, b in combinations(one, 2)] for n, one in at.items()}


def crossed(rows: Numbers) -> list[str]:
    """Methods that are better than `static` by the margin on one network and worse by it on the other."""
    words = [{m: outcome(d.low, d.high, MARGIN) for m, d in gains(rows, network).items()} for network in NETWORKS]
    return [m for m in words[0] if {words[0][m], words[1].get(m)} == {"better", "worse"}]


def ranks_survive(rows: Numbers) -> tuple[bool | None, PairedDifference | None]:
    """Hypothesis 1, None while it is open, and the interval of the mean τ over seeds."""
    taus = orders(rows).get("between networks", [])
    if len(taus) < 2:
        return None, None
    mean = paired_difference(taus, [0.0] * len(taus))
    if crossed(rows) or mean.high < 0:
        return False, mean
    return (True if mean.low > 0 else None), mean


def converged(found: Sequence[Mapping], row: str = "graph, rotograd") -> tuple[int, int]:
    """(runs in which every target's test loss is below 1, runs)."""
    runs = [record for record in found if record["row"] == row]
    good = [r for r in runs if r["diverged"] is None and all(m["loss"] < 1 for m in r["final"]["test"].values())]
    return len(good), len(runs)


def at_an_edge(found: Sequence[Mapping]) -> list[str]:
    """Rows whose chosen rate is the smallest or the largest that was tried."""
    chosen = {r["row"]: r["config"]["schedule"]["learning_rate"] for r in found if not r["row"].startswith("rate, ")}
    return sorted(row for row, rate in chosen.items() if rate in (RATES[0], RATES[-1]))


register_grid("qm9_graphs", Qm9Graphs)
