"""Write book/_static/playground.svg, which is shown in the playground's place where scripts are off.

.venv/bin/python tests/draw_playground.py
"""

import io
import pathlib

FILE = pathlib.Path(__file__).resolve().parents[1] / "book" / "_static" / "playground.svg"
METHODS = ("equal", "norm_equalised", "mgda", "pcgrad", "cagrad", "sam_gs")
# The state in which the playground opens, and its colours by day
LANDSCAPE, CHOSEN, START, ARROWS = "uneven_bowls", "pcgrad", (0.5, 3.5), ((1.8, -0.4), (-1.0, 0.7))
TASKS = ("#0072b2", "#b35c00")
COLOURS = dict(zip(METHODS, ("#000000", "#7b2d8e", "#b3204d", "#2a7400", "#6b5b00", "#00707f"), strict=True))


def paths():
    """The landscape, and method -> Paths from the playground's own start."""
    from mtl_lab.landscapes.descent import trajectories
    from mtl_lab.landscapes.problems import LANDSCAPES

    landscape = LANDSCAPES[LANDSCAPE]
    return landscape, {name: trajectories(landscape, [START], name, every=5) for name in METHODS}


def answer(name, arrows):
    """The first step (2,) of a method for two arrows (2, 2), on the scale of a sum, not clipped."""
    import torch

    from mtl_core import methods

    J = torch.as_tensor(arrows, dtype=torch.float64)
    step = J.sum(0) if name == "equal" else methods.make(name)(J)
    return step * (2 if methods.METHODS[name].native_scale == "mean" else 1)


def picture():
    import matplotlib.pyplot as plt

    from mtl_core.methods import METHODS as KNOWN
    from mtl_lab.figures import plots

    landscape, found = paths()
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.9), width_ratios=(1.25, 1))
    left.plot(*landscape.pareto.T.numpy(), color="#888888", lw=7, alpha=0.4, solid_capstyle="round")
    for k, colour in enumerate(TASKS):
        plots.level_lines(left, landscape, losses=lambda both, k=k: both[k], colour=f"{colour}60")
        minimum = landscape.pareto[-k].tolist()
        left.plot(*minimum, "x", color=colour, ms=8, mew=2.5)
        left.annotate(
            f"task {k + 1}", minimum, (0, -16), textcoords="offset points", color=colour, ha="center", weight="bold"
        )
    for name, path in found.items():
        look = {"color": COLOURS[name], "lw": 3 if name == CHOSEN else 1.2}
        left.plot(*path.points[:, 0].T.numpy(), **look)
        left.plot(*path.points[-1, 0].tolist(), "o", color=COLOURS[name], ms=5)
    place = found[CHOSEN].points[-1, 0].tolist()
    left.annotate(
        KNOWN[CHOSEN].title,
        place,
        (-6, 6),
        textcoords="offset points",
        color=COLOURS[CHOSEN],
        ha="right",
        weight="bold",
    )
    left.plot(*START, "o", mfc="white", mec="black", ms=9, mew=2)

    wide = 2.4
    for name in sorted(METHODS, key=lambda name: name == CHOSEN):
        step = answer(name, ARROWS)
        cut = max((step.abs().max() / wide).item(), 1)
        look = {"arrowstyle": "-" if cut > 1 else "->", "color": COLOURS[name], "lw": 3 if name == CHOSEN else 1.5}
        right.annotate("", (step / cut).tolist(), (0, 0), arrowprops={**look, "shrinkA": 0, "shrinkB": 0})
    for k, (tip, colour) in enumerate(zip(ARROWS, TASKS, strict=True)):
        right.plot([0, tip[0]], [0, tip[1]], color=colour, lw=4)
        right.plot(*tip, "o", mfc="white", mec=colour, ms=9, mew=2)
        right.annotate(
            f"task {k + 1}",
            tip,
            (0, -18 + 26 * k),
            textcoords="offset points",
            color=colour,
            ha="center",
            weight="bold",
        )
    for y, name in enumerate(METHODS):
        weight = "bold" if name == CHOSEN else "normal"
        right.text(0.15 - wide, -1.05 - 0.25 * y, KNOWN[name].title, color=COLOURS[name], weight=weight, fontsize=9)
    right.set(xlim=(-wide, wide), ylim=(-wide, wide), aspect="equal", title="steps for two arrows")
    right.set_axis_off()
    left.set(title="paths from one start", aspect="equal")
    return figure


def drawing() -> str:
    import matplotlib

    matplotlib.use("agg")
    from mtl_lab.figures import plots

    plots.style()
    text = io.StringIO()
    picture().savefig(text, format="svg", metadata={"Date": None})
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


if __name__ == "__main__":
    FILE.write_text(drawing(), encoding="utf-8")
    print(f"wrote {FILE.name}")
