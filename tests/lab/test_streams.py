"""Procedures over independent streams: what they share, what a kill leaves, when test data are read, the verdict."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from mtl_lab import completion, experiments, queue, records
from mtl_lab.figures import plots
from mtl_lab.protocol import stream_verdict, streams
from mtl_lab.protocol.table import REFERENCE
from mtl_lab.statistics import streams as statistics
from mtl_lab.statistics.paired import paired_difference

sys.path.insert(0, str(records.CHECKOUT / "benchmarks"))
import stream_coverage

torch.set_num_threads(1)
PLANNED = {"qm9_searches": 20, "multi_fashion_mnist_searches": 10, "two_digits_searches": 5}  # smaller ones stand alone
ALL = {name: experiments.SEARCHES[name]("tiny") for name in PLANNED}


def test_the_plans_are_those_that_were_fixed():
    assert {name: table.streams for name, table in ALL.items()} == PLANNED
    assert {n: t.limits for n, t in ALL.items()} == {
        "qm9_searches": (2, 4), "multi_fashion_mnist_searches": (0.3, 0.5), "two_digits_searches": (2, 2)
    }  # fmt: skip
    assert [t.fresh for t in ALL.values()] == [True, False, False] and all(t.second_seeds for t in ALL.values())
    for name, table in ALL.items():
        assert table.name == name and table.shared()[0].name == REFERENCE
        assert all(len(table.configurations(row)) == 8 for row in table.searched())


@pytest.mark.parametrize("name", PLANNED)
def test_rows_of_a_stream_share_rates_and_no_two_streams_do(name):
    at = {s: replace(ALL[name], stream=s) for s in (0, 1, streams.OTHER_STREAMS)}
    shared = {}
    for s, table in at.items():
        pairs = [[(c["learning_rate"], c["weight_decay"]) for c in table.configurations(r)] for r in table.shared()]
        assert all(pair == pairs[0] for pair in pairs)
        shared[s] = {rate for rate, _ in pairs[0]}
    assert not (shared[0] & shared[1] or shared[0] & shared[streams.OTHER_STREAMS])
    own = at[0].configurations(at[0].row(REFERENCE))
    assert own != at[1].configurations(at[1].row(REFERENCE)) and len({json.dumps(c) for c in own}) == 8


def test_no_two_streams_share_a_seed():
    table, used = ALL["qm9_searches"], []
    for s in range(table.streams):
        searched = [seed for n in (s, s + 100) for seed in replace(table, stream=n).search_seeds()]
        evaluated = {run.seed for _, run in streams.evaluation(table, line(table, s))}
        assert len(evaluated) == (4 if s < 5 else 2)
        used += [*searched, *evaluated]
    assert len(used) == len(set(used))
    alone = range(streams.ALONE, streams.ALONE + 10)
    assert not set(used) & {*range(10), *range(200, 220), *range(4000, 4010), *alone}


def line(table, stream):
    choice = {"learning_rate": 0.01, "weight_decay": 0.0}
    weights = {"weights": [1.0] * len(table.singles())}
    rows = {r.name: {"choice": choice | (weights if r.method == "static" else {})} for r in table.searched()}
    return {"stream": stream, "rows": rows, "factors": {"broken_1": 0.5, "broken_3": 0.1}}


def test_broken_rows_weaken_half_of_the_tasks_in_the_choice_of_the_a_a_row():
    table = ALL["qm9_searches"]
    runs = {row: run for row, run in streams.evaluation(table, line(table, 7))}
    assert runs["static"].seed == 2007 and {runs[row].seed for row in ("a_a", "broken_1", "broken_3")} == {2107}
    assert runs["broken_1"].method_options["weights"] == [0.5] * 5 + [1.0] * 6
    assert runs["broken_3"] == replace(runs["a_a"], method_options={"weights": [0.1] * 5 + [1.0] * 6})


# --- a whole comparison on 350 molecules


class Killed(BaseException):
    """As a kill: nothing catches it."""


def small():
    """Two streams, of which one has a second seed; two rows and the controls."""
    table = ALL["qm9_searches"]
    rows = [r for r in table.rows if r.tasks is not None or r.name in ("static", "log_sum", "a_a", *streams.FAULTS)]
    schedule = {**table.base.schedule, "epochs": 1, "batch_size": 250}
    return replace(table, rows=rows, streams=2, base=replace(table.base, schedule=schedule))


def with_base_search(root, table):
    """search.json of the table that it extends, made up."""
    choice = {"learning_rate": 0.01, "weight_decay": 0.0}
    tasks = [row.name.removeprefix("single ") for row in table.singles()]
    entries = {row.name: {"choice": choice} for row in table.singles()}
    entries |= {"equal": {"choice": choice}, "static": {"choice": choice | {"weights": [1.0] * 11}}}
    zero = {task: {"loss": 0.5, f"MAE ({unit})": 50.0} for task, unit in units().items()}
    assert list(zero) == tasks
    file = records.folder("qm9", "tiny", root) / "search.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"rows": entries, "single_task_validation": zero}))


def units():
    from mtl_core.data import qm9

    return qm9.TARGETS


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(table, root) of a comparison that was trained at one go."""
    return small(), trained(tmp_path_factory.mktemp("whole"))


