"""Demonstrations of Meta-World's MT10: ten manipulation tasks of a robot arm, each shown by a scripted policy.

Yu et al., *Meta-World*, CoRL 2019, arXiv 1910.10897; environments and scripted policies of the package `metaworld`
3.1.1 (tasks v3; the papers' tables ran a commit of 2021). The demonstrations lie in this package, so that anybody can
train on them. Only `record` and `rollout` need the simulator: `pip install metaworld packaging`, which is in no extra.

Meta-World lists 50 goals for each task. The first 40 are demonstrated, once each; the last 10 are for rollouts.
"""

import functools
import importlib
from collections.abc import Callable

import numpy as np
import torch

from .._extras import require
from ..seeds import numpy_generator
from ..tasks import Task
from . import embedded
from .files import Root
from .problem import Problem, Split
from .profiles import sizes

TASKS = (
    "reach", "push", "pick-place", "door-open", "drawer-open", "drawer-close", "button-press-topdown",
    "peg-insert-side", "window-open", "window-close",
)  # fmt: skip
OBSERVATION, ACTION = 39, 4  # the hand and up to two objects, now and one step ago, and the goal; the hand's move, grip
DEMONSTRATED, UNSEEN = range(40), range(40, 50)  # numbers of goals
STEPS, NOISE = 150, 0.2  # of an episode; standard deviation of what is added to each executed action
UNIT = 1e-4  # of the stored numbers: a tenth of a millimetre
BLOCKS = {"train": range(28), "validation": range(28, 32), "test": range(32, 40)}  # episodes, by their goals
COUNTS = {
    "tiny": {"train": 4, "validation": 1, "test": 2},
    "small": {"train": 28, "validation": 4, "test": 8},
    "paper": {"train": 28, "validation": 4, "test": 8},
}
Policy = Callable[[np.ndarray], np.ndarray]  # observation (39,) -> action (4,)


def load(
    root: Root = None,
    profile: str = "tiny",
    seed: int = 0,
    *,
    train: int | None = None,
    validation: int | None = None,
    test: int | None = None,
) -> Problem:
    """The problem: inputs (N, 10, 39) float32, an observation of each task; of each task the action shown, (N, 4).

    profile  "tiny": 4, 1 and 2 episodes of each task; "small" and "paper": all 28, 4 and 8, with goals of their own.
    seed     draws which observations of different tasks stand in one example of the train split; `root` is not read.
    train, validation, test  numbers of episodes in place of the profile's.

    Observations are scaled by `scale`; actions lie in [-1, 1]. Loss and metric: the mean squared error over the four
    numbers of an action. A network must take its task's observation from an example (`models.mt10_policy`).
    Errors: ValueError for a count out of range; `DataError` where the embedded file is missing or damaged.
    """
    given = {"train": train, "validation": validation, "test": test}
    counts = sizes(COUNTS, profile, given, "episodes", {split: len(block) for split, block in BLOCKS.items()})
    observations, actions = demonstrations()
    mean, deviation = scale()
    splits = {}
    for split, block in BLOCKS.items():
        episodes = list(block)[: counts[split]]
        x, y = (a[:, episodes].reshape(len(TASKS), -1, a.shape[-1]) for a in (observations, actions))
        if split == "train":
            orders = [numpy_generator(seed, "pairing", f"mt10 {task}").permutation(x.shape[1]) for task in TASKS]
            x, y = (np.stack([a[k, order] for k, order in enumerate(orders)]) for a in (x, y))
        inputs = torch.from_numpy(((x - mean) / deviation).astype(np.float32)).transpose(0, 1).contiguous()
        splits[split] = Split(inputs, tuple(torch.from_numpy(y.astype(np.float32))))
    return Problem(
        tuple(Task(task, ACTION, torch.nn.functional.mse_loss, {"MSE": _squared_error}) for task in TASKS),
        **splits,
        source={
            "name": "mt10",
            "profile": profile,
            "synthetic": True,
            "note": "Simulated: scripted policies of metaworld 3.1.1, successful or not, acting with noise; the "
            "targets are their actions without it.",
            "sha256": embedded.CHECKSUMS["mt10"],
            "counts": counts,
            "seed": seed,
        },
    )


def _squared_error():
    return require("torchmetrics", extra="metrics").MeanSquaredError()


