"""Cheaper forms of two rules: what they are, when they are what they approximate, and what made-up records say."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mtl_core.training import Schedule, fit
from mtl_lab import experiments, queue, records
from mtl_lab.experiments import below_the_floor as study
from mtl_lab.experiments import qm9
from mtl_lab.runs.build import build_model, load_problem

torch.set_num_threads(1)
BASE = qm9.table("tiny").base
RUN = replace(BASE, schedule={**BASE.schedule, "epochs": 1})


def trained(row, form=None, epochs=1):
    """The trunk's parameters after a training of a row; `form`: another meaning of its name."""
    problem = load_problem(RUN)
    model = build_model(RUN, problem)
    if form is None:
        method, spec = study.method_of(row, model)
    else:
        study.FORMS["made up"] = form
        try:
            method, spec = study.method_of(f"{row}, made up", model)
        finally:
            del study.FORMS["made up"]
    fit(model, problem, method, Schedule(**{**RUN.schedule, "epochs": epochs}), spec=spec, seed=0)
    return torch.cat([p.detach().flatten() for p in model.parameters()]), model


@pytest.mark.parametrize("rule", study.RULES)
def test_at_all_parameters_in_every_step_it_is_the_method_of_the_registry(rule, monkeypatch):
    """PCGrad draws its orders from the same place, so that whole trainings agree, heads too."""
    seen, of = [], study.RULES[rule]
    monkeypatch.setitem(study.RULES, rule, lambda gramian: seen.append(of(gramian)) or seen[-1])
    wanted, _ = trained(f"{rule}, full")
    found, _ = trained(rule, (1, "parameters", False))
    assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-4), (found - wanted).abs().max()
    assert any((weights != 1).any() for weights in seen), "the rule does something here"
    joint, _ = trained("joint")
    assert not torch.allclose(joint, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("row", [row for row in study.ROWS if row.startswith("pcgrad") and not row.endswith("full")])
def test_each_form_trains_and_differs_from_the_full_one(row):
    wanted, _ = trained("pcgrad, full")
    found, model = trained(row)
    assert found.isfinite().all() and not torch.equal(found, wanted)
    assert int(model.trunk.step) == len(load_problem(RUN).train) // RUN.schedule["batch_size"]


def test_weights_are_renewed_in_every_nth_step_alone():
    calls, model = [], build_model(RUN, load_problem(RUN))
    trunk = study.Cheaper(model.trunk, 11, lambda gramian: calls.append(gramian) or torch.ones(11), every=4)
    model.trunk = trunk
    for _ in range(9):
        outputs = model(torch.randn(4, 74))
        study.Rule(trunk)(torch.stack([o.pow(2).mean() for o in outputs])).backward()
    assert len(calls) == 3 and calls[0].shape == (11, 11) and calls[0].dtype == torch.float64


def test_heads_keep_their_own_gradients_and_the_trunk_gets_weighted_ones():
    torch.manual_seed(0)
    model = build_model(RUN, load_problem(RUN))
    x, weights = torch.randn(4, 74), torch.arange(11.0)
    losses = torch.stack([o.pow(2).mean() for o in model(x)])
    own = [torch.autograd.grad(loss, head.weight, retain_graph=True)[0] for loss, head in zip(losses, model.heads)]  # noqa: B905
    wanted = torch.autograd.grad((weights * losses).sum(), model.trunk[0].weight)[0]
    model.trunk = study.Cheaper(model.trunk, 11, lambda gramian: weights)
    study.Rule(model.trunk)(torch.stack([o.pow(2).mean() for o in model(x)])).backward()
    assert torch.allclose(model.trunk.trunk[0].weight.grad, wanted, atol=1e-5)
    assert all(torch.allclose(head.weight.grad, g, atol=1e-6) for head, g in zip(model.heads, own))  # noqa: B905


def made_up(costs=None, shift=None):
    """Function in the place of `train`: errors with the stream's own part, which rows share, and a little noise."""

    def train(row, run):
        own = np.random.default_rng([run.seed, sum(map(ord, row))]).standard_normal()
        error = 300.0 + 10 * np.random.default_rng(run.seed).standard_normal() + 0.2 * own + (shift or {}).get(row, 0.0)
        away = abs(np.log(run.schedule["learning_rate"] / 0.005))  # validation falls towards one rate
        made = {"core_seconds": (costs or {}).get(row, 10.0), "diverged": False, "validation": 300 + away}
        return made | ({"test": error} if run.test else {}) | {"rate": run.schedule["learning_rate"]}

    return train


def test_what_is_planned_is_what_the_words_say():
    runs = [run for s in range(study.STREAMS) for _, run in study.planned("small", s, {}).values()]
    assert len(runs) == 15 * 5 * 4 and not any(run.test for run in runs)
    assert len({run.schedule["epochs"] for run in runs}) == 1 and len({run.seed for run in runs}) == 5
    tried = [tuple(study.rates("small", s)) for s in range(study.STREAMS)]
    assert len(set(tried)) == 5 and all(5e-4 <= rate <= 5e-2 for rates in tried for rate in rates)
    assert experiments.STUDIES[study.NAME] is study.complete and queue.lacks(study.NAME, "small") is None


def test_it_goes_on_where_it_was_killed_and_judges_whole_streams_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(study.provenance, "provenance", dict)  # it asks git
    shift = {"pcgrad, every 16": 8.0, "aligned_mtl, last layer": -8.0}
    costs = {study.JOINT: 5.0, "pcgrad, full": 20.0, "pcgrad, every 16": 6.0}
    train, calls = made_up(costs, shift), []

    def killed(row, run):
        calls.append(row)
        if len(calls) > 130:
            raise KeyboardInterrupt
        return train(row, run)

    with pytest.raises(KeyboardInterrupt):
        study.complete("small", tmp_path, killed)
    found = records.by_row(study.NAME, "small", tmp_path)
    assert len(found) == 130 and study.judged(found) == {} and study.counted(found)[1] == 75
    assert study.complete("small", tmp_path, train).endswith("375 records, 245 trained now.")
    found = records.by_row(study.NAME, "small", tmp_path)
    whole = found["pcgrad, every 4; stream 2"]
    assert whole["rate"] == min(study.rates("small", 2), key=lambda rate: abs(np.log(rate / 0.005)))
    judged = study.judged(found)
    assert len(judged) == 12 and judged["pcgrad, every 16"][1] == "worse" and judged["pcgrad, every 16"][2] == 1.2
    assert judged["aligned_mtl, last layer"][1] == "better"
    assert {word for row, (_, word, _) in judged.items() if row not in shift} == {"equivalent"}
    assert study.cost(found, "pcgrad, full") == 4.0
