"""The three films of the lecture (book/_ext/lecture.py), computed when the site is built: SVG, a group for each frame.

`FILMS` maps a name to a function without arguments that returns (words for who cannot see it, SVG). The last frame is
the still: it alone is there without scripts and on paper. `lecture/lecture.js` shows the others, one by one.
"""

import functools
import math

import checkout  # noqa: F401 (before mtl_lab)
import contourpy
import explorables
import numpy as np
import torch

from mtl_core.conflict import cosines
from mtl_lab.figures.plots import COLOURS
from mtl_lab.landscapes import descent, rotograd_example
from mtl_lab.landscapes.problems import LANDSCAPES

WIDTH, HEIGHT = 480, 360
TASKS = (COLOURS["blue"], COLOURS["red"])
GATE = explorables.GATE


def _n(*values) -> str:
    return " ".join(f"{value:.1f}" for value in values)


def _line(points, colour, width=2.0, more="") -> str:
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="{width}" {more}/>'


def _text(x, y, words, more="") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" {more}>{words}</text>'


def _arrow(start, way, colour, width=3.0, more="") -> str:
    """From a point, along (dx, dy) in pixels; nothing where it would be shorter than its head."""
    length = math.hypot(*way)
    if length < 6:
        return ""
    x, y = start[0] + way[0], start[1] + way[1]
    ux, uy = way[0] / length, way[1] / length
    head = [(x - 9 * ux + side * 5 * uy, y - 9 * uy - side * 5 * ux) for side in (1, -1)]
    return _line([start, (x, y)], colour, width, more) + _line([head[0], (x, y), head[1]], colour, width)


def _star(x, y, colour, size=9) -> str:
    tips = [(size if i % 2 == 0 else size * 0.4, math.pi * i / 5 - math.pi / 2) for i in range(10)]
    points = " ".join(f"{x + r * math.cos(a):.1f},{y + r * math.sin(a):.1f}" for r, a in tips)
    return f'<polygon points="{points}" fill="{colour}"/>'


def film(words: str, ground: str, frames: list[str]) -> tuple[str, str]:
    """`ground` is in every frame."""
    groups = [f'<g class="frame">{frame}</g>' for frame in frames[:-1]]
    groups.append(f'<g class="frame still">{frames[-1]}</g>')
    head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{words}">'
    return words, head + ground + "".join(groups) + "</svg>"


# --- descent


@functools.cache
def two_descents():
    """Points (41, 2 starts, 2) of the plain sum on *Two bowls*, and the cosine of the gradients at each."""
    land = LANDSCAPES["bowls"]
    starts = torch.tensor([[-3.5, 3.0], [0.0, 0.0]], dtype=torch.float64)
    how = {"optimizer": "sgd", "learning_rate": 0.05, "convention": "plain", "steps": 40}
    points = descent.trajectories(land, starts, "equal", **how).points
    _, gradients = land.gradients(points)
    return points, torch.stack([cosines(J)[0] for J in gradients.flatten(0, 1)]).reshape(points.shape[:2])


def descent_film():
    land, (points, cosine) = LANDSCAPES["bowls"], two_descents()
    (left, right), (low, high) = land.limits
    scale = min(WIDTH / (right - left), HEIGHT / (high - low))

    def at(p):
        return WIDTH / 2 + scale * (p[0] - (left + right) / 2), HEIGHT / 2 - scale * (p[1] - (low + high) / 2)

    x, y = np.linspace(left, right, 61), np.linspace(low, high, 61)
    grid = torch.from_numpy(np.stack(np.meshgrid(x, y), -1))
    ground = []
    for losses, colour in zip(land.losses(grid), TASKS, strict=True):
        lines = contourpy.contour_generator(x, y, losses.numpy())
        for level in (0.2, 1, 2.5, 5):
            ground += [_line(map(at, line[::3]), colour, 0.8, 'opacity="0.6"') for line in lines.lines(level)]
    ground += [_line(map(at, land.pareto[::10].tolist()), COLOURS["green"], 5, 'opacity="0.6"')]
    ground += [_star(*at(land.pareto[end].tolist()), colour) for end, colour in zip((0, -1), TASKS, strict=True)]
    frames = []
    for t in range(len(points)):
        parts = []
        for path in range(2):
            parts.append(_line(map(at, points[: t + 1, path].tolist()), "currentColor", 1.5))
            for step in {*range(0, t, 4), t}:
                fill = "currentColor" if cosine[step, path] < 0 else "var(--paper)"
                place = at(points[step, path].tolist())
                parts.append(
                    f'<circle cx="{place[0]:.1f}" cy="{place[1]:.1f}" r="{7 if step == t else 4}" fill="{fill}" '
                    'stroke="currentColor" stroke-width="1.5"/>'
                )
        frames.append("".join(parts) + _text(12, HEIGHT - 12, f"step {t}"))
    words = (
        "Level lines of two losses and two descents that end on the green Pareto set; one begins with hollow dots, "
        "where the gradients agree, and ends with filled ones, where they conflict; the other has filled dots alone"
    )
    return film(words, "".join(ground), frames)


