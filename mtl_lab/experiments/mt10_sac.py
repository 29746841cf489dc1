r"""MT10 by reinforcement, as in Table 4 of SAM-GS: soft actor-critic with one trunk for all tasks.

Each step takes one step in the environment of every task and one update of the critics, the actor and the temperature,
in this order; in each the tasks' losses go through a `Balancer`. Row "sam_gs" is the function of the released code: one
buffer of momentum serves all three calls, cut and filled with ones between them. Settings as released: perceptrons of
three layers of 400, all of whose parameters are shared and which are not told their task; of ten temperatures only the
first is used; 128 transitions a task, Adam at 3e-4, discount 0.99, targets follow at 0.005, rewards over their running
deviation; two million steps, evaluated every 10,000.

Ours: the tasks of metaworld 3.1.1 (the papers ran a commit of 2021), training on 40 goals of a task and evaluation on
the other 10, log deviations clipped to [-20, 2], no encoder. All episodes begin anew after an evaluation, so that a
training that was stopped ends where the undisturbed one does. A number from here cannot be compared with Table 4.

The simulator must be installed: `pip install metaworld packaging`. A checkpoint at the published size holds all
transitions, a third of a gigabyte.
"""

import copy
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtl_core.balancer import Balancer
from mtl_core.data import mt10
from mtl_core.methods.sam_gs import SAMGS
from mtl_core.models.mt10_policy import mt10_policy
from mtl_core.seeds import torch_generator, torch_seed
from mtl_lab import records
from mtl_lab.experiments.registry import register_study
from mtl_lab.runs.provenance import provenance
from mtl_lab.runs.store import Store

NAME, DISCOUNT, FOLLOW, RATE, REWARD = "mt10_sac", 0.99, 0.005, 3e-4, 1e-3


@dataclass(frozen=True)
class Plan:
    """One training.

    method   "sam_gs", its reinforcement variant; or the name of another method, of which each door gets one.
    steps    in each environment; warm_up: of them at first with random actions and without updates.
    batch    transitions of each task in an update; memory: transitions that are kept, of all tasks together.
    every    steps from one evaluation, and checkpoint, to the next; goals: episodes of each task in it.
    """

    method: str = "sam_gs"
    seed: int = 0
    tasks: tuple[str, ...] = mt10.TASKS
    steps: int = 2_000_000
    warm_up: int = 1_500
    batch: int = 128
    memory: int = 1_000_000
    width: int = 400
    one_head: bool = True
    every: int = 10_000
    goals: int = 1


TINY = Plan(
    tasks=("reach", "drawer-close"), steps=2_000, warm_up=500, batch=32, memory=8_000, width=64, every=500, goals=3
)
PRINTED = {  # method of Table 4 -> row; the others are other networks, FAMO also needs the losses after each step
    "SAM-GS": "sam_gs",
    "MTL SAC": "equal",
    "PCGrad": "pcgrad",
    "CAGrad": "cagrad",
    "Nash-MTL": "nash_mtl",
    "Aligned-MTL": "aligned_mtl",
}
PROFILES = {"tiny": (TINY, ("sam_gs", "equal"), 1), "paper": (Plan(), tuple(PRINTED.values()), 10)}  # plan, rows, seeds


