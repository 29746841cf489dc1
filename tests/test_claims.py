"""Claims are complete, their verdicts are computed, and a changed number changes the verdict."""

import shutil

import pytest
import yaml

from mtl_core import claims, papers


@pytest.fixture
def editable(tmp_path, monkeypatch):
    """A copy of the printed tables and claims of Recon to tamper with."""
    shutil.copytree(papers.ROOT / "recon", tmp_path / "papers" / "recon")
    shutil.copytree(claims.ROOT, tmp_path / "claims")
    monkeypatch.setattr(papers, "ROOT", tmp_path / "papers")
    monkeypatch.setattr(claims, "ROOT", tmp_path / "claims")

    def edit(path, old, new):
        file = tmp_path / path
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new, 1))

    return edit


def by_id():
    return {verdict.claim["id"]: verdict for verdict in claims.verdicts("recon")}


def test_verdicts_of_the_committed_claims():
    words = {name: verdict.outcome for name, verdict in by_id().items()}
    differ = {
        "recon-delta-m-nyuv2-mtan",
        "recon-delta-m-nyuv2-segnet",
        "recon-bins-sum",
        "recon-drops-positional",
    }
    assert {name for name, word in words.items() if word == claims.DISAGREE} == differ
    assert {name for name, word in words.items() if word == "undecided"} == {"recon-slight-growth"}
    open_claims = {c["id"] for c in claims.load("recon") if c["scope"] != "arithmetic"}
    assert {name for name, word in words.items() if word == "no results yet"} == open_claims


def test_every_comparison_is_made():
    counts = {name: len(verdict.checks) for name, verdict in by_id().items() if verdict.checks}
    assert counts == {
        "recon-surgery-leaves-conflicts": 4,
        "recon-reduces-conflicts": 20,
        "recon-improves-every-method": 26,  # 6, 4, 5, 6 and 5 methods in Tables 1 to 5
        "recon-improves-branched-search": 1,
        "recon-slight-growth": 7,
        "recon-layers-transfer": 10,
        "recon-pcgrad-reaches-single-task": 1,
        "recon-beats-random-layers": 24,
        "recon-beats-first-and-last-layers": 8,
        "recon-ranking-stable-in-time": 10,
        "recon-ranking-stable-across-methods": 10,
        "recon-delta-m-columns": 58,
        "recon-delta-m-nyuv2-mtan": 11,
        "recon-delta-m-nyuv2-segnet": 15,
        "recon-reduction-rows": 44,
        "recon-bins-sum": 48,
        "recon-drops-random": 28,
        "recon-drops-positional": 12,
    }


def test_what_does_not_hold_is_named():
    found = by_id()
    texts = [check.text for check in found["recon-delta-m-nyuv2-segnet"].checks if not check.holds]
    assert texts == ["Table 15, CAGrad: printed 5.60, recomputed 5.30 [5.28, 5.33]"]
    texts = [check.text for check in found["recon-bins-sum"].checks if not check.holds]
    assert texts[0] == "Table 6, Joint: sums to 100.37" and len(texts) == 3


@pytest.mark.parametrize(
    ("table", "old", "new", "claim", "word"),
    [
        ("01", ",-0.33,%", ",-0.96,%", "recon-improves-every-method", claims.DISAGREE),
        ("01", ",-0.33,%", ",-0.935,%", "recon-improves-every-method", "undecided"),  # within rounding
        ("01", ",98.13,%", ",98.23,%", "recon-delta-m-columns", claims.DISAGREE),
        ("01", ",0.04,%", ",-0.04,%", "recon-pcgrad-reaches-single-task", claims.DISAGREE),
        ("06", ",7.80,%", ",97.80,%", "recon-surgery-leaves-conflicts", claims.DISAGREE),
        ("06", ",7.80,%", ",7.00,%", "recon-reduction-rows", claims.DISAGREE),
        ("06", ",69.82,%", ",49.82,%", "recon-reduces-conflicts", claims.DISAGREE),
        ("07", ",97.60,%", ",98.31,%", "recon-beats-random-layers", claims.DISAGREE),
        ("07", ",0.68,points", ",0.70,points", "recon-drops-random", claims.DISAGREE),
        ("11", ",98.21,%", ",98.28,%", "recon-beats-first-and-last-layers", "undecided"),
        ("12", ",2.39,ranks", ",9.39,ranks", "recon-ranking-stable-in-time", claims.DISAGREE),
        ("15", ",38.87,%", ",39.57,%", "recon-delta-m-nyuv2-segnet", claims.AGREE),
    ],
)
def test_a_changed_number_changes_the_verdict(editable, table, old, new, claim, word):
    assert by_id()[claim].outcome == (claims.DISAGREE if word == claims.AGREE else claims.AGREE)
    editable(f"papers/recon/table_{table}.csv", old, new)
    assert by_id()[claim].outcome == word


def test_a_bound_decides_the_claim_without_one(editable):
    editable("claims/recon.yml", "{name: size ratio, ", "{name: size ratio, most: 1.1, ")
    checks = by_id()["recon-slight-growth"].checks
    assert [check.holds for check in checks] == [True, False, False, False, True, False, False]
    assert checks[0].text == "Table 1: +1.4 % parameters"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  margin: 0\n", "", "recon-surgery-leaves-conflicts: expected the fields"),
        ("  scope: arithmetic\n", "  scope: arithmatic\n", "its scope one of"),
        ("recon-reduces-conflicts", "recon-surgery-leaves-conflicts", "its id must be new"),
        ("name: separated", "name: seperated", "expected a rule of"),
        ("methods: [BMTAS]", "methods: [BMTSA]", "recon-improves-branched-search: its rule compared nothing"),
    ],
)
def test_a_malformed_claim_is_refused(editable, old, new, message):
    editable("claims/recon.yml", old, new)
    with pytest.raises(ValueError, match=message):
        claims.verdicts("recon")


def test_unknown_paper_lists_what_exists():
    with pytest.raises(LookupError, match="recon"):
        claims.load("recom")


def test_open_claims_say_what_a_rerun_needs():
    open_claims = [c for c in yaml.safe_load((claims.ROOT / "recon.yml").read_text()) if c["scope"] != "arithmetic"]
    assert open_claims and all(c["needs"] and c["results"] is None for c in open_claims)