def shorten(patch):
    """One stream has a second seed; less preparation."""
    patch.setattr(streams, "REPEATED", 1)
    patch.setattr(streams, "FACTORS", (0.5, 0.1))
    patch.setattr(streams, "SEEDS", (0, 1))


def trained(root, stop=None):
    """Train in `root`; `stop` is the number of records after which each attempt is killed."""
    table = small()
    with_base_search(root / "results", table)
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        patch.setenv("MTL_RUNS", str(root / "runs"))
        if stop is not None:
            interrupt(patch, table, root / "results", stop)
        completion.complete_searches(table, 1, root / "results")
    return root / "results"


def interrupt(patch, table, root, stop):
    """Run and kill at every `stop`-th append or record, until it ends by itself."""
    from mtl_lab import files
    from mtl_lab.protocol import attempts

    count = iter(range(1, 10**6))

    def after(function):
        def wrapped(*arguments):
            function(*arguments)
            if next(count) % stop == 0:
                raise Killed

        return wrapped

    with pytest.MonkeyPatch.context() as killing:
        killing.setattr(records, "add", after(records.add))
        killing.setattr(attempts, "append_line", after(files.append_line))
        killing.setattr(streams, "append_line", after(files.append_line))
        kills = 0
        while True:
            try:
                completion.complete_searches(table, 1, root)
                break
            except Killed:
                kills += 1
    assert kills > 3


def comparable(root):
    """The files without what differs between two trainings of the same run: times and digests."""

    def plain(value):
        if isinstance(value, dict):
            left_out = (
                "provenance",
                "digest",
                "choices",
                "core_seconds",
                "seconds",
                "peak_memory",
                "finished",
                "commit",
            )
            return {k: plain(v) for k, v in value.items() if k not in left_out}
        return [plain(v) for v in value] if isinstance(value, list) else value

    folder = records.folder("qm9_searches", "tiny", root)
    return {f.name: [plain(one) for one in records.read_lines(f)] for f in sorted(folder.glob("*.jsonl"))}


def test_kills_anywhere_lose_and_double_nothing(finished, tmp_path):
    whole, killed = comparable(finished[1]), comparable(trained(tmp_path, stop=23))
    assert set(whole) == {"runs.jsonl", "streams.jsonl", "attempts.jsonl"}
    assert whole["streams.jsonl"] == killed["streams.jsonl"] and whole["runs.jsonl"] == killed["runs.jsonl"]
    assert whole["attempts.jsonl"] == killed["attempts.jsonl"]
    digest = {one["stream"]: one["digest"] for one in finished[0].lines(tmp_path / "results").values()}
    known = {one.get("choices") for one in records.load("qm9_searches", "tiny", tmp_path / "results")}
    assert known == {None, *digest.values()}


def test_what_is_recorded_is_what_the_rule_names(finished, monkeypatch):
    table, root = finished
    recorded = records.load(table.name, "tiny", root)
    rows = [record["row"] for record in recorded]
    assert rows.count("single mu") == rows.count("epochs × 2") == rows.count("weights × 0.5") == 2
    assert rows.count("static") == rows.count("broken_3") == 2 + 1
    for record in recorded:
        read = record["row"].startswith("single ") or record["row"] in [row.name for row in table.shared()]
        assert ("test" in record["final"]) == read == record["config"]["test"]
    stages = [attempt["stage"] for attempt in records.attempts(table.name, "tiny", root)]
    assert stages.count("search, short") == 2 * 3 * 8 and stages.count("search, full") == 2 * 3 * 2
    first = [stages.index(stage) for stage in ("preparation", "search, short", "search, full", "evaluation")]
    assert first == sorted(first)
    stream_of = [a["seed"] % 100 // (2 if a["stage"].startswith("search") else 1)
                 for a in records.attempts(table.name, "tiny", root) if a["stage"] != "preparation"]  # fmt: skip
    assert stream_of == sorted(stream_of), "stream by stream"
    shorten(monkeypatch)
    assert list(streams.lacks(table, root)) == []
    more = list(streams.lacks(replace(table, streams=3), root))
    assert len(more) == 3 * (8 + 2 + 1) + 2 and sum(share for _, share in more) == 3 * 5 + 2


