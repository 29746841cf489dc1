"""The protocol: equal budgets, paired seeds, what is fixed before the runs, and the search on the smallest problem."""

import json
import math
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch

from mtl_core import methods, recon
from mtl_core.data import qm9
from mtl_lab import completion, experiments, records
from mtl_lab.experiments import multi_fashion_mnist, sam_gs_ablation
from mtl_lab.files import Damaged, write_atomically
from mtl_lab.protocol import attempts, committed, completeness, evaluation
from mtl_lab.protocol.search import search
from mtl_lab.protocol.table import FULL_SEED, KEPT, SHORT_SEED, TRIED, Table
from mtl_lab.runs import build
from mtl_lab.runs.run import Run

torch.set_num_threads(1)
TABLE = experiments.TABLES["qm9"]("tiny")


@pytest.mark.parametrize("table", [make() for make in experiments.TABLES.values()], ids=list(experiments.TABLES))
def test_every_row_has_the_same_budget_inside_its_ranges(table):
    for row in table.searched():
        configurations = table.configurations(row)
        end, more = table.widened or (None, 0)
        assert len(configurations) == TRIED + more
        assert configurations == table.configurations(row), "the same ones every time"
        rates = np.array([choice["learning_rate"] for choice in configurations])
        rates, beyond = np.split(rates, [TRIED])
        assert (rates >= table.rate[0]).all() and (rates <= table.rate[1]).all()
        assert not more or ((beyond >= table.rate[1]) & (beyond <= end)).all()
        decades = np.log(rates / table.rate[0]) / np.log(table.rate[1] / table.rate[0])
        halves = np.histogram(decades, bins=2, range=(0, 1))[0]
        assert halves.tolist() == [4, 4], "a Sobol sequence fills both halves of the range alike"
        assert {choice["weight_decay"] for choice in configurations} <= set(table.decay)
        assert len(set(row.space)) <= 2 or "weights" in row.space, "at most two own parameters"
    assert table.rate[1] / table.rate[0] == pytest.approx(100), "two decades"
    assert TABLE.configurations(TABLE.row("mgda")) != TABLE.configurations(TABLE.row("pcgrad")), (
        "each row has a sequence of its own"
    )


def test_static_weights_are_drawn_from_the_simplex():
    weights = np.array([choice["weights"] for choice in TABLE.configurations(TABLE.row("static_random"))])
    assert weights.shape == (8, 11) and (weights > 0).all()
    np.testing.assert_allclose(weights.sum(1), 11, rtol=1e-4)
    assert weights.max() > 2 > 0.3 > weights.min()


def test_the_reference_family_holds_equal_weights_and_inverse_losses():
    losses = {task: {"loss": 0.5 + k} for k, task in enumerate(qm9.TARGETS)}
    row, inverse = TABLE.row("static"), 1 / (0.5 + np.arange(11))
    assert TABLE.resolve(row, {"power": 0.0}, None, losses)["weights"] == [1] * 11
    weights = TABLE.resolve(row, {"power": 1.0}, None, losses)["weights"]
    np.testing.assert_allclose(weights, inverse * 11 / inverse.sum(), rtol=1e-5)
    assert TABLE.resolve(row, {"power": 1.0}, None, dict(sorted(losses.items())))["weights"] == weights, "by name"
    run = TABLE.run(row, TABLE.resolve(row, {"power": 1.0, "learning_rate": 0.01}, None, losses), 0)
    assert set(run.method_options) == {"weights"}, "the power itself is no argument of the method"


def test_expected_runs_are_paired_but_for_the_a_a_row():
    losses = {task: {"loss": 1.0 + k} for k, task in enumerate(qm9.TARGETS)}
    choices = {row.name: TABLE.resolve(row, TABLE.configurations(row)[0], None, losses) for row in TABLE.searched()}
    expected = TABLE.expected(choices)
    assert {name: [r.seed for r in runs] for name, runs in expected.items() if name != "a_a"} == {
        row.name: list(range(10)) for row in TABLE.rows if row.name != "a_a"
    }
    assert [r.seed for r in expected["a_a"]] == list(range(200, 210))
    used = {SHORT_SEED, FULL_SEED}
    assert not used & {r.seed for runs in expected.values() for r in runs}, "search seeds are never evaluated"
    assert all(r.test for runs in expected.values() for r in runs)
    weights = [float(f"{w * 0.1:.6g}") if 1 <= k < 5 else w for k, w in enumerate(choices["static"]["weights"])]
    assert expected["broken"][0].method_options == {"weights": weights}, "and the method weakens task 0"
    assert expected["broken"][0].schedule == expected["static"][0].schedule
    assert len({r.identity for runs in expected.values() for r in runs}) == sum(map(len, expected.values()))


