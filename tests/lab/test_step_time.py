"""The record of step times: read by the claim on efficiency, open where the rounds do not decide."""

import pytest

from mtl_lab.claims import verdicts
from mtl_lab.experiments import step_time


def write(root, **ratios):
    step_time.write(ratios, [0.5] * 12, {"width": 8}, root)


def test_a_claim_compares_rounds_with_rounds(tmp_path):
    rule = {"row": "a", "against": ["b"], "most": 1.05, "root": tmp_path}
    assert step_time.checks(**rule) is None, "no record yet"
    drift = [1 + k / 4 for k in range(12)]  # the machine became slower: only ratios within a round say something
    for slower, holds in ((1.0, True), (1.2, False)):
        write(tmp_path, a=[slower * x for x in drift], b=drift)
        (check,) = step_time.checks(**rule)
        assert check.holds is holds and f"takes {slower:.2f} times" in check.text
    write(tmp_path, a=[1.0, 1.1] * 6, b=[1.0] * 12)
    assert step_time.checks(**rule)[0].holds is None, "the rounds disagree"
    assert step_time.checks(**{**rule, "against": ["c"]}) is None


def test_few_rounds_are_refused():
    with pytest.raises(ValueError, match="at least 10 rounds, got 3"):
        step_time.spread([1.0, 2.0, 3.0])


def test_the_claim_on_efficiency_reads_the_record(monkeypatch):
    (claim,) = [c for c in verdicts.load("sam_gs") if c["id"] == "samgs-efficiency"]
    monkeypatch.setattr(verdicts, "load", lambda paper: [claim])
    names = [claim["rule"]["row"], *claim["rule"]["against"]]
    for ratio, word in ((1.0, "holds on this problem"), (2.0, "does not hold on this problem")):
        made = {name: {"ratios": [ratio if name == "sam_gs" else 1.0] * 12} for name in names}
        monkeypatch.setattr(step_time, "load", lambda root=None, made=made: made)
        (verdict,) = verdicts.verdicts("sam_gs")
        assert verdict.outcome == word and len(verdict.checks) == len(names) - 1
