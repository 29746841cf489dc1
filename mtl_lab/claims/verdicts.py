"""Claims of a paper, from `book/claims/`, and their verdicts from printed tables or committed results.

A claim states its rule; the verdict is computed by that rule and never typed. A claim that rests on void results is
`void`; one whose comparison falls within the rounding of printed digits is `undecided`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mtl_lab import ROOT as CHECKOUT
from mtl_lab import experiments
from mtl_lab.checks import Check
from mtl_lab.claims.printed_rules import RULES
from mtl_lab.files import damage_named, read_yaml
from mtl_lab.protocol.table import REFERENCE
from mtl_lab.protocol.verdict import paired_differences
from mtl_lab.statistics import paired

ROOT = CHECKOUT / "book" / "claims"
SCOPES = ("same protocol", "reduced", "other problem", "arithmetic", "needs data", "needs compute")
FIELDS = {"id", "claim", "where", "rule", "margin", "results", "scope"}
AGREE, DISAGREE = "text and table agree", "text and table disagree"
OPEN = "no results yet"
WORDS = {  # what a scope may say when all comparisons support a claim, and when one of them does not
    "same protocol": ("reproduced", "not reproduced"),
    "reduced": ("consistent at this scale", "not consistent at this scale"),
    "other problem": ("holds on this problem", "does not hold on this problem"),
}
RESULTS = {"experiment", "profile", "row", "against"}
APPLIED = (  # rules on a table of the protocol, without `seeds`: the number for all comparisons, or for each
    {"name": "paired difference", "metric": "delta_m", "interval": "paired t with Holm"},
    {"name": "smaller spread", "interval": "Pitman and Morgan's for pairs with Bonferroni"},
)


@dataclass(frozen=True)
class Verdict:
    """A claim with its outcome. `checks` are the comparisons behind it; `reasons` say why it is void or open."""

    claim: dict
    outcome: str
    checks: tuple[Check, ...] = ()
    reasons: tuple[str, ...] = ()


def load(paper: str) -> list[dict]:
    """The claims of a paper. LookupError: unknown paper. ValueError: a malformed claim, named with what is wrong."""
    path = ROOT / f"{paper}.yml"
    if not path.is_file():
        known = sorted(p.stem for p in ROOT.glob("*.yml"))
        raise LookupError(f"no claims of a paper {paper!r}; there are: {known}")
    with damage_named(path):
        return _checked(read_yaml(path))


def _checked(claims):
    seen = set()
    for claim in claims:
        name = claim.get("id", claim)
        if FIELDS - set(claim) or set(claim) - FIELDS - {"needs", "reply", "note"}:
            raise ValueError(f"claim {name}: expected the fields {sorted(FIELDS)}, got {sorted(claim)}")
        if claim["scope"] not in SCOPES or name in seen:
            raise ValueError(f"claim {name}: its id must be new and its scope one of {SCOPES}")
        if claim["scope"] == "arithmetic" and claim["rule"].get("name") not in RULES:
            raise ValueError(f"claim {name}: expected a rule of {sorted(RULES)}, got {claim['rule']}")
        if isinstance(claim["results"], dict) and (set(claim["results"]) != RESULTS or claim["scope"] not in WORDS):
            raise ValueError(f"claim {name}: results name {sorted(RESULTS)}, their scope is one of {sorted(WORDS)}")
        if isinstance(claim["results"], dict) and not _is_applied(claim["rule"]):
            raise ValueError(f"claim {name}: its rule is not one that is applied to results: {claim['rule']}")
        seen.add(name)
    return claims


def _is_applied(rule):
    """Whether `_from_results` judges by this rule; `of` and `against` only put the pairs of rows in words."""
    return "seeds" in rule and {k: v for k, v in rule.items() if k not in ("of", "against", "seeds")} in APPLIED


def verdicts(paper: str, judged=None) -> list[Verdict]:
    """One verdict for each claim of `paper`; a claim without results to judge it has the outcome `no results yet`.

    judged: (experiment, profile) -> TableVerdict or None; by default the verdicts on what `results/` holds.
    """
    claims = load(paper)
    with damage_named(ROOT / f"{paper}.yml"):
        return [_judge(paper, claim, judged) for claim in claims]


def _judge(paper, claim, judged):
    if isinstance(claim["results"], dict):
        return _from_results(claim, judged)
    if claim["rule"]["name"] in experiments.RULES:
        return _from_study(claim)
    if claim["scope"] != "arithmetic":
        return Verdict(claim, OPEN)
    options = {name: value for name, value in claim["rule"].items() if name not in ("name", "paper_of")}
    if claim["margin"] is not None:
        options["margin"] = claim["margin"]
    checks = tuple(RULES[claim["rule"]["name"]](claim["rule"].get("paper_of", paper), **options))
    if not checks:
        raise ValueError(f"claim {claim['id']}: its rule compared nothing; see its tables, methods and metric")
    results = {check.holds for check in checks}
    outcome = DISAGREE if False in results else "undecided" if None in results else AGREE
    return Verdict(claim, outcome, checks)


def _from_study(claim):
    """A claim that a rule of an experiment judges, on records that form no table: starts, seconds, rotation rates.

    The rule returns None, or in words what is missing, where it cannot judge yet.
    """
    checks = experiments.RULES[claim["rule"]["name"]](**{k: v for k, v in claim["rule"].items() if k != "name"})
    if checks is None or isinstance(checks, str):
        return Verdict(claim, OPEN, reasons=(checks,) if checks else ())
    return _from_checks(claim, checks)


def _from_checks(claim, checks):
    """The outcome of comparisons on results in the words of the claim's scope; undecided if one of them is open."""
    checks = tuple(checks)
    holds, (yes, no) = {check.holds for check in checks}, WORDS[claim["scope"]]
    return Verdict(claim, no if False in holds else "undecided" if None in holds else yes, checks)


