"""How often methods reach the optimum of SAM-GS's two synthetic problems, from the source's starts and around them.

    python -m mtl_lab results sam_gs_landscapes --profile small

writes one record a problem and row into results/sam_gs_landscapes/small/runs.jsonl. `tiny` takes fewer seeds and
steps, to try it.
"""

from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import torch

from mtl_core import methods
from mtl_lab import records
from mtl_lab.checks import Check
from mtl_lab.experiments.registry import register_rule, register_study
from mtl_lab.landscapes.descent import side_by_side, trajectories
from mtl_lab.landscapes.problems import LANDSCAPES, jittered, scaled
from mtl_lab.runs import grid, provenance

NAME = "sam_gs_landscapes"
WITHIN = 0.1  # distance to an optimum that counts as reached
SPREAD = 0.25  # sd of the normal noise on the starts, 1 % of the picture's width
BUDGETS = (20_000, 21_000)  # steps: what the paper says for both problems, and the released configuration of the second
PROFILES = {"tiny": (3, 400), "small": (200, 21_000)}  # seeds, steps
EVERY, SHOWN = 10, 250  # distances are looked at in each 10th step, paths are kept in each 250th

# row -> method, options. The first five are the paper's figure; SAM-GS as in the weighting study (β₂ = 0.9).
ROWS: dict[str, tuple[str, dict]] = {
    "SAM-GS": ("sam_gs", {"gamma": 0.1, "beta2": 0.9}),
    "equal weights": ("equal", {}),
    "CAGrad": ("cagrad", {"c": 0.4}),
    "Aligned-MTL": ("aligned_mtl", {}),
    "Nash-MTL": ("nash_mtl", {"normalise": False}),
    "SAM-GS, β₂ = 0.99": ("sam_gs", {"gamma": 0.1, "beta2": 0.99}),
    "SAM-GS, β₂ = 0.5": ("sam_gs", {"gamma": 0.1, "beta2": 0.5}),
    "SAM-GS, β₁ = 0": ("sam_gs", {"gamma": 0.1, "beta2": 0.9, "beta1": 0.0}),
    "SAM-GS, β₁ = 0.99": ("sam_gs", {"gamma": 0.1, "beta2": 0.9, "beta1": 0.99}),
    "SAM-GS, formulas as printed": ("sam_gs", {"gamma": 0.1, "beta2": 0.9, "variant": "printed"}),
    **{f"SAM-GS, γ = {g}": ("sam_gs", {"gamma": g, "beta2": 0.9}) for g in (0.0, 0.3, 0.5, 0.7, 0.9, 1.0)},
    "norm-equalised sum": ("norm_equalised", {}),
    "MGDA": ("mgda", {}),
    "PCGrad": ("pcgrad", {}),
    "IMTL-G": ("imtl_g", {}),
    "UPGrad": ("upgrad", {}),
    "GradVac": ("gradvac", {}),
    "GradDrop": ("graddrop", {}),
    "FairGrad": ("fairgrad", {}),
    "MoCo": ("moco", {}),
    "random weights (RLW)": ("rlw", {}),
    "DWA": ("dwa", {}),
    "smooth Tchebycheff": ("stch", {}),
}
# The released configuration clips the update at 1 and multiplies it by K; this row does neither.
ROWS["SAM-GS, no clip, no factor K"] = ROWS["SAM-GS"]
CONVENTIONS = {"SAM-GS, no clip, no factor K": "plain"}
PRINTED = tuple(ROWS)[:5]
WEIGHTS = (0.1, 0.5, 2.0, 10.0)  # of the first loss; those of the paper's figures are not printed
# problem -> landscape, weight of its first loss, rows. The second landscape's optima move too, and some vanish.
PROBLEMS: Mapping[str, tuple[str, float, tuple[str, ...]]] = {
    **{name: (name, 1.0, tuple(ROWS)) for name in ("samgs_1", "samgs_2")},
    **{f"samgs_1, weight {weight:g}": ("samgs_1", weight, PRINTED) for weight in WEIGHTS},
}


