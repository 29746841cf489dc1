"""Two rows with Recon, each trained with the other's configuration: does the method matter or the configuration?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mtl_lab.experiments import multi_fashion_mnist
from mtl_lab.experiments.registry import register_grid
from mtl_lab.protocol import committed
from mtl_lab.protocol.verdict import TableVerdict, deltas
from mtl_lab.runs.run import Run


def crossed(verdict: TableVerdict, exchange: Sequence[Mapping], pair: tuple[str, str]) -> dict:
    """(method, configuration) -> Δm, one number per seed, in the 2 x 2 design of two rows and their exchange.

    The rows of the table are the diagonal; `exchange` holds the records of the other two cells, whose rows are named
    "method as configuration". Δm is relative to the table's single-task networks, as in the table. Only seeds that all
    four cells have; {} where a cell has none.
    """
    singles = {row.name: [r for r in verdict.records if r["row"] == row.name] for row in verdict.table.singles()}
    cells = {(name, name): verdict.rows[name].delta for name in pair if name in verdict.rows}
    for method, other in (pair, pair[::-1]):
        exchanged = [record for record in exchange if record["row"] == f"{method} as {other}"]
        complete = exchanged and all(singles.values())
        delta = deltas(verdict.table, singles | {method: exchanged}) if complete else {}
        cells[method, other] = delta.get(method, {})
    shared = sorted(set.intersection(*map(set, cells.values()))) if len(cells) == 4 else []
    return {cell: np.array([values[seed] for seed in shared]) for cell, values in cells.items()} if shared else {}


@dataclass(frozen=True)
class ReconExchange:
    """Separates method and configuration: two rows with Recon, each with the configuration of the other.

    On Multi-Fashion+MNIST the rows of equal weights and of PCGrad with Recon differ in the method and in what the
    search chose for each: layers, S, learning rate, weight decay. This grid trains each method with the other's
    configuration; the table has the other half of the 2 x 2. It was planned after seven of the table's ten seeds.
    """

    profile: str = "small"
    seeds: int = 3
    pair: tuple[str, str] = ("recon_equal", "recon_pcgrad")

    def plan(self, records: Sequence[Mapping] = ()) -> dict[str, list[Run]]:
        """Row, as in "recon_equal as recon_pcgrad" (method first), -> its runs; {} before the search is complete."""
        table = multi_fashion_mnist.table(self.profile)
        search = committed.search_of(table)
        if search is None or {row.name for row in table.searched()} - set(search["rows"]):
            return {}
        runs = table.expected({name: entry["choice"] for name, entry in search["rows"].items()}, self.seeds)
        rows = {}
        for name, other in (self.pair, self.pair[::-1]):
            method = {key: getattr(runs[name][0], key) for key in ("method", "method_options", "convention")}
            rows[f"{name} as {other}"] = [replace(run, **method) for run in runs[other]]
        return rows


register_grid("recon_exchange", ReconExchange)
