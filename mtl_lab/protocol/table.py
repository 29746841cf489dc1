"""The comparison protocol: one search budget for every row, then paired seeds, then intervals.

Rules in short (`notebooks/audits/how_to_read_a_table.ipynb` explains them). Each row has a separate Sobol sequence. The
search takes 8 configurations from it and trains them at a quarter of the length, in whole epochs, with one seed. It
trains the best two at full length with a second seed. The evaluation trains the better of these with seeds 0 to 9,
which the search never uses. Selection is by validation Δm against fixed single-task validation values. Only the
evaluation reads test data, and only once `search.json` is committed. The reference row of every table is the row of
searched static weights.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mtl_core import metrics
from mtl_core.seeds import numpy_generator
from mtl_lab import records
from mtl_lab.protocol import search_space
from mtl_lab.runs.build import directions
from mtl_lab.runs.run import Run

TRIED, KEPT = 8, 2  # configurations at a quarter of the length, and how many of them at full length
SHORT_SEED, FULL_SEED = 100, 101  # of the two search stages
SEEDS = tuple(range(10))  # of the evaluation
OTHER_SEEDS = 200  # the A/A row evaluates with seeds 200, 201, …
DIMENSIONS = 16  # of the Sobol sequence that all rows of a stream share
REFERENCE, A_A, BROKEN = "static", "a_a", "broken"  # names of the rows that every table has
CONTROLS = (A_A, BROKEN)
RESOLVED = ("split", "power", "threshold", "layers")  # parts of a choice that `resolve` turns into layers or weights
WEAKER = 0.1  # factor on the static weights of `Row.downweighted_tasks`


@dataclass(frozen=True)
class Row:
    """One row of a table: a method, how it is run, and what is searched beside rate and weight decay.

    name, title  in records and on pages.
    method, options, convention  for `training.fit`.
    space    searched parameter of the method -> ("uniform", low, high), ("choice", values) or ("simplex", K).
             A parameter `power` a gives static weights L_k^(-a), scaled to sum to K, where L_k is the validation loss
             of the single-task network.
    reuses   name of the row whose chosen configuration this one takes instead of searching (the controls).
    tasks    indices, for the single-task networks.
    control  whether it checks the table itself and is not ranked.
    downweighted_tasks  indices of the tasks whose static weight is multiplied by 0.1, in the row broken on purpose.
    split    (table, choice, ranking) -> names of the trunk layers of which each task gets a copy (Recon's rows).
    epochs   multiple of the table's epochs.
    model    options of the network that differ from the table's.
    """

    name: str
    title: str
    method: str = "equal"
    options: Mapping = field(default_factory=dict)
    convention: str = "plain"
    space: Mapping = field(default_factory=dict)
    reuses: str | None = None
    tasks: Sequence[int] | None = None
    control: bool = False
    downweighted_tasks: Sequence[int] = ()
    split: Callable[["Table", Mapping, Mapping], list[str]] | None = None
    epochs: int = 1
    model: Mapping = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A problem with its rows, ranges and margin, all fixed before any of its runs.

    base     the run that every row changes: problem, network, schedule.
    rate     range of the learning rate, two decades, log-uniform; decay: the weight decays.
    widened  (end, count): `count` more configurations of each row, with rates between the upper end of `rate` and
             `end`. For a table whose search chose a rate at that upper end; the first configurations stay.
    margin   δ in points of Δm: what is smaller does not matter.
    groups   one label per task: Δm averages inside a group first.
    ranking  a run before the search whose conflict log the rows' `split` reads; None where no row splits layers.
    extends  name of the table whose single-task networks, reference row and controls, with their search, this one
             takes over; None: it trains all of its rows.
    stream   number of an independent search (`protocol.streams`), which has search seeds and a Sobol sequence of its
             own, whose coordinates all rows share; None: the search of the table.
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
    stream: int | None = None

    @property
    def profile(self) -> str:
        return self.base.problem_options["profile"]

    def takes_over(self, row: str) -> bool:
        """Whether the records of this row are those of the table that this one extends."""
        return self.extends is not None and (row.startswith("single ") or row in (REFERENCE, *CONTROLS))

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def searched(self) -> list[Row]:
        return [row for row in self.rows if row.reuses is None]

    def singles(self) -> list[Row]:
        return [row for row in self.rows if row.tasks is not None]

    def shared(self) -> list[Row]:
        """The rows of the table: all but the single-task networks, which are its zero."""
        return [row for row in self.rows if row.tasks is None]

    # --- search

    def configurations(self, row: Row) -> list[dict]:
        """The configurations to try for a row: from one scrambled Sobol sequence, and from a second if `widened`."""
        configurations = self._sampled(row, self.rate, TRIED)
        if self.widened is not None:
            end, count = self.widened
            configurations += self._sampled(row, (self.rate[1], end), count, " widened")
        return configurations

    def _sampled(self, row, rate, count, which=""):
        space = {"learning_rate": ("log", *rate), "weight_decay": ("choice", self.decay), **row.space}
        if self.stream is not None:
            shared = numpy_generator(0, "search", f"{self.name}, stream {self.stream}{which}")
            return search_space.sample(space, count, shared, DIMENSIONS)
        return search_space.sample(space, count, numpy_generator(0, "search", f"{self.name} {row.name}{which}"))

    def search_seeds(self) -> tuple[int, int]:
        """Seeds of the short and of the full runs of the search."""
        return (SHORT_SEED, FULL_SEED) if self.stream is None else (1000 + 2 * self.stream, 1001 + 2 * self.stream)

    def rates(self) -> tuple[float, float]:
        """The whole range of the learning rate."""
        return self.rate[0], self.rate[1] if self.widened is None else self.widened[0]

    def run(self, row: Row, choice: Mapping, seed: int, length: float = 1.0, test: bool = False) -> Run:
        """The run of `row` with a configuration, at a share of the full length."""
        schedule = dict(self.base.schedule)
        schedule["epochs"] = max(1, round(schedule["epochs"] * row.epochs * length))
        if not isinstance(falls := schedule.get("decay", ""), str):  # epochs after which the rate falls
            schedule["decay"] = [max(1, round(epoch * row.epochs * length)) for epoch in falls]
        options = dict(row.options)
        for name, value in choice.items():
            if name not in RESOLVED:
                (schedule if name in ("learning_rate", "weight_decay") else options)[name] = value
        return replace(
            self.base,
            tasks=row.tasks,
            model_options={**self.base.model_options, **row.model},
            method=row.method,
            method_options=options,
            convention=row.convention,
            split=choice.get("split", ()),
            schedule=schedule,
            seed=seed,
            test=test,
        )

    def resolve(self, row: Row, choice: Mapping, ranking: Mapping | None, baseline: Mapping) -> dict:
        """The configuration with the layers that it splits and its static weights filled in.

        ranking   conflict log of the ranking run.
        baseline  task -> metric -> validation value of the single-task networks.
        """
        choice = dict(choice)
        if row.split is not None:
            choice["split"] = row.split(self, choice, ranking)
        if "power" in choice:
            tasks = directions(self.base.problem)  # in their order: `baseline` is sorted by name
            weights = np.array([baseline[task]["loss"] for task in tasks]) ** -choice["power"]
            choice["weights"] = records.rounded((weights * len(weights) / weights.sum()).tolist())
        return choice

    def at_edge(self, row: Row, choice: Mapping) -> bool:
        """Whether a chosen rate lies in the outer tenth of its range on the log scale.

        Then the range must be widened for all rows. Rates are the learning rate and every parameter with a log scale;
        other ranges end where the method is no longer defined.
        """
        ranges = {"learning_rate": self.rates()} | {k: ends for k, (kind, *ends) in row.space.items() if kind == "log"}
        shares = [math.log(choice[k] / low) / math.log(high / low) for k, (low, high) in ranges.items()]
        return not all(0.1 <= share <= 0.9 for share in shares)

    def validation_delta(self, record: Mapping, baseline: Mapping) -> float:
        """Δm of a record's last epoch on validation data against the fixed single-task values; -inf if it diverged."""
        if record["diverged"] is not None:
            return -math.inf
        return self.delta_m(record["final"]["validation"], baseline)

    def delta_m(self, values: Mapping, baseline: Mapping, only: Collection[str] | None = None) -> float:
        """Δm in percent of {task: {metric: value}}, positive = better, averaged in groups first.

        only  names of the tasks to take; None: all.
        """
        up = directions(self.base.problem)
        groups = dict(zip(up, self.groups or up, strict=True))
        return delta_m(values, baseline, {t: up[t] for t in up if only is None or t in only}, groups)

    # --- evaluation

    def seeds(self, row: Row, count: int = len(SEEDS)) -> list[int]:
        return [OTHER_SEEDS + s if row.name == A_A else s for s in range(count)]

    def expected(self, choices: Mapping[str, Mapping], count: int = len(SEEDS)) -> dict[str, list[Run]]:
        """Row name -> its evaluation runs, one per seed: exactly the runs that the records must hold."""
        runs = {}
        for row in self.rows:
            choice = dict(choices[row.reuses or row.name])
            if row.downweighted_tasks:
                choice = weakened(choice, row.downweighted_tasks)
            runs[row.name] = [self.run(row, choice, seed, test=True) for seed in self.seeds(row, count)]
        return runs


def delta_m(values: Mapping, baseline: Mapping, up: Mapping, groups: Mapping | None = None) -> float:
    """Δm in percent of {task: {metric: value}}, positive = better, averaged in each task, or group of tasks, first.

    up      task -> metric -> whether higher is better, of the metrics to take.
    groups  task -> group; None: each task by itself.
    """
    entries = [
        (values[task][metric], baseline[task][metric], higher, groups[task] if groups else task)
        for task, of_task in up.items()
        for metric, higher in of_task.items()
    ]
    return metrics.delta_m(*map(list, zip(*entries, strict=True)))


def weakened(choice: Mapping, tasks: Collection[int], factor: float = WEAKER) -> dict:
    """A configuration with static weights whose weights of `tasks` are multiplied by `factor`."""
    weights = [records.rounded(w * factor) if k in tasks else w for k, w in enumerate(choice["weights"])]
    return {**choice, "weights": weights}
