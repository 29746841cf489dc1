"""SAM-GS with Adam and QM9's capacity: what they plan, and what they find in made-up records whose truth is known."""

from dataclasses import replace

import made_up_streams
import numpy as np
import pytest

from mtl_lab import experiments, queue, records
from mtl_lab.experiments import five_streams, qm9_capacity, sam_gs_adam
from mtl_lab.protocol import stream_verdict, streams

MAIN = {"sam_gs_adam": "multi_fashion_mnist", "qm9_capacity": "qm9"}


@pytest.fixture
def found(tmp_path, monkeypatch):
    """Function of a name, true shifts in margins, spread over streams in margins, and how many streams: the finding."""

    def of(name, shift, spread, count=None):
        (tmp_path / MAIN[name]).symlink_to(records.CHECKOUT / "results" / MAIN[name])
        monkeypatch.setattr(made_up_streams, "SHIFT", shift)
        monkeypatch.setattr(made_up_streams, "ONE_TASK", {})
        for part, share in (("SEARCH", 0.9), ("SEED", 0.3), ("METHOD_SEED", 0.3)):
            monkeypatch.setattr(made_up_streams, part, share * spread)
        made_up_streams.write(name, tmp_path, count)
        return {"sam_gs_adam": sam_gs_adam, "qm9_capacity": qm9_capacity}[name].finding(root=tmp_path)

    return of


# --- plans


@pytest.mark.parametrize("name", MAIN)
def test_five_streams_of_one_seed_beside_a_main_table(name):
    table = experiments.SEARCHES[name]("small")
    assert table.streams == 5 and table.extends == MAIN[name] and not table.fresh
    assert table.limits == (table.margin, table.margin) and table.ranking is None
    assert all(row.reuses is None and not row.control for row in table.rows), "no controls"
    choice = {"choice": {"learning_rate": 0.01}}
    line = {"stream": 0, "rows": {row.name: choice for row in table.shared()}}
    assert [run.seed for _, run in streams.evaluation(table, line)] == [streams.EVALUATION] * len(table.shared())
    one = [[c["learning_rate"] for c in replace(table, stream=2).configurations(row)] for row in table.shared()]
    assert len(one[0]) == 8 and all(rates == one[0] for rates in one), "rows of a stream are paired"


def test_the_queue_plans_each_search_and_one_evaluation(tmp_path):
    for name, main in MAIN.items():
        (tmp_path / main).symlink_to(records.CHECKOUT / "results" / main)
        planned = queue.lacks(name, "small", tmp_path)
        rows = [row.name for row in experiments.SEARCHES[name]("small").shared()]
        assert len(planned) == 5 * len(rows) * (8 + 2 + 1) and {row for row, _ in planned} == set(rows)
        assert sum(share for _, share in planned) == 5 * len(rows) * 5, "full runs"


def test_sam_gs_meets_adam_and_nothing_else_changes():
    table, main = sam_gs_adam.searches(), experiments.TABLES["multi_fashion_mnist"]("small")
    assert [row.name for row in table.shared()] == ["equal", "norm_equalised_clip"] + [
        f"gamma {g}" for g in ("0", "0.5", "0.9", "1")
    ]
    rows = {row.name: table.run(row, {"learning_rate": 1e-3}, 0) for row in table.shared()}
    assert {run.schedule["optimizer"] for run in rows.values()} == {"adam"} and table.decay == (0.0,)
    assert rows["gamma 0.9"].method_options == {"gamma": 0.9, "beta2": 0.99}
    assert {rows[f"gamma {g}"].convention for g in ("0", "1")} == {"samgs"}
    assert rows["norm_equalised_clip"].convention == "plain, clipped"
    own = {"optimizer": "sgd", "epochs": 10, "learning_rate": main.base.schedule["learning_rate"]}
    assert replace(rows["equal"], schedule=rows["equal"].schedule | own, test=True) == main.base


def test_capacity_changes_the_width_alone():
    table = qm9_capacity.searches()
    assert len(table.shared()) == 10 and table.base.problem_options == {"profile": "small", "fresh": True}
    for method in qm9_capacity.METHODS:
        narrow, wide = (
            table.run(table.row(f"{method}, width {w}"), {"learning_rate": 1e-3}, 0) for w in qm9_capacity.WIDTHS
        )
        assert (narrow.model_options["width"], wide.model_options["width"]) == (32, 512)
        assert replace(narrow, model_options=wide.model_options) == wide and narrow.model_options["depth"] == 3


# --- SAM-GS with Adam


def test_before_the_last_stream_a_page_counts_runs(found):
    said = found("sam_gs_adam", {}, 0.2, count=4)
    assert said.startswith("*No finding yet*: 24 of 30 runs") and "EXPERIMENT=sam_gs_adam PROFILE=small" in said


