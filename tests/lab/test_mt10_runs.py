"""MT10: the comparison on made-up records whose truth is known, roll-outs, and soft actor-critic in a made-up world."""

import copy
from dataclasses import replace

import made_up_streams
import numpy as np
import pytest
import torch
from made_up_mt10 import with_the_table

from mtl_core.data import mt10
from mtl_lab import experiments, queue, records
from mtl_lab.experiments import mt10_cloning, mt10_rollouts, mt10_sac
from mtl_lab.protocol import committed, stream_verdict
from mtl_lab.runs import checkpoints, execute, store

torch.set_num_threads(1)


@pytest.fixture
def found(tmp_path, monkeypatch):
    """Function of true shifts in margins, spread over streams in margins, and how many streams: the finding."""

    def of(shift, spread, count=None):
        monkeypatch.setattr(made_up_streams, "SHIFT", shift)
        monkeypatch.setattr(made_up_streams, "ONE_TASK", {})
        for part, share in (("SEARCH", 0.9), ("SEED", 0.3), ("METHOD_SEED", 0.3)):
            monkeypatch.setattr(made_up_streams, part, share * spread)
        made_up_streams.write("mt10_cloning", with_the_table(tmp_path), count)
        return mt10_cloning.finding(root=tmp_path)

    return of


# --- imitation


def test_the_plan_is_three_streams_of_eight_rows(tmp_path):
    table, main = mt10_cloning.searches(), mt10_cloning.table()
    assert (table.streams, table.extends, table.limits, table.margin) == (3, "mt10", (5.0, 5.0), 5.0)
    assert [row.name for row in table.shared()] == [*mt10_cloning.ROWS, mt10_cloning.VARIANT]
    assert [row.model for row in main.singles()] == [{"reads": [k]} for k in range(10)]
    assert [row.name for row in main.shared()] == ["static", "a_a", "broken"]
    assert {row for pair in mt10_cloning.CONTRASTS.values() for row in pair} <= {row.name for row in table.shared()}
    lacking = queue.lacks("mt10_cloning", "small", with_the_table(tmp_path))
    assert sum(share for _, share in lacking) == 3 * 8 * 5, "full runs"
    assert experiments.SEARCHES["mt10_cloning"]("tiny").profile == "tiny"


def test_a_queue_takes_the_table_and_then_what_extends_it(tmp_path):
    table, extending, total = queue.progress([("mt10", "small"), ("mt10_cloning", "small")], 2, tmp_path)
    assert "missing runs: " in table and extending.endswith("counted once the table that it extends is searched")
    assert "at least" in total
    with pytest.raises(committed.SearchMissing, match="make results EXPERIMENT=mt10 PROFILE=small"):
        queue.lacks("mt10_cloning", "small", tmp_path)


def test_before_the_last_stream_a_page_counts_runs(found):
    said = found({}, 0.2, count=2)
    assert said.startswith("*No finding yet*: 16 of 24 runs") and "EXPERIMENT=mt10_cloning PROFILE=small" in said


@pytest.mark.parametrize(
    ("shift", "spread", "lead"),
    [
        ({"equal": -6.0}, 0.03, "Equal lengths explain SAM-GS"),
        ({"equal": -6.0, "sam_gs": 6.0}, 0.03, "Equal lengths are not shown to explain SAM-GS"),
        ({"equal": -6.0}, 2.0, "Equal lengths are not shown to explain SAM-GS"),
        ({}, 0.03, "Equal lengths are not shown to explain SAM-GS"),
    ],
)
def test_equal_lengths_are_judged_by_the_rule(found, tmp_path, shift, spread, lead):
    assert found(shift, spread).startswith(lead)
    if spread < 1:
        judged = mt10_cloning.contrasts(stream_verdict.compare(mt10_cloning.searches(), tmp_path))
        for name, (a, b) in mt10_cloning.CONTRASTS.items():
            truth = 5 * (shift.get(a, 0.0) - shift.get(b, 0.0))
            assert judged[name][0].low < truth < judged[name][0].high, name


# --- success


