"""The committed counts of RotoGrad's illustration: computed again, and read by the claims."""

from mtl_lab import records
from mtl_lab.claims import verdicts
from mtl_lab.experiments import rotograd_illustration

OUTCOMES = {"rotograd-landscapes": "undecided", "rotograd-landscapes-convex": "holds on this problem"}


def write(root, **solved):
    lines = [{"row": row, "solved": [True] * n + [False] * (100 - n), "seeds": 100} for row, n in solved.items()]
    records.write_lines(lines, records.folder(rotograd_illustration.NAME, "small", root) / "runs.jsonl")


def test_more_than_half_against_fewer_than_half(tmp_path):
    rule = {"row": "own", "against": "sum", "root": tmp_path}
    assert rotograd_illustration.checks(**rule) is None, "no record yet"
    for own, plain, holds in ((90, 5, [True, True]), (20, 5, [False, True]), (52, 95, [None, False])):
        write(tmp_path, own=own, sum=plain)
        comparisons = rotograd_illustration.checks(**rule)
        assert [check.holds for check in comparisons] == holds and comparisons[0].text.startswith(
            f"own: {own} of 100 seeds"
        )


def test_what_is_missing_is_computed_and_nothing_else(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        rotograd_illustration, "study", lambda row, seeds: calls.append(row) or {"row": row, "n": seeds}
    )
    assert rotograd_illustration.complete("tiny", tmp_path) == "4 records, 4 computed now."
    assert rotograd_illustration.complete("tiny", tmp_path) == "4 records, 0 computed now."
    assert sorted(calls) == sorted(rotograd_illustration.ROWS)


def test_the_committed_counts_are_those_of_the_code_and_decide_the_claims():
    """The short rows again, all their seeds; on another machine a run or two may decide otherwise at a saddle."""
    recorded = rotograd_illustration.load()
    assert set(recorded) == set(rotograd_illustration.ROWS)
    for row in ("non-convex, RotoGrad", "non-convex, sum"):
        again = rotograd_illustration.study(row, recorded[row]["seeds"])
        differ = sum(a != b for a, b in zip(again["solved"], recorded[row]["solved"], strict=True))
        assert differ <= 2, row
    for row in ("convex, RotoGrad", "convex, sum"):  # five times the steps: their first seeds, which know no others
        again = rotograd_illustration.study(row, 10)["solved"]
        assert sum(a != b for a, b in zip(again, recorded[row]["solved"][:10], strict=True)) <= 1, row
    by_id = {v.claim["id"]: v for v in verdicts.verdicts("rotograd", judged=lambda *_: None)}
    assert all(len(by_id[name].checks) == 2 for name in OUTCOMES)
    assert {name: by_id[name].outcome for name in OUTCOMES} == OUTCOMES
