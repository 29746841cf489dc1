"""The cosines that the dense tables' runs log, in printed bins, and the runs that only such a log can name.

The first seed of each row logs at every step the cosine of each pair of tasks: over all that its network shares, and in
a network without a split also over the layers that Recon keeps (`restrict`). That second one is the fair companion of a
split network, whose cosine is over what is left.

With joint training as printed: random layers, of which the draw is not stated (here draw 0, `recon.random_sets`), and
the layers that rank worst in each quarter of the run. Layers that two quarters agree on are trained once, and as
printed the third quarter, the fourth and the whole run agree: those two quarters have no runs of their own.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import torch

from mtl_core import models, recon
from mtl_lab.experiments.recon import random_sets, ranked
from mtl_lab.runs.run import Run

QUARTERS = ("1st 25 %", "2nd 25 %", "3rd 25 %", "4th 25 %", "all iterations")
TRAINED = ("1st 25 %", "2nd 25 %", "all iterations")
KEPT = "kept layers"  # "ROW, kept layers": the cosine of a row without a split, over the layers that Recon keeps


@cache
def sizes(network: str) -> dict[str, int]:
    """Layer that can be split -> number of parameters at the published width, in registration order."""
    with torch.device("meta"):
        model = models.build(network, [SimpleNamespace(outputs=1)] * 2)  # type: ignore[list-item]
    trunk = model.trunk
    return {n: sum(p.numel() for p in trunk.get_submodule(n).parameters()) for n in recon.candidate_layers(model)}


# --- what is planned


def row_of_quarter(name: str) -> str:
    return f"equal + Recon, layers of {name}"


def by_quarter(log: Mapping, threshold: float, layers: int) -> dict[str, list[str]]:
    """Part of a run -> the worst `layers` of its ranking; log: of a run with "quarters"."""
    key = str(threshold)
    parts = zip(QUARTERS, [*log["quarters"][key], log["scores"][key]], strict=True)
    return {name: ranked({**log, "scores": {key: part}}, threshold)[:layers] for name, part in parts}


def random_rows(network: str, joint: Run, split: Sequence[str]) -> dict[str, list[Run]]:
    """Joint training with random layers, as many as Recon's or as large; they log cosines and read no test data."""
    sets = random_sets(sizes(network), split, 0)
    return {f"equal + {n}": [replace(joint, split=s, observe={}, test=False)] for n, s in sets.items()}


def quarter_rows(joint: Run, seeds: int, split: Sequence[str], quarters: Mapping) -> dict[str, list[Run]]:
    """Joint training with the layers of each part of a run, but for those that `split` or an earlier part has."""
    seen, rows = {frozenset(split)}, {}
    for name in TRAINED:
        if frozenset(quarters[name]) not in seen:
            seen.add(frozenset(quarters[name]))
            rows[row_of_quarter(name)] = replace(joint, split=quarters[name]).seeds(range(seeds))
    return rows


def placeholders(network: str, threshold: float) -> tuple[dict, dict]:
    """Logs of a search and of joint training as no run has made them; for a plan's cost, layers are named anyhow."""
    names, key = [*sizes(network)], str(threshold)

    def turned(by: int) -> list[int]:
        return [-((place + by) % len(names)) for place in range(len(names))]

    search = {"layers": names, "scores": {key: turned(0)}}
    quarters = [turned(by) for by in (2, 3, 1, 1)]
    return search, search | {"scores": {key: turned(1)}, "quarters": {key: quarters}}


# --- what records say


def of_quarters(found: Sequence[Mapping], threshold: float, layers: int) -> list[Mapping]:
    """Single-task runs, and joint training with the layers of each part of the logged run, under the printed rows."""
    made = [r for r in found if r["row"].startswith("single ")]
    log = next((r["conflict"] for r in found if r["row"] == "equal" and r.get("conflict")), None)
    for name, names in by_quarter(log, threshold, layers).items() if log else ():
        same = [r for r in found if r["row"].startswith("equal + ") and set(r["config"]["split"]) == set(names)]
        made += [{**r, "row": row_of_quarter(name)} for r in same if r["final"].get("test")]
    return made


def histograms(found: Sequence[Mapping]) -> dict[str, Mapping[str, int]]:
    """Row -> the counted cosines of its logged run, bins of width 0.001 from -1 on."""
    logs = {r["row"]: r["conflict"] for r in found if r.get("conflict") and r["row"] != "search"}
    made = {row: log["all"]["histogram"] for row, log in logs.items() if "all" in log}
    return made | {f"{row}, {KEPT}": log["restricted"]["histogram"] for row, log in logs.items() if "restricted" in log}


def ends(metric: str) -> tuple[int, int]:
    """First bin and the one after the last of a printed share, as "share in (-0.02, -0.04]", or "... below -0.02"."""
    of = sorted(round(1000 * (1 + float(end))) for end in re.findall(r"-?\d[\d.]*", metric))
    return (of[0], of[1]) if len(of) == 2 else (0, of[0])


def share(metric: str, histogram: Mapping[str, int]) -> float:
    """Percent of the counted cosines in a printed bin; a cosine of 0 is in the positive one."""
    low, high = ends(metric)
    return 100 * sum(n for b, n in histogram.items() if low <= int(b) < high) / sum(histogram.values())


def measured(metric: str, row: str, found: Mapping[str, Mapping[str, int]]) -> float | None:
    """Our number for a printed one of a row: the share of a bin, or the reduction against joint training in percent."""
    if row not in found or not metric.startswith("reduction"):
        return share(metric, found[row]) if row in found else None
    whole = share(metric, found["equal"]) if "equal" in found else 0
    return 100 * (1 - share(metric, found[row]) / whole) if whole else None


def recomputed(line: Mapping[tuple[str, str], Mapping], joint: Mapping) -> tuple[float, float]:
    """(printed reduction, the one that follows from the printed bins) of a printed line."""
    metric = next(m for _, m in line if m.startswith("reduction"))
    below = [m for _, m in joint if ends(m)[1] <= ends(metric)[1]]
    mass, whole = (sum(of["", m]["value"] for m in below) for of in (line, joint))
    return line["", metric]["value"], 100 * (1 - mass / whole)
