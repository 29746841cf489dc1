"""The record of step times: sealed, read by the claim on efficiency, open where the rounds do not decide."""

import pytest

from mtl_core import claims, step_times


def write(root, **ratios):
    step_times.write(ratios, [0.5] * 12, {"width": 8}, root)


def test_a_claim_compares_rounds_with_rounds(tmp_path):
    rule = {"row": "a", "against": ["b"], "most": 1.05, "root": tmp_path}
    assert step_times.checks(**rule) is None, "no record yet"
    drift = [1 + k / 4 for k in range(12)]  # the machine became slower: only ratios within a round say something
    for slower, holds in ((1.0, True), (1.2, False)):
        write(tmp_path, a=[slower * x for x in drift], b=drift)
        (found,) = step_times.checks(**rule)
        assert found.holds is holds and f"takes {slower:.2f} times" in found.text
    write(tmp_path, a=[1.0, 1.1] * 6, b=[1.0] * 12)
    assert step_times.checks(**rule)[0].holds is None, "the rounds disagree"
    assert step_times.checks(**{**rule, "against": ["c"]}) is None


def test_few_rounds_and_edited_records_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least 10 rounds, got 3"):
        step_times.spread([1.0, 2.0, 3.0])
    write(tmp_path, a=[1.5] * 12)
    file = tmp_path / "step_time" / "small" / "runs.jsonl"
    file.write_text(file.read_text().replace("1.5", "1.1"))
    with pytest.raises(ValueError, match="step_time, a: the record was edited"):
        step_times.load(tmp_path)


def test_the_claim_on_efficiency_reads_the_record(monkeypatch):
    (claim,) = [c for c in claims.load("sam_gs") if c["id"] == "samgs-efficiency"]
    monkeypatch.setattr(claims, "load", lambda paper: [claim])
    names = [claim["rule"]["row"], *claim["rule"]["against"]]
    for own, word in ((1.0, "holds on this problem"), (2.0, "does not hold on this problem")):
        made = {name: {"ratios": [own if name == "sam_gs" else 1.0] * 12} for name in names}
        monkeypatch.setattr(step_times, "load", lambda root=None, made=made: made)
        (verdict,) = claims.verdicts("sam_gs")
        assert verdict.outcome == word and len(verdict.checks) == len(names) - 1