class Agent(nn.Module):
    """Actor, two critics and their targets, temperature; three doors for the gradients of the tasks."""

    def __init__(self, plan: Plan):
        super().__init__()
        K, network = len(plan.tasks), {"width": plan.width, "one_head": plan.one_head, "squash": False}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed(plan.seed, "initialisation"))
            self.actor = mt10_policy([2 * mt10.ACTION] * K, mt10.OBSERVATION, **network)
            critics = [mt10_policy([1] * K, mt10.OBSERVATION + mt10.ACTION, **network) for _ in range(2)]
        self.critics, self.log_alpha = nn.ModuleList(critics), nn.Parameter(torch.zeros(K))
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        # One instance for three doors, as released: what it keeps of one call it takes into the next.
        method = SAMGS(gamma=0.9, variant="reinforcement") if plan.method == "sam_gs" else plan.method
        parts = {"critics": self.critics, "actor": self.actor, "log_alpha": [self.log_alpha]}
        self.doors = {
            name: Balancer(method, part, ignore=[torch.Tensor, self.critics] * (name == "actor"))
            for name, part in parts.items()
        }
        self.optimizers = {
            name: torch.optim.Adam(part if isinstance(part, list) else part.parameters(), RATE)
            for name, part in parts.items()
        }
        self.tasks, self.generator = plan.tasks, torch_generator(plan.seed, "method")

    def sample(self, observations) -> tuple[list[Tensor], list[Tensor]]:
        """Of each task actions (B, 4) in (-1, 1), drawn by the actor, and the logs of their densities (B,)."""
        actions, logs = [], []
        for output in self.actor(observations):
            mean, log_deviation = output.chunk(2, -1)
            log_deviation = log_deviation.clamp(-20, 2)
            noise = torch.randn(mean.shape, generator=self.generator)
            before = mean + log_deviation.exp() * noise
            normal = -noise.square() / 2 - log_deviation - 0.5 * np.log(2 * np.pi)
            # The density of a = tanh(u):  \log p(a) = \log p(u) - \log(1 - \tanh^2 u)
            actions.append(before.tanh())
            logs.append((normal - 2 * (np.log(2) - before - F.softplus(-2 * before))).sum(-1))
        return actions, logs

    @staticmethod
    def values(critics, observations, actions) -> list[tuple[Tensor, ...]]:
        """Of each task the two critics' values (B,) of its actions."""
        inputs = [torch.cat(pair, -1) for pair in zip(observations, actions, strict=True)]
        return [tuple(q.squeeze(-1) for q in of) for of in zip(*(critic(inputs) for critic in critics), strict=True)]

    def update(self, observations, actions, rewards, following) -> None:
        """One update of critics, actor and temperature from lists with a batch of each task."""
        alpha = self.log_alpha[0].exp().detach()
        with torch.no_grad():  # y = r + \gamma (\min_c Q_c(s', a') - \alpha \log \pi(a' | s'))
            new, logs = self.sample(following)
            least = [torch.minimum(*of) for of in self.values(self.targets, following, new)]
            goals = [r + DISCOUNT * (q - alpha * p) for r, q, p in zip(rewards, least, logs, strict=True)]
        of_critics = self.values(self.critics, observations, actions)
        self.step("critics", [sum(F.mse_loss(q, y) for q in of) for of, y in zip(of_critics, goals, strict=True)])
        new, logs = self.sample(observations)
        of_critics = self.values(self.critics, observations, new)
        self.step("actor", [(alpha * p - torch.minimum(*of)).mean() for of, p in zip(of_critics, logs, strict=True)])
        # The entropy that is sought is minus the number of an action's dimensions, 4.
        self.step("log_alpha", [-(self.log_alpha[0].exp() * (p.detach() - mt10.ACTION)).mean() for p in logs])
        with torch.no_grad():
            for target, source in zip(self.targets.parameters(), self.critics.parameters(), strict=True):
                target.lerp_(source, FOLLOW)

    def step(self, part: str, losses: list) -> None:
        self.optimizers[part].zero_grad()
        self.doors[part].backward(dict(zip(self.tasks, losses, strict=True)))
        self.optimizers[part].step()

    def saved(self) -> dict:
        """Everything that has a state, by name."""
        parts = {"agent": self} | {f"optimizer {n}": o for n, o in self.optimizers.items()}
        return parts | {f"door {n}": door for n, door in self.doors.items()}

    @torch.no_grad()
    def act(self, k: int, observation: np.ndarray) -> np.ndarray:
        """The mean action of a task, without noise."""
        x = torch.from_numpy(observation).float()
        return self.actor.heads[k](self.actor.trunk.layers(x)).chunk(2, -1)[0].tanh().numpy()