def test_chosen_policies_are_rolled_out_once(found, tmp_path, monkeypatch):
    found({}, 0.2)
    asked = []
    monkeypatch.setattr(mt10_rollouts, "trained", lambda run, _: (run, {"reach": 0.02}))
    monkeypatch.setattr(mt10_rollouts, "policy", lambda run, k: run.method)

    def rollout(task, method=None):
        asked.append(task)
        return [True] * {None: 10, "sam_gs": 9, "equal": 4}.get(method, 7) + [False]

    assert "18 policies of 3 whole streams are rolled out, 18 now" in mt10_rollouts.complete("small", tmp_path, rollout)
    assert asked == [*mt10.TASKS] * 19
    assert "18 now" not in mt10_rollouts.complete("small", tmp_path, rollout)
    shares = mt10_rollouts.shares("small", tmp_path)
    assert shares["scripted"] == {0: 100.0} and shares["sam_gs"] == {0: 90.0, 1: 90.0, 2: 90.0}
    judged = mt10_rollouts.contrasts(shares)
    assert judged["sam_gs"][0].mean == pytest.approx(50) and judged["cagrad"][1] == "better"
    del shares["cagrad"][1]
    assert mt10_rollouts.contrasts(shares) == {}


def test_what_is_rolled_out_is_the_run_that_is_recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("MTL_RUNS", str(tmp_path))
    table = mt10_cloning.searches("tiny")
    run = table.run(table.row("sam_gs"), {"learning_rate": 1e-3, "gamma": 0.9, "beta2": 0.9}, 4, test=True)
    run = replace(run, model_options={"width": 16}, schedule={**run.schedule, "epochs": 2})
    kept = store.Store()
    record, (model, errors) = execute.execute(run, kept), mt10_rollouts.trained(run, kept)
    assert errors == {task: of["MSE"] for task, of in record["final"]["test"].items()}
    again, _ = mt10_rollouts.trained(run, kept)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    mean, deviation = mt10.scale()
    observation = mt10.demonstrations()[0][6, 33, 20]
    x = torch.from_numpy((observation - mean) / deviation).float().expand(1, 10, 39)
    np.testing.assert_allclose(mt10_rollouts.policy(model, 6)(observation), model(x)[6][0].detach(), atol=1e-6)


# --- reinforcement


class World:
    """A task without physics: the reward says how near the action is to one that depends on the goal."""

    def __init__(self, task):
        self.number = mt10.TASKS.index(task)

    def reset(self, goal):
        self.wanted = np.random.default_rng([self.number, goal]).uniform(-0.6, 0.6, 4)
        self.seen = np.zeros(39)
        self.seen[:4] = self.wanted
        return self.seen

    def step(self, action):
        far = float(np.abs(action - self.wanted).mean())
        return self.seen, 1 - far, far < 0.3

    def episode(self, goal, policy):
        self.reset(goal)
        return (np.array([self.step(policy(self.seen))[-1] for _ in range(3)]),)


SMALL = replace(mt10_sac.TINY, steps=40, warm_up=10, batch=16, width=16, memory=60, every=20, goals=2)


class Stopped(BaseException):
    """As a kill."""


@pytest.mark.parametrize("method", ["sam_gs", "cagrad"])
def test_a_stopped_training_ends_where_the_undisturbed_one_does(tmp_path, method):
    plan = replace(SMALL, method=method)
    whole = mt10_sac.train(plan, tmp_path / "whole.pt", World, told=lambda _: None)

    def stop(line):
        raise Stopped

    with pytest.raises(Stopped):
        mt10_sac.train(plan, tmp_path / "part.pt", World, told=stop)
    part = mt10_sac.train(plan, tmp_path / "part.pt", World, told=lambda _: None)
    assert part["evaluations"] == whole["evaluations"] and [e["step"] for e in whole["evaluations"]] == [20, 40]
    ends = [checkpoints.read(tmp_path / f"{n}.pt") for n in ("whole", "part")]
    for name, value in ends[0]["parts"]["agent"].items():
        assert torch.equal(value, ends[1]["parts"]["agent"][name]), name
    other = mt10_sac.train(replace(plan, seed=1, steps=20), tmp_path / "whole.pt", World, told=lambda _: None)
    assert [e["step"] for e in other["evaluations"]] == [20], "a checkpoint of another plan is not taken"


def test_as_released_one_buffer_serves_critics_actor_and_temperature():
    agent = mt10_sac.Agent(SMALL)
    assert len({id(door.method) for door in agent.doors.values()}) == 1
    before = [p.clone() for p in agent.parameters()]
    agent.update(*batch())
    method = agent.doors["actor"].method
    assert method.variant == "reinforcement" and int(method.steps) == 3
    assert method.momentum.shape == (2, 2), "of the temperatures' call two columns are left"
    names = [name for name, _ in agent.named_parameters()]
    still = {n for n, a, b in zip(names, before, agent.parameters(), strict=True) if torch.equal(a, b)}
    assert not {n for n in still if not n.startswith("targets")}, "every part has learned"
    assert agent.log_alpha[0] != 0 and agent.log_alpha[1] == 0, "only the first temperature is used"
    own = mt10_sac.Agent(replace(SMALL, method="cagrad"))
    assert len({id(door.method) for door in own.doors.values()}) == 3


