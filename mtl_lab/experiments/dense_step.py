"""What a dense table costs at the paper's scale, from a measured step and one printed time.

results/dense_step/paper/runs.jsonl, from `benchmarks/dense_step.py --record`, has for each network the core-seconds of
one image at the published width: forward alone, and forward and backward of the sum of its losses. Both grow with the
pixels. The cost of a run follows: a backward pass for each task where the method or the search needs each gradient, K
passes of one task each behind a split (an upper end, as if all layers were), a forward pass over the validation images
after each epoch and over the test images at the end.

GPU-hours are that cost on the scale of the one time that a paper prints: RotoGrad's Table 3 has the hours of joint
training of SegNet on NYUv2, on one A100. They are estimates: loading data is not counted.
"""

from collections.abc import Mapping, Sequence
from statistics import median

from mtl_core import methods
from mtl_core.data import cityscapes, nyuv2, pascal
from mtl_core.methods.registry import AGGREGATION
from mtl_lab import records
from mtl_lab.experiments import dense_conflict
from mtl_lab.experiments.dense_tables import SIZES, TASKS, DenseTable
from mtl_lab.experiments.registry import GRIDS, register_study
from mtl_lab.runs import provenance
from mtl_lab.runs.run import Run

NAME, PROFILE = "dense_step", "paper"
MEASURED = {"segnet": "cityscapes", "mtan": "nyuv2", "mobilenet_raspp": "pascal"}  # network -> tasks of the set
SIDES = {"segnet": (128, 256), "mtan": (128, 256), "mobilenet_raspp": (512, 512)}  # of the image that was measured
PIXELS = {**SIZES, "pascal": (512, 512)}
COUNTS = {"cityscapes": cityscapes.COUNTS, "nyuv2": nyuv2.COUNTS, "pascal": pascal.COUNTS}
PASSES = ("forward", "gradient")


def write(seconds: Mapping[str, Mapping[str, Sequence[float]]], root=records.ROOT) -> None:
    """Write one record for each network: pass -> its core-seconds by round."""
    made = provenance.provenance()
    lines = [
        {"row": network, "core_seconds": of, "image": list(SIDES[network]), "threads": 1, "provenance": made}
        for network, of in seconds.items()
    ]
    records.write_lines(map(records.rounded, lines), records.folder(NAME, PROFILE, root) / "runs.jsonl")


def load(root=records.ROOT) -> dict[str, dict[str, float]]:
    """Network -> pass -> median core-seconds of a pixel; {} without records."""
    found = records.by_row(NAME, PROFILE, root)
    return {
        network: {
            name: median(of) / (record["image"][0] * record["image"][1]) for name, of in record["core_seconds"].items()
        }
        for network, record in found.items()
    }


def core_seconds(run: Run, steps: Mapping[str, Mapping[str, float]]) -> float:
    """About how many core-seconds a run on a whole real set takes; steps: from `load`."""
    counts, (height, width) = COUNTS[run.problem]["paper"], PIXELS[run.problem]
    forward, gradient = (steps[run.model][name] * height * width for name in PASSES)
    tasks = 1 if run.tasks is not None else len(TASKS[run.problem])
    each = run.observe is not None or methods.find(run.method).kind == AGGREGATION
    image = tasks * gradient if run.split else forward + (tasks if each else 1) * (gradient - forward)
    epochs = run.schedule["epochs"]
    looked_at = epochs * counts["validation"] + run.test * counts["test"]
    return epochs * counts["train"] * image + looked_at * forward * (tasks if run.split else 1)


def planned(name: str, methods: Sequence[str] | None = None, seeds: int = 3) -> list[Run]:
    """The runs of a published table, or what costs as much: layers are named anyhow, before any search."""
    return [run for runs in planned_rows(name, methods, seeds).values() for run in runs]


def planned_rows(name: str, methods: Sequence[str] | None = None, seeds: int = 3) -> dict[str, list[Run]]:
    """The same runs, by row."""
    plan: DenseTable = GRIDS[name](profile=PROFILE, seeds=seeds, methods=methods)  # type: ignore[assignment,call-arg]
    plan = type(plan)(**{**vars(plan), "own": {"profile": PROFILE}})
    p, found = plan.published, list[dict]()
    if p.threshold is not None:
        logs = dense_conflict.placeholders(p.network, p.threshold)
        for row, log in zip(("search", "equal"), logs, strict=True):
            found += [{"identity": run.identity, "conflict": log} for run in plan.plan(found).get(row, [])[:1]]
    rows = plan.plan(found)
    if p.other is not None and "equal + Recon*" not in rows:
        rows |= {f"{row}*": rows[row] for row in rows if row.endswith(" + Recon")}
    return rows


def hours(runs: Sequence[Run], printed: float, root=records.ROOT) -> tuple[float, float] | None:
    """(core-hours, GPU-hours) of runs; printed: hours of RotoGrad's joint training. None without a measured step."""
    if set(steps := load(root)) < set(MEASURED):
        return None
    cost = sum(core_seconds(run, steps) for run in runs) / 3600
    yardstick = next(run for run in planned("rotograd_table3", ["equal"], 1) if run.tasks is None)
    return cost, cost * printed / (core_seconds(yardstick, steps) / 3600)


register_study(NAME, lambda _: "nothing was measured: run `python benchmarks/dense_step.py --record`.")