def test_a_record_keeps_the_identity_of_its_run():
    """Records are committed with six digits: 0.1 of a weight must have no more, or each would look edited."""
    table = experiments.TABLES["two_digits"]("tiny")
    weights = [0.81235, 0.7, 1.23457, 0.90001, 1.35307]
    assert 0.7 * 0.1 != 0.07
    choice = {"learning_rate": 2e-3, "weight_decay": 0.0, "weights": weights}
    expected = table.expected({row.name: choice for row in table.searched()}, 1)
    for name, (run,) in expected.items():
        again = Run.from_dict(records.rounded(json.loads(run.canonical())))
        assert again.identity == run.identity, name


def test_the_broken_row_is_the_reference_with_one_task_weakened():
    matrix = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    update = methods.make("broken", weights=[1.0, 2.0, 3.0])(matrix)
    torch.testing.assert_close(update, 0.1 * matrix[0] + 2 * matrix[1] + 3 * matrix[2])
    torch.testing.assert_close(methods.make("broken", task=2)(matrix), matrix[0] + matrix[1] + 0.1 * matrix[2])


def test_the_fault_of_the_digit_table_weakens_what_moves_its_delta_m():
    table = experiments.TABLES["two_digits"]("tiny")
    choice = {"learning_rate": 2e-3, "weight_decay": 0.0, "weights": [1.0, 2.0, 3.0, 4.0, 5.0]}
    (run,) = table.expected({row.name: choice for row in table.searched()}, 1)["broken"]
    weights = methods.make("broken", **run.method_options)(torch.eye(5))
    torch.testing.assert_close(weights, torch.tensor([1.0, 2.0, 3.0, 0.4, 0.5]))


def test_delta_m_joins_the_four_atomisation_energies():
    tasks = build.load_problem(TABLE.base).tasks
    one = {t.name: {m: 1.0 for m in t.metrics} for t in tasks}
    half = {name: {m: (0.5 if name == "U0" else 1.0) for m in values} for name, values in one.items()}
    assert TABLE.delta_m(half, one) == pytest.approx(100 * 0.5 / 4 / len(set(qm9.GROUPS)))
    assert TABLE.delta_m(one, one) == 0


def test_rates_at_the_edge_are_flagged():
    low, high = TABLE.rate
    row, middle = TABLE.row("equal"), (low * high) ** 0.5
    assert TABLE.at_edge(row, {"learning_rate": low * 1.2}) and TABLE.at_edge(row, {"learning_rate": high / 1.2})
    assert not TABLE.at_edge(row, {"learning_rate": middle})
    digits = experiments.TABLES["two_digits"]("tiny")
    for rate, edge in ((0.021, True), (0.2, False), (1.9, True)):  # the rotations' rate counts too
        assert digits.at_edge(digits.row("rotograd"), {"learning_rate": 2e-3, "rotation_rate": rate}) is edge


def test_a_widened_range_keeps_the_configurations_and_their_density():
    table = experiments.TABLES["multi_fashion_mnist"]("tiny")
    before, (end, more) = replace(table, widened=None), table.widened
    row = table.row("cagrad")
    assert (
        table.configurations(row)[:TRIED] == before.configurations(row)
        and len(table.configurations(row)) == TRIED + more
    )
    row = table.row("equal")
    assert not table.at_edge(row, {"learning_rate": 0.43}) and before.at_edge(row, {"learning_rate": 0.43})
    assert table.at_edge(row, {"learning_rate": 0.9 * end})
    low, high = table.rate
    density = TRIED / np.log(high / low)
    assert more / np.log(end / high) == pytest.approx(density, rel=0.2)


