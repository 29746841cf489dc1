"""Claims that rows of our own tables decide: scope limits the words, unsound rows void them, the ledger shows it."""

import importlib.util
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from docutils import nodes

from mtl_lab import experiments
from mtl_lab.claims import verdicts
from mtl_lab.protocol.verdict import RowVerdict, TableVerdict, compare


def table_verdict(shift=None, state="judged", reasons=()):
    """A verdict on P1 with made-up Δm: `shift` row -> mean difference to the reference, in points."""
    table, random = experiments.TABLES["multi_fashion_mnist"]("small"), np.random.default_rng(0)
    common = random.standard_normal(10)
    delta = {}
    for row in table.shared():
        noise = 0.1 * random.standard_normal(10) + (shift or {}).get(row.name, 0)
        delta[row.name] = dict(enumerate(common + noise))
    differences, words = compare(table, delta)
    rows = {}
    for row in table.rows:
        numbers = {"delta": delta.get(row.name, {}), "difference": differences.get(row.name)}
        word = words.get(row.name, "")
        rows[row.name] = RowVerdict(row.name, row.title, row.control, "judged", (), word, "10 of 10", **numbers)
    rows["recon_cagrad"] = replace(rows["recon_cagrad"], state=state, reasons=tuple(reasons))
    return TableVerdict(table, rows, True, (), [])


def verdict_of(name, paper, verdict):
    (claimed,) = [v for v in verdicts.verdicts(paper, lambda *_: verdict) if v.claim["id"] == name]
    return claimed


SPLITS = {"recon_equal": 1.0, "recon_pcgrad": 1.0, "recon_cagrad": 1.0}


@pytest.mark.parametrize(
    ("shift", "word"),
    [
        (SPLITS, "consistent at this scale"),
        (SPLITS | {"recon_cagrad": 0.0}, "not consistent at this scale"),  # equivalent
        (SPLITS | {"recon_cagrad": -1.0}, "not consistent at this scale"),  # the sign counts
        (SPLITS | {"recon_cagrad": -0.3}, "not consistent at this scale"),  # small, and on the other side
        (SPLITS | {"recon_cagrad": 0.3}, "undecided"),  # a difference about as large as the margin
    ],
)
def test_a_reduced_scope_says_consistent_or_not(only_p1, shift, word):
    verdict = verdict_of("recon-improves-rerun-mfm", "recon", table_verdict(shift))
    assert verdict.outcome == word and len(verdict.checks) == 3
    text = verdict.checks[0].text
    assert text.startswith("recon_equal against equal: +") and "10 seeds, margin 0.3" in text


@pytest.fixture
def only_p1(monkeypatch):
    """Only the claims on Multi-Fashion+MNIST."""

    def on_p1(claim):
        return isinstance(claim["results"], dict) and claim["results"]["experiment"] == "multi_fashion_mnist"

    load = verdicts.load
    monkeypatch.setattr(verdicts, "load", lambda paper: [claim for claim in load(paper) if on_p1(claim)])


@pytest.mark.parametrize(("shift", "word"), [(1.0, "holds on this problem"), (-1.0, "does not hold on this problem")])
def test_another_problem_never_says_reproduced(only_p1, shift, word):
    verdict = table_verdict({"sam_gs": shift})
    claimed = verdict_of("samgs-better-static-mfm", "sam_gs", verdict)
    assert claimed.outcome == word
    d = verdict.rows["sam_gs"].difference  # the interval is the table's own, adjusted over all of its rows
    assert f"[{d.low:+.2f}, {d.high:+.2f}]" in claimed.checks[0].text
    assert verdict_of("samgs-better-mfm", "sam_gs", verdict).outcome == word


def test_what_rests_on_a_void_row_is_void(only_p1):
    why = "9 of 10 runs are recorded; missing: seed 3"
    verdict = table_verdict(SPLITS, "void", [why])
    claimed = verdict_of("recon-improves-rerun-mfm", "recon", verdict)
    assert claimed.outcome == "void" and claimed.reasons == (f"row recon_cagrad: {why}",)
    assert verdict_of("recon-beats-random-layers-rerun", "recon", verdict).outcome != "void"


def test_rows_and_margins_of_claims_are_those_of_their_tables():
    for paper in ("recon", "sam_gs", "rotograd"):
        for claim in verdicts.load(paper):
            if isinstance(claim["results"], dict):
                table = experiments.TABLES[claim["results"]["experiment"]](claim["results"]["profile"])
                spread = claim["rule"]["name"] == "smaller spread"  # a ratio has no margin in points
                assert claim["margin"] == (None if spread else table.margin)
                assert {name for pair in verdicts.pairs(claim) for name in pair} <= {row.name for row in table.shared()}