def batch(size=8):
    observations, actions, following = ([torch.randn(size, n) for _ in range(2)] for n in (39, 4, 39))
    return observations, actions, [torch.randn(size) for _ in range(2)], following


def test_density_of_a_squashed_action():
    agent, x = mt10_sac.Agent(replace(SMALL, method="equal")), [torch.randn(5, 39)] * 2
    actions, logs = agent.sample(x)
    for k, output in enumerate(agent.actor(x)):
        mean, deviation = output.chunk(2, -1)
        normal = torch.distributions.Normal(mean, deviation.exp())
        squashed = torch.distributions.TransformedDistribution(normal, torch.distributions.TanhTransform())
        assert torch.allclose(squashed.log_prob(actions[k]).sum(-1), logs[k], atol=1e-3)


def test_losses_are_those_of_soft_actor_critic(monkeypatch):
    agent, (seen, done, rewards, following) = mt10_sac.Agent(replace(SMALL, method="equal")), batch()
    with torch.no_grad():
        agent.log_alpha += torch.tensor([0.7, 5.0])  # the second is not used
        for target in agent.targets.parameters():
            target += 0.05 * torch.randn_like(target)
    targets = copy.deepcopy(agent.targets)
    drawn, losses, sample = [], {}, agent.sample

    def drawing(x):
        drawn.append(sample(x))
        return drawn[-1]

    monkeypatch.setattr(agent, "sample", drawing)
    monkeypatch.setattr(agent, "step", lambda part, of: losses.update({part: [float(loss.detach()) for loss in of]}))
    agent.update(seen, done, rewards, following)
    alpha = float(np.exp(0.7))
    for k in range(2):

        def value(critic, s, a, k=k):
            return critic.heads[k](critic.trunk.layers(torch.cat([s[k], a[k]], 1)))[:, 0]

        (next_actions, next_logs), (actions, logs) = drawn
        worst = torch.stack([value(c, following, next_actions) for c in targets]).min(0).values
        wanted = rewards[k] + 0.99 * worst - 0.99 * alpha * next_logs[k]
        errors = [((value(c, seen, done) - wanted) ** 2).mean() for c in agent.critics]
        assert losses["critics"][k] == pytest.approx(sum(e.item() for e in errors), rel=1e-4)
        worst = torch.stack([value(c, seen, actions) for c in agent.critics]).min(0).values
        assert losses["actor"][k] == pytest.approx(float((alpha * logs[k] - worst).mean()), rel=1e-4)
        # An entropy above the wanted one, −4, must lower the temperature: its loss rises with it.
        assert losses["log_alpha"][k] == pytest.approx(float(alpha * (-logs[k].mean() + 4)), rel=1e-4)
    for new, before, source in zip(
        agent.targets.parameters(), targets.parameters(), agent.critics.parameters(), strict=True
    ):
        assert torch.allclose(new, 0.995 * before + 0.005 * source, atol=1e-6)


def test_records_name_their_plan_and_are_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("MTL_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(mt10_sac, "PROFILES", {"tiny": (replace(SMALL, steps=20), ("sam_gs", "equal"), 1)})
    monkeypatch.setattr(mt10_sac.mt10, "Simulator", World)
    said = mt10_sac.complete("tiny", tmp_path)
    assert said == "2 trainings are complete." and mt10_sac.complete("tiny", tmp_path) == said
    made = records.load("mt10_sac", "tiny", tmp_path)
    assert [r["row"] for r in made] == ["equal", "sam_gs"] and made[0]["config"]["steps"] == 20
    found = mt10_sac.measure(2, tmp_path, World)
    assert found["step"] > found["environment"] > 0, "a step with an update costs more than one without"
    (step,) = records.load("mt10_sac", "paper", tmp_path)
    assert step["row"] == "step" and step["core_seconds"]["step"] == pytest.approx(found["step"], rel=1e-4)
    with pytest.raises(KeyError, match="small"):
        mt10_sac.complete("small", tmp_path)