def without_a_row() -> dict[str, tuple[str, ...]]:
    """Why a registered method has no row -> titles of those methods."""
    found, here = {}, {method for method, _ in ROWS.values()}
    for row in methods.METHODS.values():
        if row.name in here:
            continue
        if row.kind == methods.KINDS[2]:
            reason = "turn or scale the features of a network, and a point has none"
        elif row.level == "features":
            reason = "are their namesakes here, since the trunk is the point itself"
        elif row.learns:
            reason = (
                "learn weights that nothing moves in the released convention, so that they stay the sum or half of it"
            )
        elif row.name in ("static", "broken"):
            reason = "weigh the tasks by hand, as the next section does"
        else:
            reason = "need positive losses, and these fall below zero"
        found[reason] = (*found.get(reason, ()), row.title)
    return found


def study(problem: str, row: str, seeds: int, steps: int) -> dict:
    """One record: for the source's starts and `seeds` jittered copies of each, the step at which an optimum is reached.

    hits   {"source": [step or None per start], "jittered": [[per start] per seed]}: the first looked-at step from
           which on the path stays within `WITHIN` of one of the optima until the end; None if it never does.
    paths  the source's starts: (time, start, 2) points, three decimals, and the steps at which they were taken.
    """
    landscape, whole = _problem(problem, seeds)
    method, options = ROWS[row]
    found = trajectories(landscape, whole, method, options=options, steps=steps, every=EVERY,
                         convention=CONVENTIONS.get(row))  # fmt: skip
    return _record(problem, row, seeds, steps, landscape, found)


def _problem(problem, seeds):
    """The landscape of `problem` and its starts, the source's own before the jittered ones: (1 + seeds, N, 2)."""
    name, weight, _ = PROBLEMS[problem]
    landscape = LANDSCAPES[name] if weight == 1 else weighted(LANDSCAPES[name], weight)
    starts = torch.as_tensor(landscape.starts, dtype=torch.float64)
    return landscape, torch.cat([starts[None], jittered(starts, seeds, SPREAD)])


def _record(problem, row, seeds, steps, landscape, found):
    method, options = ROWS[row]
    optima = torch.tensor(landscape.optima, dtype=torch.float64)
    distance = (found.points[..., None, :] - optima).norm(dim=-1).amin(-1)  # (time, seed, start)
    stays = (distance < WITHIN).flip(0).cumprod(0).flip(0).bool()
    first = torch.where(stays.any(0), stays.int().argmax(0), -1)
    hits = [[int(found.steps[t]) if t >= 0 else None for t in line] for line in first.tolist()]
    points = (found.points[:, 0] * 1e3).round() / 1e3
    kept = [place for place, step in enumerate(found.steps.tolist()) if step % SHOWN == 0]
    return {
        "row": row, "problem": problem, "method": method, "options": options, "steps": steps, "seeds": seeds,
        "within": WITHIN, "spread": SPREAD, "hits": {"source": hits[0], "jittered": hits[1:]},
        "paths": {"steps": found.steps[kept].tolist(), "points": points[kept].tolist()},
        "provenance": provenance.provenance(),
    }  # fmt: skip


