"""Claims are complete, their verdicts are computed, and a changed number changes the verdict."""

import importlib.util
import shutil
from dataclasses import replace

import numpy as np
import pytest
from docutils import nodes

from mtl_core import claims, papers, protocol, tables


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
    for paper in ("recon", "sam_gs", "rotograd"):
        closed = [claim for claim in claims.load(paper) if claim["results"] is None]
        assert closed and all(len(claim["needs"]) > 20 for claim in closed)


def test_verdicts_on_the_printed_tables_of_the_other_papers():
    found = {v.claim["id"]: v.outcome for paper in ("sam_gs", "rotograd") for v in claims.verdicts(paper)}
    arithmetic = {name: word for name, word in found.items() if word != claims.OPEN}
    assert {name for name, word in arithmetic.items() if word == claims.DISAGREE} == {
        "samgs-cityscapes-delta-m",
        "samgs-outperforms-vision",
        "samgs-delta-m-nyuv2",
        "samgs-mean-rank-nyuv2",
        "samgs-celeba-column-is-delta-m",
        "samgs-celeba-other-column",
        "samgs-celeba-best-if-exchanged",
        "rotograd-larger-rotation-median",
        "rotograd-best-svhn",
        "rotograd-celeba-every-statistic-resnet",
        "rotograd-time-celeba-conv",
        "rotograd-time-celeba-resnet",
    }
    undecided = {name for name, word in arithmetic.items() if word == "undecided"}
    assert undecided == {"samgs-mt10-on-par", "samgs-mt10-above", "rotograd-magnitude-helps-mnist"}
    assert len(arithmetic) == 31


def test_what_the_celeba_column_holds():
    found = {verdict.claim["id"]: verdict for verdict in claims.verdicts("sam_gs")}
    texts = [found[f"samgs-{name}"].checks[0].text for name in ("celeba-column-is-delta-m", "celeba-other-column")]
    assert texts[0].endswith("12 numbers sum to 78.00, mean ranks would to 78")
    assert texts[1].endswith("sum to 47.92, mean ranks would to 78; outside 1 to 12: 14.85, 0.84")
    assert found["samgs-celeba-best-if-exchanged"].checks[0].text.endswith("SAM-GS at place 10 of 13")
    assert len(found["samgs-celeba-same-as-famo"].checks) == 12


def test_mean_ranks_lie_between_one_and_the_number_of_methods(monkeypatch):
    column = {"task": "", "metric": "mean rank", "half_unit": 0.05}
    numbers = {"a": 0.5, "b": 2.0, "c": 3.5}
    rows = [column | {"method": name, "value": value, "printed": str(value)} for name, value in numbers.items()]
    monkeypatch.setattr(papers, "table", lambda *_: rows)
    (check,) = claims.RULES["mean ranks"]("famo", [3], "mean rank")
    assert check.holds is False and check.text.endswith("sum to 6.00, mean ranks would to 6; outside 1 to 3: 0.5, 3.5")


def test_delta_m_with_the_sign_of_its_paper():
    (check,) = [c for c in claims.RULES["delta_m follows"]("sam_gs", [1], grouped=False) if "SAM-GS" in c.text]
    assert check.text.startswith("Table 1, SAM-GS: printed 6.41, recomputed 6.51 [6.") and check.holds


@pytest.mark.parametrize(
    ("old", "new", "claim", "word"),
    [
        ("3,1,LS,,CelebA,,delta_m,6.28", "3,1,LS,,CelebA,,delta_m,6.48", "samgs-celeba-column-is-delta-m", "agree"),
        ("3,1,LS,,CelebA,,delta_m,6.28", "3,1,LS,,CelebA,,delta_m,6.48", "samgs-celeba-same-as-famo", "disagree"),
        ("SAM-GS,,CelebA,,delta_m,3.33", "SAM-GS,,CelebA,,delta_m,0.33", "samgs-celeba-best-if-exchanged", "agree"),
        ("SAM-GS,,CelebA,,delta_m,3.33", "SAM-GS,,CelebA,,delta_m,4.68", "samgs-celeba-best", "disagree"),
    ],
)
def test_a_changed_number_changes_the_verdict_on_celeba(tmp_path, monkeypatch, old, new, claim, word):
    shutil.copytree(papers.ROOT, tmp_path / "papers", ignore=shutil.ignore_patterns("*.md"))
    monkeypatch.setattr(papers, "ROOT", tmp_path / "papers")
    before = {verdict.claim["id"]: verdict.outcome for verdict in claims.verdicts("sam_gs")}
    file = papers.path("sam_gs", 3)
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    after = {verdict.claim["id"]: verdict.outcome for verdict in claims.verdicts("sam_gs")}
    assert before[claim] != after[claim] == f"text and table {word}"


# --- claims on our own tables


def table_verdict(shift=None, state="judged", reasons=()):
    """A verdict on P1 with made-up Δm: `shift` row -> mean difference to the reference, in points."""
    table, random = protocol.multi_fashion_mnist("small"), np.random.default_rng(0)
    common = random.standard_normal(10)
    delta = {row.name: dict(enumerate(common + 0.1 * random.standard_normal(10) + (shift or {}).get(row.name, 0)))
             for row in table.shared()}  # fmt: skip
    differences, words = tables.compare(table, delta)
    rows = {
        row.name: tables.RowVerdict(row.name, row.title, row.control, "judged", (), words.get(row.name, ""), "10 of 10",
                                    delta=delta.get(row.name, {}), difference=differences.get(row.name))
        for row in table.rows
    }  # fmt: skip
    rows["recon_cagrad"] = replace(rows["recon_cagrad"], state=state, reasons=tuple(reasons))
    return tables.TableVerdict(table, "small", rows, True, (), [])


