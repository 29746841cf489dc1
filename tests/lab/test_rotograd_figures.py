"""The illustration's pictures: the animation is one SVG without scripts or addresses, and turns as the rotations do."""

import re
import xml.etree.ElementTree as ET

import matplotlib
import pytest
import torch

from mtl_lab.figures import rotograd
from mtl_lab.landscapes.rotograd_example import PAIRS, study

matplotlib.use("Agg")
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def path():
    result = study(PAIRS["non_convex"], "rotograd", seeds=(0,), rates=(0.05,), starts=("haar",), steps=60, every=5)
    return result.steps, result.z[:, 0, 0, 0], result.rotations[:, 0, 0, 0]


def test_the_animation_turns_each_landscape_by_minus_its_angle(path):
    text = rotograd.animation(PAIRS["non_convex"], path)
    assert not re.search(r"https?:|<script|href", text)
    root = ET.fromstring(text)
    assert root.get("role") == "img" and len(root.get("aria-label")) > 20
    turns = root.findall(".//animateTransform")
    assert len(turns) == 2 and all(t.get("begin") == root.get("id") + ".click" for t in turns), "nothing moves unasked"
    for k, turn in enumerate(turns):
        angles = torch.deg2rad(torch.tensor([float(a) for a in turn.get("values").split(";")]))
        R = path[2][:, k]
        torch.testing.assert_close(angles.cos(), R[:, 0, 0].float(), rtol=0, atol=1e-3)
        torch.testing.assert_close(angles.sin(), -R[:, 1, 0].float(), rtol=0, atol=1e-3)
        assert angles.diff().abs().max() < 1, "without jumps of a whole turn"
    walk = root.findall(".//animate")
    assert [w.get("attributeName") for w in walk] == ["cx", "cy"]
    assert float(walk[0].get("values").split(";")[-1]) == pytest.approx(path[1][-1, 0].item(), abs=1e-3)


def test_stills_put_the_stars_at_the_optima(path):
    figure = rotograd.stills(PAIRS["non_convex"], path, [0, 5, 12])
    assert [axis.get_title() for axis in figure.axes] == ["step 0", "step 25", "step 60"]
    for axis, moment in zip(figure.axes, (0, 5, 12), strict=True):
        stars = [line for line in axis.lines if line.get_marker() == "*"]
        for k, star in enumerate(stars):
            z = torch.tensor([float(star.get_xdata()[0]), float(star.get_ydata()[0])], dtype=torch.float64)
            r = path[2][moment] @ z
            assert PAIRS["non_convex"].losses(r)[k].item() == pytest.approx(-6)
        assert len(stars) == 2


def test_rates_have_wilson_intervals():
    rows = {"RotoGrad, Haar start": ("rotograd", [3, 10]), "Sum": ("vanilla", [0])}
    axis = rotograd.success_rates([0.01, 0.1], rows, 10).axes[0]
    (bar,) = [c for c in axis.containers]
    low, high = bar.lines[2][0].get_segments()[0][:, 1]
    assert (low, high) == (pytest.approx(10.78, abs=0.01), pytest.approx(60.32, abs=0.01))
    figure = rotograd.budgets([0, 50], {"a": [0, 10]}, 10)
    assert figure.axes[0].lines[0].get_ydata().tolist() == [0, 100]
