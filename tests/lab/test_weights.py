"""Weights that one run records and another replays: the formulas, the trajectories, a kill, the store."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from mtl_core.methods import METHODS, find, make
from mtl_core.methods.norm_equalised import NormEqualised
from mtl_lab import records
from mtl_lab.runs import checkpoints, execute, weights
from mtl_lab.runs.run import Run
from mtl_lab.runs.store import Store

SCHEDULE = {"epochs": 3, "batch_size": 64, "optimizer": "adam", "learning_rate": 0.01, "decay": "cosine"}
NETWORK = {"inputs": 74, "width": 16, "depth": 2}
BASE = Run("qm9", {"profile": "tiny"}, tasks=[0, 2, 5, 10], model="mlp", model_options=NETWORK, schedule=SCHEDULE)
STEPS, EPOCH = 15, 5


def recorded(method="pcgrad", run=BASE, **options):
    return replace(run, method="recorded", method_options={"method": method, **options})


def replayed(donor, **options):
    (run,) = weights.replays([donor], [donor], {donor.identity}, **options)
    return run


def losses(record):
    return [task["loss"] for task in record["final"]["test"].values()]


def trace(record, K=4):
    import base64

    return torch.tensor(np.frombuffer(base64.b64decode(record["trace"]), "<f4").reshape(-1, K + 1))


def opposed(K=2, D=6, seed=0):
    """Gradients of which some conflict, and losses."""
    random = torch.Generator().manual_seed(seed)
    matrix = torch.randn(K, D, generator=random)
    matrix[1] = -0.7 * matrix[0] + 0.3 * matrix[1]
    return matrix, torch.rand(K, generator=random) + 0.5


# --- one step


def test_for_two_tasks_pcgrad_is_a_weighting_and_kappa_its_dose():
    (J, L), pcgrad = opposed(), make("pcgrad")
    inner, squares = float(J[0] @ J[1]), (J * J).sum(1)
    assert inner < 0
    whole = weights.Weighted("pcgrad")
    assert torch.allclose(whole(J, L), pcgrad(J), rtol=1e-6, atol=1e-6)
    # w_i = 1 - min(0, g_1 . g_2) / ||g_i||^2
    assert torch.allclose(whole.trace[0][:2], 1 - inner / squares, rtol=1e-6)
    assert torch.allclose(whole.trace[0][2], pcgrad(J).norm(), rtol=1e-6)
    for kappa in (-1.0, 0.0, 0.5):
        expected = J.sum(0) + kappa * (pcgrad(J) - J.sum(0))
        assert torch.allclose(weights.Weighted("pcgrad", kappa=kappa)(J, L), expected, rtol=1e-5, atol=1e-6)
    aligned = J * torch.tensor([[1.0], [-1.0]])
    assert torch.allclose(whole(aligned, L), aligned.sum(0), rtol=1e-6), "no conflict, no change"


def test_a_matched_update_has_the_length_of_the_sum_and_a_balanced_one_takes_logs():
    J, L = opposed()
    update, plain = weights.Weighted("pcgrad", match=True)(J, L), make("pcgrad")(J)
    assert torch.allclose(update, plain * (J.sum(0).norm() / plain.norm()), rtol=1e-5, atol=1e-6)
    logs = J / L[:, None]
    assert torch.allclose(weights.Weighted("pcgrad", balanced=True)(J, L), make("pcgrad")(logs), rtol=1e-5, atol=1e-6)
    matched = weights.Weighted("pcgrad", balanced=True, match=True)(J, L)
    assert torch.allclose(matched.norm(), logs.sum(0).norm(), rtol=1e-5)


@pytest.mark.parametrize("method", ["mgda", "cagrad", "norm_equalised", "log_sum"])
def test_the_weights_are_those_of_the_method(method):
    J, L = opposed(3, seed=1)
    w = weights.weights_of(find(method), make(method), J, L)
    expected = J.T @ (1 / L) if method == "log_sum" else make(method)(J)
    assert torch.allclose(J.T @ w, expected, rtol=1e-5, atol=1e-6)


def test_a_method_that_is_no_weighted_sum_is_refused():
    J, L = opposed(3)
    assert torch.allclose(weights.Weighted("sam_gs", {"gamma": 1.0})(J, L), NormEqualised()(J), rtol=1e-5)
    for method, options in (("graddrop", {}), ("sam_gs", {"gamma": 0.0})):
        with pytest.raises(ValueError, match=f"the update of {method} is no weighted sum"):
            weights.Weighted(method, options)(J, L)


def test_a_lagged_update_has_the_weights_of_earlier_steps():
    steps = [opposed(seed=seed) for seed in range(5)]
    now, late = weights.Weighted("pcgrad"), weights.Weighted("pcgrad", lag=2)
    late_updates = [late(J, L) for J, L in steps]
    own = [now(J, L) for J, L in steps]
    assert all(torch.equal(a[:-1], b[:-1]) for a, b in zip(now.trace, late.trace, strict=True)), "its own weights"
    for t, (J, _) in enumerate(steps):
        assert torch.allclose(late_updates[t], now.trace[max(t - 2, 0)][:-1] @ J, rtol=1e-6)
    assert torch.equal(late_updates[0], own[0]) and not torch.allclose(late_updates[3], own[3], rtol=1e-3)


# --- another form of a trace


def test_forms_of_a_trace():
    w = torch.rand(120, 3, generator=torch.Generator().manual_seed(0)) + 0.1

    def form(name, epoch=40, seed=0):
        return weights.shaped(w, name, epoch, seed)

    assert torch.equal(form("steps"), w)
    epochs = form("epochs")
    assert torch.allclose(epochs[::40], torch.stack([part.mean(0) for part in w.split(40)]))
    assert torch.equal(epochs[:40], epochs[:1].expand(40, 3))
    orders = {tuple(form("shuffled epochs", 10, seed)[::10, 0].tolist()) for seed in range(5)}
    assert len(orders) == 5 and {tuple(sorted(o)) for o in orders} == {
        tuple(sorted(form("epochs", 10)[::10, 0].tolist()))
    }
    blocks = [form("blocks", seed=seed) for seed in range(6)]
    for permuted in blocks:
        assert torch.equal(permuted.sort(0).values, w.sort(0).values)
    assert any(torch.equal(permuted[:50], w[50:100]) for permuted in blocks), "whole blocks move"
    shares, total = w / w.sum(1, keepdim=True), w.sum(1).mean()
    for name, mean in (
        ("arithmetic", shares.mean(0)),
        ("geometric", shares.log().mean(0).exp()),
        ("last third", shares[80:].mean(0)),
    ):
        found = form(name)
        assert torch.allclose(found[0] / total, mean / mean.sum(), rtol=1e-5) and torch.equal(
            found, found[:1].expand(120, 3)
        )
    with pytest.raises(ValueError, match="no form 'geometric' of these weights"):
        weights.shaped(w * torch.tensor([0.0, 1, 1]), "geometric", 40, 0)
    with pytest.raises(ValueError, match="no form 'median'"):
        form("median")


# --- whole runs


@pytest.mark.parametrize(
    ("method", "options", "convention"),
    [("pcgrad", {}, "plain"), ("cagrad", {}, "plain"), ("mgda", {}, "plain"), ("sam_gs", {"gamma": 1.0}, "samgs")],
)
def test_what_records_is_the_method_and_what_replays_it_goes_the_same_way(method, options, convention, tmp_path):
    store, base = Store(tmp_path), replace(BASE, convention=convention)
    plain = execute.execute(replace(base, method=method, method_options=options), store)
    donor = recorded(method, base, options=options)
    first = execute.execute(donor, store)
    assert losses(first) == pytest.approx(losses(plain), rel=1e-4), "lag 0 and kappa 1 are the method, heads and all"
    assert trace(first).shape == (STEPS, 5) and first["steps"] == STEPS
    again = execute.execute(replayed(donor, form="steps"), store)
    assert losses(again) == pytest.approx(losses(first), rel=1e-4)
    assert again["trunk_backward_passes"] == STEPS, "known weights need one pass a step"
    lengths = execute.execute(replayed(donor, form="steps", lengths=True), store)
    assert losses(lengths) == pytest.approx(losses(first), rel=1e-4)
    assert torch.allclose(trace(lengths), trace(first), rtol=1e-3, atol=1e-5)
    other = execute.execute(replayed(donor, form="shuffled epochs"), store)
    assert losses(other) != pytest.approx(losses(first), rel=1e-4)


def test_a_matched_replay_brings_other_weights_to_the_length_of_its_own_sum(tmp_path):
    store, donor = Store(tmp_path), recorded(match=True, balanced=True, run=replace(BASE, tasks=[0, 2]))
    first, again = (execute.execute(run, store) for run in (donor, replayed(donor, form="steps")))
    assert losses(again) == pytest.approx(losses(first), rel=1e-4)
    other = execute.execute(replace(replayed(donor, form="arithmetic"), seed=1), store)
    assert trace(other, 2)[:, :2].std(0).max() == 0 and trace(other, 2)[:, 2].std() > 0


def test_constant_weights_are_static_weights_of_the_trunk_alone(tmp_path):
    store, w = Store(tmp_path), [0.5, 1.0, 1.5, 1.0]
    runs = [replace(BASE, method="replayed", method_options={"weights": x}) for x in (w, [1.0] * 4)]
    weighted, ones = (execute.execute(run, store) for run in runs)
    equal, static = (
        execute.execute(replace(BASE, method=name, method_options=options), store)
        for name, options in (("equal", {}), ("static", {"weights": w}))
    )
    assert losses(ones) == pytest.approx(losses(equal), rel=1e-4)
    assert losses(weighted) != pytest.approx(losses(ones), rel=1e-3)
    sgd = {**SCHEDULE, "optimizer": "sgd", "epochs": 1}
    trunk, both = (
        execute.execute(replace(BASE, schedule=sgd, method=name, method_options={"weights": w}), store)
        for name in ("replayed", "static")
    )
    assert losses(trunk) != pytest.approx(losses(both), rel=1e-3), "heads keep their own gradients"
    assert static["diverged"] is None


def kinds():
    donor = recorded("cagrad", options={})
    return [
        donor,
        recorded("pcgrad", lag=2),
        replayed(donor, form="steps"),
        replayed(donor, form="steps", lengths=True),
    ]


@pytest.mark.parametrize("run", kinds(), ids=["recorded", "lagged", "script", "lengths"])
def test_a_killed_run_ends_where_the_undisturbed_one_ends(run, tmp_path, monkeypatch):
    whole, written, write = execute.execute(run, Store(tmp_path / "whole")), [], checkpoints.write

    def killed(state, path):
        write(state, path)
        written.append(path)
        if len(written) == (2 if run.method == "recorded" else 5):  # three are the donor's
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        execute.execute(run, Store(tmp_path / "cut"))
    assert len(written) > 1
    cut = execute.execute(run, Store(tmp_path / "cut"))
    assert cut["final"] == whole["final"] and cut.get("trace") == whole.get("trace") and cut["steps"] == STEPS


def test_runs_of_the_laboratory_s_methods_are_kept_and_a_missing_donor_is_trained(tmp_path, monkeypatch):
    store, donor = Store(tmp_path), recorded()
    run = replayed(donor, form="epochs")
    assert Run.from_dict(run.method_options["donor"]).identity == donor.identity
    execute.execute(run, store)
    assert store.get(donor)["trace"] and "trace" not in store.get(run)
    monkeypatch.setattr(execute, "fit_from", lambda *_, **__: pytest.fail("trained again"))
    assert execute.execute(run, store)["identity"] == run.identity
    assert weights.replays([run], [donor], set(), form="steps") == [], "not before the donor has a record"


def test_a_committed_record_has_mean_weights_and_no_trace(tmp_path):
    record = execute.execute(recorded(), Store(tmp_path))
    kept = records.compact(json.loads(json.dumps(record)), "a row")
    assert "trace" not in kept and sum(kept["weights"]) == pytest.approx(1, abs=1e-4) and len(kept["weights"]) == 4


def test_the_registry_does_not_hold_them():
    assert not {*weights.METHODS} & {*METHODS}


def test_a_gradient_that_becomes_zero_ends_the_run():
    method = weights.Weighted("pcgrad")
    method(*opposed(3))
    with pytest.raises(ArithmeticError, match="a task's gradient became zero"):
        method(*opposed(2))