@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        (None, {"margin": 0.1}, "its table has 0.3"),
        ("results", {"row": "magic"}, "no rows"),
        ("rule", {"seeds": 9}, "its rule says 9 seeds"),
    ],
)
def test_a_claim_that_does_not_fit_its_table_is_refused(monkeypatch, field, change, message):
    (claim,) = [c for c in verdicts.load("sam_gs") if c["id"] == "samgs-better-static-mfm"]
    changed = claim | ({field: claim[field] | change} if field else change)
    monkeypatch.setattr(verdicts, "load", lambda paper: [changed])
    with pytest.raises(ValueError, match=message):
        verdicts.verdicts("sam_gs", lambda *_: table_verdict())


def test_committed_claims_rest_on_sound_results():
    """What is void must not pass silently."""
    judged = [v for paper in ("recon", "sam_gs", "rotograd") for v in verdicts.verdicts(paper) if v.reasons]
    assert not [(v.claim["id"], v.outcome, v.reasons) for v in judged if v.outcome != verdicts.OPEN]
    waits = ("training goes on", "needs runs: ", "trains the rest")
    assert all(any(words in r for words in waits) for v in judged for r in v.reasons)


@pytest.fixture
def ledger(monkeypatch):
    monkeypatch.syspath_prepend(str(verdicts.ROOT.parent / "_ext"))  # it imports its neighbours
    spec = importlib.util.spec_from_file_location("ledger", verdicts.ROOT.parent / "_ext" / "ledger.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("passed", [True, False])
def test_the_build_names_what_is_void(ledger, monkeypatch, capsys, passed):
    warned = []
    monkeypatch.setattr(ledger.log, "warning", lambda *words: warned.append(words[0] % words[1:]))
    unsound = replace(
        table_verdict(SPLITS, "void", ["9 of 10 runs are recorded; missing: seed 3"]), controls_pass=passed
    )
    monkeypatch.setattr(ledger, "judged", lambda: [unsound])
    ledger.report(None)
    said = (
        "ledger: results/multi_fashion_mnist/small, row recon_cagrad: void: 9 of 10 runs are recorded; missing: seed 3"
    )
    assert capsys.readouterr().out.splitlines() == [said]
    assert bool(warned) is not passed  # with -W a warning stops the build


def test_the_ledger_shows_why_and_where_to_dispute(ledger):
    (claim,) = [c for c in verdicts.load("sam_gs") if c["id"] == "samgs-better-static-mfm"]
    verdict = verdicts.Verdict(claim, "void", reasons=("row sam_gs: seed 3: the record was edited",))
    box = ledger.entry("https://example.org/book", "sam_gs", "abc1234 2026-01-01", verdict)
    text, links = box.astext(), [node["refuri"] for node in box.findall(nodes.reference)]
    assert box["ids"] == [claim["id"]]
    assert "void" in text and "other problem" in text and "seed 3: the record was edited" in text and "none yet" in text
    cells = [cell.astext() for cell in box.findall(nodes.entry)]
    assert "abc1234" in text and cells[cells.index("Margin") + 1] == "0.3"
    assert box.attributes["data"] == {"paper": "sam_gs", "outcome": "void", "scope": "other problem"}
    assert any("issues/new?title=Dispute%3A+samgs-better-static-mfm" in link for link in links)


def test_a_claim_on_stability_compares_spreads():
    (claim,) = [c for c in verdicts.load("sam_gs") if c["id"] == "samgs-stability"]
    names = ["sam_gs", *claim["results"]["against"]]
    assert verdicts.pairs(claim) == [("sam_gs", name) for name in names[1:]]

    def judged(spread, seeds=20):
        random = np.random.default_rng(0)
        delta = {n: dict(enumerate((spread if n == "sam_gs" else 1.0) * random.normal(size=seeds))) for n in names}
        rows = {n: SimpleNamespace(state="judged", delta=delta[n], runs=f"{seeds} of {seeds}") for n in names}
        return lambda *where: SimpleNamespace(table=experiments.TABLES["qm9"]("tiny"), rows=rows, reasons=())

    by_spread = {spread: verdicts._judge("sam_gs", claim, judged(spread)) for spread in (0.2, 1.0, 5.0)}
    words = [verdict.outcome for verdict in by_spread.values()]
    assert words == ["holds on this problem", "undecided", "does not hold on this problem"]
    assert all("20 seeds, ratio of standard deviations 0." in check.text for check in by_spread[0.2].checks)
    few = verdicts._judge("sam_gs", claim, judged(1.0, seeds=10))
    assert few.outcome == verdicts.OPEN and few.reasons == ("training goes on: 10 of 20 seeds are here",)
