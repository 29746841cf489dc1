"""Pictures of RotoGrad's illustration: success rates, stills of the two landscapes, their animation as plain SVG."""

from collections.abc import Mapping, Sequence

import contourpy
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.lines import Line2D

from mtl_lab.figures.plots import COLOURS, end_labels
from mtl_lab.landscapes.rotograd_example import Pair
from mtl_lab.statistics import paired

EXTENT = 3.2  # of a picture, in units of the features
LOOKS = {
    "rotate_only": ("o", "green"),
    "rotograd": ("D", "blue"),
    "scale_only": ("s", "orange"),
    "vanilla": ("x", "grey"),
    "paper": ("^", "red"),
}
TASKS = ("blue", "red")


def _grid(pair: Pair, task: int, extent: float = EXTENT * 2**0.5, count: int = 181):
    """Axis (count,) and losses (count, count) of one task in its rotated coordinates r."""
    axis = torch.linspace(-extent, extent, count, dtype=torch.float64)
    x, y = torch.meshgrid(axis, axis, indexing="xy")
    r = torch.stack([x, y], -1)
    return axis.numpy(), pair.phi(r - r.new_tensor(pair.optima[task])).numpy()


def _levels(pair: Pair, losses, count: int = 7):
    return np.linspace(pair.minimum + 0.02 * np.ptp(losses), np.quantile(losses, 0.6), count)


def stills(pair: Pair, path, moments: Sequence[int]):
    """Level lines of both tasks in the coordinates z that they share, at some moments, with the path of z so far.

    path  (steps (T,), z (T, 2), rotations (T, 2, 2, 2)) of one seed; moments are indices into it.
    """
    steps, z, rotations = path
    lines = (len(moments) + 1) // 2  # two panels in each
    figure = plt.figure(figsize=(4.8, 2.5 * lines + 0.3))
    axis = np.linspace(-EXTENT, EXTENT, 161)
    x, y = np.meshgrid(axis, axis)
    points = torch.from_numpy(np.stack([x, y], -1))
    for place, moment in enumerate(moments, 1):
        panel = figure.add_subplot(lines, 2, place)
        for k, colour in enumerate(TASKS):
            r = points @ rotations[moment, k].T
            losses = pair.phi(r - r.new_tensor(pair.optima[k])).numpy()
            levels = _levels(pair, _grid(pair, k)[1])
            look = {"colors": COLOURS[colour], "linewidths": 0.7, "linestyles": ["-", "--"][k]}
            panel.contour(x, y, losses, levels=levels, **look)
            best = torch.tensor(pair.optima[k], dtype=torch.float64) @ rotations[moment, k]
            panel.plot(*best, "*", color=COLOURS[colour], ms=10)
        panel.plot(*z[: moment + 1].T, color="black", lw=1.2)
        panel.plot(*z[moment], "o", color="black", ms=5)
        panel.set_title(f"step {int(steps[moment])}", fontsize=9)
        panel.set(xlabel="$z_1$", ylabel="$z_2$", xlim=(-EXTENT, EXTENT), ylim=(-EXTENT, EXTENT))
        panel.set_aspect("equal")
    return figure


def success_rates(rates: Sequence[float], rows: Mapping[str, tuple[str, Sequence[int]]], seeds: int):
    """Percentage of seeds that solve both tasks, by rotation rate, with 95 % Wilson intervals.

    rows: label -> (key of `LOOKS`, number of successes at each rate). A method without rotations has one number and is
    drawn as a band.
    """
    figure, axis = plt.subplots(figsize=(5.2, 4.4))
    positions, handles = np.arange(len(rates)), []
    for shift, (label, (method, counts)) in enumerate(rows.items()):
        mark, colour = LOOKS[method]
        look = {"color": COLOURS[colour], "label": label}
        bounds = np.array([paired.wilson(int(count), seeds) for count in counts]) * 100
        share = 100 * np.asarray(counts) / seeds
        if len(counts) == 1:
            axis.axhspan(*bounds[0], color=COLOURS[colour], alpha=0.25, lw=0)
            handles.append(axis.axhline(share[0], lw=1.5, ls="--" if method == "vanilla" else ":", **look))
            continue
        at = positions + 0.12 * (shift - 2.5)
        errors = np.abs(bounds.T - share)
        hollow = {"mfc": "white"} if "Haar" in label else {}
        axis.errorbar(at, share, errors, fmt=mark, ms=6, capsize=2, **look, **hollow)
        handles.append(Line2D([], [], ls="", marker=mark, ms=6, **look, **hollow))
    axis.set_xticks(positions, [f"{rate:g}" for rate in rates])
    axis.set_xlabel("learning rate of the rotations, Adam")
    axis.set_ylabel("% of starts that solve both")
    axis.set_ylim(-3, 103)
    figure.legend(
        handles=handles, labelcolor=[handle.get_color() for handle in handles], loc="outside upper left", fontsize=9,
        ncols=2, columnspacing=1, handlelength=1.5,
    )  # fmt: skip
    return figure