def demonstrations() -> tuple[np.ndarray, np.ndarray]:
    """Observations (10, 40, 150, 39) and the scripted policies' actions (10, 40, 150, 4), float64; goals are axis 1."""
    arrays = embedded.arrays("mt10")
    observations, actions = (arrays[name].cumsum(-1, dtype=np.int64) * UNIT for name in ("observations", "actions"))
    return observations.swapaxes(2, 3), actions.swapaxes(2, 3)


@functools.cache
def scale() -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (39,) of the observations in all train episodes; 1 where they never change."""
    observations = demonstrations()[0][:, BLOCKS["train"]].reshape(-1, OBSERVATION)
    deviation = observations.std(0)
    return observations.mean(0), np.where(deviation > UNIT, deviation, 1.0)


# --- the simulator


def _simulator(module: str):
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"Meta-World cannot be imported ({error}): pip install metaworld packaging, 370 MB. The demonstrations are "
            "in this package; only rollouts and new demonstrations need the simulator"
        ) from error


class Simulator:
    """The environment of a task with its 50 goals, the same in every process. ImportError without `metaworld`."""

    def __init__(self, task: str):
        metaworld = _simulator("metaworld")
        benchmark = metaworld.MT1(f"{task}-v3", seed=TASKS.index(task))
        self.name = f"{task}-v3"
        self.goals, self.environment = benchmark.train_tasks, benchmark.train_classes[self.name]()

    def scripted(self) -> Policy:
        """The scripted policy of the task, its actions clipped to what the arm takes, [-1, 1]."""
        policy = _simulator("metaworld.policies").ENV_POLICY_MAP[self.name]()
        return lambda observation: np.clip(policy.get_action(observation), -1, 1)

    def reset(self, goal: int) -> np.ndarray:
        """Begin an episode with that goal; the first observation (39,)."""
        self.environment.set_task(self.goals[goal])
        self.environment.seed(goal)
        return self.environment.reset()[0]

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool]:
        """The next observation, the reward, and whether the task is done now. Actions are clipped to [-1, 1]."""
        observation, reward, _, _, info = self.environment.step(np.clip(action, -1, 1).astype(np.float32))
        return observation, float(reward), bool(info["success"])

    def episode(self, goal: int, policy: Policy, steps: int = STEPS, noise: np.ndarray | None = None):
        """Observations (T, 39), the policy's actions (T, 4), success at each step (T,).

        noise  (steps, 4), added to the actions that are executed. With noise all `steps` are taken; without it the
               episode ends with its first success.
        """
        observation, told = self.reset(goal), list[tuple]()
        for n in range(steps):
            action = np.asarray(policy(observation), np.float64)
            new, _, success = self.step(action if noise is None else action + noise[n])
            told.append((observation, action, success))
            observation = new
            if noise is None and success:
                break
        return tuple(map(np.array, zip(*told, strict=True)))


def record() -> dict[str, np.ndarray]:
    """The embedded arrays, made anew: differences along time, in units of `UNIT`; and whether an episode succeeded.

    observations (10, 40, 39, 150) and actions (10, 40, 4, 150) int16, success (10, 40) bool.
    """
    shape = (len(TASKS), len(DEMONSTRATED))
    found: dict[str, np.ndarray] = {"success": np.zeros(shape, bool)}
    found |= {
        name: np.zeros((*shape, n, STEPS), np.int16) for name, n in (("observations", OBSERVATION), ("actions", ACTION))
    }
    for k, task in enumerate(TASKS):
        simulator = Simulator(task)
        for goal in DEMONSTRATED:
            noise = NOISE * numpy_generator(0, "pairing", f"mt10 {task} {goal}").standard_normal((STEPS, ACTION))
            seen, shown, success = simulator.episode(goal, simulator.scripted(), noise=noise)
            for name, values in (("observations", seen), ("actions", shown)):
                units = np.rint(values.T / UNIT).astype(np.int64)
                found[name][k, goal] = np.diff(units, prepend=0)  # cumsum gives `units` back
            found["success"][k, goal] = success.any()
    return found


def rollout(task: str, policy: Policy | None = None, goals=UNSEEN, steps: int = STEPS) -> list[bool]:
    """Whether the policy, or the scripted one, succeeds within so many steps for each of the goals."""
    simulator = Simulator(task)
    return [bool(simulator.episode(goal, policy or simulator.scripted(), steps)[-1].any()) for goal in goals]
