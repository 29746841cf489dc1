"""A page's own run of a dense table: what it trains, on what, and what it shows of it."""

import os
from collections.abc import Mapping, Sequence

import numpy as np

from mtl_core.data.problem import Split
from mtl_lab import records
from mtl_lab.experiments.dense_pages import average, needs, planned
from mtl_lab.experiments.dense_tables import KINDS, PUBLISHED, TITLES, UP, DenseTable, whole
from mtl_lab.experiments.registry import GRIDS
from mtl_lab.protocol.table import delta_m as of_tasks
from mtl_lab.runs import build


def page_run(name: str, profile: str, data, data_root, methods, epochs) -> tuple[DenseTable, list[dict]]:
    """The plan of a page's own run and its compact records. data_root: folder of data sets, for this process."""
    if data_root is not None:
        os.environ["MTL_DATA"] = str(data_root)
        build._problem.cache_clear()
    chosen = data or (PUBLISHED[name].data if profile == "paper" or data_root else "scenes")
    made: type[DenseTable] = GRIDS[name]  # type: ignore[assignment]
    own = {"train": 96, "validation": 24, "test": 48} if (chosen, profile) == ("scenes", "tiny") else {}
    plan, found = made(profile, 1, methods, chosen, epochs, own), list[dict]()
    while True:
        known = {record["identity"] for record in found}
        todo = [(row, run) for row, runs in plan.plan(found).items() for run in runs if run.identity not in known]
        if not todo:
            return plan, found
        from mtl_lab.runs import grid  # it brings training code, which reading a record does without

        trained = grid.grid([run for _, run in todo])
        found += [records.compact(record, row) for record, (row, _) in zip(trained, todo, strict=True)]


def run_on(plan: DenseTable, found: Sequence[Mapping]) -> str:
    """What a page's own run was run on, in words."""
    part = "" if plan.on == "scenes" or whole(found[0]) else "a part of "
    kind = f" ({KINDS[plan.published.data]})" if plan.on == "scenes" else ""
    return f"{found[0]['source']['counts']['train']} images of {part}{TITLES[plan.on]}{kind}"


def first_screen(found: Mapping[str, Sequence], compared: Sequence[Sequence[str]], whom: str) -> str:
    """What is known of tables, in two sentences. found: table -> its runs on a whole real set.

    compared  lines of `dense_pages.verdicts`, whose printed difference is positive where `whom` is better.
    """
    here, runs = (sum(map(len, of)) for of in (found.values(), map(planned, found)))
    titles = " and ".join(dict.fromkeys(TITLES[PUBLISHED[name].data] for name in found))
    better = sum(line[-2].startswith("+") for line in compared)
    return (
        f"**{'Preliminary' if here else 'Not trained yet'}: {here} of {runs} runs on {titles}.** As printed, {whom} "
        f"is better in {better} of {len(compared)} comparisons; whether that holds needs the images, which you bring, "
        "and a GPU ([at what cost](#what-a-rerun-takes))."
    )


def what_it_takes(plan: DenseTable, own: Sequence[Mapping], names: Sequence[str], hours: float) -> str:
    """What each table needs, and what this page's own run was run on."""
    return (
        f"{needs([*names], hours)}\n\nThis page itself, at `{plan.profile}`, trained {len(own)} networks of the kind "
        f"`{plan.published.network}` on {run_on(plan, own)}."
    )


def examples(problem, count: int) -> tuple[list[np.ndarray], dict[str, list[np.ndarray]]]:
    """The first test images (H, W, 3) in 0 to 1, and task -> their labels (H, W), of normals (H, W, 3)."""
    split, made = problem.test, []
    for i in range(min(count, len(split))):
        inputs, targets = split.batch(slice(i, i + 1)) if isinstance(split, Split) else (split[i][:1], split[i][1:])
        made.append([inputs[0], *(t[0] if isinstance(split, Split) else t for t in targets)])
    images = [np.moveaxis(one[0].numpy(), 0, -1) for one in made]
    images = [(image - image.min()) / max(float(np.ptp(image)), 1e-9) for image in images]
    labels: dict[str, list[np.ndarray]] = {}
    for k, task in enumerate(problem.tasks, 1):
        maps = [one[k].numpy() for one in made]
        labels[task.name] = [
            m if m.ndim == 2 else m[0] if len(m) == 1 else (np.moveaxis(m, 0, -1).clip(-1, 1) + 1) / 2 for m in maps
        ]
    return images, labels


def own_lines(plan: DenseTable, found: Sequence[Mapping]) -> tuple[list[str], list[list]]:
    """(header, lines) of a page's own run: test metrics and Δm of each row against its own single-task networks."""
    up = {task: UP[task] for task in plan.tasks}
    alone: dict = {}
    for record in found:
        if record["row"].startswith("single "):
            alone |= record["final"]["test"]
    made = []
    for record in found:
        if (test := record["final"].get("test")) and record["row"] != "search":
            cells = [average([test[t][m]]) if t in test else "–" for t, of in up.items() for m in of]
            full = set(up) <= set(test) and set(up) <= set(alone)
            full = full and all(alone[t][m] > 0 for t, of in up.items() for m in of)  # few images: mIoU 0
            change = of_tasks(test, alone, up) if full else None
            made.append([record["row"], *cells, "–" if change is None else f"{change:+.1f}"])
    return ["", *(m for of in up.values() for m in of), "Δm"], made
