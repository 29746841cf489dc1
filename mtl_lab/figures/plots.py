"""Plots and tables that the notebooks share. Each function draws the data that it is given; none computes results."""

import re
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np

# Okabe and Ito's palette: told apart by readers with colour-vision deficiency, and in print.
COLOURS = {"blue": "#0072B2", "orange": "#E69F00", "green": "#009E73", "red": "#D55E00", "grey": "#888888"}
KINDS = {"normalisation": "blue", "convolution": "orange", "linear": "green"}


def style() -> None:
    """One look for all figures: SVG with stable ids, sans-serif, no box around the axes."""
    plt.rc("svg", hashsalt="conflicting-gradients", fonttype="none")
    plt.rc("font", size=10)
    plt.rc("axes.spines", top=False, right=False)
    plt.rc("figure.constrained_layout", use=True)
    plt.rc("legend", frameon=False)


def layer_kind(module) -> str:
    """ "normalisation", "convolution" or "linear", by the module's type name."""
    name = type(module).__name__
    return "convolution" if "Conv" in name else "linear" if "Linear" in name else "normalisation"


def examples(images, captions: Sequence[str]):
    """Grey images (N, H, W) with their captions, three in a line."""
    lines = -(-len(captions) // 3)
    figure, axes = plt.subplots(lines, 3, figsize=(4.6, 1.75 * lines), squeeze=False)
    for axis, image, caption in zip(axes.flat, images, captions, strict=False):
        axis.imshow(image, cmap="gray", vmin=0, vmax=255)
        axis.set_title(caption, fontsize=10)
        axis.set_axis_off()
    return figure


def layer_scores(layers: Sequence[str], scores, opposite, kinds: Mapping[str, str], chosen: int, total: int):
    """Share of steps in conflict for each layer, highest first; the first `chosen` layers are shaded.

    scores    number of the `total` steps with a cosine below S, for each layer.
    opposite  number of steps in the opposite tail, with a cosine above −S.
    kinds     layer -> key of `KINDS`.
    """
    order = sorted(range(len(layers)), key=lambda layer: -scores[layer])
    figure, axis = plt.subplots(figsize=(7, 7.5))
    axis.axhspan(-0.5, chosen - 0.5, color="#eeeeee", zorder=0)
    words = {"fontsize": 9, "ha": "right", "transform": axis.get_yaxis_transform()}
    for kind, colour in KINDS.items():
        bars = [i for i, layer in enumerate(order) if kinds[layers[layer]] == kind]
        if bars:
            shares = [100 * scores[order[i]] / total for i in bars]
            axis.barh(bars, shares, color=COLOURS[colour], height=0.75)
            axis.text(0.98, len(order) - 8 + 2 * list(KINDS).index(kind), kind, color=COLOURS[colour], **words)
    tail = [100 * opposite[layer] / total for layer in order]
    axis.plot(tail, range(len(order)), "|", color="black", ms=8)
    axis.text(0.98, len(order) - 8 + 2 * len(KINDS), "| positive tail: cosine above −S", **words)
    axis.set_yticks(range(len(order)), [layers[layer] for layer in order], fontsize=8)
    axis.set_ylim(len(order) - 0.5, -0.5)
    axis.set_xlabel("% of steps with cosine below S")
    return figure


def end_labels(axis, x: float, ends: Mapping[str, tuple[float, str]], gap: float) -> None:
    """Label each curve at its right end x, label -> (y, colour), in the order of y and at least `gap` apart."""
    at = -np.inf
    for label, (y, colour) in sorted(ends.items(), key=lambda item: item[1][0]):
        at = max(y, at + gap)
        axis.annotate(label, (x, at), (7, 0), textcoords="offset points", va="center", fontsize=9, color=colour)


def split_network(layers: Sequence[str], split: Sequence[str], kinds: Mapping[str, str], tasks: Sequence[str]):
    """The layers from input to heads, in two panels: one box for a layer that tasks share, else one box per task."""
    figure, axes = plt.subplots(2, 1, figsize=(7, 3.6))
    half, split = (len(layers) + 1) // 2, set(split)
    for axis, part in zip(axes, (layers[:half], layers[half:]), strict=True):
        for x, layer in enumerate(part):
            colour = COLOURS[KINDS[kinds[layer]]]
            face = colour if layer in split else "white"
            boxes = [(k, 0.8) for k in range(len(tasks))] if layer in split else [(0, len(tasks) - 0.2)]
            for bottom, height in boxes:
                box = plt.Rectangle((x - 0.4, bottom), 0.8, height, facecolor=face, edgecolor=colour, linewidth=1.5)
                axis.add_patch(box)
        axis.set_xlim(-0.6, half - 0.4)
        axis.set_ylim(len(tasks), -0.1)
        axis.set_xticks(range(len(part)), part, rotation=90, fontsize=6)
        axis.set_yticks([k + 0.4 for k in range(len(tasks))], tasks, fontsize=8)
        axis.spines[["left", "bottom"]].set_visible(False)
        axis.tick_params(length=0)
    return figure


def scales_on_top(*axes):
    """Tick labels and the name of the x axis above the lines of a long chart, where a reader begins."""
    for axis in axes:
        axis.tick_params(axis="x", which="both", labeltop=True, top=True, labelbottom=False, bottom=False)
        axis.xaxis.set_label_position("top")


def differences(rows: Mapping[str, Sequence[float]], intervals: Mapping[str, tuple | None], xlabel: str):
    """A forest plot: one line per row, with its seeds as dots and its interval (low, high) if there is one."""
    figure, axis = plt.subplots(figsize=(5.2, 0.45 * len(rows) + 1))
    for y, (name, values) in enumerate(rows.items()):
        axis.plot(values, [y] * len(values), "o", color=COLOURS["blue"], ms=4, alpha=0.7)
        if intervals.get(name) is not None:
            low, high = intervals[name]
            axis.plot([low, high], [y, y], color="black", lw=1.5)
            axis.plot([np.mean(values)], [y], "D", color="black", ms=5)
    axis.axvline(0, color=COLOURS["grey"], lw=0.8)
    axis.set_yticks(range(len(rows)), list(rows))
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlabel(xlabel)
    return figure


def effects(axis, found: Mapping[str, tuple], margin: float, xlabel: str):
    """Estimates with intervals, one line a name, on a grey band of ±margin: an effect in there is negligible.

    found  name -> (estimate, low, high).
    """
    axis.axvspan(-margin, margin, color="#e4e4e4", zorder=0)
    axis.axvline(0, color=COLOURS["grey"], lw=0.8)
    for y, (value, low, high) in enumerate(found.values()):
        axis.plot([low, high], [y, y], color=COLOURS["blue"], lw=2)
        axis.plot([value], [y], "o", color=COLOURS["blue"], ms=6)
        axis.annotate(f"{value:+z.1f}".replace("-", "−"), (value, y), (0, 6), textcoords="offset points", ha="center")
    axis.set_yticks(range(len(found)), list(found))
    axis.set_ylim(len(found) - 0.5, -0.7)
    axis.set_xlabel(xlabel)


def streams(rows: Mapping[str, tuple], margin: float, xlabel: str):
    """A strip of streams for each row, and its interval at two levels: what seeds alone would give, and all of it.

    rows    title -> (differences by stream, `PairedDifference`, standard deviation by seed, outcome). An outcome is
            written at the end of its line.
    margin  δ, half the width of the grey band.
    """
    figure, axis = plt.subplots(figsize=(4.6, 0.5 * len(rows) + 1.3))
    axis.axvspan(-margin, margin, color="#eeeeee", zorder=0)
    axis.axvline(0, color=COLOURS["grey"], lw=0.8)
    for y, (values, d, seed, said) in enumerate(rows.values()):
        inner = (d.high - d.mean) * min(seed / d.sd, 1.0) if d.sd else 0.0
        dots = axis.plot(values, [y + 0.24] * len(values), "o", color=COLOURS["grey"], ms=4, alpha=0.7, mew=0)
        outer = axis.plot([d.low, d.high], [y - 0.1] * 2, color="black", lw=1.5)
        thick = axis.plot([d.mean - inner, d.mean + inner], [y - 0.1] * 2, color=COLOURS["blue"], lw=6)
        axis.plot(d.mean, y - 0.1, "D", color="black", ms=5)
        axis.text(1.02, y, said.replace(" (", "\n("), transform=axis.get_yaxis_transform(), va="center", fontsize=9)
    marks, words = (dots[0], thick[0], outer[0]), ("one stream", "seeds alone", "seeds and search")
    figure.legend(marks, words, loc="outside upper left", ncols=3, fontsize=9, columnspacing=1, handlelength=1.2)
    axis.set_yticks(range(len(rows)), list(rows), fontsize=9)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_xlabel(xlabel)
    return figure


_SOLID = ["black", *(COLOURS[name] for name in ("blue", "red", "green")), "#AA4499", COLOURS["orange"]]
PATHS = [(colour, "-") for colour in _SOLID] + [(colour, "--") for colour in _SOLID[1:4]]


def level_lines(axis, landscape, losses=None, cells: int = 80, colour: str = "#999999"):
    """Draw level lines of a function of the losses (their sum by default), at even shares of the area shown."""
    import torch

    (x0, x1), (y0, y1) = landscape.limits
    x, y = (torch.linspace(low, high, cells, dtype=torch.float64) for low, high in ((x0, x1), (y0, y1)))
    both = landscape.losses(torch.stack(torch.meshgrid(x, y, indexing="xy"), -1))  # (2, cells, cells)
    values = (both.sum(0) if losses is None else losses(both)).numpy()
    shares = np.quantile(values, [0.02, 0.07, 0.15, 0.25, 0.37, 0.5, 0.63, 0.75, 0.87, 0.95])
    axis.contour(
        x.numpy(), y.numpy(), values, np.unique(shares), colors=colour, linewidths=0.6, negative_linestyles="-"
    )
    axis.set(xlim=landscape.limits[0], ylim=landscape.limits[1], xlabel="θ₁", ylabel="θ₂")


def two_spaces(landscape, paths: Mapping):
    """Paths {label: Paths} on one landscape, in the plane of its parameters (left) and of its losses (right)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3.5))
    level_lines(left, landscape)
    if landscape.pareto is not None:
        look = {"color": COLOURS["green"], "lw": 5, "alpha": 0.5, "solid_capstyle": "round", "label": "Pareto set"}
        left.plot(*landscape.pareto.T.numpy(), **look)
        right.plot(*landscape.losses(landscape.pareto).numpy(), **look)
    for (label, path), (colour, line) in zip(paths.items(), PATHS, strict=False):
        for axis, values in ((left, path.points), (right, path.losses)):
            for curve in values.reshape(len(values), -1, 2).transpose(0, 1).numpy():
                axis.plot(*curve.T, color=colour, ls=line, lw=1.3, label=label)
                axis.plot(*curve[-1], "o", color=colour, ms=4)
                axis.plot(*curve[0], "o", mfc="white", mec="black", ms=5, zorder=3)
    right.set(xlabel="L₁", ylabel="L₂")
    handles, labels = left.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(unique.values(), unique, loc="outside upper left", ncols=2, fontsize=8)
    return figure


def markdown_table(header: Sequence[str], rows: Sequence[Sequence], align: str = ""):
    """A Markdown table as an IPython object: readable in dark mode and on a phone, unlike raw HTML.

    A hyphen before a number becomes a minus sign, but not in a cell that holds code.
    """
    from IPython.display import Markdown

    marks = {"l": ":--", "r": "--:", "c": ":-:"}
    align = align or "l" + "r" * (len(header) - 1)
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join(marks[a] for a in align) + "|"]
    lines += ["| " + " | ".join(with_minus(str(cell)) for cell in row) + " |" for row in rows]
    return Markdown("\n".join(lines))


def with_minus(cell: str) -> str:
    """Text in which a hyphen before a number is a minus sign, unless it holds code."""
    return cell if "`" in cell else re.sub(r"(?<![\w.-])-(?=[\d.])", "−", cell)


def mean_sd(values: Sequence[float], digits: int = 2) -> str:
    """ "mean ± sd" over seeds; the bare value for one seed."""
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return f"{values.mean():.{digits}f}"
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1):.{digits}f}"


def show_code(*objects):
    """The source of functions or classes as Markdown code blocks."""
    import inspect

    from IPython.display import Markdown

    return Markdown("\n".join(f"```python\n{inspect.getsource(thing).rstrip()}\n```" for thing in objects))
