"""What Multi-Fashion+MNIST would cost at the paper's scale: width 64, 108,000 pictures, 120 epochs.

results/paper_step/paper/runs.jsonl, from `benchmarks/paper_step.py --record`, has one record for each kind of run: the
core-seconds of a step, in each round. A run costs its steps, and one forward pass over the validation data after each
epoch and over the test data at the end. Passes behind a split are counted as with Recon's released set. It is an
estimate: the processor's time on one machine, without loading data.

Two commands train at that scale. `recon_multi_fashion_mnist:paper` is the paper's own protocol: a search run, then
every method with and without Recon at the printed settings, seed by seed, joint training, PCGrad and CAGrad first.
`multi_fashion_mnist:paper` is this book's protocol on the paper's network and schedule: every row is searched.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import median

from mtl_core import methods
from mtl_core.data.multi_fashion_mnist import COUNTS
from mtl_lab import records
from mtl_lab.experiments import multi_fashion_mnist
from mtl_lab.experiments.recon import ROWS, ReconExperiment
from mtl_lab.experiments.registry import register_study
from mtl_lab.protocol.table import KEPT, SEEDS
from mtl_lab.runs import provenance
from mtl_lab.runs.run import Run

NAME, PROFILE, FIRST = (
    "paper_step",
    "paper",
    ("equal", "pcgrad", "cagrad"),
)  # FIRST: what each seed of Recon begins with
# Kind -> method that stands for it, None for a forward pass alone; whether layers are split.
KINDS = {
    "forward": (None, False),
    "forward, split": (None, True),
    "single": ("equal", False),
    "one gradient": ("equal", False),
    "each gradient": ("pcgrad", False),
    "one gradient, split": ("equal", True),
    "each gradient, split": ("pcgrad", True),
}


def write(seconds: Mapping[str, Sequence[float]], root=records.ROOT) -> None:
    """Write one record for each kind: its `core_seconds` of a step by round."""
    made = provenance.provenance()
    setting = {"model": "resnet18", "width": 64, "image": 36, "batch": 256, "threads": 1}
    lines = [
        {"row": kind, "core_seconds": [*of], "setting": setting, "provenance": made} for kind, of in seconds.items()
    ]
    records.write_lines(map(records.rounded, lines), records.folder(NAME, PROFILE, root) / "runs.jsonl")


def load(root=records.ROOT) -> dict[str, float]:
    """Kind -> median core-seconds of a step; {} without records."""
    return {kind: median(record["core_seconds"]) for kind, record in records.by_row(NAME, PROFILE, root).items()}


def measured_on(root=records.ROOT) -> str:
    """The processors that the steps were measured on."""
    found = records.by_row(NAME, PROFILE, root).values()
    return "; ".join(sorted({record["provenance"]["hardware"] for record in found}))


def kind_of(run: Run) -> str:
    """The kind of run in `KINDS` whose step is about as long."""
    if run.tasks is not None:
        return "single"
    # Whoever logs the gradients needs each of them.
    each = run.observe is not None or methods.find(run.method).kind != "loss weighting"
    return ("each" if each else "one") + " gradient" + ", split" * bool(run.split)


def core_seconds(run: Run, steps: Mapping[str, float]) -> float:
    """About how many core-seconds a run at profile `paper` takes; steps: from `load`."""
    counts, batch, epochs = COUNTS["paper"], run.schedule["batch_size"], run.schedule["epochs"]
    looked_at = epochs * counts["validation"] + run.test * counts["test"]
    forward = steps["forward, split" if run.split else "forward"]
    return epochs * (counts["train"] // batch) * steps[kind_of(run)] + looked_at / batch * forward


def of_recon(names: Iterable[str] = tuple(ROWS), seeds: int = 3) -> list[Run]:
    """Runs that cost what those of `recon_multi_fashion_mnist:paper` do; no layer is named before its search."""
    experiment = ReconExperiment(PROFILE, seeds=seeds)
    runs = [experiment.search(), *experiment.single_task()]
    for name in names:
        run = replace(experiment.base, method=name, **ROWS[name], observe={})
        runs += run.seeds(range(seeds)) + replace(run, split=["worst"]).seeds(range(seeds))
    return runs


def of_the_table() -> list[Run]:
    """The same for `multi_fashion_mnist:paper`: the ranking run, each row's search, and its evaluation seeds."""
    table = multi_fashion_mnist.table(PROFILE)
    runs = [table.ranking]
    for row in table.rows:
        choice = {"split": ["worst"]} if row.split else {}
        short = [] if row.reuses else [0.25] * len(table.configurations(row))
        lengths = short + [1.0] * (KEPT * (row.reuses is None) + len(SEEDS))
        runs += [
            table.run(row, choice, seed, length, test=seed >= len(lengths) - len(SEEDS))
            for seed, length in enumerate(lengths)
        ]
    return runs


def costs(root=records.ROOT) -> list[tuple[str, str, int, float]]:
    """(what, command, runs, core-hours) of what can be trained at the paper's scale; [] without records."""
    if not (steps := load(root)):
        return []
    make = "make results PROFILE=paper EXPERIMENT="
    recon, table = f"{make}recon_multi_fashion_mnist SEEDS=3", f"{make}multi_fashion_mnist"
    plans = {
        ("joint, PCGrad, CAGrad with and without Recon, one seed (trained first)", recon): of_recon(FIRST, 1),
        ("all methods with and without Recon, the paper's three seeds", recon): of_recon(),
        ("the protocol: every method searched, ten seeds", table): of_the_table(),
    }
    return [(*names, len(runs), sum(core_seconds(run, steps) for run in runs) / 3600) for names, runs in plans.items()]


register_study(NAME, lambda _: "nothing was measured: run `python benchmarks/paper_step.py --record`.")
