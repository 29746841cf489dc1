"""More or less overlap of two pictures, narrower and wider trunks: what changes conflict, what changes harm?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mtl_lab.experiments import multi_fashion_mnist
from mtl_lab.experiments.registry import register_grid
from mtl_lab.protocol import committed
from mtl_lab.runs.run import Run

# Dose -> offset of the garment against the digit in pixels, network, options of the network.
DOSES = {
    f"offset {offset}, width {width}": (offset, "resnet18", {"width": width})
    for offset in (8, 4, 0)
    for width in (4, 8, 16)
} | {
    "GroupNorm": (8, "resnet18", {"width": 8, "norm": "group"}),
    "constant width": (8, "resnet18", {"width": 8, "constant_width": True}),
    "LeNet": (8, "lenet", {}),
}


@dataclass(frozen=True)
class ConflictDose:
    """Multi-Fashion+MNIST with more or less overlap, in narrower and wider trunks, and in three other networks.

    Each dose trains both tasks together with equal weights, logging conflict, and each task alone, for half as many
    epochs as the protocol's table. Learning rate and weight decay are those that the table's search chose for equal
    weights and for the single-task networks, at offset 8 and width 8 (before that search: 0.05 and 0).
    """

    profile: str = "small"
    seeds: int = 5

    def plan(self, records: Sequence[Mapping] = ()) -> dict[str, list[Run]]:
        """Row, as in "together, DOSE", "digit, DOSE" and "garment, DOSE", -> one run per seed."""
        table = multi_fashion_mnist.table(self.profile)
        chosen = (committed.search_of(table) or {"rows": {}})["rows"]
        if not {"equal", "single digit", "single garment"} <= set(chosen):
            chosen = {}  # all three or none: rates of different origin would not be comparable
        rows = {}
        for dose, (offset, model, options) in DOSES.items():
            problem_options = {**table.base.problem_options, "offset": offset}
            base = replace(table.base, problem_options=problem_options, model=model, model_options=options)
            for label, name, change in (
                ("together", "equal", {"observe": {"thresholds": [0.0, -0.1], "every": 3}}),
                ("digit", "single digit", {"tasks": [0]}),
                ("garment", "single garment", {"tasks": [1]}),
            ):
                choice = chosen[name]["choice"] if name in chosen else {}
                rates = {key: choice[key] for key in ("learning_rate", "weight_decay") if key in choice}
                schedule = base.schedule | rates | {"epochs": max(1, base.schedule["epochs"] // 2)}
                rows[f"{label}, {dose}"] = replace(base, schedule=schedule, **change).seeds(range(self.seeds))
        return rows


register_grid("conflict_dose", ConflictDose)