def train(plan: Plan, path: Path | None = None, simulator=None, told=print) -> dict:
    """Train, from the checkpoint `path` where there is one; what a record has beside row and config.

    `told` is called with a line after each evaluation.
    """
    from mtl_lab.runs import checkpoints  # it brings training code, which reading a record does without

    agent, worlds, K = Agent(plan), [(simulator or mt10.Simulator)(task) for task in plan.tasks], len(plan.tasks)
    size = min(plan.memory // K, plan.steps)
    widths = {"seen": mt10.OBSERVATION, "done": mt10.ACTION, "reward": 1, "following": mt10.OBSERVATION}
    state = {"of": json.dumps(asdict(plan)), "history": [], "step": 0, "core_seconds": 0.0, "generator": None}
    state |= {"memory": {name: torch.zeros(K, size, n) for name, n in widths.items()}}
    state |= {"rewards": torch.tensor([[0.0, 1.0]] * K, dtype=torch.float64)}  # running mean and variance by task
    if path is not None and path.exists() and (kept := checkpoints.read(path)) and kept["of"] == state["of"]:
        state = kept
        agent.generator.set_state(state["generator"])
        for name, part in agent.saved().items():
            part.load_state_dict(state["parts"][name])
    draw, memory, clock = agent.generator, state["memory"], time.process_time()
    for step in range(state["step"], plan.steps):
        if step % plan.every % mt10.STEPS == 0:
            goals = torch.randint(len(mt10.DEMONSTRATED), (K,), generator=draw).tolist()
            seen = np.array([world.reset(goal) for world, goal in zip(worlds, goals, strict=True)], np.float32)
        if step < plan.warm_up:
            actions = 2 * torch.rand(K, mt10.ACTION, generator=draw) - 1
        else:
            with torch.no_grad():
                actions = torch.cat(agent.sample([x[None] for x in torch.from_numpy(seen)])[0])
        following, at = np.empty_like(seen), step % size
        for k, world in enumerate(worlds):
            following[k], reward, _ = world.step(actions[k].numpy())
            mean, variance = state["rewards"][k].tolist()
            mean += REWARD * (reward - mean)
            variance += REWARD * ((reward - mean) ** 2 - variance)
            state["rewards"][k] = torch.tensor([mean, variance])
            memory["reward"][k, at] = reward / (variance**0.5 + 1e-8)
        for name, values in (("seen", seen), ("following", following)):
            memory[name][:, at] = torch.from_numpy(values)
        memory["done"][:, at], seen = actions, following
        if step >= plan.warm_up:
            chosen = torch.randint(min(step + 1, size), (K, plan.batch), generator=draw)
            batch = [[of[k, chosen[k]] for k in range(K)] for of in memory.values()]
            batch[2] = [reward.squeeze(-1) for reward in batch[2]]
            agent.update(*batch)
        if (step + 1) % plan.every == 0 or step + 1 == plan.steps:
            state["core_seconds"] += time.process_time() - clock
            success = {}
            for k, (task, world) in enumerate(zip(plan.tasks, worlds, strict=True)):
                episodes = [world.episode(goal, lambda x, k=k: agent.act(k, x)) for goal in mt10.UNSEEN[: plan.goals]]
                success[task] = sum(bool(of[-1].any()) for of in episodes)
            state["history"].append({"step": step + 1, "success": success})
            state |= {"step": step + 1, "generator": draw.get_state()}
            state["parts"] = {name: part.state_dict() for name, part in agent.saved().items()}
            if path is not None:
                checkpoints.write(state, path)
            told(f"{plan.method}, step {step + 1:,}: {sum(success.values())} of {K * plan.goals} episodes succeed")
            clock = time.process_time()
    timed = {
        "core_seconds": state["core_seconds"],
        "steps_per_core_second": plan.steps / max(state["core_seconds"], 1e-9),
    }
    return {"evaluations": state["history"], **timed}


def measure(steps: int = 20, root: Path = records.ROOT, simulator=None) -> dict:
    """Measure what a step of "sam_gs" at the published settings costs, and record it as row "step" of "paper"."""
    short = replace(Plan(), steps=2 * steps, warm_up=steps, every=steps, memory=20 * steps, goals=0)
    spent = [
        train(replace(short, steps=n), None, simulator, lambda _: None)["core_seconds"] for n in (steps, 2 * steps)
    ]
    found = {"environment": spent[0] / steps, "step": (spent[1] - spent[0]) / steps}
    made = {"row": "step", "identity": "step", "config": {"seed": 0}, "core_seconds": found, "provenance": provenance()}
    records.add([records.rounded(made)], records.folder(NAME, "paper", root) / "runs.jsonl")
    return found


def complete(profile: str, root: Path = records.ROOT) -> str:
    """Train the runs of a profile that results/mt10_sac/PROFILE lacks, each from its checkpoint."""
    plan, rows, seeds = PROFILES[profile]
    file, store = records.folder(NAME, profile, root) / "runs.jsonl", Store()
    for seed in range(seeds):
        for row in rows:
            config = json.loads(json.dumps(asdict(replace(plan, method=row, seed=seed))))
            identity = records.key(config)
            if identity not in {record["identity"] for record in records.load(NAME, profile, root)}:
                found = train(replace(plan, method=row, seed=seed), store.root / f"{NAME}-{identity}.pt")
                made = {"row": row, "identity": identity, "config": config, "provenance": provenance(), **found}
                records.add([records.rounded(made)], file)
    return f"{len(rows) * seeds} trainings are complete."


register_study(NAME, complete)