def test_margin_and_doses_come_from_the_recorded_validation_data(finished):
    table, root = finished
    for one in table.lines(root).values():
        assert 2 <= one["margin"] <= 4 and set(one["factors"]) == set(streams.FAULTS)
    zero = {task: {"loss": 1.0, f"MAE ({unit})": 100.0} for task, unit in units().items()}

    def record(row, percent):
        values = {t: {m: v * (1 - percent / 100) for m, v in metrics.items()} for t, metrics in zero.items()}
        return {"row": row, "config": {"test": False}, "diverged": None, "final": {"validation": values}}

    made = [record("epochs × 1", -1.0), record("epochs × 2", 4.0), record("epochs × 2", 5.0)]
    made += [record("weights × 1", 3.0), record("weights × 0.8", 1.0), record("weights × 0.6", -0.5)]
    made += [record("weights × 0.4", -4.0), record("weights × 0.2", -30.0), record("weights × 0.05", -90.0)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams.committed, "needed_search", lambda *_: {"single_task_validation": zero})
        fixed = streams.settings(table, made, root)
        assert fixed["margin"] == pytest.approx(2.75) and fixed["factors"] == {"broken_1": 0.6, "broken_3": 0.4}
        made[1:3] = [record("epochs × 2", 40.0)]
        assert streams.settings(table, made, root)["margin"] == 4
        assert streams.settings(replace(table, limits=(2.0, 2.0)), [], root) == {"margin": 2.0, "factors": {}}


def test_choices_are_written_before_test_data_are_read_and_stay(finished, tmp_path, monkeypatch):
    table, root = finished
    file = records.folder(table.name, "tiny", root) / "streams.jsonl"
    text = file.read_text()
    try:
        lines = [json.loads(one) for one in text.splitlines()]
        lines[1]["rows"]["static"]["choice"]["learning_rate"] *= 2
        records.write_lines(lines, file)
        with pytest.raises(ValueError, match=r"streams \[1\]: choices do not fit their digest"):
            stream_verdict.compare(table, root)
        lines[1]["digest"] = records.key({**lines[1], "digest": ""})  # sealed again
        records.write_lines(lines, file)
        assert stream_verdict.compare(table, root) is None, "the records name the choices that were there before"
    finally:
        file.write_text(text)
    seen = []
    shorten(monkeypatch)
    monkeypatch.setattr(streams, "train", lambda runs, stage, *_: seen.append((stage, file.exists())) or {})
    assert streams.complete(table, 1, root) is None and all(exists for _, exists in seen)


def test_without_the_search_of_the_main_table_nothing_begins(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="qm9_searches takes rows of qm9, which has no search.json yet"):
        streams.preparation(ALL["qm9_searches"], tmp_path)
    monkeypatch.setattr(completion, "provenance", lambda: {"clean": False})
    said = completion.complete_searches(experiments.SEARCHES["qm9_searches"]("small"), 1, tmp_path)
    assert "nothing was trained" in said and not list(tmp_path.iterdir())


def test_the_queue_knows_what_the_committed_searches_lack():
    lacking = queue.lacks("two_digits_searches", "small", records.ROOT)
    assert {row for row, _ in lacking} <= {"static", "log_sum", "sam_gs"} and len(lacking) <= 5 * 3 * 12


# --- the verdict


