"""The committed counts of RotoGrad's illustration: computed again, sealed, and read by the claims."""

import pytest

from mtl_core import claims, illustration_study, results

OUTCOMES = {"rotograd-landscapes": "undecided", "rotograd-landscapes-convex": "holds on this problem"}


def write(root, **solved):
    lines = [results.seal({"row": row, "solved": [True] * n + [False] * (100 - n), "seeds": 100})
             for row, n in solved.items()]  # fmt: skip
    results.write_lines(lines, results.folder(illustration_study.NAME, "small", root) / "runs.jsonl")


def test_more_than_half_against_fewer_than_half(tmp_path):
    rule = {"row": "own", "against": "sum", "root": tmp_path}
    assert illustration_study.checks(**rule) is None, "no record yet"
    for own, plain, holds in ((90, 5, [True, True]), (20, 5, [False, True]), (52, 95, [None, False])):
        write(tmp_path, own=own, sum=plain)
        found = illustration_study.checks(**rule)
        assert [check.holds for check in found] == holds and found[0].text.startswith(f"own: {own} of 100 seeds")
    file = results.folder(illustration_study.NAME, "small", tmp_path) / "runs.jsonl"
    file.write_text(file.read_text().replace("true", "false", 1))
    with pytest.raises(ValueError, match="rotograd_illustration, .*: the record was edited"):
        illustration_study.checks(**rule)


def test_what_is_missing_is_computed_and_nothing_else(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(illustration_study, "study", lambda row, seeds: calls.append(row) or {"row": row, "n": seeds})
    assert illustration_study.complete("tiny", tmp_path) == "4 records, 4 computed now."
    assert illustration_study.complete("tiny", tmp_path) == "4 records, 0 computed now."
    assert sorted(calls) == sorted(illustration_study.ROWS)


def test_the_committed_counts_are_those_of_the_code_and_decide_the_claims():
    """The short rows again, all their seeds; on another machine a run or two may decide otherwise at a saddle."""
    here = illustration_study.load()
    assert set(here) == set(illustration_study.ROWS)
    for row in ("non-convex, RotoGrad", "non-convex, sum"):
        again = illustration_study.study(row, here[row]["seeds"])
        differ = sum(a != b for a, b in zip(again["solved"], here[row]["solved"], strict=True))
        assert differ <= 2, row
    for row in ("convex, RotoGrad", "convex, sum"):  # five times the steps: their first seeds, which know no others
        again = illustration_study.study(row, 10)["solved"]
        assert sum(a != b for a, b in zip(again, here[row]["solved"][:10], strict=True)) <= 1, row
    found = {v.claim["id"]: v for v in claims.verdicts("rotograd", judged=lambda *_: None)}
    assert all(len(found[name].checks) == 2 for name in OUTCOMES)
    assert {name: found[name].outcome for name in OUTCOMES} == OUTCOMES
