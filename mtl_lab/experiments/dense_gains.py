"""What a printed gain of a dense table consists of, task by task, and how its page shows cells while nothing is ours.

Δm is a mean over tasks of means over their metrics, so the difference of two lines is a sum of parts, one a metric.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from mtl_lab import records
from mtl_lab.experiments import dense_step
from mtl_lab.experiments.dense_pages import Line, command, metrics_of, planned
from mtl_lab.experiments.dense_tables import PUBLISHED, TITLES

Parts = Mapping[str, float]  # part of Δm -> points


def parts(table: Mapping[tuple[str, str], Line], apart: Collection[str] = ()) -> dict[str, dict[str, float]]:
    """Line with a variant -> part -> points of Δm more than the same method without it; positive = better.

    A part is a task, or a metric of one of the tasks in `apart`. Changes are those of the printed digits.
    """
    keys, zero, found = metrics_of(table), table["Single-task", ""], dict[str, dict[str, float]]()
    inside = Counter(task for task, _ in keys)
    for (method, variant), line in table.items():
        if variant and (method, "") in table:
            of = found[method if variant == "Recon" else f"{method}, {variant}"] = {}
            for task, metric in keys:
                was, now, alone = (each[task, metric]["value"] for each in (table[method, ""], line, zero))
                points = 100 * (now - was) / alone / inside[task] / len(inside)
                part = f"{task}, {metric}" if task in apart else task
                of[part] = of.get(part, 0.0) + (points if zero[task, metric]["higher_is_better"] else -points)
    return found


def in_all(table: Mapping[tuple[str, str], Line]) -> dict[str, float]:
    """Line with a variant -> printed Δm minus that of the same method without it.

    The sum of its `parts` differs where a cell is printed with few digits.
    """
    delta = {key: line["", "delta_m"]["value"] for key, line in table.items() if ("", "delta_m") in line}
    return {
        method if variant == "Recon" else f"{method}, {variant}": delta[method, variant] - delta[method, ""]
        for method, variant in delta
        if variant and (method, "") in delta
    }


def largest(panels: Mapping[str, Mapping[str, Parts]]) -> str:
    """Which task makes the largest part of the gains most often, in a sentence."""
    found = Counter[str]()
    for of in (of for lines in panels.values() for of in lines.values()):
        by_task = Counter[str]()
        for part, points in of.items():
            by_task[part.partition(",")[0]] += points  # type: ignore[assignment]
        found[max(by_task, key=by_task.__getitem__)] += 1
    ((task, count),) = found.most_common(1)
    return f"**As printed, the largest part of what Recon adds is {task}**, in {count} of {found.total()} comparisons."


def figure(panels: Mapping[str, Mapping[str, Parts]], colours: Sequence[str], printed: Mapping[str, Parts]):
    """A panel for each table, a bar for each line: its parts end to end, gains to the right and losses to the left.

    printed  panel -> line -> the number beside its bar, from `in_all`.
    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    names = list(dict.fromkeys(part for lines in panels.values() for of in lines.values() for part in of))
    looks, counts = dict(zip(names, colours, strict=False)), [len(lines) for lines in panels.values()]
    height = 0.22 * sum(counts) + 0.45 * len(panels) + 0.6
    made, axes = plt.subplots(len(panels), 1, figsize=(3.9, height), height_ratios=counts, squeeze=False)
    for axis, (title, lines) in zip(axes[:, 0], panels.items(), strict=True):
        for y, (name, of) in enumerate(lines.items()):
            ends = [0.0, 0.0]  # of the bar, left and right
            for part, points in of.items():
                axis.barh(y, points, 0.74, left=ends[points > 0], color=looks[part])
                ends[points > 0] += points
            axis.text(ends[1], y, f" {printed[title][name]:+.1f}".replace("-", "−"), va="center", fontsize=9)
        axis.axvline(0, color="black", lw=0.8)
        axis.set_yticks(range(len(lines)), list(lines), fontsize=9)
        axis.tick_params("y", length=0)
        axis.set_ylim(len(lines) - 0.4, -0.6)
        axis.margins(x=0.13)
        axis.set_title(title, fontsize=10, loc="left")
    axes[-1, 0].set_xlabel("points of Δm that Recon adds, as printed", fontsize=9)
    marks = [Patch(color=looks[part]) for part in names]
    words = made.legend(marks, names, loc="outside upper left", ncols=2, fontsize=9, handlelength=0.8, columnspacing=1)
    for text, part in zip(words.get_texts(), names, strict=True):
        text.set_color(looks[part])
    return made


def printed_alone(head: Sequence[str], lines: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """A table of `dense_pages.beside` or `dense_runs.cosines` with printed cells alone, while it has none of ours."""
    cells = [cell for line in lines for cell in line[1:-1]]
    if any(" / " in cell and not cell.endswith(" / –") for cell in cells):
        return [*head], [[*line] for line in lines]
    cut = [[c.removesuffix(" / –") for c in line[:-1]] for line in lines]  # what lines need, `costs` says for all
    kept = [k for k in range(len(head) - 1) if k == 0 or any(line[k] not in ("–", "") for line in cut)]
    return [head[k] for k in kept], [[line[k] for k in kept] for line in cut]


def costs(names: Sequence[str], printed_hours: float, root=records.ROOT) -> list[list[str]]:
    """For each table, what it needs: the printed tables, the set, GPU-hours, the command."""
    made = []
    for name in names:
        p, cost = PUBLISHED[name], dense_step.hours(planned(name), printed_hours, root)
        tables = ", ".join(str(n) for n in (p.table, p.cosines, p.quarters) if n)
        made.append([tables, TITLES[p.data], f"{cost[1]:,.0f}" if cost else "not measured", f"`{command(name)}`"])
    return made