def made_up(shift, seed_sd=0.0, seed=0):
    """A comparison of ten streams whose test metrics are made up; `shift`: row -> percent of each metric."""
    table = ALL["qm9_searches"]
    zero = {task: {"loss": 1.0, f"MAE ({unit})": 100.0} for task, unit in units().items()}
    random, values, again = np.random.default_rng(seed), {}, {}
    for row, percent in shift.items():
        for stream in range(10):
            for into, kept in ((values, True), (again, stream < 5)):
                gain = percent + seed_sd * random.standard_normal() if kept else None
                if kept:
                    test = {t: {m: v * (1 - gain / 100) for m, v in metrics.items()} for t, metrics in zero.items()}
                    into.setdefault(row, {})[stream] = stream_verdict.measures(table, test, zero)
    return stream_verdict.Comparison(table, 2.0, {}, values, again, {})


def test_a_shift_is_found_by_every_measure():
    found = made_up({"static": 0.0, "log_sum": 5.0, "equal": -5.0, "a_a": 0.0, "broken_1": -3.0}, seed_sd=0.3)
    assert {row: word for row, (_, word) in found.verdicts().items()} == {
        "log_sum": "better", "equal": "worse", "a_a": "equivalent", "broken_1": "worse"
    }  # fmt: skip
    assert set(found.by_measure("log_sum").values()) == {"better"} and len(found.by_measure("log_sum")) == 2 + 11
    assert found.sentence("log_sum") == "Sum of logs: better by Δm and by each metric."
    assert found.dominates("log_sum") and not found.dominates("equal") and not found.dominates("static")
    parts = found.variance("log_sum")["difference"]
    assert parts["seed"] == pytest.approx(0.3 * 2**0.5, rel=0.8) and parts["sd"] >= parts["search"]
    assert found.of("log_sum", stream_verdict.BETTER)[0] == 11


def test_bonferroni_counts_the_named_contrasts_and_no_control():
    found = made_up({"static": 0.0, "log_sum": 5.0, "equal": -5.0, "a_a": 0.0}, seed_sd=1.0)
    (wide, _), level = found.verdicts()["log_sum"], 1 - 0.05 / 2
    assert wide == paired_difference(found.of("log_sum"), found.of("static"), level)


def test_measures_by_hand_and_a_verdict_that_changes_with_the_metric():
    table, names = ALL["qm9_searches"], list(units())
    zero = {task: {"loss": 1.0, f"MAE ({unit})": 100.0} for task, unit in units().items()}
    test = {
        t: {m: v * (0.5 if t == "mu" else 2.0 if t == "U0" else 1.0) for m, v in ms.items()} for t, ms in zero.items()
    }
    found = stream_verdict.measures(table, test, zero)
    assert found["Δm"] == pytest.approx((50 - 100 / 4) / 8)
    assert found["mean log ratio"] == pytest.approx(100 * np.log(2) * (1 - 1 / 4) / 8)
    assert found["Δm without mu"] == pytest.approx(-100 / 4 / 7) and found["Δm without U0"] == pytest.approx(50 / 8)
    assert found["mu alone"] == pytest.approx(50) and found["U0 alone"] == pytest.approx(-100)
    assert found["tasks better"] == 1
    same = stream_verdict.measures(table, zero, zero)
    values = {"static": dict.fromkeys(range(3), same), "log_sum": dict.fromkeys(range(3), found)}
    said = stream_verdict.Comparison(table, 2.0, {}, values, {}, {}).sentence("log_sum")
    assert "better by Δm, but " in said and "worse by Δm without mu" in said and "changes with the metric" in said
    assert len(names) == 11


def test_a_whole_comparison_is_read_from_its_records(finished, monkeypatch):
    table, root = finished
    shorten(monkeypatch)
    found = stream_verdict.compare(table, root)
    assert set(found.first) == {"static", "log_sum", "a_a", *streams.FAULTS}
    assert {row: (list(found.first[row]), list(found.again[row])) for row in found.first} == {
        row: ([0, 1], [0]) for row in found.first
    }
    assert list(stream_verdict.whole_streams(table, root)) == [0, 1] == list(found.lines)
    assert set(found.verdicts()) == set(found.first) - {"static"} and len(found.best_of("static")) == 16
    file = records.folder(table.name, "tiny", root) / "runs.jsonl"
    text = file.read_text()
    try:
        kept = [r for r in records.read_lines(file) if (r["row"], r["config"]["seed"]) != ("log_sum", 2001)]
        records.write_lines(kept, file)
        assert stream_verdict.compare(table, root) is None, "a stream without one run is not whole"
        assert list(stream_verdict.whole_streams(table, root)) == [0]
    finally:
        file.write_text(text)


# --- statistics