def pairs(claim: Mapping) -> list[tuple[str, str]]:
    """(row, against) for each comparison of a claim on results; a single name on one side is paired with all others."""
    row, against = ([x] if isinstance(x, str) else x for x in (claim["results"][k] for k in ("row", "against")))
    count = max(len(row), len(against))
    return list(zip(*(names * count if len(names) == 1 else names for names in (row, against)), strict=True))


def _from_results(claim, judged):
    """A claim "each row is better than its partner by more than the margin", on a table of the protocol.

    A difference to the table's reference has the table's Holm interval; the others are adjusted over the pairs of the
    claim. Supported: all are `better`. Not supported: one is `worse`, `equivalent` or smaller than zero.
    """
    results = claim["results"]
    verdict = (judged or experiments.committed)(results["experiment"], results["profile"])
    if verdict is None:
        return Verdict(claim, OPEN)
    on_spread = claim["rule"]["name"] == "smaller spread"
    if claim["margin"] != (None if on_spread else verdict.table.margin):
        raise ValueError(f"claim {claim['id']}: margin {claim['margin']}, its table has {verdict.table.margin}")
    wanted = pairs(claim)
    if unknown := {name for pair in wanted for name in pair} - set(verdict.rows):
        raise ValueError(f"claim {claim['id']}: no rows {sorted(unknown)} in {results['experiment']}")
    chosen = list(dict.fromkeys(name for pair in wanted for name in pair))
    if any(verdict.rows[name].state == "unfinished" for name in chosen):
        return Verdict(claim, OPEN, reasons=(f"training goes on: {verdict.rows[chosen[0]].runs} seeds are here",))
    unsound = [verdict.rows[name] for name in chosen if verdict.rows[name].state != "judged"]
    if unsound:
        reasons = [*verdict.reasons, *(f"row {row.name}: {why}" for row in unsound for why in row.reasons)]
        return Verdict(claim, "void", reasons=tuple(reasons))
    delta = {name: verdict.rows[name].delta for name in chosen}
    if on_spread:
        seeds, finished = claim["rule"]["seeds"], min(map(len, delta.values()))
        if finished < seeds:
            return Verdict(claim, OPEN, reasons=(f"training goes on: {finished} of {seeds} seeds are here",))
        return _from_checks(claim, _spreads(delta, wanted, seeds))
    others = {pair: paired_differences(delta, *pair) for pair in wanted if pair[1] != REFERENCE}
    differences = paired.holm_intervals(others) if others else {}
    differences |= {pair: verdict.rows[pair[0]].difference for pair in wanted if pair[1] == REFERENCE}
    checks, margin, seeds = [], verdict.table.margin, claim["rule"]["seeds"]
    stated = [seeds] * len(wanted) if isinstance(seeds, int) else seeds
    for (row, against), n in zip(wanted, stated, strict=True):
        d = differences[row, against]
        if d.n != n:
            raise ValueError(f"claim {claim['id']}: its rule says {n} seeds, {row} and {against} share {d.n}")
        word = paired.outcome(d.low, d.high, margin)
        holds = True if word == "better" else False if word in ("worse", "equivalent") or d.high < 0 else None
        text = f"{row} against {against}: {d.mean:+.2f} [{d.low:+.2f}, {d.high:+.2f}], {d.n} seeds, margin {margin:g}"
        checks.append(Check(f"{text}: {word}", holds))
    return _from_checks(claim, checks)


def _spreads(delta, wanted, seeds):
    """Checks that the standard deviation of Δm of one row is smaller than that of another, over `seeds` seeds.

    The ratio's intervals hold for all pairs at once (Bonferroni). A check is open where its interval contains one.
    """
    for row, against in wanted:
        values = [list(delta[name].values())[:seeds] for name in (row, against)]
        ratio, low, high = paired.spread_ratio(*values, level=1 - 0.05 / len(wanted))
        text = f"{row} against {against}: {seeds} seeds, ratio of standard deviations {ratio:.2f}"
        yield Check(f"{text} [{low:.2f}, {high:.2f}]", True if high < 1 else False if low > 1 else None)
