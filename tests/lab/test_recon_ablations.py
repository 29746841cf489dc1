"""Recon's ablations: the sets, the plan, the released skip connection, and what made-up logs say."""

import copy
import json

import numpy as np
import pytest
import torch
from test_recon_table1 import NAMES, SCORES

from mtl_core import models, recon
from mtl_core.models.resnet import is_norm
from mtl_lab import completion, records
from mtl_lab.experiments import recon_ablations, recon_parts, recon_table1
from mtl_lab.experiments.rate_choice import SEED
from mtl_lab.experiments.recon import RECON
from mtl_lab.experiments.recon_ablations import RANDOM, SKIPS, ReconAblations, published_sets
from mtl_lab.experiments.recon_table1 import FIRST
from mtl_lab.runs.released_code import resnet18_released_skip


def order(swap=0):
    """Scores in which the first `swap` layers have changed places with their neighbours."""
    scores = [SCORES[name] for name in NAMES]
    for i in range(0, 2 * swap, 2):
        scores[i], scores[i + 1] = scores[i + 1], scores[i]
    return scores


def log(scores, below, restricted):
    """A log of 100 cosines of which `below` lie below -0.01, over all layers and over the kept ones."""
    keys = ("0.0", "-0.05", "-0.1", "-0.15")
    return {
        "layers": NAMES,
        "scores": dict.fromkeys(keys, scores),
        "mirror": dict.fromkeys(keys, [s - i for i, s in enumerate(scores)]),  # the last layer is furthest from it
        "quarters": dict.fromkeys(keys, [scores, scores, order(2), scores]),
        "all": {"negative_share": 0.5, "histogram": {"989": below, "990": 50 - below, "1500": 50}},
        "restricted": {"negative_share": 0.5, "histogram": {"989": restricted, "1500": 100 - restricted}},
    }


BELOW = {"equal": 20, "cagrad": 19, "pcgrad": 18, "graddrop": 20, "mgda": 16}