def test_the_variance_splits_into_search_and_seed():
    random = np.random.default_rng(0)
    search, seeds = 3 * random.standard_normal(4000), random.standard_normal((2, 4000))
    first, second = ({s: float(x) for s, x in enumerate(search + e)} for e in seeds)
    parts = statistics.components(first, {s: second[s] for s in range(2000)})
    assert parts["seed"] == pytest.approx(1, rel=0.05) and parts["search"] == pytest.approx(3, rel=0.05)
    assert statistics.components({0: 1.0, 1: 1.0}, {0: 5.0})["search"] == 0


def test_tables_of_one_search_miss_what_varies_between_searches():
    random = np.random.default_rng(1)
    by_search = 2 + 4 * random.standard_normal(400)
    alone = statistics.single_searches(by_search + 0.5 * random.standard_normal(400), 0.5)
    assert alone["claims"] > 0.7 and alone["wrong"] > 0.15 and alone["misses"] > 0.7
    by_seed = statistics.single_searches(2 + random.standard_normal(400), 1.0)
    assert by_seed["misses"] == pytest.approx(0.05, abs=0.03) and by_seed["wrong"] < 0.02


def test_how_often_a_row_is_called_worse_grows_with_its_fault_and_with_the_streams():
    noise = np.random.default_rng(0).standard_normal(20)

    def share(fault, size, word="worse"):
        return statistics.share_worse(noise - noise.mean() - fault, 2.0, size, 0.95)[word]

    assert share(0.0, 20) == 0 and share(0.0, 5) < 0.1 and share(9.0, 20) == 1
    assert 0.05 < share(1.0, 3) < share(1.0, 10) < 1 == share(1.0, 20)
    assert share(1.0, 20, "beyond the margin") == 0 and share(4.0, 20, "beyond the margin") == 1
    assert statistics.share_worse(noise - 1.0, 2.0, 10, 0.995)["worse"] < share(1.0, 10)


def test_a_strip_of_streams_shows_both_levels_and_the_outcome():
    d = paired_difference([1.0, 2.0, 6.0], [0.0, 0.0, 0.0])
    rows = {"a": ([1.0, 2.0, 6.0], d, d.sd / 2, "cannot decide"), "b": ([3.0], d, 9.0, "worse")}
    (axis,) = plots.streams(rows, 2.0, "points").axes
    ends = [line.get_xdata() for line in axis.lines if len(line.get_xdata()) == 2 and line.get_ydata()[0] == -0.1]
    assert [float(x[1] - x[0]) for x in ends] == pytest.approx([d.high - d.low, (d.high - d.low) / 2])
    widest = [line.get_xdata() for line in axis.lines if line.get_ydata()[0] == 0.9 and len(line.get_xdata()) == 2]
    assert widest[0] == pytest.approx(widest[1]), "seeds alone are never wider than both"
    assert {"cannot decide", "worse"} <= {text.get_text() for text in axis.texts}


def test_the_planner_finds_the_fewest_streams():
    wanted = statistics.streams_needed(4.0, 1.0, 2.0)
    for streams_, enough in ((wanted, True), (wanted - 1, False)):
        d = np.array([-1.0, 1.0] * streams_)[:streams_]
        d = d * 17**0.5 / d.std(ddof=1)
        found = paired_difference(d, np.zeros(streams_))
        assert ((found.high - found.low) / 2 <= 2.0) == enough
    assert statistics.streams_needed(4.0, 1.0, 2.0, contrasts=9) > wanted
    assert statistics.streams_needed(1.0, 4.0, 2.0, seeds=4) < wanted == statistics.streams_needed(1.0, 4.0, 2.0)


def test_nested_streams_are_covered_and_shared_seeds_are_not():
    assert stream_coverage.coverage(10, 3.3, 1.0, 1.0, tables=4000) == pytest.approx(0.95, abs=0.015)
    assert stream_coverage.coverage(10, 0.5, 1.0, 1.0, nested=False, tables=2000) < 0.6


def test_the_committed_coverage_is_within_two_points():
    recorded = records.by_row("stream_coverage", "small")
    assert {row: r["coverage"] for row, r in recorded.items()} == pytest.approx(
        {r["row"]: r["coverage"] for r in stream_coverage.simulated()}, abs=0.002
    )
    assert all(abs(r["coverage"] - 0.95) < 0.02 for r in recorded.values() if r["nested"])
    assert all(r["provenance"]["commit"] for r in recorded.values())
