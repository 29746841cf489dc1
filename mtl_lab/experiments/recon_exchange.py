"""Two rows with Recon, each trained as the search of the other chose: is it the method or the configuration?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mtl_lab.experiments import multi_fashion_mnist
from mtl_lab.experiments.registry import register_grid
from mtl_lab.protocol import committed
from mtl_lab.protocol.verdict import TableVerdict, deltas
from mtl_lab.runs.run import Run


def crossed(verdict: TableVerdict, exchange: Sequence[Mapping], pair: tuple[str, str]) -> dict:
    """(method, configuration) -> Δm, one number per seed, of the 2 x 2 that two rows and their exchange make.

    The table's own rows are the diagonal; `exchange` holds the records of the other two cells, named "method as
    configuration" (`experiments.ReconExchange`). Δm is computed as the table computes it: against the table's
    single-task networks. Only seeds that all four cells have; {} where a cell has none.
    """
    own = {row.name: [r for r in verdict.records if r["row"] == row.name] for row in verdict.table.singles()}
    cells = {(name, name): verdict.rows[name].delta for name in pair if name in verdict.rows}
    for method, other in (pair, pair[::-1]):
        there = [record for record in exchange if record["row"] == f"{method} as {other}"]
        found = deltas(verdict.table, own | {method: there}) if there and all(own.values()) else {}
        cells[method, other] = found.get(method, {})
    shared = sorted(set.intersection(*map(set, cells.values()))) if len(cells) == 4 else []
    return {cell: np.array([values[seed] for seed in shared]) for cell, values in cells.items()} if shared else {}


@dataclass(frozen=True)
class ReconExchange:
    """Method and configuration taken apart: two rows of the table with Recon, each as the other's search chose.

    On Multi-Fashion+MNIST the rows of equal weights and of PCGrad with Recon differ in the method and in what ten
    draws have found for each: layers, S, rate, decay. Here each method trains on the other's configuration; the other
    half of the 2 x 2 is the table's own. Decided when seven of the table's ten seeds had been seen.
    """

    profile: str = "small"
    seeds: int = 3
    pair: tuple[str, str] = ("recon_equal", "recon_pcgrad")

    def plan(self, records: Sequence[Mapping] = ()) -> dict[str, list[Run]]:
        """Row, as in "recon_equal as recon_pcgrad" (method first), -> its runs; {} before the search is whole."""
        table = multi_fashion_mnist.table(self.profile)
        search = committed.search_of(table)
        if search is None or {row.name for row in table.searched()} - set(search["rows"]):
            return {}
        found = table.expected({name: entry["choice"] for name, entry in search["rows"].items()}, self.seeds)
        rows = {}
        for own, other in (self.pair, self.pair[::-1]):
            method = {key: getattr(found[own][0], key) for key in ("method", "method_options", "convention")}
            rows[f"{own} as {other}"] = [replace(run, **method) for run in found[other]]
        return rows


register_grid("recon_exchange", ReconExchange)