def record(row, run, accuracy=90.0):
    of = {task: {"loss": 0.3, "accuracy": accuracy} for task in ("digit", "garment")}
    final = {"validation": of} | ({"test": of} if run.test else {})
    more = {}
    if run.observe is not None:
        split = bool(run.split)
        more["conflict"] = log(order(run.method == "mgda"), BELOW[run.method] // (4 if split else 1), 8)
    config = json.loads(run.canonical())
    more |= {"core_seconds": 30.0, "steps": 10, "row": row, "identity": run.identity, "config": config}
    return {"final": final, "diverged": None, **more}


def filled(accuracy=lambda row, run: 90.0):
    found, plan = [], ReconAblations()
    while missing := completion.missing_of_grid(plan, found).values():
        found += [record(row, run, accuracy(row, run)) for row, run in missing]
    return found


@pytest.fixture(scope="module")
def all_records():
    return filled()


# --- sets and plan


def test_the_sets_are_the_published_ones_to_the_last_parameter():
    sets, sizes = published_sets(), recon_ablations.sizes()
    total = {name: sum(sizes[n] for n in layers) for name, layers in sets.items()}
    assert total["released"] == 160_192 and len(sizes) == 41 and sum(sizes.values()) == 11_221_540
    megabytes = {name: round((11_221_540 + 2020 + n) * 4 / 2**20, 2) for name, n in total.items()}
    assert [megabytes[n] for n in RANDOM] == [73.02, 83.63, 76.33, 52.25, 51.96, 47.50]
    assert (megabytes["FSK"], megabytes["LSK"], megabytes["released"]) == (48.90, 84.17, 43.43)
    assert [len(sets[n]) for n in RANDOM] == [25, 25, 25, 9, 4, 6]
    assert sum(map(is_norm, sets["RSL 2"])) == 12


def test_the_plan_has_every_set_three_times(all_records):
    rows = ReconAblations().plan(all_records)
    trained = {row: runs for row, runs in rows.items() if row[:4] not in ("sear", "log,", "rate")}
    assert {len(runs) for runs in trained.values()} == {3} and len(trained) == 27
    assert {run.seed for runs in trained.values() for run in runs} == {FIRST, FIRST + 1, FIRST + 2}
    assert {run.method for runs in trained.values() for run in runs} == {"cagrad"}
    assert sum(map(len, rows.values())) == 97  # as many as the docstring says
    by_row = recon_table1.named(
        ReconAblations(), all_records
    )  # in the made-up search all S have one ranking, the order of the layers
    assert len(all_records) < len(by_row) == 97 and {r["row"] for r in by_row} == {*rows}
    assert [len(trained[f"K {k}"][0].split) for k in range(5, 40, 5)] == [*range(5, 40, 5)]
    assert list(trained["K 25"][0].split) == NAMES[:25] and list(trained["size"][0].split) != NAMES[:25]
    assert list(trained["score − mirror"][0].split) == NAMES[:-26:-1]
    smallest = [recon_ablations.sizes()[n] for n in trained["size"][0].split]
    assert max(smallest) == sorted(recon_ablations.sizes().values())[24]
    assert {row for row in trained if row.endswith("skip")} == {f"{n}, released skip" for n in SKIPS}
    first = ReconAblations().plan()
    assert {row[:4] for row in first} == {"sear", "log,", "rate"} and len(first["search, equal"]) == 2
    # The runs that choose the rate, and those of the released set, are those of the table: the store has them
    table = recon_table1.ReconTable1().networks([])["cagrad"]
    assert trained["plain"][0].method_options == table.method_options and trained["plain"][0].convention == "recon"


# --- the released skip connection


def built(builder, layers):
    torch.manual_seed(0)
    model = builder([10, 10], width=4)
    model = recon.split(model, layers, 2) if layers else model
    return copy.deepcopy(model).eval()


@pytest.mark.parametrize("name", ["released", *RANDOM, "FSK", "LSK"])
def test_the_released_skip_connection_fails_where_it_was_seen_to_fail(name):
    """Copies start equal, so both tasks' features must coincide; in the released code they do not for five sets."""
    layers, x = published_sets()[name], torch.randn(3, 1, 36, 36)
    ours, released = (built(builder, layers) for builder in (models.resnet18, resnet18_released_skip))
    first, second = ours.features(x)
    assert torch.equal(first, second)
    for _ in range(2):  # the second call too: nothing stays from the first
        one, two = released.features(x)
        assert torch.equal(one, first)
        assert torch.equal(two, second) is (name not in SKIPS)


def test_without_a_split_the_network_is_the_same():
    x = torch.randn(3, 1, 36, 36)
    ours, released = (built(builder, ()) for builder in (models.resnet18, resnet18_released_skip))
    assert torch.equal(ours.features(x), released.features(x))
    assert recon.candidate_layers(released) == NAMES


# --- what the records say


def test_distances_of_rankings():
    assert recon_ablations.rank_distance("abcd", "abcd") == 0 and recon_ablations.rank_distance("abcd", "bacd") == 0.5
    random = np.random.default_rng(0)
    many = [recon_ablations.rank_distance(NAMES, random.permutation(NAMES).tolist()) for _ in range(2000)]
    assert np.mean(many) == pytest.approx(recon_ablations.CHANCE, abs=0.1) and round(recon_ablations.CHANCE, 2) == 13.66


def test_tables_12_and_14_from_logs(all_records):
    search = next(r for r in all_records if r["row"] == "search, equal")
    apart = recon_ablations.by_quarters(search["conflict"])
    assert len(apart) == 10 and apart["2nd quarter", "1st quarter"] == 0
    assert apart["4th quarter", "3rd quarter"] == apart["3rd quarter", "1st quarter"] == pytest.approx(4 / 41)
    assert apart["all iterations", "1st quarter"] == 0
    apart = recon_ablations.by_methods(all_records)
    assert apart["CAGrad", "Joint"] == 0 and apart["MGDA", "GradDrop"] == pytest.approx(2 / 41) and len(apart) == 11
    assert apart["Joint", "Joint"] == 0
    from mtl_lab.claims import printed_tables

    for number, found in ((12, recon_ablations.by_quarters(search["conflict"])), (14, apart)):
        assert {(r["method"], r["variant"]) for r in printed_tables.table("recon", number)} <= {*found}


def test_reductions_of_conflict(all_records):
    by = recon_ablations.reductions(all_records)
    assert by["Joint"] == 0 and by["MGDA"] == pytest.approx(20) and by["Joint + Recon"] == pytest.approx(75)
    assert by["CAGrad, kept layers"] == pytest.approx(60) and by["RSL"] == pytest.approx(75)
    assert recon_ablations.reductions([]) == {}
    assert recon_ablations.step_seconds(all_records)["MGDA"] == 3.0


def test_differences_of_sets():
    random, base = np.random.default_rng(2), dict(zip(range(FIRST, FIRST + 3), (1.0, 2.0, 0.0), strict=True))
    names = [*RANDOM, *(f"{n}, released skip" for n in SKIPS), "FSK", "LSK", "K 5", "S 0", "size"]
    rows = {n: {s: x - 2 + 0.01 * random.standard_normal() for s, x in base.items()} for n in names}
    rows["released"] = base
    found = recon_ablations.drops(rows)
    assert {n: d.mean for n, d in found["Table 7"].items()} == pytest.approx(
        dict.fromkeys(found["Table 7"], 2), abs=0.1
    )
    assert len(found["Table 7"]) == 10 and {*found["Table 11"]} == {"FSK", "LSK", "LSK, released skip"}
    assert found["Figure 3, K"] == {}, "rows are missing"
    rows |= {f"K {k}": rows["K 5"] for k in range(5, 40, 5)}
    assert recon_ablations.drops(rows)["Figure 3, K"]["K 35"].mean == pytest.approx(-2, abs=0.1)


# --- claims


def write(found, name, root):
    records.write_lines(found, records.folder(name, "small", root) / "runs.jsonl")


def test_claims_on_logs_wait_for_the_last_run(all_records, tmp_path):
    assert recon_ablations.checks("surgery", root=tmp_path) == "needs runs: 0 of 13 here"
    logs = [r for r in all_records if r["row"][:3] in ("sea", "log")]
    write(logs[:-1], "recon_ablations", tmp_path)
    assert recon_ablations.checks("surgery", root=tmp_path) == "needs runs: 12 of 13 here"
    write(logs, "recon_ablations", tmp_path)
    for of, limit, holds in (("surgery", {}, True), ("halved", {"least": 50}, True), ("halved", {"least": 79}, False)):
        found = [c.holds for c in recon_ablations.checks(of, **limit, root=tmp_path)]
        assert len(found) == 5 and all(found) is holds
    assert all(c.holds for c in recon_ablations.checks("kept", root=tmp_path))
    assert len(recon_ablations.checks("quarters", most=3.4, root=tmp_path)) == 10
    assert [c.holds for c in recon_ablations.checks("methods", most=0.04, root=tmp_path)].count(False) == 4


def made_scores(monkeypatch, rows):
    for module in (recon_table1, recon_parts):
        monkeypatch.setattr(module, "scores", lambda found, profile="small", root=None: rows)


def test_claims_on_the_table_and_the_parts(monkeypatch, tmp_path):
    from test_recon_table1 import numbers, of_parts

    made_scores(monkeypatch, {})
    assert recon_table1.every_method("released", root=tmp_path) == "needs runs: 0 of 80 here"
    pairs = [["bmtas + ours", "bmtas"], ["pcgrad + ours", "single-task"]]
    assert recon_table1.of_pairs("recon_table1", pairs, 3, root=tmp_path) == "needs runs: 0 of 9 here"
    assert recon_parts.checks(tmp_path).startswith("needs runs: 0 of ")
    rows = numbers(dict.fromkeys(recon_table1.METHODS, 0.8) | {"mgda": -1.0, "sam_gs": 0.0})
    made_scores(monkeypatch, rows)
    holds = {c.text.split(":")[0]: c.holds for c in recon_table1.every_method("ours", root=tmp_path)}
    assert holds.pop("mgda") is False and holds.pop("sam_gs") is None and set(holds.values()) == {True}
    rows["bmtas + ours"] = {s: x + 1 + 0.01 * s for s, x in rows["bmtas"].items()}
    first, second = recon_table1.of_pairs("recon_table1", pairs, 3, root=tmp_path)
    assert first.holds is True and second.holds is not True and "single-task" in second.text
    shift = {"norm and conv, λ 0": 1.0, "worst five": 0.5, "PCGrad on 25": 0.4}
    for missing, expected in ((None, [True] * 3), ("worst five", [True, None, True])):
        made_scores(monkeypatch, of_parts(**{n: x for n, x in shift.items() if n != missing}))
        found = [c.holds for c in recon_parts.checks(tmp_path)]
        assert found == expected or missing and found[0] and found[2] and found[1] is not True


def test_which_explanation_survives():
    from test_recon_table1 import of_parts

    separation, layers, control = {"norm and conv, λ 0": 1.0}, {"worst five": 0.5}, {"PCGrad on 25": 0.4}
    size = {"norm and conv, λ 0": 0.8, "norm and conv, λ 1": 0.8}
    for shift, words in (
        (separation | layers | control, "survives is conflict"),
        (separation | control, "not shown to matter more where"),
        (separation | layers, "not shown to matter more where"),
        (size | layers | control, "survives is size"),
        ({"norm and conv, λ 0": 1.6, "norm and conv, λ 1": 0.8}, "statistics help too"),
        ({}, "No explanation"),
    ):
        assert words in recon_parts.survives(of_parts(**shift)), shift
    assert recon_parts.survives({}) == ""


def test_the_gain_is_placed_by_size():
    values = {FIRST: 1.0, FIRST + 1: 2.0}
    rows = {"plain": values, "norm, λ 0": {s: x + 0.5 for s, x in values.items()}, "worst five": values}
    rows |= {"cagrad, plain": values, "cagrad, norm": values, "PCGrad on 25, donor": values}
    found = [{"row": name, "parameters": {"all": 110 if "norm" in name else 100}} for name in rows]
    placed = recon_parts.gain_by_size(found, rows)
    assert placed == {"norm, λ 0": (1.1, 0.5, 0.5, 0.5), "cagrad, norm": (1.1, 0.0, 0.0, 0.0)}
    assert recon_parts.gain_by_size([], {}) == {}


# --- a tiny training


def test_it_trains_from_the_search_to_the_last_set(tmp_path, monkeypatch):
    monkeypatch.setenv("MTL_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(recon_ablations, "RATES", (0.05,))
    monkeypatch.setattr(recon_ablations, "METHODS", {"equal": "Joint"})
    kept = ("released", "LSK", "LSK, released skip", "K 5", "size", "search, equal", "log, equal", "rate, released")
    full = ReconAblations.plan
    monkeypatch.setattr(
        ReconAblations, "plan", lambda self, found=(): {n: r for n, r in full(self, found).items() if n in kept}
    )
    schedule = {"epochs": 1, "batch_size": 16, "learning_rate": 0.05, "decay": "cosine"}
    options = {"profile": "tiny", "train": 64, "validation": 32, "test": 32}
    settings = {"problem_options": options, "model_options": {"width": 4}, "schedule": schedule}
    monkeypatch.setitem(RECON, "tiny", settings)
    completion.complete_grid("recon_ablations", ReconAblations("tiny", 1), 1, tmp_path)
    found = records.load("recon_ablations", "tiny", tmp_path)
    assert {r["row"] for r in found} == {*kept} and {r["diverged"] for r in found} == {None}
    (search,) = (r["conflict"] for r in found if r["row"] == "search, equal" and r["config"]["seed"] == SEED)
    for s, scores in search["scores"].items():
        assert np.sum(search["quarters"][s], axis=0).tolist() == scores and len(search["quarters"][s]) == 4
    assert {"all", "restricted"} <= {*search}
    by_row = {r["row"]: r for r in found}
    assert by_row["LSK"]["final"] != by_row["LSK, released skip"]["final"]
    assert by_row["LSK"]["parameters"] == by_row["LSK, released skip"]["parameters"]
    assert [*recon_ablations.reductions(found)] == ["Joint + Recon", "Joint", "Joint, kept layers"]
