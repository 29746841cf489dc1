"""How often methods reach the optimum of SAM-GS's two synthetic problems, from the published starts and around them.

    python -m mtl_lab results sam_gs_landscapes --profile small

writes one record per problem and row into results/sam_gs_landscapes/small/runs.jsonl. The profile `tiny` has fewer
seeds and steps.
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
from mtl_lab.runs import processes, provenance

NAME = "sam_gs_landscapes"
WITHIN = 0.1  # distance to an optimum that counts as reached
SPREAD = 0.25  # sd of the normal noise on the starts, 1 % of the picture's width
BUDGETS = (20_000, 21_000)  # steps: what the paper says for both problems, and the released configuration of the second
PROFILES = {"tiny": (3, 400), "small": (200, 21_000)}  # seeds, steps
EVERY, SHOWN = 10, 250  # steps between two distances, and between two points of a recorded path

# Row -> method, options. The first five are the paper's figure; SAM-GS as in the weighting study (β₂ = 0.9).
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
# The released configuration clips the update to length 1 and multiplies it by K; this row does neither.
ROWS["SAM-GS, no clip, no factor K"] = ROWS["SAM-GS"]
CONVENTIONS = {"SAM-GS, no clip, no factor K": "plain"}
PRINTED = tuple(ROWS)[:5]
WEIGHTS = (0.1, 0.5, 2.0, 10.0)  # of the first loss; those of the paper's figures are not printed
LONGER = (50, 30_000)  # seeds, steps for the weighted second problem: the paper's steps, and fewer seeds for the time
# Problem -> landscape, weight of its first loss, rows. At all these weights the second has both of its local minima.
PROBLEMS: Mapping[str, tuple[str, float, tuple[str, ...]]] = {
    **{name: (name, 1.0, tuple(ROWS)) for name in ("samgs_1", "samgs_2")},
    **{f"{name}, weight {weight:g}": (name, weight, PRINTED) for name in ("samgs_1", "samgs_2") for weight in WEIGHTS},
}


def without_a_row() -> dict[str, tuple[str, ...]]:
    """Why a registered method has no row -> titles of those methods."""
    titles, studied = {}, {method for method, _ in ROWS.values()}
    for method in methods.METHODS.values():
        if method.name in studied:
            continue
        if method.kind == methods.KINDS[2]:
            reason = "turn or scale the features of a network, and a point has none"
        elif method.level == "features":
            reason = "are their namesakes here, since the trunk is the point itself"
        elif method.learns:
            reason = (
                "learn weights that nothing moves in the released convention, so that they stay the sum or half of it"
            )
        elif method.name in ("static", "broken"):
            reason = "weigh the tasks by hand, as the next section does"
        elif "losses" in method.needs:
            reason = "need positive losses, and these fall below zero"
        else:
            reason = "came into the registry after these runs"
        titles[reason] = (*titles.get(reason, ()), method.title)
    return titles


def study(problem: str, row: str, seeds: int, steps: int) -> dict:
    """The record of a row: when it reaches an optimum from the published starts and from `seeds` jittered copies.

    hits   {"source": [step or None per start], "jittered": [[per start] per seed]}: the first of every `EVERY` steps
           after which the path stays within `WITHIN` of an optimum until the end; None if there is no such step.
    paths  of the published starts: (time, start, 2) points with three decimals, and the steps they belong to.
    """
    landscape, starts = _problem(problem, seeds)
    method, options = ROWS[row]
    training = {"options": options, "steps": steps, "every": EVERY, "convention": CONVENTIONS.get(row)}
    return _record(problem, row, seeds, steps, landscape, trajectories(landscape, starts, method, **training))


def _problem(problem, seeds):
    """The landscape of `problem` and its starts (1 + seeds, N, 2), the published ones first."""
    name, weight, _ = PROBLEMS[problem]
    landscape = LANDSCAPES[name] if weight == 1 else weighted(LANDSCAPES[name], weight)
    starts = torch.as_tensor(landscape.starts, dtype=torch.float64)
    return landscape, torch.cat([starts[None], jittered(starts, seeds, SPREAD)])


def _record(problem, row, seeds, steps, landscape, paths):
    method, options = ROWS[row]
    optima = torch.tensor(landscape.optima, dtype=torch.float64)
    distance = (paths.points[..., None, :] - optima).norm(dim=-1).amin(-1)  # (time, seed, start)
    stays = (distance < WITHIN).flip(0).cumprod(0).flip(0).bool()
    first = torch.where(stays.any(0), stays.int().argmax(0), -1)
    hits = [[int(paths.steps[t]) if t >= 0 else None for t in line] for line in first.tolist()]
    points = (paths.points[:, 0] * 1e3).round() / 1e3
    shown = [i for i, step in enumerate(paths.steps.tolist()) if step % SHOWN == 0]
    return {
        "row": row,
        "problem": problem,
        "method": method,
        "options": options,
        "steps": steps,
        "seeds": seeds,
        "within": WITHIN,
        "spread": SPREAD,
        "hits": {"source": hits[0], "jittered": hits[1:]},
        "paths": {"steps": paths.steps[shown].tolist(), "points": points[shown].tolist()},
        "provenance": provenance.provenance(),
    }


def weighted(landscape, weight: float):
    """The landscape with its first loss times `weight`; LBFGS moves the optima from the unweighted ones.

    Of two optima that were alike only one is then the lowest point; the other stays a local minimum, and both count.
    """
    weighted_landscape = scaled(landscape, (weight, 1.0))
    optima = [torch.tensor(optimum, dtype=torch.float64, requires_grad=True) for optimum in landscape.optima]
    for optimum in optima:
        search = torch.optim.LBFGS([optimum], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

        def loss(search=search, optimum=optimum):
            search.zero_grad()
            total = weighted_landscape.losses(optimum).sum()
            total.backward()
            return total

        search.step(loss)
    return replace(weighted_landscape, optima=tuple(tuple(optimum.tolist()) for optimum in optima))


def again(rows, problems, steps: int, workers: int = 2) -> dict[tuple[str, str], dict]:
    """(problem, row) -> a new record of the published starts and one jittered copy.

    One process per problem trains all rows together. ValueError for a row with another convention.
    """
    if other := [row for row in rows if row in CONVENTIONS]:
        raise ValueError(f"{', '.join(other)}: expected rows with the landscape's convention; use `study` for others")
    options = {"mp_context": processes.worker_context(), "initializer": processes.attend}
    with ProcessPoolExecutor(min(workers, len(problems)), **options) as pool:
        studies = [pool.submit(_side_by_side, problem, rows, 1, steps) for problem in problems]
        return {key(record): record for study in studies for record in study.result()}


def _side_by_side(problem, rows, seeds, steps):
    torch.set_num_threads(1)
    landscape, starts = _problem(problem, seeds)
    all_paths = side_by_side(landscape, starts, [ROWS[row] for row in rows], steps=steps, every=EVERY)
    return [_record(problem, row, seeds, steps, landscape, paths) for row, paths in zip(rows, all_paths, strict=True)]


def agreeing(new: Mapping, records: Mapping) -> tuple[int, int]:
    """(number of published starts that reach an optimum in the same step as in the records, number of starts)."""
    pairs = [
        pair
        for key, record in new.items()
        for pair in zip(record["hits"]["source"], records[key]["hits"]["source"], strict=True)
    ]
    return sum(a == b for a, b in pairs), len(pairs)


def key(record: Mapping) -> tuple[str, str]:
    return record["problem"], record["row"]


def complete(profile: str, root=records.ROOT) -> str:
    """Compute the missing records, all of a problem side by side, and write them as soon as they are computed."""
    file, count = records.folder(NAME, profile, root) / "runs.jsonl", 0
    for problem, (name, weight, rows) in PROBLEMS.items():
        seeds, steps = LONGER if (name, profile) == ("samgs_2", "small") and weight != 1 else PROFILES[profile]
        computed = load(profile, root)
        missing = [row for row in rows if (problem, row) not in computed]
        alike = [row for row in missing if row not in CONVENTIONS]
        new = _side_by_side(problem, alike, seeds, steps) if alike else []
        new += [study(problem, row, seeds, steps) for row in missing if row in CONVENTIONS]
        if new:
            records.write_lines(sorted([*computed.values(), *new], key=key), file)
            count += len(new)
    return f"{len(records.load(NAME, profile, root))} records, {count} computed now."


def load(profile: str = "small", root=records.ROOT) -> dict[tuple[str, str], dict]:
    """(problem, row) -> record."""
    return {key(record): record for record in records.load(NAME, profile, root)}


def reached(record: Mapping, steps: int, which: str = "source") -> tuple[int, int]:
    """(number of paths at an optimum within `steps`, number of paths); `which` starts: "source" or "jittered"."""
    hits = record["hits"][which]
    flat = hits if which == "source" else [hit for line in hits for hit in line]
    return sum(hit is not None and hit <= steps for hit in flat), len(flat)


def checks(problem: str, row: str, least: int, steps: int, others=None, root=records.ROOT) -> tuple[Check, ...] | None:
    """Whether `row` reaches an optimum within `steps` from at least `least` of the published starts.

    And whether each of others["rows"] does so from at most others["most"] within others["steps"]. None without records.
    """
    records, others = load(root=root), others or {"rows": []}
    if any((problem, name) not in records for name in (row, *others["rows"])):
        return None
    count, of = reached(records[problem, row], steps)
    comparisons = [Check(f"{row}: {count} of {of} starts within {steps:,} steps, at least {least}", count >= least)]
    for name in others["rows"]:
        count, of = reached(records[problem, name], others["steps"])
        text = f"{name}: {count} of {of} starts within {others['steps']:,} steps, at most {others['most']}"
        comparisons.append(Check(text, count <= others["most"]))
    return tuple(comparisons)


def steady(problems, row: str, others, steps: int, root=records.ROOT) -> tuple[Check, ...] | None:
    """Whether on each problem `row` reaches an optimum from at least as many published starts as each other row.

    Within `steps`. None without records.
    """
    records = load(root=root)
    if any((problem, name) not in records for problem in problems for name in (row, *others)):
        return None
    comparisons = []
    for problem in problems:
        count, of = reached(records[problem, row], steps)
        for name in others:
            other, _ = reached(records[problem, name], steps)
            text = f"{problem}: {row} {count} of {of} starts within {steps:,} steps, {name} {other}"
            comparisons.append(Check(text, count >= other))
    return tuple(comparisons)


register_study(NAME, complete)
register_rule("reaches", checks)
register_rule("steady", steady)