def test_without_records_a_page_counts_none(tmp_path):
    for name, of in (("sam_gs_adam", sam_gs_adam), ("qm9_capacity", qm9_capacity)):
        table = experiments.SEARCHES[name]("small")
        assert of.finding(root=tmp_path) == five_streams.unfinished(table, tmp_path)
        assert f"0 of {5 * len(table.shared())} runs" in of.finding(root=tmp_path)


@pytest.mark.parametrize(
    ("shift", "spread", "said"),
    [
        ({"gamma 0": 6.0, "gamma 0.5": 6.0, "gamma 0.9": -6.0}, 0.2, "helps at γ = 0, γ = 0.5 and harms at γ = 0.9"),
        ({"equal": -6.0}, 0.1, "does not matter, to within 0.3 points"),
        ({}, 3.0, "neither helps nor harms as far as five streams can tell"),
        ({"gamma 1": 6.0}, 0.2, "this comparison says nothing"),
    ],
)
def test_the_momentum_is_judged_by_the_rule(found, shift, spread, said):
    assert said in found("sam_gs_adam", shift, spread)


def test_contrasts_recover_the_truth(found, tmp_path):
    found("sam_gs_adam", {"gamma 0": 6.0, "norm_equalised_clip": 2.0}, 0.1)
    judged = sam_gs_adam.contrasts(stream_verdict.compare(sam_gs_adam.searches(), tmp_path))
    truth = {"momentum, γ = 0": 4.0, "momentum, γ = 0.9": -2.0, "same rule": -2.0, "equal lengths": 2.0}
    for name, margins in truth.items():
        assert judged[name][0].mean == pytest.approx(0.3 * margins, abs=0.15), name
        assert judged[name][0].low < 0.3 * margins < judged[name][0].high


# --- capacity

ORDER = {"static": 0.0, "equal": -8.0, "log_sum": 4.0, "norm_equalised_clip": 2.0, "cagrad": -3.0}  # in margins


def both(wide):
    """Shifts of the rows: `ORDER` at width 32, `wide` at width 512."""
    return {f"{m}, width 32": v for m, v in ORDER.items()} | {f"{m}, width 512": v for m, v in wide.items()}


def test_capacity_counts_runs_before_it_finds(found):
    assert found("qm9_capacity", both(ORDER), 0.2, count=3).startswith("*No finding yet*: 30 of 50 runs")


@pytest.mark.parametrize(
    ("wide", "spread", "said", "beside"),
    [
        (ORDER, 0.1, "**survive**", "all differences to static weights are equivalent, to within 2 points"),
        ({m: -v for m, v in ORDER.items()}, 0.3, "**change**", "equal +3"),
        (ORDER, 6.0, "**may or may not survive**", "no method detectably"),
        ({**ORDER, "log_sum": 12.0}, 0.2, "**survive**", "for log_sum +1"),
    ],
)
def test_ranks_and_differences_are_judged_by_the_rule(found, wide, spread, said, beside):
    text = found("qm9_capacity", both(wide), spread)
    assert said in text and beside in text, text


def test_the_interval_of_the_rank_change_covers_and_finds_a_swap():
    """As the docstring says, with fewer repetitions: truth where ranks survive is 0."""
    means, random = np.array([0, 3, -15, 6, 2.0]), np.random.default_rng(0)

    def intervals(wide):
        return [
            qm9_capacity.rank_change(np.stack([means, wide])[:, None] + 1.5 * random.standard_normal((2, 5, 5)))[1:]
            for _ in range(150)
        ]

    same = intervals(means)
    assert np.mean([low <= 0 <= high for low, high in same]) > 0.85 and np.mean([low > -0.2 for low, _ in same]) > 0.75
    assert np.mean([high < 0 for _, high in intervals(np.array([6, 0, -15, 2, 3.0]))]) > 0.75


def test_agreement_by_hand():
    up, down = np.arange(5.0), -np.arange(5.0)
    assert qm9_capacity.rank_agreement(np.array([[up] * 3, [up] * 3])) == pytest.approx((1, 1))
    assert qm9_capacity.rank_agreement(np.array([[up] * 3, [down] * 3])) == pytest.approx((-1, 1))


def test_card_and_claim_say_what_adam_showed():
    """With Adam the momentum half harms at every γ below 1, and the control of the same rule finds nothing."""
    judged = sam_gs_adam.contrasts(stream_verdict.compare(sam_gs_adam.searches()))
    assert all(word.startswith("worse") for name, (_, word) in judged.items() if name.startswith("momentum"))
    assert not judged["same rule"][1].startswith(("better", "worse"))
    book = sam_gs_adam.records.ROOT.parent / "book"
    card = " ".join((book / "papers" / "cards.yml").read_text(encoding="utf-8").split())
    assert "with Adam, over five searches, its momentum half does harm there as well" in card
    claims = (book / "claims" / "sam_gs.yml").read_text(encoding="utf-8")
    assert "With Adam, over five searches, its momentum half does not help on these pictures either" in claims
