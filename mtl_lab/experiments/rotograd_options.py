"""RotoGrad's options one by one on two digits: what the released code does, and what the paper prints or leaves open.

*Rows*: RotoGrad as in the table `two_digits` (the code's objective, identity start, first norms taken anew after 20
steps, losses as they are), and that row with one thing changed: the paper's objective; rotations that start uniformly
on SO(m), as the released package starts; no burn-in, as Algorithm 1 has it; losses divided by their first values, as
the package's README has it; all of the package's choices together (Haar, normalised); all of the paper's (its
objective, no burn-in).

*Rates*: the network's and the rotations' that the table's search chose for RotoGrad; none of the rows searches, so a
row may lose by its rate alone: the paper's objective has gradients of another length. *Seeds*: 5, from 50 on, which no
earlier table has used. *Measure*: Δm on test data against the table's single-task networks, paired differences to
RotoGrad with Holm intervals; five seeds describe.

Planned and not trained. Cost: 7 rows of 5 seeds, each about as long as a run of the table's RotoGrad, which took 52
core-seconds in the mean: about 30 core-minutes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mtl_lab.experiments import two_digits
from mtl_lab.experiments.registry import register_grid
from mtl_lab.protocol import committed
from mtl_lab.runs.run import Run

CODE, PAPER = {"init": "haar", "normalize_losses": True}, {"objective": "paper", "burn_in": 0}
OPTIONS = {
    "rotograd": {},
    "paper's objective": {"objective": "paper"},
    "Haar start": {"init": "haar"},
    "no burn-in": {"burn_in": 0},
    "normalised losses": {"normalize_losses": True},
    "as the package": CODE,
    "as the paper": PAPER,
}
FIRST = 50


@dataclass(frozen=True)
class RotoGradOptions:
    """A row of `OPTIONS` each, with the rates of the table's search where it has one."""

    profile: str = "small"
    seeds: int = 5

    def plan(self, records: Sequence[Mapping] = ()) -> dict[str, list[Run]]:
        """Row -> one run per seed."""
        table = two_digits.table(self.profile)
        found = (committed.search_of(table) or {}).get("rows", {}).get("rotograd", {})
        default = {"learning_rate": 3e-3, "weight_decay": 0.0, "rotation_rate": 0.5}
        run = table.run(table.row("rotograd"), found.get("choice", default), FIRST, test=True)
        changed = {name: replace(run, method_options={**run.method_options, **more}) for name, more in OPTIONS.items()}
        return {name: one.seeds(range(FIRST, FIRST + self.seeds)) for name, one in changed.items()}


register_grid("rotograd_options", RotoGradOptions)
