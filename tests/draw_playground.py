"""Write book/_static/playground.svg, which stands in the playground's place where scripts are off.

.venv/bin/python tests/draw_playground.py
"""

import io
import pathlib

FILE = pathlib.Path(__file__).resolve().parents[1] / "book" / "_static" / "playground.svg"
LANDSCAPE, METHODS = "uneven_bowls", ("equal", "norm_equalised", "mgda", "pcgrad", "cagrad", "sam_gs")


def paths():
    """label -> Paths of six methods from the playground's own start."""
    from mtl_core import methods
    from mtl_lab.landscapes.descent import trajectories
    from mtl_lab.landscapes.problems import LANDSCAPES

    landscape = LANDSCAPES[LANDSCAPE]
    start = landscape.starts[:1]
    return landscape, {methods.METHODS[name].title: trajectories(landscape, start, name, every=5) for name in METHODS}


def drawing() -> str:
    import matplotlib

    matplotlib.use("agg")
    from mtl_lab.figures import plots

    plots.style()
    text = io.StringIO()
    plots.two_spaces(*paths()).savefig(text, format="svg", metadata={"Date": None})
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


if __name__ == "__main__":
    FILE.write_text(drawing(), encoding="utf-8")
    print(f"wrote {FILE.name}")