# --- RotoGrad


@functools.cache
def turning():
    """One seed of RotoGrad on the convex pair of its illustration: the Study, 41 kept steps."""
    pair = rotograd_example.PAIRS["convex"]
    return pair, rotograd_example.study(pair, "rotograd", seeds=[0], rates=(0.02,), steps=160, every=4)


def rotograd_film():
    pair, study = turning()
    scale = HEIGHT / 6.4
    middle = (WIDTH / 2, HEIGHT / 2)

    def at(p):
        return middle[0] + scale * p[0], middle[1] - scale * p[1]

    axis = torch.linspace(-4.5, 4.5, 91, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    shapes = []
    for k, colour in enumerate(TASKS):
        lines = contourpy.contour_generator(
            axis.numpy(), axis.numpy(), pair.phi(grid - grid.new_tensor(pair.optima[k]))
        )
        # `use` shows them: lecture.css reaches such a copy by variables alone
        thin = f'style="stroke: var(--film-task-{k}, {colour}); stroke-width: var(--film-thin, 0.8)"'
        drawn = [_line(map(at, line[::2]), colour, 0.8, thin) for level in (0.3, 1.5, 4) for line in lines.lines(level)]
        star = _star(*at(pair.optima[k]), colour, 11)
        shapes.append(f'<g id="film-task-{k}" style="opacity: var(--film-clear, 0.7)">{"".join(drawn)}{star}</g>')
    frames = []
    for t, step in enumerate(study.steps.tolist()):
        z, R = study.z[t, 0, 0, 0], study.rotations[t, 0, 0, 0]
        r = (R @ z).requires_grad_()
        losses = pair.losses(r)
        (tilde,) = torch.autograd.grad(losses.sum(), r)
        parts = []
        for k, colour in enumerate(TASKS):
            back = R[k].T @ tilde[k]  # the gradient at the shared features, G_k
            degrees = math.degrees(
                math.atan2(R[k, 1, 0], R[k, 0, 0])
            )  # its landscape turns the other way, as y does here
            parts.append(f'<use href="#film-task-{k}" transform="rotate({_n(degrees, *middle)})"/>')
            if losses[k] > pair.solved:
                way = -back / back.norm() * 62
                parts.append(_arrow(at(z.tolist()), (way[0].item(), -way[1].item()), colour, 4))
        parts.append(_line(map(at, study.z[: t + 1, 0, 0, 0].tolist()), "currentColor", 1.5))
        parts.append('<circle cx="{:.1f}" cy="{:.1f}" r="5" fill="currentColor"/>'.format(*at(z.tolist())))
        frames.append("".join(parts) + _text(12, HEIGHT - 12, f"step {step}"))
    words = (
        "Level lines of two tasks, each with a star, turn around the middle until the two stars lie on each other; the "
        "path of the shared features, with an arrow of equal length for either task, ends there"
    )
    return film(words, f"<defs>{''.join(shapes)}</defs>", frames)


# --- SAM-GS


@functools.cache
def gate_frames():
    """(Psi, gradients (2, 2), first update (2,)) while the shorter gradient grows, as on the page of SAM-GS."""
    found = []
    for length in np.linspace(0.12, 0.98, 41):
        one = explorables.reading(1 / length)
        side = "equalise" if one["similarity"] < GATE else "momentum"
        J, update = (torch.tensor(one[name], dtype=torch.float64) for name in ("gradients", side))
        found.append((one["similarity"], J, update))
    return found


def gate_film():
    base, unit, top, bottom = (200.0, 250.0), 165.0, 40.0, 320.0

    def height(psi):
        return bottom - psi * (bottom - top)

    gate = height(GATE)
    ground = f'<rect x="420" y="{top}" width="24" height="{bottom - top}" fill="none" stroke="currentColor"/>'
    ground += _line([(412, gate), (452, gate)], "currentColor", 2) + _text(408, gate + 5, "gate", 'text-anchor="end"')
    ground += _text(432, bottom + 20, "similarity", 'text-anchor="middle"')
    frames = []
    for psi, J, update in gate_frames():
        parts = [f'<rect x="421" y="{_n(height(psi))}" width="22" height="{_n(bottom - height(psi))}" fill="#888888"/>']
        for g, colour in zip(J.tolist(), TASKS, strict=True):
            parts.append(_arrow(base, (unit * g[0], -unit * g[1]), colour, 4))
        way = update / update.norm() * unit
        parts.append(_arrow(base, (way[0].item(), -way[1].item()), "currentColor", 3, 'stroke-dasharray="7 4"'))
        parts.append(_text(12, 28, "equalise, then add" if psi < GATE else "each times its momentum"))
        frames.append("".join(parts))
    words = (
        "Two arrows at an obtuse angle, the shorter one growing, and a bar that rises to a mark, the gate; below it a "
        "dashed arrow halves the angle between the two, above it the dashed arrow has jumped to another direction"
    )
    return film(words, ground, frames)


FILMS = {"descent": descent_film, "rotograd": rotograd_film, "gate": gate_film}