def verdict_of(name, paper, verdict):
    (found,) = [v for v in claims.verdicts(paper, lambda *_: verdict) if v.claim["id"] == name]
    return found


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
    assert verdict.checks[0].text.startswith("recon_equal against equal: +") and "10 seeds, margin 0.3" in (
        verdict.checks[0].text
    )


@pytest.fixture
def only_p1(monkeypatch):
    """All claims but those on P1 rest on no results here."""
    load = claims.load
    monkeypatch.setattr(
        claims,
        "load",
        lambda paper: [c for c in load(paper) if (c["results"] or {}) and "multi" in str(c["results"])],
    )


@pytest.mark.parametrize(("shift", "word"), [(1.0, "holds on this problem"), (-1.0, "does not hold on this problem")])
def test_another_problem_never_says_reproduced(only_p1, shift, word):
    verdict = table_verdict({"sam_gs": shift})
    found = verdict_of("samgs-better-static-mfm", "sam_gs", verdict)
    assert found.outcome == word
    d = verdict.rows["sam_gs"].difference  # the interval is the table's own, adjusted over all of its rows
    assert f"[{d.low:+.2f}, {d.high:+.2f}]" in found.checks[0].text
    assert verdict_of("samgs-better-mfm", "sam_gs", verdict).outcome == word


@pytest.mark.parametrize("state", ["void", "stale"])
def test_what_rests_on_an_unsound_row_is_void_or_stale(only_p1, state):
    verdict = table_verdict(SPLITS, state, ["9 of 10 runs are here; missing: seed 3"])
    found = verdict_of("recon-improves-rerun-mfm", "recon", verdict)
    assert found.outcome == state and found.reasons == ("row recon_cagrad: 9 of 10 runs are here; missing: seed 3",)
    assert verdict_of("recon-beats-random-layers-rerun", "recon", verdict).outcome != state


def test_rows_and_margins_of_claims_are_those_of_their_tables():
    for paper in ("recon", "sam_gs", "rotograd"):
        for claim in claims.load(paper):
            if isinstance(claim["results"], dict):
                table = protocol.TABLES[claim["results"]["experiment"]](claim["results"]["profile"])
                assert claim["margin"] == table.margin
                assert {name for pair in claims.pairs(claim) for name in pair} <= {row.name for row in table.shared()}


@pytest.mark.parametrize(("change", "message"), [({"margin": 0.1}, "its table has 0.3"), ({"row": "magic"}, "no rows")])
def test_a_claim_that_does_not_fit_its_table_is_refused(only_p1, monkeypatch, change, message):
    load = claims.load

    def changed(paper):
        (claim,) = [c for c in load(paper) if c["id"] == "samgs-better-static-mfm"]
        if "margin" in change:
            return [claim | change]
        return [claim | {"results": claim["results"] | change}]

    monkeypatch.setattr(claims, "load", changed)
    with pytest.raises(ValueError, match=message):
        claims.verdicts("sam_gs", lambda *_: table_verdict())


def test_committed_claims_rest_on_sound_results():
    """What is void or stale must not pass silently."""
    unsound = [v for paper in ("recon", "sam_gs", "rotograd") for v in claims.verdicts(paper) if v.reasons]
    assert not [(v.claim["id"], v.outcome, v.reasons) for v in unsound]


@pytest.fixture
def ledger():
    spec = importlib.util.spec_from_file_location("ledger", claims.ROOT.parent / "_ext" / "ledger.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("passed", [True, False])
def test_the_build_names_what_is_void(ledger, monkeypatch, capsys, passed):
    warned = []
    monkeypatch.setattr(ledger.log, "warning", lambda *words: warned.append(words[0] % words[1:]))
    unsound = replace(table_verdict(SPLITS, "void", ["9 of 10 runs are here; missing: seed 3"]), controls_pass=passed)
    monkeypatch.setattr(ledger, "judged", lambda: [unsound])
    ledger.report(None)
    said = "ledger: results/multi_fashion_mnist/small, row recon_cagrad: void: 9 of 10 runs are here; missing: seed 3"
    assert capsys.readouterr().out.splitlines() == [said]
    assert bool(warned) is not passed  # with -W a warning stops the build


def test_the_ledger_shows_why_and_where_to_dispute(ledger):
    (claim,) = [c for c in claims.load("sam_gs") if c["id"] == "samgs-better-static-mfm"]
    verdict = claims.Verdict(claim, "void", reasons=("row sam_gs: seed 3: the record was edited",))
    box = ledger.entry("https://example.org/book", "sam_gs", "abc1234 2026-01-01", verdict)
    text, links = box.astext(), [node["refuri"] for node in box.findall(nodes.reference)]
    assert box["ids"] == [claim["id"]]
    assert "void (other problem)" in text and "seed 3: the record was edited" in text and "none yet" in text
    assert "abc1234" in text and "margin 0.3" in text
    assert any("issues/new?title=Dispute%3A+samgs-better-static-mfm" in link for link in links)