def weighted(landscape, weight: float):
    """The landscape with its first loss times `weight`, its optimum found by descent from the unweighted one."""
    found = scaled(landscape, (weight, 1.0))
    optima = [torch.tensor(optimum, dtype=torch.float64, requires_grad=True) for optimum in landscape.optima]
    for optimum in optima:
        search = torch.optim.LBFGS([optimum], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

        def loss(search=search, optimum=optimum):
            search.zero_grad()
            total = found.losses(optimum).sum()
            total.backward()
            return total

        search.step(loss)
    return replace(found, optima=tuple(tuple(optimum.tolist()) for optimum in optima))


def again(rows, problems, steps: int, workers: int = 2) -> dict[tuple[str, str], dict]:
    """(problem, row) -> the source's starts once more, with one jittered copy: each problem in a process of its own,
    all rows side by side. Rows whose convention is their own have no place here."""
    if own := [row for row in rows if row in CONVENTIONS]:
        raise ValueError(f"{', '.join(own)}: a row with a convention of its own cannot stand beside others; take study")
    with ProcessPoolExecutor(min(workers, len(problems)), mp_context=grid.worker_context()) as pool:
        studies = [pool.submit(_side_by_side, problem, rows, steps) for problem in problems]
        return {key(record): record for found in studies for record in found.result()}


def _side_by_side(problem, rows, steps):
    torch.set_num_threads(1)
    landscape, whole = _problem(problem, 1)
    found = side_by_side(landscape, whole, [ROWS[row] for row in rows], steps=steps, every=EVERY)
    return [_record(problem, row, 1, steps, landscape, paths) for row, paths in zip(rows, found, strict=True)]


def agreeing(found: Mapping, records: Mapping) -> tuple[int, int]:
    """How many of the source's paths arrive at the very step that the record says, of how many."""
    pairs = [pair for key, new in found.items()
             for pair in zip(new["hits"]["source"], records[key]["hits"]["source"], strict=True)]  # fmt: skip
    return sum(a == b for a, b in pairs), len(pairs)


def key(record: Mapping) -> tuple[str, str]:
    return record["problem"], record["row"]


def complete(profile: str, root=records.ROOT) -> str:
    """Compute the records that are missing; each is written as soon as it is there."""
    seeds, steps = PROFILES[profile]
    file, count = records.folder(NAME, profile, root) / "runs.jsonl", 0
    for problem, (_, _, rows) in PROBLEMS.items():
        for row in rows:
            here = {key(record): record for record in records.load(NAME, profile, root)}
            if (problem, row) in here:
                continue
            here[problem, row] = study(problem, row, seeds, steps)
            records.write_lines(sorted(here.values(), key=key), file)
            count += 1
    return f"{len(records.load(NAME, profile, root))} records, {count} computed now."


def load(profile: str = "small", root=records.ROOT) -> dict[tuple[str, str], dict]:
    """(problem, row) -> record."""
    found = records.load(NAME, profile, root)
    return {key(record): record for record in found}


def reached(record: Mapping, steps: int, which: str = "source") -> tuple[int, int]:
    """(how many paths are at an optimum within `steps`, of how many); `which` is "source" or "jittered"."""
    hits = record["hits"][which]
    flat = hits if which == "source" else [hit for line in hits for hit in line]
    return sum(hit is not None and hit <= steps for hit in flat), len(flat)


def checks(problem: str, row: str, least: int, steps: int, others=None, root=records.ROOT) -> tuple[Check, ...] | None:
    """A claim's comparisons from the source's own starts; None before the records are there.

    At least `least` starts of `row` reach an optimum within `steps`; of each of others["rows"] at most others["most"]
    do within others["steps"].
    """
    records, others = load(root=root), others or {"rows": []}
    if any((problem, name) not in records for name in (row, *others["rows"])):
        return None
    count, of = reached(records[problem, row], steps)
    found = [Check(f"{row}: {count} of {of} starts within {steps:,} steps, at least {least}", count >= least)]
    for name in others["rows"]:
        count, of = reached(records[problem, name], others["steps"])
        text = f"{name}: {count} of {of} starts within {others['steps']:,} steps, at most {others['most']}"
        found.append(Check(text, count <= others["most"]))
    return tuple(found)


def steady(problems, row: str, others, steps: int, root=records.ROOT) -> tuple[Check, ...] | None:
    """A claim's comparisons over weighted losses: on each problem no other row reaches an optimum from more of the
    source's starts within `steps` than `row` does; None before the records are there."""
    records = load(root=root)
    if any((problem, name) not in records for problem in problems for name in (row, *others)):
        return None
    found = []
    for problem in problems:
        count, of = reached(records[problem, row], steps)
        for name in others:
            other, _ = reached(records[problem, name], steps)
            text = f"{problem}: {row} {count} of {of} starts within {steps:,} steps, {name} {other}"
            found.append(Check(text, count >= other))
    return tuple(found)


register_study(NAME, complete)
register_rule("reaches", checks)
register_rule("steady", steady)