def test_recons_rows_split_what_they_say():
    table = experiments.TABLES["multi_fashion_mnist"]("tiny")
    model = build.build_model(table.base, build.load_problem(table.base))
    names = recon.candidate_layers(model)
    scores = {str(s): [len(names) - i for i in range(len(names))] for s in multi_fashion_mnist.THRESHOLDS}
    ranking = {"layers": names, "scores": scores}

    def split(row, **choice):
        return table.row(row).split(table, choice, ranking)

    assert split("recon_equal", threshold=-0.05, layers=10) == names[:10]
    norms = split("split_normalisation")
    assert len(norms) == 20 and all("bn" in n or n.endswith("downsample.1") for n in norms)
    convolutions = split("split_convolutions")
    assert convolutions and set(convolutions) < set(names[:25]) and not set(convolutions) & set(norms)
    size = {n: sum(p.numel() for p in model.trunk.get_submodule(n).parameters()) for n in names}
    chosen, wanted = split("split_random"), sum(size[n] for n in names[:25])
    assert sum(size[n] for n in chosen) >= wanted > sum(size[n] for n in chosen[:-1])
    run = table.run(table.row("recon_equal"), {"learning_rate": 0.1, "weight_decay": 0.0, "split": ["bn1"]}, 0)
    assert run.split == ["bn1"] and run.method_options == {}
    assert table.run(table.row("equal_twice"), {"learning_rate": 0.1}, 0).schedule["epochs"] == 4


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A search of three rows on 500 molecules."""
    root = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MTL_RUNS", str(root / "runs"))
        names = [row.name for row in TABLE.singles()] + ["static", "sam_gs", "a_a"]
        small = Table(**{**TABLE.__dict__, "rows": [r for r in TABLE.rows if r.name in names]})
        yield small, root, search(small, 1, root)


def test_a_kill_between_log_and_records_loses_no_line_and_doubles_none(tmp_path, monkeypatch):
    monkeypatch.setenv("MTL_RUNS", str(tmp_path / "runs"))
    run = TABLE.run(TABLE.row("equal"), {"learning_rate": 0.01, "weight_decay": 0.0}, 0, test=True)
    kept = []
    with pytest.raises(KeyboardInterrupt):
        attempts.train([run], "evaluation", tmp_path, 1, lambda record: (_ for _ in ()).throw(KeyboardInterrupt))
    assert len(records.read_lines(tmp_path / "attempts.jsonl")) == 1
    attempts.train([run], "evaluation", tmp_path, 1, kept.append)
    assert len(records.read_lines(tmp_path / "attempts.jsonl")) == len(kept) == 1


def test_the_search_keeps_its_budget_and_says_what_it_tried(searched):
    table, root, content = searched
    assert set(content["rows"]) == {row.name for row in table.searched()}
    for entry in content["rows"].values():
        assert len(entry["tried"]) == 8 and sum(t["full"] is not None for t in entry["tried"]) == 2
        full = [t for t in entry["tried"] if t["full"] is not None]
        assert entry["choice"] == max(full, key=lambda t: t["full"])["choice"]
        assert sorted(t["short"] for t in entry["tried"])[-2:] == sorted(t["short"] for t in full)
    assert set(content["single_task_validation"]) == set(qm9.TARGETS)
    log = records.attempts("qm9", "tiny", root)
    assert len(log) == 13 * (8 + 2) and {a["stage"] for a in log} == {"search, short", "search, full"}
    assert not any("test" in json.loads(f.read_text())["final"] for f in (root / "runs").rglob("*.json")), "unread"


def test_a_rate_at_the_edge_of_its_range_is_not_evaluated(searched, tmp_path, monkeypatch):
    table, _, content = searched
    monkeypatch.setattr(completion, "is_committed", lambda file: True)
    monkeypatch.setattr(completion, "evaluate", lambda *given: 0)
    file = tmp_path / "qm9" / "tiny" / "search.json"
    file.parent.mkdir(parents=True)
    for edge in (True, False):
        rows = {name: {**entry, "at_edge": edge and name == "static"} for name, entry in content["rows"].items()}
        file.write_text(json.dumps({**content, "rows": rows}))
        said = completion.complete_table(table, 1, 1, tmp_path)
        assert said.startswith("Nothing is evaluated") == edge and ("range for static. Widen" in said) == edge


def test_a_row_added_later_is_searched_alone(searched, tmp_path, monkeypatch):
    table, root, content = searched
    monkeypatch.setenv("MTL_RUNS", str(root / "runs"))
    old = {**content, "rows": {name: entry for name, entry in content["rows"].items() if name != "sam_gs"}}
    write_atomically(tmp_path / "qm9/tiny/search.json", json.dumps(old))
    assert "search.json is written" in completion.complete_table(table, 1, 1, tmp_path)
    new = committed.search_of(table, tmp_path)
    assert new["rows"] == {**content["rows"], "sam_gs": new["rows"]["sam_gs"]}
    assert new["provenance"] == old["provenance"]
    assert new["rows"]["sam_gs"]["choice"] == content["rows"]["sam_gs"]["choice"]
    assert {a["method"] for a in records.attempts("qm9", "tiny", tmp_path)} == {"sam_gs"}


def test_a_search_in_parts_ends_where_one_at_once_does(searched, tmp_path, monkeypatch):
    table, root, content = searched
    monkeypatch.setattr(
        completion, "is_committed", lambda file: pytest.fail("evaluation before the search is complete")
    )
    monkeypatch.setenv("MTL_RUNS", str(root / "runs"))
    summary = completion.complete_table(table, 1, 1, tmp_path, rows=["sam_gs"])
    assert summary.startswith("search.json is written and not yet complete.")
    assert summary.endswith("To be searched: static.")
    part = committed.search_of(table, tmp_path)
    assert set(part["rows"]) == set(content["rows"]) - {"static"} and part["single_task_validation"]
    assert completion.complete_table(table, 1, 1, tmp_path, rows=["static"]).startswith("search.json is written.")
    assert {**committed.search_of(table, tmp_path), "provenance": content["provenance"]} == content


def test_test_data_wait_for_a_committed_search(searched, monkeypatch):
    table, root, _ = searched
    git = ["git", "-C", str(root), "-c", "user.name=x", "-c", "user.email=x"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert "not committed" in completion.complete_table(table, 1, 1, root)
    assert not committed.load(table, root)
    subprocess.run([*git, "add", "qm9"], check=True)
    subprocess.run([*git, "commit", "-qm", "search"], check=True)
    assert completion.complete_table(table, 1, 1, root, rows=["static"]) == "1 records, 1 trained now."
    assert completion.complete_table(table, 1, 1, root, rows=["static"]) == "1 records, 0 trained now."
    (record,) = committed.load(table, root)
    assert record["row"] == "static" and set(record["final"]["test"]) == set(qm9.TARGETS)
    assert len(record["epochs"]["train_loss"]["mu"]) == 4
    (root / "qm9" / "tiny" / "search.json").write_text("{}")
    assert "not committed" in completion.complete_table(table, 1, 1, root)


def test_a_table_takes_over_rows_of_the_one_that_it_extends_and_trains_only_its_new_row(
    searched, tmp_path, monkeypatch
):
    """Single-task networks, reference and controls are neither searched nor trained again, nor written twice."""
    (table, base_root, search_of_base), root = searched, tmp_path
    monkeypatch.setenv("MTL_RUNS", str(base_root / "runs"))
    write_atomically(root / "qm9/tiny/search.json", json.dumps(search_of_base))
    monkeypatch.setitem(sam_gs_ablation.SETTINGS, "qm9", [(1.0, 0.99)])
    monkeypatch.setattr(completion, "is_committed", lambda file: True)
    extended, new_row = sam_gs_ablation.table(lambda profile: table, "tiny"), "gamma 1, beta2 0.99"
    assert [r.name for r in extended.rows] == [*(r.name for r in table.singles()), "static", "a_a", new_row]
    sentence = (
        "takes rows of qm9, which has no search.json yet: expected .*/qm9/tiny/search.json .* EXPERIMENT=qm9 PROFILE"
    )
    with pytest.raises(Damaged, match=sentence):
        search(extended, 1, root / "elsewhere")
    assert committed.load(extended, root) == [] and committed.search_of(extended, root) is None
    assert "search.json is written" in completion.complete_table(extended, 1, 1, root)
    written = json.loads((root / "qm9_sam_gs/tiny/search.json").read_text())
    completed = committed.search_of(extended, root)
    assert set(written["rows"]) == {new_row} and set(completed["rows"]) == {r.name for r in extended.searched()}
    assert written["single_task_validation"] == committed.search_of(table, root)["single_task_validation"]
    assert len(records.attempts("qm9_sam_gs", "tiny", root)) == 8 + 2
    evaluation.evaluate(table, 1, 1, root)
    assert completion.complete_table(extended, 1, 1, root).endswith("1 trained now.")
    lines = (root / "qm9_sam_gs/tiny/runs.jsonl").read_text().splitlines()
    assert [json.loads(line)["row"] for line in lines] == [new_row]
    loaded = committed.load(extended, root)
    assert {r["row"] for r in loaded} == {r.name for r in extended.rows}
    assert not any(completeness.check(extended, loaded, completed, 1).values())


@pytest.mark.parametrize("name", [name for name, make in experiments.TABLES.items() if committed.search_of(make())])
def test_committed_searches_tried_the_configurations_of_the_rule(name):
    """search.json lists the configurations that the code makes today, in their order; the best two of the short runs,
    no others, trained at full length."""
    table, search = experiments.TABLES[name]("small"), committed.search_of(experiments.TABLES[name]("small"))
    for row in [row for row in table.searched() if not table.takes_over(row.name)]:
        tried, configurations = search["rows"][row.name]["tried"], table.configurations(row)
        assert len(tried) == len(configurations), row.name
        for entry, configuration in zip(tried, configurations, strict=True):
            searched = {key: entry["choice"][key] for key in configuration}  # without what follows: layers, weights
            assert records.rounded(searched) == records.rounded(configuration), row.name
        short = [-math.inf if entry["short"] is None else entry["short"] for entry in tried]
        trained = [score for score, entry in zip(short, tried, strict=True) if entry["full"] is not None]
        assert sorted(trained) == sorted(short)[-KEPT:], row.name
