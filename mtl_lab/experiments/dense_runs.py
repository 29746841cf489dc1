"""A page's own run of a dense table: what it trains, on what, what it shows of it; and of the cosines that runs log."""

import os
from collections.abc import Mapping, Sequence
from itertools import accumulate
from statistics import median_low

import numpy as np

from mtl_core.data.problem import Split
from mtl_lab import records
from mtl_lab.experiments import dense_conflict, dense_step
from mtl_lab.experiments.dense_conflict import KEPT
from mtl_lab.experiments.dense_pages import average, beside, needs, planned, row_of
from mtl_lab.experiments.dense_tables import KINDS, PUBLISHED, TITLES, UP, DenseTable, whole
from mtl_lab.experiments.registry import GRIDS
from mtl_lab.protocol.table import delta_m as of_tasks
from mtl_lab.runs import build

NETWORKS = {"segnet": "SegNet", "mtan": "MTAN", "mobilenet_raspp": "MobileNetV2"}
GROUPS = {"without Recon": "blue", "with Recon": "red", "RSL": "grey", "RSP": "grey", KEPT: "green"}


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


# --- the cosines that runs log: Recon's Tables 8 to 10 and Figures 5 to 10, and Table 13


def cosines(
    name: str, table: Mapping, found: Sequence[Mapping], hours: float, root=records.ROOT
) -> tuple[list[str], list[list]]:
    """(header, lines): every printed share of cosines "printed / ours" in percent, and what a line needs.

    The last number is ours alone: how much rarer conflict is without a split, over the layers that Recon keeps.
    table: `dense_pages.lines` of the printed table of cosines.
    """
    published, made = PUBLISHED[name], list[list]()
    metrics = [metric for _, metric in table["Joint", "Recon"]]
    logs, runs = dense_conflict.histograms(found), dense_step.planned_rows(name)
    for (method, variant), line in table.items():
        row = str(row_of(published, method, variant))
        mine = [dense_conflict.measured(m, row, logs) if ("", m) in line else None for m in metrics]
        kept = dense_conflict.measured(metrics[-1], f"{row}, {KEPT}", logs)
        shown = ["–" if value is None else average([value]) for value in (*mine, kept)]
        digits = [line[("", m)]["printed"] if ("", m) in line else "–" for m in metrics]
        cells = [f"{a} / {b}" for a, b in zip(digits, shown, strict=False)] + ["" if variant else shown[-1]]
        cost = dense_step.hours(runs[row][:1], hours, root)
        need = f"{TITLES[published.data]}, 1 run" + (f", {cost[1]:.0f} GPU-hours" if cost else "")
        made.append([" + ".join(filter(None, (method, variant))), *cells, "nothing, 1 run" if row in logs else need])
    head = [m.removeprefix("share in ").replace("reduction", "rarer") for m in metrics]
    return ["", *(words.replace("-", "−") for words in head), f"rarer, {KEPT}", "needs"], made


def cosines_as_printed(table: Mapping) -> str:
    """What the printed reductions say of Recon, and what they leave out, in a sentence each."""
    by = {line: of for line, cells in table.items() for (_, m), of in cells.items() if m.startswith("reduction")}
    recon = [of["value"] for (_, variant), of in by.items() if variant == "Recon"]
    rarer = f"rarer with every method, by at least {int(min(recon))} %"
    limit, word = by["Joint", "Recon"]["metric"].split()[-1], rarer if min(recon) > 0 else "not rarer everywhere"
    return (
        f"**As printed, Recon makes cosines below {limit.replace('-', '−')} {word}.** The cosine is over whatever is "
        "still shared, so its distribution narrows just because conflicting layers have left the vector; the fair "
        f"companion is the unsplit network's cosine over the layers that Recon keeps (*{KEPT}*)."
    )


