"""What the pages of gradient aggregations share: facts of the registry, the picture of the plane, library code."""

import importlib.metadata

import matplotlib.pyplot as plt
import pytest
import torch
from torchjd import aggregation

from mtl_core.methods import METHODS
from mtl_lab import ROOT
from mtl_lab.figures import method_card, plane

AGGREGATIONS = [name for name, spec in METHODS.items() if spec.kind == "gradient aggregation"]


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_facts_are_those_of_the_registry(name):
    spec, text = METHODS[name], method_card.facts(name, 4).data
    for argument, (value, source) in spec.defaults.items():
        assert f"`{argument}` = {value:g} ({source})" in text
    assert f"returns a {spec.native_scale}" in text and f"at the {spec.level}" in text
    assert ("3 more backward" if spec.level == "parameters" else "no more backward") in text
    assert ("random numbers" in text) == spec.random and all(code in text for code in spec.presets)


def test_suppliers():
    ours = {
        "norm_equalised",
        "mgda",
        "mgda_ub",
        "pcgrad",
        "gradvac",
        "cagrad",
        "imtl_g",
        "imtl_g_features",
        "nash_mtl",
        "fairgrad",
        "moco",
        "db_mtl",
        "autoscale",
    }
    assert {n for n in AGGREGATIONS if method_card.library_class(n) is None} == ours | {"sam_gs", "broken"}
    assert method_card.library_class("upgrad") is aggregation.UPGradWeighting
    assert method_card.library_class("aligned_mtl").__name__ == "AlignedMTLWeighting"
    version = importlib.metadata.version("torchjd")
    for text in (method_card.facts("upgrad").data, method_card.library_code(aggregation.PCGradWeighting.forward).data):
        assert f"TorchJD {version}" in text and f"/v{version}/src/torchjd/aggregation/_" in text
    assert method_card.library_code(aggregation.PCGradWeighting.forward).data.startswith("```python\ndef forward(")


def test_papers_are_linked_and_keep_their_section():
    assert method_card.paper(METHODS["moco"]) == "[Fernando et al. 2023](https://arxiv.org/abs/2210.12624)"
    assert method_card.paper(METHODS["mgda_ub"]).endswith("(https://arxiv.org/abs/1810.04650), section 3.3")
    assert method_card.paper(METHODS["imtl_g"]) == METHODS["imtl_g"].paper


def wedge(J):
    """The corners of the areas that `plane` fills."""
    _, axis = plt.subplots()
    plane.plane(axis, J)
    corners = [torch.tensor(patch.get_xy()) for patch in axis.patches]
    plt.close("all")
    return corners


def test_the_wedge_is_the_cone_of_directions_that_harm_no_task():
    for turn in range(8):
        angle = torch.tensor(turn * torch.pi / 4, dtype=torch.float64)
        rotation = torch.tensor([[angle.cos(), angle.sin()], [-angle.sin(), angle.cos()]], dtype=torch.float64)
        J = torch.tensor([[2.0, 0.0], [-0.5, 1.0]], dtype=torch.float64) @ rotation
        (corners,) = wedge(J)
        directions = corners[corners.norm(dim=1) > 0]
        directions = directions / directions.norm(dim=1, keepdim=True)
        assert (directions @ J.T).min() > -1e-2
        spread = torch.rad2deg(torch.acos((directions @ directions.T).clamp(-1, 1))).max().item()
        assert spread == pytest.approx(180 - 116.565, abs=0.3)  # the two gradients are 116.565 degrees apart


def test_opposite_gradients_leave_no_wedge():
    assert wedge(torch.tensor([[1.0, 0.0], [-0.5, 0.9], [-0.5, -0.9]], dtype=torch.float64)) == []


def test_angle_and_slopes():
    J = torch.tensor([[2.0, 0.0], [-1.0, 1.0]], dtype=torch.float64)
    assert plane.angle(J[0], J[1]) == pytest.approx(135)
    torch.testing.assert_close(plane.slopes(J, J[0] * 7), torch.tensor([1.0, -0.5], dtype=torch.float64))


def test_solver_times_are_those_of_the_table(monkeypatch):
    monkeypatch.setattr(method_card.solvers, "measure", lambda solve, G: 0.25)
    text = method_card.solver_times(["Nash-MTL"]).data
    assert text.count("\n") == 2 and text.count(" 0.25 |") == 3 and "mtl_core" in text
    assert text.count("| ms, K =") == 3


def test_a_method_is_registered_in_the_file_that_its_card_names():
    for name in METHODS:
        text = (ROOT / method_card.source_file(name)).read_text(encoding="utf-8")
        assert "register(" in text and f'"{name}",' in text, name
    assert method_card.source_file("famo").endswith("famo.py"), "other files mention a preset of that name"
