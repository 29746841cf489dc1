"""The study of SAM-GS's synthetic problems: what counts as reached, records that resume, claims read from them."""

import json

import pytest
import torch

from mtl_lab.experiments import sam_gs_landscapes
from mtl_lab.landscapes.problems import LANDSCAPES
from mtl_lab.records import folder, write_lines


def made(problem="samgs_1", row="SAM-GS", source=(9000, 18000, None), jittered=((100, None, 200),)):
    hits = {"source": list(source), "jittered": [list(line) for line in jittered]}
    return {"problem": problem, "row": row, "hits": hits}


def write(records, root):
    write_lines(records, folder(sam_gs_landscapes.NAME, "small", root) / "runs.jsonl")


def test_a_path_that_stays_near_an_optimum_counts_from_when_it_came(monkeypatch):
    """Started on the optimum it is there at step 0; started elsewhere it is not there within ten steps."""
    from dataclasses import replace

    near = replace(LANDSCAPES["samgs_1"], starts=(LANDSCAPES["samgs_1"].optima[0], (8, 5)))
    monkeypatch.setitem(sam_gs_landscapes.LANDSCAPES, "samgs_1", near)
    monkeypatch.setattr(sam_gs_landscapes, "SPREAD", 1e-3)
    record = sam_gs_landscapes.study("samgs_1", "equal weights", seeds=2, steps=10)
    assert record["hits"] == {"source": [0, None], "jittered": [[0, None], [0, None]]}
    assert record["paths"]["steps"] == [0] and record["paths"]["points"][0][1] == [8, 5]


def test_the_studies_again_in_two_processes():
    problems = ("samgs_1", "samgs_2")
    recorded = {(p, r): sam_gs_landscapes.study(p, r, 1, 40) for p in problems for r in ("SAM-GS", "MGDA")}
    new = sam_gs_landscapes.again(("SAM-GS", "MGDA"), problems, steps=40)
    assert list(new) == list(recorded) and all(new[k]["paths"] == recorded[k]["paths"] for k in recorded)
    changed = {
        key: {**record, "hits": {"source": [7] * len(record["hits"]["source"])}} for key, record in recorded.items()
    }
    assert sam_gs_landscapes.agreeing(new, recorded) == (26, 26) and sam_gs_landscapes.agreeing(new, changed) == (0, 26)


def test_a_row_with_its_own_convention_is_not_drawn_beside_others():
    with pytest.raises(ValueError, match="no clip, no factor K: expected rows with the landscape's convention"):
        sam_gs_landscapes.again(("SAM-GS", "SAM-GS, no clip, no factor K"), ("samgs_1",), steps=1)


def test_counts_within_a_budget():
    record = made()
    assert sam_gs_landscapes.reached(record, 18000) == (2, 3) and sam_gs_landscapes.reached(record, 17999) == (1, 3)
    assert sam_gs_landscapes.reached(record, 150, "jittered") == (1, 3)


def test_missing_records_are_computed_and_no_others(tmp_path, monkeypatch):
    problems = {name: (name, 1.0, ("equal weights", "MGDA")) for name in ("samgs_1", "samgs_2")}
    monkeypatch.setattr(sam_gs_landscapes, "PROBLEMS", problems)
    monkeypatch.setitem(sam_gs_landscapes.PROFILES, "tiny", (1, 20))
    assert sam_gs_landscapes.complete("tiny", tmp_path) == "4 records, 4 computed now."
    file = folder(sam_gs_landscapes.NAME, "tiny", tmp_path) / "runs.jsonl"
    text = file.read_text()
    file.write_text("\n".join(text.splitlines()[:3]) + "\n")
    assert sam_gs_landscapes.complete("tiny", tmp_path) == "4 records, 1 computed now."
    again = [json.loads(line) for line in file.read_text().splitlines()]
    first = [json.loads(line) for line in text.splitlines()]
    assert [r["hits"] for r in again] == [r["hits"] for r in first]


def test_a_claim_needs_its_starts_and_that_the_others_fail(tmp_path):
    rule = {
        "problem": "samgs_1",
        "row": "SAM-GS",
        "least": 2,
        "steps": 18000,
        "others": {"rows": ["CAGrad"], "most": 1, "steps": 20000},
    }
    assert sam_gs_landscapes.checks(**rule, root=tmp_path) is None, "no records yet"
    write([made(), made(row="CAGrad", source=(1, None, None))], tmp_path)
    assert [check.holds for check in sam_gs_landscapes.checks(**rule, root=tmp_path)] == [True, True]
    assert [c.holds for c in sam_gs_landscapes.checks(**{**rule, "least": 3}, root=tmp_path)] == [False, True]
    write([made(), made(row="CAGrad", source=(1, 2, None))], tmp_path)
    assert [check.holds for check in sam_gs_landscapes.checks(**rule, root=tmp_path)] == [True, False]