def budgets(steps: Sequence[int], curves: Mapping[str, Sequence[int]], seeds: int):
    """Percentage of seeds that solve both tasks against steps, with 95 % Wilson intervals; one curve per label."""
    figure, axis = plt.subplots(figsize=(4.8, 3.2))
    ends = {}
    for (label, counts), style, name in zip(curves.items(), ("-", "--", "-.", ":"), COLOURS, strict=False):
        bounds = np.array([paired.wilson(int(count), seeds) for count in counts]) * 100
        axis.plot(steps, 100 * np.asarray(counts) / seeds, ls=style, color=COLOURS[name])
        axis.fill_between(steps, *bounds.T, color=COLOURS[name], alpha=0.2, lw=0)
        ends[label] = 100 * counts[-1] / seeds, COLOURS[name]
    end_labels(axis, steps[-1], ends, gap=8)
    axis.set_xlabel("steps")
    axis.set_ylabel("% of starts that solve both")
    axis.set_ylim(-3, 103)
    return figure


def animation(pair: Pair, path, seconds: float = 8) -> str:
    """The motion of `stills` as an SVG text without scripts: level lines turn with the rotations, a dot follows z.

    It starts when the reader clicks on it. In the coordinates z a task's landscape is turned by minus the angle of its
    rotation, so that its level lines are drawn once and then only turned. `path` is that of `stills`.
    """
    _, z, rotations = path
    parts = []
    for k, colour in enumerate(TASKS):
        axis, losses = _grid(pair, k)
        generator = contourpy.contour_generator(axis, axis, losses)
        lines = [line for level in _levels(pair, losses) for line in generator.lines(level)]
        d = "".join("M" + "L".join(f"{x:.2f},{y:.2f}" for x, y in line[::2]) for line in lines)
        angles = -np.degrees(np.unwrap(torch.atan2(rotations[:, k, 1, 0], rotations[:, k, 0, 0]).numpy()))
        turns = ";".join(f"{a:.2f}" for a in angles)
        a, b = pair.optima[k]
        dashes = "" if k == 0 else ' stroke-dasharray="0.08 0.05"'
        parts.append(
            f'<g stroke="{COLOURS[colour]}" fill="none" stroke-width="0.02"{dashes} '
            f'transform="rotate({angles[0]:.2f})">'
            f'<path d="{d}"/><circle cx="{a}" cy="{b}" r="0.1" fill="{COLOURS[colour]}"/>'
            f'<animateTransform attributeName="transform" type="rotate" values="{turns}" dur="{seconds}s" '
            'begin="turning.click" fill="freeze"/></g>'
        )
    moves = "".join(
        f'<animate attributeName="{name}" values="{";".join(f"{v:.3f}" for v in z[:, i].tolist())}" dur="{seconds}s" '
        'begin="turning.click" fill="freeze"/>'
        for i, name in enumerate(("cx", "cy"))
    )
    dot = f'<circle cx="{z[0, 0]:.3f}" cy="{z[0, 1]:.3f}" r="0.09" fill="currentColor">{moves}</circle>'
    words = "Level lines of two tasks turn until their best points coincide while a dot walks to them"
    return (
        f'<svg id="turning" role="img" aria-label="{words}" viewBox="{-EXTENT} {-EXTENT} {2 * EXTENT} '
        f'{2 * EXTENT}" style="display:block;margin:auto;width:100%;max-width:26rem;cursor:pointer;'
        'border:1px solid currentColor">'
        f'<g transform="scale(1,-1)">{"".join(parts)}{dot}</g></svg>'
    )
