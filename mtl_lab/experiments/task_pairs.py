"""Pairs of QM9's targets, trained together and alone: does conflict go with harm?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from mtl_core.data.qm9 import TARGETS
from mtl_lab.experiments import qm9
from mtl_lab.experiments.registry import register_grid
from mtl_lab.runs.run import Run


@dataclass(frozen=True)
class TaskPairs:
    """Pairs of QM9's targets: each pair trained together with equal weights and logged, each target also alone.

    All have the same network, schedule and learning rate; only the number of heads differs. The rate is the median of
    those that the search of the table `qm9` chose for the eleven single-task networks.
    """

    profile: str = "small"
    seeds: int = 10

    def plan(self, records: Sequence[Mapping] = ()) -> dict[str, list[Run]]:
        """Row, as in "alone mu" or "mu + alpha", -> one run per seed."""
        base = qm9.table(self.profile).base
        base = replace(base, schedule={**base.schedule, "learning_rate": 0.0056})
        names = list(TARGETS)
        rows = {f"alone {name}": replace(base, tasks=[k]) for k, name in enumerate(names)}
        for i, j in combinations(range(len(names)), 2):
            rows[f"{names[i]} + {names[j]}"] = replace(base, tasks=[i, j], observe={"thresholds": [0.0], "every": 5})
        return {name: run.seeds(range(self.seeds)) for name, run in rows.items()}


register_grid("task_pairs", TaskPairs)