def quarters(
    name: str, table: Mapping, found: Sequence[Mapping], hours: float, root=records.ROOT
) -> tuple[list[str], list[list]]:
    """(header, lines): the printed table of layers by quarter of a run, as `dense_pages.beside`."""
    p = PUBLISHED[name]
    mine = dense_conflict.of_quarters(found, float(p.threshold or 0), p.layers)
    head, made = beside(name, table, mine, hours, root)
    for line in made:
        part = line[0].partition("layers of ")[2]
        if part in dense_conflict.QUARTERS and part not in dense_conflict.TRAINED and "run" in line[-1]:
            line[-1] = "nothing, if its layers are those of all iterations"
    return head, made


def cosine_figure(plan: DenseTable, own: Sequence[Mapping], name: str, table: Mapping, colours: Mapping[str, str]):
    """The negative cosines by printed bin, as steps: the printed table above, a page's own run below."""
    import matplotlib.pyplot as plt

    published = PUBLISHED[name]
    bins = [m for _, m in table["Joint", ""] if not m.endswith("[1, 0)")]
    above, below = dict[str, list[list[float]]](), dict[str, list[list[float]]]()
    for (_, variant), line in table.items():
        group = {"": "without Recon", "Recon": "with Recon"}.get(variant, variant)
        above.setdefault(group, []).append([line["", m]["value"] for m in bins])
    logs = dense_conflict.histograms(own)
    for row, log in logs.items():
        end = row.partition(" + ")[2]
        group = KEPT if row.endswith(KEPT) else f"with {end}" if end.startswith("Recon") else end
        below.setdefault(group or "without Recon", []).append([dense_conflict.share(m, log) for m in bins])
    count = sum(logs.get(next(iter(logs), ""), {}).values())
    figure, axes = plt.subplots(2, 1, figsize=(3.05, 4.8))
    place = run_on(plan, own).replace(" (", "\n(")
    join = ", " if "\n" in place else ",\n"
    titles = (
        f"Printed: {TITLES[published.data]}, {NETWORKS[published.network]}",
        f"Ours: {place}{join}{NETWORKS[plan.published.network]}, {count} cosines a line",
    )
    for axis, panel, title in zip(axes, (above, below), titles, strict=True):
        _steps(axis, {g: of for g, of in panel.items() if g in GROUPS}, len(bins), colours)
        axis.set_title(title, fontsize=9, loc="left")
        edges = [dense_conflict.ends(bins[0])[1], *(dense_conflict.ends(m)[0] for m in bins)]
        ticks = [f"{edge / 1000 - 1:g}".replace("-", "−") for edge in edges]
        axis.set_xticks(np.arange(len(edges)) - 0.5, ticks, fontsize=7)
        axis.tick_params("y", labelsize=8)
        axis.set_ylabel("% of cosines", fontsize=9)
    axes[1].set_xlabel("cosine of two task gradients", fontsize=9)
    return figure


def _steps(axis, groups: Mapping[str, Sequence[Sequence[float]]], count: int, colours: Mapping[str, str]) -> None:
    """Each line of each group as steps over `count` bins, and a group's name at its last step."""
    top = max((max(of) for lines in groups.values() for of in lines), default=1.0) or 1.0
    at = {group: float(median_low([of[-1] for of in lines])) for group, lines in groups.items()}  # the end of a line
    rising, gap, ceiling = sorted(at, key=at.__getitem__), 0.11 * top, top
    places = accumulate((at[group] for group in rising), lambda y, own: max(own, y + gap))
    names = dict(zip(rising, places, strict=True))
    for group in reversed(rising):  # and below the title
        names[group] = ceiling = min(names[group], ceiling)
        ceiling -= gap
    for group, y in names.items():
        colour = colours[GROUPS[group]]
        for of in groups[group]:
            axis.stairs(of, np.arange(count + 1) - 0.5, baseline=None, color=colour, lw=1.4, alpha=0.85)
        axis.plot([count - 0.5, count - 0.3], [at[group], y], color=colour, lw=1.4, clip_on=False)
        axis.text(count - 0.25, y, group, fontsize=8, va="center", color=colour)
    axis.set_xlim(-0.5, count + 1.9)
    axis.set_ylim(0, 1.05 * top)
    axis.spines["bottom"].set_bounds(-0.5, count - 0.5)
