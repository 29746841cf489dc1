"""MT10: the demonstrations that the package carries, how a problem is made of them, the network that reads them."""

import numpy as np
import pytest
import torch

from mtl_core import data, models
from mtl_core.balancer import Balancer
from mtl_core.data import embed, embedded, mt10

NEEDED = "needs the simulator: pip install metaworld packaging"


def test_what_is_embedded_is_small_and_as_a_policy_acts():
    assert (embedded.FOLDER / "mt10.npz").stat().st_size < 700_000
    observations, actions = mt10.demonstrations()
    assert observations.shape == (10, 40, 150, 39) and actions.shape == (10, 40, 150, 4)
    assert np.abs(actions).max() <= 1 + 1e-9 and np.abs(actions).std() > 0.2
    # The second half of an observation is the first half of the one before.
    reach = observations[mt10.TASKS.index("reach"), 3]
    np.testing.assert_allclose(reach[1:, 18:36], reach[:-1, :18], atol=1e-9)
    goals = observations[:, :, 0, 36:]
    assert min(len(np.unique(of, axis=0)) for of in goals.round(4)) >= 39, "goals differ; two may round alike"
    success = embedded.arrays("mt10")["success"].mean(1)
    assert success.min() >= 0.7 and success.mean() > 0.9


def test_splits_have_no_goal_in_common_and_a_seed_only_pairs():
    one, other = (data.load("mt10", profile="small", seed=seed) for seed in (0, 1))
    assert [len(s) for s in (one.train, one.validation, one.test)] == [28 * 150, 4 * 150, 8 * 150]
    assert one.source["synthetic"] is True and one.train.inputs.shape[1:] == (10, 39)
    goals = [{*map(tuple, s.inputs[:, 0, 36:].tolist())} for s in (one.train, one.validation, one.test)]
    assert [len(g) for g in goals] == [28, 4, 8] and len(set.union(*goals)) == 40
    assert torch.equal(one.test.inputs, other.test.inputs) and not torch.equal(one.train.inputs, other.train.inputs)
    for k in (0, 7):  # observation and action of a task stay together
        rows = [torch.cat([p.train.inputs[:, k], p.train.targets[k]], 1) for p in (one, other)]
        assert {*map(tuple, rows[0].tolist())} == {*map(tuple, rows[1].tolist())}
    x = one.train.inputs.flatten(0, 1)
    assert x.mean(0).abs().max() < 1e-3 and x.std(0).max() < 1.001
    tiny = data.load("mt10")
    assert torch.equal(tiny.test.inputs, one.test.inputs[:300]), "a profile changes no example"
    with pytest.raises(ValueError, match="test is a number of episodes, 1 to 8, got 9"):
        data.load("mt10", test=9)


def test_a_head_reads_its_own_task_alone():
    problem = data.load("mt10")
    model = models.build("mt10_policy", problem.tasks, seed=3, width=16)
    inputs, targets = problem.train.batch(slice(0, 6))
    outputs = model(inputs)
    assert [o.shape for o in outputs] == [(6, 4)] * 10 and max(o.abs().max() for o in outputs) < 1
    changed = inputs.clone()
    changed[:, 4] += 1
    assert [k for k, (a, b) in enumerate(zip(outputs, model(changed), strict=True)) if not torch.equal(a, b)] == [4]
    listed = model([*inputs.unbind(1)])
    assert all(torch.equal(a, b) for a, b in zip(outputs, listed, strict=True))
    alone = models.build("mt10_policy", problem.tasks[4:5], seed=3, width=16, reads=[4])
    alone.trunk.load_state_dict(model.trunk.state_dict())
    alone.heads[0].load_state_dict(model.heads[4].state_dict())
    assert torch.equal(alone(inputs)[0], outputs[4])
    losses = {t.name: t.loss(o, y) for t, o, y in zip(problem.tasks, outputs, targets, strict=True)}
    door = Balancer("norm_equalised", model.layer_parameters())
    door.backward(losses)
    assert door.gradients.matrix.shape == (10, sum(p.numel() for p in model.trunk.parameters()))
    with pytest.raises(ValueError, match="one observation for each of 10 heads"):
        models.build("mt10_policy", problem.tasks, reads=[0])


def test_sizes_are_the_published_ones_and_one_head_is_shared():
    tasks = data.load("mt10").tasks
    model, shared = (models.build("mt10_policy", tasks, one_head=one) for one in (False, True))
    assert sum(p.numel() for p in model.trunk.parameters()) == 336_800
    assert [sum(p.numel() for p in m.heads.parameters()) for m in (model, shared)] == [16_040, 1_604]
    assert len({*map(id, shared.heads)}) == 1


def test_without_the_simulator_the_error_says_what_to_install(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(mt10.importlib, "import_module", missing)
    with pytest.raises(ImportError, match="pip install metaworld packaging.*The demonstrations are in this package"):
        mt10.Simulator("reach")


def test_one_command_writes_the_file_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(embed, "FOLDER", tmp_path)
    monkeypatch.setattr(mt10, "record", lambda: embedded.arrays("mt10"))
    assert embed.embed(names=["mt10"]) == {"mt10": embedded.CHECKSUMS["mt10"]}
    assert (tmp_path / "mt10.npz").read_bytes() == (embedded.FOLDER / "mt10.npz").read_bytes()


# --- with the simulator


def test_an_episode_is_shown_again_as_it_is_embedded():
    pytest.importorskip("metaworld", reason=NEEDED)
    stored, actions = mt10.demonstrations()
    for task in ("reach", "drawer-close"):
        k, simulator = mt10.TASKS.index(task), mt10.Simulator(task)
        noise = mt10.NOISE * mt10.numpy_generator(0, "pairing", f"mt10 {task} 5").standard_normal((mt10.STEPS, 4))
        seen, shown, _ = simulator.episode(5, simulator.scripted(), noise=noise)
        # Half a unit of rounding; another processor may round the physics otherwise.
        assert np.abs(seen - stored[k, 5]).max() < 1e-3 and np.abs(shown - actions[k, 5]).max() < 0.02


def test_the_scripted_policies_succeed_on_unseen_goals():
    pytest.importorskip("metaworld", reason=NEEDED)
    assert mt10.rollout("reach", goals=[40, 41]) == [True, True]
    assert mt10.rollout("reach", lambda _: np.zeros(4), goals=[40], steps=20) == [False]