def test_a_claim_about_weights_compares_row_by_row(tmp_path):
    names = ["samgs_1, weight 0.5", "samgs_1, weight 2"]
    rule = {"problems": names, "row": "SAM-GS", "others": ["CAGrad"], "steps": 18000}
    write([made(names[0]), made(names[0], "CAGrad", (1, 2, 3)), made(names[1])], tmp_path)
    assert sam_gs_landscapes.steady(**rule, root=tmp_path) is None, "one record is missing"
    write([made(name, row) for name in names for row in ("SAM-GS", "CAGrad")], tmp_path)
    assert [check.holds for check in sam_gs_landscapes.steady(**rule, root=tmp_path)] == [True, True]
    more = [made(names[0]), made(names[0], "CAGrad", (1, 2, 3)), made(names[1]), made(names[1], "CAGrad")]
    write(more, tmp_path)
    assert [check.holds for check in sam_gs_landscapes.steady(**rule, root=tmp_path)] == [False, True]


@pytest.mark.parametrize("weight", sam_gs_landscapes.WEIGHTS)
def test_a_weighted_optimum_is_where_the_weighted_gradient_vanishes(weight):
    landscape = sam_gs_landscapes.weighted(LANDSCAPES["samgs_1"], weight)
    ((x, y),) = landscape.optima
    assert x == pytest.approx(7 * (weight - 1) / (weight + 1), abs=1e-6)  # solved by hand in the lower half-plane
    _, gradients = landscape.gradients(torch.tensor([[x, y]], dtype=torch.float64))
    assert gradients.sum(1).norm() < 1e-6
    assert sam_gs_landscapes.PROBLEMS[f"samgs_1, weight {weight:g}"][1] == weight


@pytest.mark.parametrize("weight", sam_gs_landscapes.WEIGHTS)
def test_both_minima_of_the_second_problem_outlive_the_weights(weight):
    landscape = sam_gs_landscapes.weighted(LANDSCAPES["samgs_2"], weight)
    left, right = sorted(landscape.optima)
    assert left[0] == pytest.approx(-5.45, abs=0.05) and right[0] == pytest.approx(5.45, abs=0.05)
    for optimum in (left, right):
        point = torch.tensor(optimum, dtype=torch.float64)
        _, gradients = landscape.gradients(point)
        assert gradients.sum(0).norm() < 1e-3
        assert (torch.linalg.eigvalsh(landscape.hessians(point).sum(0)) > 0).all(), "a minimum and no saddle"
    heights = [landscape.losses(torch.tensor(o, dtype=torch.float64)).sum().item() for o in (left, right)]
    assert (heights[0] < heights[1]) is (weight > 1)


def test_every_row_is_a_method_with_a_closed_form():
    from mtl_core import methods
    from mtl_lab.landscapes import closed_forms

    for method, options in sam_gs_landscapes.ROWS.values():
        assert closed_forms.knows(method, options) and methods.make(method, **options) is not None


def test_who_has_no_row_has_a_reason_that_holds():
    from mtl_core import methods

    reasons = sam_gs_landscapes.without_a_row()
    by_title = {spec.title: spec for spec in methods.METHODS.values()}
    named = [by_title[title] for titles in reasons.values() for title in titles]
    rows = {name for name, _ in sam_gs_landscapes.ROWS.values()}
    assert {spec.name for spec in named} | rows == set(methods.METHODS) and not {spec.name for spec in named} & rows
    negative = LANDSCAPES["samgs_1"].losses(torch.tensor(LANDSCAPES["samgs_1"].optima[0], dtype=torch.float64))
    assert (negative < 0).all()
    (refusing,) = (titles for reason, titles in reasons.items() if reason.startswith("need positive"))
    for title in refusing:
        method = methods.make(by_title[title].name)
        with pytest.raises(ValueError, match="positive"):
            method(negative) if by_title[title].kind == methods.KINDS[0] else method(torch.eye(2), negative)
    assert methods.CONVENTIONS["samgs"].own_optimizer is None
