"""Claims of a paper, from `book/claims/`, and the verdicts that arithmetic on its printed tables can give.

A claim states its rule, the verdict is computed from it and never typed. Where a comparison falls within the
rounding of the printed digits it is `undecided`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import yaml

from mtl_core import evaluation, papers

ROOT = Path(__file__).resolve().parents[1] / "book" / "claims"
SCOPES = ("same protocol", "reduced", "other problem", "arithmetic", "needs data", "needs compute")
FIELDS = {"id", "claim", "where", "rule", "margin", "results", "scope"}
AGREE, DISAGREE = "text and table agree", "text and table disagree"


@dataclass(frozen=True)
class Check:
    """One comparison of a rule: what was compared, and whether it holds (None: within rounding)."""

    text: str
    holds: bool | None


@dataclass(frozen=True)
class Verdict:
    """A claim with its outcome; `checks` are the comparisons behind an arithmetic one."""

    claim: dict
    outcome: str
    checks: tuple[Check, ...] = ()


def load(paper: str) -> list[dict]:
    """The claims of `paper`, checked. ValueError names the claim and what is wrong with it."""
    path = ROOT / f"{paper}.yml"
    if not path.is_file():
        known = sorted(p.stem for p in ROOT.glob("*.yml"))
        raise LookupError(f"no claims of a paper {paper!r}; there are: {known}")
    claims, seen = yaml.safe_load(path.read_text(encoding="utf-8")), set()
    for claim in claims:
        name = claim.get("id", claim)
        if FIELDS - set(claim) or set(claim) - FIELDS - {"needs"}:
            raise ValueError(f"claim {name}: expected the fields {sorted(FIELDS)}, got {sorted(claim)}")
        if claim["scope"] not in SCOPES or name in seen:
            raise ValueError(f"claim {name}: its id must be new and its scope one of {SCOPES}")
        if claim["scope"] == "arithmetic" and claim["rule"].get("name") not in RULES:
            raise ValueError(f"claim {name}: expected a rule of {sorted(RULES)}, got {claim['rule']}")
        seen.add(name)
    return claims


def verdicts(paper: str) -> list[Verdict]:
    """One verdict for each claim of `paper`; those that no arithmetic can judge have `no results yet`."""
    return [_judge(paper, claim) for claim in load(paper)]


def _judge(paper, claim):
    if claim["scope"] != "arithmetic":
        return Verdict(claim, "no results yet")
    options = {name: value for name, value in claim["rule"].items() if name != "name"}
    if claim["margin"] is not None:
        options["margin"] = claim["margin"]
    checks = tuple(RULES[claim["rule"]["name"]](paper, **options))
    if not checks:
        raise ValueError(f"claim {claim['id']}: its rule compared nothing; see its tables, methods and metric")
    results = {check.holds for check in checks}
    outcome = DISAGREE if False in results else "undecided" if None in results else AGREE
    return Verdict(claim, outcome, checks)


# --- printed lines


def lines(rows: list[dict]) -> dict[tuple[str, str], dict[tuple[str, str], dict]]:
    """Printed rows of one table as (method, variant) -> (task, metric) -> row."""
    found = {}
    for row in rows:
        found.setdefault((row["method"], row["variant"]), {})[row["task"], row["metric"]] = row
    return found


def delta_m_from_digits(line: dict, baseline: dict) -> tuple[float, float, float]:
    """Δm (low, value, high) that the printed metrics of a line give against those of `baseline`.

    Low and high come from the printed digits: each number lay within half of its last digit. The change of
    each metric rises in the one number and falls in the other, so the ends are reached exactly.
    """
    keys = [k for k in baseline if k[0]]  # numbers of the whole line (Δm, size) have no task
    up = {k: baseline[k]["higher_is_better"] for k in keys}

    def shifted(rows, sign):  # sign > 0: every number at the end that is better for it
        return {k: rows[k]["value"] + sign * (1 if up[k] else -1) * rows[k]["half_unit"] for k in keys}

    ends = (
        evaluation.delta_m(shifted(line, s), shifted(baseline, -s), up, {k: k[0] for k in keys}) for s in (-1, 0, 1)
    )
    return tuple(ends)


def overlap(row: dict, low: float, high: float) -> bool:
    """Whether a printed number, before its rounding, could lie in [low, high]."""
    slack = 1e-9 + row["half_unit"]
    return low - slack <= row["value"] <= high + slack


# --- rules: each yields the comparisons it makes


def _delta_m_follows(paper, tables):
    for number in tables:
        table = lines(papers.table(paper, number))
        for name, line in table.items():
            if printed := line.get(("", "delta_m")):
                low, value, high = delta_m_from_digits(line, table["Single-task", ""])
                text = f"{_title(number, name)}: printed {printed['printed']}, recomputed {value:.2f}"
                yield Check(f"{text} [{low:.2f}, {high:.2f}]", overlap(printed, low, high))


def _reductions_follow(paper, tables):
    for number in tables:
        table = lines(papers.table(paper, number))
        for name, line in table.items():
            for (_, metric), printed in line.items():
                if metric.startswith("reduction below "):
                    threshold = float(metric.removeprefix("reduction below "))
                    masses = [_mass_below(table[key], threshold) for key in (name, ("Joint", ""))]
                    (mass, half), (joint, joint_half) = masses
                    low, high = (
                        evaluation.histogram_reduction(mass + s * half, joint - s * joint_half) for s in (1, -1)
                    )
                    text = f"{_title(number, name)}: printed {printed['printed']}, from the bins"
                    yield Check(f"{text} [{low:.2f}, {high:.2f}]", overlap(printed, low, high))


def _shares_sum_to_100(paper, tables):
    for number in tables:
        for name, line in lines(papers.table(paper, number)).items():
            shares = [row for (_, metric), row in line.items() if metric.startswith("share in ")]
            total, half = (sum(row[k] for row in shares) for k in ("value", "half_unit"))
            yield Check(f"{_title(number, name)}: sums to {total:.2f}", abs(total - 100) <= half + 1e-9)


def _drops_follow(paper, tables):
    for number in tables:
        table = lines(papers.table(paper, number))
        for (method, variant), line in table.items():
            for task in ("T1", "T2"):
                best, own = table[method, "Recon"][task, "accuracy"], line[task, "accuracy"]
                drop, half = best["value"] - own["value"], best["half_unit"] + own["half_unit"]
                text = f"{_title(number, (method, variant))}, {task}: printed {line[task, 'drop']['printed']}"
                yield Check(f"{text}, recomputed {drop:.2f}", overlap(line[task, "drop"], drop - half, drop + half))


def _improves(paper, tables, metric, variant="Recon", over=("",), tasks=("",), methods=None, margin=0.0):
    """`variant` beats each of `over` in `metric` by more than `margin`, for every method that has both."""
    for number in tables:
        table = lines(papers.table(paper, number))
        chosen = [m for m, v in table if v == variant and (methods is None or m in methods)]
        for method, other, task in product(chosen, over, tasks):
            if (method, other) in table:
                a, b = table[method, variant][task, metric], table[method, other][task, metric]
                gain = (a["value"] - b["value"]) * (1 if a["higher_is_better"] else -1)
                text = f"{_title(number, (method, variant))} against {other or 'as is'} {task}".strip()
                yield _compare(f"{text}: {gain:+.2f}", gain - margin, a["half_unit"] + b["half_unit"])


def _bounded(paper, tables, metric=None, metrics=None, least=None, most=None, methods=None, variants=None):
    """Every number of `metric` (or `metrics`, by table) is at least `least` and at most `most`."""
    for number in tables:
        for row in papers.table(paper, number):
            wanted = row["metric"] == (metric or metrics[number])
            wanted &= methods is None or row["method"] in methods
            if wanted and (variants is None or row["variant"] in variants):
                inside = (least is None or row["value"] >= least) and (most is None or row["value"] <= most)
                yield Check(f"{_title(number, (row['method'], row['variant']))}: {row['printed']}", inside)


def _separated(paper, tables, metrics, high, low, margin=0.0):
    """In each table the smallest number of variants `high` exceeds the largest of variants `low`."""
    for number in tables:
        rows = [row for row in papers.table(paper, number) if row["metric"] == metrics[number]]
        least = min((row for row in rows if row["variant"] in high), key=lambda row: row["value"])
        largest = max((row for row in rows if row["variant"] in low), key=lambda row: row["value"])
        text = f"Table {number}: smallest {least['printed']}, largest of the others {largest['printed']}"
        gap = least["value"] - largest["value"] - margin
        yield _compare(text, gap, least["half_unit"] + largest["half_unit"])


def _size_ratio(paper, tables, most=None):
    """Size of the changed networks over that of the plain ones; without a bound it can only be listed."""
    for number in tables:
        table = lines(papers.table(paper, number))
        ratio = table["Joint", "Recon"]["", "parameters"]["value"] / table["Joint", ""]["", "parameters"]["value"]
        text = f"Table {number}: {100 * (ratio - 1):+.1f} % parameters"
        yield Check(text, None if most is None else ratio <= most)


def _compare(text, gap, rounding):
    return Check(text, None if abs(gap) <= rounding + 1e-9 else gap > 0)


def _mass_below(line, threshold):
    """Total share of the bins at or below `threshold`, and by how much rounding can have moved it."""
    rows = []
    for (_, metric), row in line.items():
        if metric.startswith("share in ") and float(metric.split(",")[0].split()[-1].strip("([")) <= threshold:
            rows.append(row)
    return sum(row["value"] for row in rows), sum(row["half_unit"] for row in rows)


def _title(number, name):
    method, variant = name
    return f"Table {number}, {method}" + (f" ({variant})" if variant else "")


RULES: dict[str, Callable] = {
    "delta_m follows": _delta_m_follows,
    "reductions follow": _reductions_follow,
    "shares sum to 100": _shares_sum_to_100,
    "drops follow": _drops_follow,
    "improves": _improves,
    "bounded": _bounded,
    "separated": _separated,
    "size ratio": _size_ratio,
}
