"""The comparison protocol: one search budget for every row, then paired seeds, then intervals.

Rules in short (`notebooks/ideas/how_to_read_a_table.ipynb` explains them). Each row draws 8 configurations from a Sobol
sequence of its own and trains them at a quarter of the length, in whole epochs, on one search seed; the best two
train at full length on another; the best of those is evaluated with seeds 0 to 9, which no search has seen. Selection
is by validation Δm against fixed single-task validation values. Test data are read in the evaluation alone, and only
once `search.json` is committed. The reference row of every table is the row of searched static weights.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mtl_core import metrics
from mtl_core.seeds import numpy_generator
from mtl_lab.protocol import search_space
from mtl_lab.runs.build import load_problem
from mtl_lab.runs.run import Run

DRAWS, KEPT = 8, 2  # configurations at a quarter of the length, and how many of them at full length
SHORT_SEED, FULL_SEED = 100, 101  # of the two search stages
SEEDS = tuple(range(10))  # of the evaluation
OTHER_SEEDS = 200  # the A/A row evaluates with seeds 200, 201, …
REFERENCE, A_A, BROKEN = "static", "a_a", "broken"  # names of the rows that every table has
CONTROLS = (A_A, BROKEN)
RESOLVED = ("split", "power", "threshold", "layers")  # parts of a choice that `resolve` turns into layers or weights


@dataclass(frozen=True)
class Row:
    """One row of a table: a method, how it is run, and what is searched beside rate and weight decay.

    space    own parameter -> ("uniform", low, high), ("choice", values) or ("simplex", K). A parameter `power` a
             gives static weights L_k^(-a), L_k the validation loss of the single-task network, scaled to sum to K.
    follows  another row whose chosen configuration it takes over instead of searching (the controls).
    tasks    indices, for the single-task networks.
    weaken   tasks whose static weight is multiplied by 0.1 in the row that is broken on purpose.
    split    (table, choice, ranking) -> names of the trunk layers that each task gets to itself (Recon's rows).
    epochs   multiple of the table's epochs.
    model    options of the network that differ from the table's.
    """

    name: str
    title: str
    method: str = "equal"
    options: Mapping = field(default_factory=dict)
    convention: str = "plain"
    space: Mapping = field(default_factory=dict)
    follows: str | None = None
    tasks: Sequence[int] | None = None
    control: bool = False
    weaken: Sequence[int] = ()
    split: Callable[["Table", Mapping, Mapping], list[str]] | None = None
    epochs: int = 1
    model: Mapping = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A problem with its rows, ranges and margin, all fixed before any of its runs.

    base     the run that every row changes: problem, network, schedule.
    rate     range of the learning rate, two decades, log-uniform; decay: the weight decays.
    widened  (end, draws): where a search of all rows ended with a row at the upper edge of `rate`, each row draws as
             many more between that edge and `end`, about as densely; what it drew before stays.
    margin   δ in points of Δm: what is smaller does not matter.
    groups   one label per task: Δm averages inside a group first.
    ranking  a run before the search whose conflict log the rows' `split` reads; None where no row splits layers.
    extends  name of the table whose single-task networks, reference row and controls, with their search, this one
             takes over; None where it has its own.
    """

    name: str
    base: Run
    rows: Sequence[Row]
    margin: float
    rate: tuple[float, float]
    widened: tuple[float, int] | None = None
    decay: Sequence[float] = (0.0, 1e-4, 1e-3)
    groups: Sequence[str] | None = None
    ranking: Run | None = None
    extends: str | None = None

    @property
    def profile(self) -> str:
        return self.base.problem_options["profile"]

    def takes_over(self, row: str) -> bool:
        """Whether the row of this name is that of the table which this one extends."""
        return self.extends is not None and (row.startswith("single ") or row in (REFERENCE, *CONTROLS))

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def searched(self) -> list[Row]:
        return [row for row in self.rows if row.follows is None]

    def singles(self) -> list[Row]:
        return [row for row in self.rows if row.tasks is not None]

    def shared(self) -> list[Row]:
        """The rows of the table: all but the single-task networks, which are its zero."""
        return [row for row in self.rows if row.tasks is None]

    # --- search

    def draws(self, row: Row) -> list[dict]:
        """The row's configurations: a scrambled Sobol sequence of its own, and one more where the range was widened."""
        found = self._draws(row, self.rate, DRAWS)
        if self.widened is not None:
            end, count = self.widened
            found += self._draws(row, (self.rate[1], end), count, " widened")
        return found

    def _draws(self, row, rate, count, which=""):
        space = {"learning_rate": ("log", *rate), "weight_decay": ("choice", self.decay), **row.space}
        return search_space.draw(space, count, numpy_generator(0, "search", f"{self.name} {row.name}{which}"))

    def rates(self) -> tuple[float, float]:
        """The whole range of the learning rate."""
        return self.rate[0], self.rate[1] if self.widened is None else self.widened[0]

    def run(self, row: Row, choice: Mapping, seed: int, length: float = 1.0, test: bool = False) -> Run:
        """The run of `row` with a configuration, at a share of the full length."""
        schedule = dict(self.base.schedule)
        schedule["epochs"] = max(1, round(schedule["epochs"] * row.epochs * length))
        own = dict(row.options)
        for name, value in choice.items():
            if name not in RESOLVED:
                (schedule if name in ("learning_rate", "weight_decay") else own)[name] = value
        return replace(self.base, method=row.method, method_options=own, convention=row.convention, tasks=row.tasks,
                       schedule=schedule, seed=seed, test=test, split=choice.get("split", ()),
                       model_options={**self.base.model_options, **row.model})  # fmt: skip

    def resolve(self, row: Row, choice: Mapping, ranking: Mapping | None, baseline: Mapping) -> dict:
        """The configuration with what it rests on written out: the layers it splits, its static weights.

        ranking  conflict log of the ranking run; baseline  validation values of the single-task networks.
        """
        choice = dict(choice)
        if row.split is not None:
            choice["split"] = row.split(self, choice, ranking)
        if "power" in choice:
            tasks = load_problem(self.base).tasks  # a JSON file has them in the alphabet's order
            weights = np.array([baseline[task.name]["loss"] for task in tasks]) ** -choice["power"]
            choice["weights"] = [float(f"{w:.6g}") for w in weights * len(weights) / weights.sum()]
        return choice

    def at_edge(self, row: Row, choice: Mapping) -> bool:
        """Whether a chosen rate lies in the outer tenth of its range, on the log scale (rule: widen for all rows).

        Rates are the learning rate and what else is drawn on the log scale. Other ranges end where the method does.
        """
        ranges = {"learning_rate": self.rates()} | {k: ends for k, (kind, *ends) in row.space.items() if kind == "log"}
        places = [math.log(choice[k] / low) / math.log(high / low) for k, (low, high) in ranges.items()]
        return not all(0.1 <= place <= 0.9 for place in places)

    def validation_delta(self, record: Mapping, baseline: Mapping) -> float:
        """Δm of a record's last epoch on validation data against the fixed single-task values; -inf if it diverged."""
        if record["diverged"] is not None:
            return -math.inf
        return self.delta_m(record["final"]["validation"], baseline)

    def delta_m(self, values: Mapping, baseline: Mapping) -> float:
        """Δm in percent of {task: {metric: value}}, positive = better, averaged in groups first."""
        tasks = load_problem(self.base).tasks
        found, against, higher, groups = [], [], [], []
        for k, task in enumerate(tasks):
            for metric, up in task.higher_is_better().items():
                found.append(values[task.name][metric])
                against.append(baseline[task.name][metric])
                higher.append(up)
                groups.append(self.groups[k] if self.groups else task.name)
        return metrics.delta_m(found, against, higher, groups)

    # --- evaluation

    def seeds(self, row: Row, count: int = len(SEEDS)) -> list[int]:
        return [OTHER_SEEDS + s if row.name == A_A else s for s in range(count)]

    def expected(self, choices: Mapping[str, Mapping], count: int = len(SEEDS)) -> dict[str, list[Run]]:
        """row name -> the runs, one per seed, of which the table must consist: none missing, none more."""
        runs = {}
        for row in self.rows:
            choice = dict(choices[row.follows or row.name])
            if row.weaken:
                choice["weights"] = [float(f"{w * 0.1:.6g}") if k in row.weaken else w
                                     for k, w in enumerate(choice["weights"])]  # fmt: skip
            runs[row.name] = [self.run(row, choice, seed, test=True) for seed in self.seeds(row, count)]
        return runs


def common_rows(tasks: Sequence[str]) -> list[Row]:
    """The baselines, methods and controls that every table has.

    Two tasks have one free static weight, and eight draws search it. For more tasks eight points of a simplex
    search nothing: the first search on QM9 (11 tasks) chose among them a weighting 18 points of validation Δm
    below equal weights. There the reference is the family L_k^(-a) of one parameter, which holds equal weights
    (a = 0) and inverse losses (a = 1), and the best of eight draws of the simplex is a row beside it.
    """
    singles = [Row(f"single {name}", f"Single-task: {name}", tasks=[k]) for k, name in enumerate(tasks)]
    simplex = {"weights": ("simplex", len(tasks))}
    half = len(tasks) // 2  # the method "broken" weakens task 0, `weaken` the others of the first half
    title = f"Broken: shared gradients of {half} of {len(tasks)} tasks × 0.1"
    static = [Row("static", "Searched static weights", "static", space=simplex)]
    if len(tasks) > 2:
        static = [
            Row("static", "Searched static weights", "static", space={"power": ("uniform", 0.0, 1.0)}),
            Row("static_random", "Static weights, best of eight random draws", "static", space=simplex),
        ]
    return [
        *singles,
        *static,
        Row("equal", "Equal weights", "equal"),
        Row("log_sum", "Sum of logs", "log_sum"),
        Row("norm_equalised", "Norm-equalised sum", "norm_equalised"),
        Row("norm_equalised_clip", "Norm-equalised sum, clipped", "norm_equalised", convention="plain, clipped"),
        Row("mgda", "MGDA", "mgda"),
        Row("pcgrad", "PCGrad", "pcgrad"),
        Row("graddrop", "GradDrop", "graddrop"),
        Row("cagrad", "CAGrad", "cagrad", space={"c": ("uniform", 0.1, 0.9)}),
        Row("sam_gs", "SAM-GS", "sam_gs", convention="samgs",
            space={"gamma": ("uniform", 0.0, 1.0), "beta2": ("choice", [0.9, 0.95, 0.99])}),
        Row("a_a", "A/A: static weights again, other seeds", "static", follows="static", control=True),
        Row("broken", title, "broken", follows="static", control=True, weaken=range(1, half)),
    ]  # fmt: skip
