"""ConflictLog against scores and cosines fed by hand; the state of log and scores."""

import numpy as np
import pytest
import torch
from engine import THRESHOLDS, linear_losses, linear_model, random_iterations, scored

from mtl_core.balancer import Balancer
from mtl_core.conflict import ConflictScores, cosines, magnitude_similarity
from mtl_lab.runs.conflict_log import ConflictLog

# --- the log, fed by the engine, against scores fed by hand


def observed(model):
    """A balancer that always computes J; its layers have the trunk's names, as in `fit`."""
    heads = [(f"heads.{name}", p) for name, p in model.heads.named_parameters()]
    balancer = Balancer("equal", [*model.trunk.named_parameters(), *heads])
    balancer.observers.append(lambda gradients: None)
    return balancer


def engine_steps(seed, count, K=3, sizes=(3, 5, 2)):
    """TaskGradients of a model whose gradients are drawn here, and the same as mappings."""
    model, generator = linear_model(sizes, K), torch.Generator().manual_seed(seed)
    balancer = observed(model)
    for _ in range(count):
        features = model.features(None)
        J = torch.randn(K, sum(sizes), generator=generator)
        balancer.backward(linear_losses(model, features, J))
        names = [f"parts.{i}" for i in range(len(sizes))]
        yield balancer.gradients, dict(zip(names, J.split(list(sizes), dim=1), strict=True))


def test_log_agrees_with_scores_and_cosines_by_hand():
    log, scores, all_cosines, restricted, similarity = ConflictLog(3, restrict=["parts.0", "parts.2"]), None, [], [], []
    for found, mapping in engine_steps(0, 60):
        scores = scores or ConflictScores(list(mapping), 3)
        log.update(found)
        scores.update(mapping)
        J = torch.cat(list(mapping.values()), dim=1)
        all_cosines.append(cosines(J))
        restricted.append(cosines(torch.cat([mapping["parts.0"], mapping["parts.2"]], dim=1)))
        similarity.append(magnitude_similarity(J.norm(dim=1)).mean())
    assert np.array_equal(log.scores.counts(), scores.counts()) and len(scores.counts()) == 2
    summary = log.summary()
    assert summary["iterations"] == 60 and summary["pairs"] == 3 and summary["layers"] == list(mapping)
    assert summary["scores"] == {str(s): list(scores.scores(s).values()) for s in (0.0, -0.1)}
    assert summary["mirror"] == {str(s): list(scores.mirror(s).values()) for s in (0.0, -0.1)}
    assert summary["magnitude_similarity"] == pytest.approx(float(torch.stack(similarity).mean()), rel=1e-6)
    for name, values in (("all", torch.cat(all_cosines)), ("restricted", torch.cat(restricted))):
        assert summary[name]["negative_share"] == pytest.approx((values < 0).double().mean().item())
        places, counts = np.unique(np.floor((values.double().numpy() + 1) * 1000).astype(int), return_counts=True)
        found = {int(place): n for place, n in summary[name]["histogram"].items()}
        assert sum(found.values()) == 180
        assert sum(abs(found.get(p, 0) - n) for p, n in zip(places, counts, strict=True)) <= 4  # edges of bins
    assert "restricted" not in ConflictLog(3).summary()


def test_log_of_every_third_step():
    """Steps 0, 3, 6, …, also over a stop and a resumption; the engine's buffer is the same in all steps."""
    sparse, chosen = ConflictLog(3, every=3), ConflictLog(3)
    for step, (found, _) in enumerate(engine_steps(2, 20)):
        if step == 10:
            state, sparse = sparse.state_dict(), ConflictLog(3, every=3)
            sparse.load_state_dict(state)
        sparse.update(found)
        if step % 3 == 0:
            chosen.update(found)
    assert sparse.summary() == chosen.summary() and sparse.summary()["iterations"] == 7
    with pytest.raises(ValueError, match="every counts steps from 1, got 0"):
        ConflictLog(3, every=0)


def test_log_without_steps_or_without_shared_layers():
    assert ConflictLog(2).summary() == {"iterations": 0}
    log = ConflictLog(2)
    log.update(type("Nothing", (), {"layers": {}})())
    assert log.summary() == {"iterations": 0} and log.scores is None


def test_bins_at_both_ends():
    log, model = ConflictLog(3), linear_model([2], 3)
    features = model.features(None)
    losses = linear_losses(model, features, [[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    balancer = observed(model)
    balancer.backward(losses)
    log.update(balancer.gradients)
    assert log.summary()["all"] == {"negative_share": 2 / 3, "histogram": {"0": 2, "1999": 1}}


# --- state


def test_scores_state_round_trip():
    iterations = random_iterations(5, 7)
    whole = scored(iterations, block=3)
    first = scored(iterations[:4], block=3)
    second = ConflictScores(first.layers, 3, THRESHOLDS, block=3)
    second.load_state_dict(first.state_dict())
    for gradients in iterations[4:]:
        first.update(gradients)
        second.update(gradients)
    for scores in (first, second):
        assert scores.iterations == 7 and np.array_equal(scores.counts(), whole.counts())


def test_log_state_round_trip(tmp_path):
    whole, first, second = (ConflictLog(3, restrict=["parts.1"]) for _ in range(3))
    for step, (found, _) in enumerate(engine_steps(1, 8)):
        whole.update(found)
        if step == 5:
            torch.save(first.state_dict(), tmp_path / "log.pt")
            second.load_state_dict(torch.load(tmp_path / "log.pt", weights_only=True))
        first.update(found)
        if step >= 5:
            second.update(found)
    assert first.summary() == second.summary() == whole.summary()


def test_two_logs_that_loaded_one_state_do_not_share_it():
    first, second = ConflictLog(3), ConflictLog(3)
    steps = engine_steps(2, 3)
    first.update(next(steps)[0])
    second.load_state_dict(first.state_dict())
    second.update(next(steps)[0])
    assert first.summary()["iterations"] == 1 and sum(first.summary()["all"]["histogram"].values()) == 3
    assert second.summary()["iterations"] == 2 and sum(second.summary()["all"]["histogram"].values()) == 6
    unused = ConflictLog(3)
    unused.load_state_dict(ConflictLog(3).state_dict())
    assert unused.summary() == {"iterations": 0}
