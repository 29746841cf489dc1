"""The dense tables: what is planned, what made-up records say, a rehearsal of each set on a few made-up images."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up_data import ROOTS

from mtl_core.training import Schedule
from mtl_lab import completion, experiments, records
from mtl_lab.claims import printed_tables
from mtl_lab.experiments import (
    dense_conflict,
    dense_gains,
    dense_pages,
    dense_runs,
    dense_scenes,
    dense_step,
    dense_tables,
)
from mtl_lab.experiments.dense_scenes import CONTRASTS, EVALUATIONS, KINDS, ROWS, STREAMS, DenseScenes
from mtl_lab.experiments.dense_tables import PUBLISHED, TASKS, UP
from mtl_lab.figures import plots
from mtl_lab.runs import build, checkpoints, execute
from mtl_lab.runs.store import Store

PRINTED = {n: dense_pages.lines(printed_tables.table(p.paper, p.table)) for n, p in PUBLISHED.items()}


@pytest.fixture(autouse=True)
def no_data(monkeypatch, tmp_path):
    """A folder of data sets that is empty until a test fills it."""
    monkeypatch.setenv("MTL_DATA", str(tmp_path / "data"))
    build._problem.cache_clear()
    yield tmp_path / "data"
    build._problem.cache_clear()


def record(row, run, value=0.5, **source):
    """A record as its file has it: layers are worst first, and two later in each quarter of the run, but the last."""
    tasks = KINDS[run.problem_options["kind"]] if run.problem == "scenes" else TASKS[run.problem]
    named = [tasks[k] for k in run.tasks] if run.tasks is not None else tasks
    of = {task: {"loss": 0.3 + len(task)} | dict.fromkeys(UP[task], value) for task in named}
    made = {"row": row, "identity": run.identity, "config": json.loads(run.canonical()), "diverged": None}
    made["final"] = {"validation": of} | ({"test": of} if run.test else {})
    made["epochs"] = {"validation": {t: {m: [9.0] * 5 + [v] * 10 for m, v in o.items()} for t, o in of.items()}}
    if run.observe is not None and run.observe != {}:
        names = layers_of(run)
        turned = [[-((place + by) % len(names)) for place in range(len(names))] for by in (2, 4, 6, 6, 6)]
        (threshold,) = map(str, run.observe["thresholds"])
        made["conflict"] = {
            "layers": names,
            "scores": {threshold: turned[-1] if run.test else [*range(len(names), 0, -1)]},
        }
        if run.observe.get("quarters"):
            made["conflict"] |= {"quarters": {threshold: turned[:4]}, "restricted": {"histogram": KEPT}}
    if run.observe is not None:
        made.setdefault("conflict", {})["all"] = {"histogram": SPLIT if run.split else WHOLE}
    return made | {"source": {"synthetic": False, "complete": True} | source}


# Cosines below -0.02 and from there to -0.04, out of a hundred: a split makes the ones below -0.02 fewer
WHOLE, KEPT = {"919": 40, "960": 5, "979": 5, "1000": 50}, {"919": 20, "960": 5, "1000": 75}
SPLIT = {"970": 5, "980": 95}


def layers_of(run):
    """The layers that a search scores, of scenes some."""
    return [f"layer{n}" for n in range(99)] if run.problem == "scenes" else [*dense_conflict.sizes(run.model)]


def filled(grid, value=lambda row: 0.5, **source):
    """The records of a grid, planned until nothing is missing."""
    found = []
    while missing := completion.missing_of_grid(grid, found).values():
        found += [record(row, run, value(row), **source) for row, run in missing]
    return found


# --- what is planned


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_settings_are_planned(name):
    published = PUBLISHED[name]
    plan = experiments.GRIDS[name](profile="paper", seeds=3)
    rows = plan.plan(filled(plan))
    runs = [run for row, of in rows.items() for run in of if row != "search"]
    assert {run.problem for run in runs} == {published.data}
    assert {json.dumps(run.schedule) for run in runs} == {json.dumps(published.schedule)}
    assert not {"width"} & {option for run in runs for option in run.model_options}, "the published width"
    (searched,) = rows.get("search") or [None]
    logged = [row for row, of in rows.items() if row != "search" and any(run.observe is not None for run in of)]
    further = {row for row in rows if row.endswith(("RSL", "RSP")) or "layers of" in row}
    ours = {dense_pages.row_of(published, *line) for line in PRINTED[name]} - {None, "single"}
    starred = {row for row in ours if row.endswith("*")}  # wait for the other table's search
    assert ours - starred == {row for row in {*rows} - further if row != "search" and not row.startswith("single ")}
    assert all(len(of) == (1 if row.endswith(("RSL", "RSP")) else 3) for row, of in rows.items() if row != "search")
    assert bool(further) is bool(published.cosines) and bool(logged) is (published.threshold is not None)
    assert all([r.observe is None for r in rows[row]] == [False, True, True][: len(rows[row])] for row in logged)
    if published.threshold is not None:
        names = layers_of(searched)
        (split,) = {tuple(run.split) for row in {*rows} - further for run in rows[row] if run.split}
        assert split == tuple(names[: published.layers])
        kept = {tuple(r.observe["restrict"]) for row in logged for r in rows[row] if r.observe}
        assert kept == {tuple(names[published.layers :])}
        assert rows["search"][0].schedule["epochs"] == published.searched and not rows["search"][0].test


def test_adam_is_halved_after_a_hundred_epochs():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer, scheduler = Schedule(**PUBLISHED["recon_table3"].schedule).make([weight])
    rates = []
    for _ in range(200):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([5e-5] * 100 + [2.5e-5] * 100)


def test_the_layers_of_another_set_come_from_results_on_all_of_it(tmp_path, monkeypatch):
    plan, other = (experiments.GRIDS[n](profile="paper") for n in ("recon_table15", "recon_table3"))
    search = other.search()
    for complete, there in ((False, False), (True, True)):
        line = record("search", search, complete=complete)
        line["conflict"]["layers"] = layers_of(search)[::-1]
        monkeypatch.setattr(records, "load", lambda *_, line=line: [line])
        rows = plan.plan([])
        assert ("equal + Recon*" in rows) == there
    assert rows["equal + Recon*"][0].split == layers_of(search)[:-41:-1]


# --- what a page says of records


@pytest.mark.parametrize("name", [n for n in PUBLISHED if n != "rotograd_table3"])
def test_printed_changes_follow_from_printed_digits(name):
    table, sign = PRINTED[name], -1 if PUBLISHED[name].paper == "sam_gs" else 1
    again = dense_pages.recomputed(table, sign > 0)
    gaps = [abs(sign * again[line][0] - of["", "delta_m"]["value"]) for line, of in table.items() if line in again]
    assert np.median(gaps) < (0.6 if name == "recon_table5" else 0.2)  # the column of that table is off by a constant


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith("recon")])
def test_the_parts_of_a_gain_add_up_to_it(name):
    table = PRINTED[name]
    again = dense_pages.recomputed(table)
    by_task, by_metric = dense_gains.parts(table), dense_gains.parts(table, TASKS[PUBLISHED[name].data])
    assert len(by_task) == sum(bool(variant) and (method, "") in table for method, variant in table) > 4
    for label, of in by_task.items():
        method, _, variant = label.partition(", ")
        gain = again[method, variant or "Recon"][0] - again[method, ""][0]
        assert sum(of.values()) == pytest.approx(gain) and sum(by_metric[label].values()) == pytest.approx(gain)
        assert len(of) == len(TASKS[PUBLISHED[name].data])
    delta = {key: line["", "delta_m"]["value"] for key, line in table.items() if ("", "delta_m") in line}
    for label, gain in dense_gains.in_all(table).items():
        method, _, variant = label.partition(", ")
        assert gain == delta[method, variant or "Recon"] - delta[method, ""]


def test_what_most_gains_consist_of_is_said_and_a_bar_shows_each_part():
    panels = {
        "Table 3": {"A": {"x": 2.0, "y, one": 1.0, "y, other": 0.5}, "B": {"x": -1.0, "y, one": 3.0, "y, other": 0.0}}
    }
    panels["Table 4"] = {"C": {"x": 0.0, "y, one": 0.4, "y, other": 0.5}}
    assert "adds is y**, in 2 of 3 comparisons" in dense_gains.largest(panels)
    totals = {"Table 3": {"A": 3.4, "B": 2.0}, "Table 4": {"C": 0.9}}  # as printed, which need not be the sum
    first, second = dense_gains.figure(panels, ["red", "green", "blue"], totals).axes
    bars = [(bar.get_x(), bar.get_width()) for bar in first.patches]
    assert bars[:5] == [(0, 2), (2, 1), (3, 0.5), (0, -1), (0, 3)], "losses to the left of zero, gains end to end"
    assert [text.get_text().strip() for text in first.texts] == ["+3.4", "+2.0"] and len(second.patches) == 3


def test_columns_of_ours_are_left_out_until_there_is_one():
    head, lines = ["", "mIoU", "Δm", "ours", "needs"], [["Joint", "1.0 / –", "2.0", "–", "CityScapes, 3 runs"]]
    assert dense_gains.printed_alone(head, lines) == (["", "mIoU", "Δm"], [["Joint", "1.0", "2.0"]])
    lines.append(["MGDA", "1.0 / 1.1", "2.0", "2.1", "nothing, 3 seeds"])
    assert dense_gains.printed_alone(head, lines) == (head, lines)


def test_what_tables_cost_has_a_line_for_each():
    (line, other) = dense_gains.costs(["recon_table3", "recon_table16"], 3.45)
    assert line[0] == "3, 8, 13" and line[1] == "CityScapes" and "EXPERIMENT=recon_table3" in line[3]
    assert int(other[2].replace(",", "")) > int(line[2].replace(",", "")) > 10


def test_mean_ranks_follow_from_printed_digits():
    for name in ("sam_gs_table1", "sam_gs_table2"):
        again = dense_pages.recomputed(PRINTED[name], False)
        assert all(
            abs(rank - PRINTED[name][line]["", "mean rank"]["value"]) < 0.85 for line, (_, rank) in again.items()
        )


@pytest.mark.parametrize("name", PUBLISHED)
def test_verdicts_switch_once_all_seeds_on_the_whole_set_are_here(name, tmp_path):
    published, table = PUBLISHED[name], PRINTED[name]
    plan = experiments.GRIDS[name](profile="paper", seeds=3)
    rows = {row for row in plan.plan(filled(plan)) if not row.startswith(("search", "single"))}
    better, found = {"sam_gs": "sam_gs", "rotograd": "rotograd"}.get(published.paper), filled(plan)
    for n, line in enumerate(found):
        good = line["row"] == better or (better is None and "+ Recon" in line["row"])
        tests = line["final"].get("test", {})
        for of in [tests] + [line["epochs"]["validation"]] * (published.last > 1):
            for task, metrics in of.items():
                for metric, up in UP[task].items():
                    new = 0.5 + (0.1 if up else -0.1) * good + 1e-4 * (n % 3)
                    metrics[metric] = [new] * 15 if isinstance(metrics[metric], list) else new
    pairs = [
        (a, b)
        for a in table
        for b in table
        if a != b and dense_pages.row_of(published, *b) in rows and dense_pages.row_of(published, *a) in rows
    ]
    good = [row for row in rows if row == better or (better is None and row.endswith("+ Recon"))]
    pairs = [p for p in pairs if dense_pages.row_of(published, *p[0]) in good]
    pairs = [p for p in pairs if dense_pages.row_of(published, *p[1]) not in good]
    assert pairs
    said = dense_pages.verdicts(name, table, found, pairs)
    assert {word.split(":")[0] for _, _, word in said} <= {"agrees", "disagrees"}
    for _, stated, word in said:
        assert word.startswith("agrees" if float(stated) > 0 else "disagrees")
    fewer = [line for line in found if line["config"]["seed"] < 2 or line["row"] == "search"]
    assert {w.split(":")[0] for *_, w in dense_pages.verdicts(name, table, fewer, pairs)} == {"open"}
    assert not dense_pages.real(name, tmp_path)
    file = records.folder(name, "paper", tmp_path) / "runs.jsonl"
    records.write_lines(
        [*found[:3], *(r | {"source": {"synthetic": False, "complete": False}} for r in found[3:])], file
    )
    assert len(dense_pages.real(name, tmp_path)) == 3, "runs on a part of a set stand in no row"
    head, lines = dense_pages.beside(name, table, found, 3.45, tmp_path)
    assert {len(line) for line in lines} == {len(head)} and len(lines) == len(table)


@pytest.mark.parametrize("name, of, against", [
    ("recon_table3", "Recon", None), ("recon_table4", "Recon", None), ("recon_table5", "Recon", None),
    ("rotograd_table3", "rotograd", "equal"),
])  # fmt: skip
def test_the_ledgers_claims_wait_and_then_are_judged(name, of, against, tmp_path):
    rule = experiments.RULES["dense pairs"]
    assert rule(name, of, 3, against, root=tmp_path).startswith("0 of 3 seeds")
    plan = experiments.GRIDS[name](profile="paper", seeds=3)
    found = filled(plan)
    for n, line in enumerate(found):
        for task, metrics in line["final"].get("test", {}).items():
            good = line["row"].endswith("+ Recon") or line["row"] == "rotograd"
            metrics |= {m: 0.5 + (0.1 if up else -0.1) * good + 1e-4 * (n % 3) for m, up in UP[task].items()}
    file = records.folder(name, "paper", tmp_path) / "runs.jsonl"
    for better in (True, False):
        if not better:
            for line in found:
                for task, metrics in line["final"].get("test", {}).items():
                    metrics |= {m: 1 - metrics[m] for m in UP[task]}
        records.write_lines(found, file)
        checks = rule(name, of, 3, against, root=tmp_path)
        assert {check.holds for check in checks} == {better}
        assert len(checks) == (1 if against else 5)


def test_the_last_ten_epochs_are_averaged_where_the_paper_does():
    plan = experiments.GRIDS["sam_gs_table1"](profile="paper", seeds=1)
    line = record("equal", plan.plan([])["equal"][0])
    assert dense_pages.tested(line, 10)["depth"]["absolute error"] == 0.5
    assert dense_pages.tested(line, 15)["depth"]["absolute error"] == pytest.approx((5 * 9 + 10 * 0.5) / 15)


def test_the_cost_follows_the_measured_step(tmp_path):
    assert dense_step.hours(dense_step.planned("recon_table3"), 3.45, tmp_path) is None
    dense_step.write({n: {"forward": [1.0], "gradient": [3.0]} for n in dense_step.MEASURED}, tmp_path)
    base = experiments.GRIDS["rotograd_table3"](profile="paper").base
    core, gpu = dense_step.hours([base], 3.45, tmp_path)
    pixels = 288 * 384 / (128 * 256)
    assert core == pytest.approx(pixels * (200 * 795 * 3 + 201 * 654) / 3600)
    assert gpu == pytest.approx(3.45)
    each, split = replace(base, method="cagrad"), replace(base, split=["x"])
    steps = dense_step.load(tmp_path)
    ratio = [
        (dense_step.core_seconds(r, steps) - pixels * 201 * 654 * f) / 200 / 795 / pixels
        for r, f in ((each, 1), (split, 3))
    ]
    assert ratio == pytest.approx([1 + 3 * 2, 3 * 3])


# --- the cosines that runs log, and the layers of each quarter of a run


def test_layers_of_each_quarter_are_trained_where_they_differ():
    plan = experiments.GRIDS["recon_table3"](profile="paper", seeds=3)
    found, names = filled(plan), layers_of(plan.search())
    rows, first = plan.plan(found), dense_conflict.row_of_quarter
    assert [row for row in rows if "layers of" in row] == [first(name) for name in dense_conflict.TRAINED]
    for name, by in zip(dense_conflict.TRAINED, (2, 4, 6), strict=True):
        assert {*rows[first(name)][0].split} == {*(names[-by:] + names[: 40 - by])}
    log = next(line["conflict"] for line in found if line["row"] == "equal" and line["config"]["seed"] == 0)
    log["quarters"]["0.0"] = [log["scores"]["0.0"], [*range(52, 0, -1)], *log["quarters"]["0.0"][2:]]
    again = [row for row in plan.plan(found) if "layers of" in row]
    assert again == [first("1st 25 %")], "the second has the search's layers, and all iterations the first's"


def test_random_layers_are_as_many_or_as_large_as_recons():
    plan = experiments.GRIDS["recon_table4"](profile="paper", seeds=3)
    rows, sizes = plan.plan(filled(plan)), dense_conflict.sizes("mobilenet_raspp")
    count, large, ours = (
        [sizes[n] for n in rows[f"equal + {end}"][0].split] for end in ("RSL", "RSP", "Recon")
    )  # fmt: skip
    assert len(count) == len(ours) == 85 and sum(large[:-1]) <= sum(ours) < sum(large)
    assert not any(run.test for end in ("RSL", "RSP") for run in rows[f"equal + {end}"])


@pytest.mark.parametrize("name", ["recon_table3", "recon_table4", "recon_table5"])
def test_printed_cosines_stand_beside_ours(name, tmp_path):
    table, published = dense_pages.lines(printed_tables.table("recon", PUBLISHED[name].cosines)), PUBLISHED[name]
    for line in table.values():
        if any(metric.startswith("reduction") for _, metric in line):
            assert np.diff(dense_conflict.recomputed(line, table["Joint", ""])) == pytest.approx(0, abs=0.05)
    plan = experiments.GRIDS[name](profile="paper", seeds=3)
    for found in ([], filled(plan)):
        head, lines = dense_runs.cosines(name, table, found, 3.45, tmp_path)
        by = {line[0]: dict(zip(head, line, strict=True)) for line in lines}
        shown = "".join(cell for line in lines for cell in line).replace("−", "-")
        assert all(row["printed"] in shown for line in table.values() for row in line.values()) and len(by) == 12
        assert {line["needs"] for line in by.values()} == (
            {"nothing, 1 run"} if found else {f"{dense_tables.TITLES[published.data]}, 1 run"}
        )
        rarer = next(title for title in head if title.startswith("rarer below"))
        if not found:
            assert all(cell[-1] in "–" for line in lines for cell in line[1:-1] if cell)
            continue
        joint, split = by["Joint"], by["CAGrad + Recon"]
        assert [joint[bin].split(" / ")[1] for bin in ("[1, 0)", "(−0.02, −0.04]", "(−0.08, −1]")] == [
            "50.00", "10.00", "40.00"
        ]  # fmt: skip
        of_print = {"-0.02": ("90.00", "50.00"), "-0.04": ("100.00", "50.00")}[rarer[-5:].replace("−", "-")]
        assert (split[rarer].split(" / ")[1], joint["rarer, kept layers"]) == of_print
        part = [line for line in found if line["row"] != "cagrad + Recon"]
        again = {line[0]: line[-1] for line in dense_runs.cosines(name, table, part, 3.45, tmp_path)[1]}
        assert again.pop("CAGrad + Recon") != "nothing, 1 run" and {*again.values()} == {"nothing, 1 run"}


def test_layers_by_quarter_stand_beside_print_and_equal_sets_share_their_runs(tmp_path):
    plan = experiments.GRIDS["recon_table3"](profile="paper", seeds=3)
    needs, table = {}, dense_pages.lines(printed_tables.table("recon", 13))
    for found in ([], filled(plan)):
        head, lines = dense_runs.quarters("recon_table3", table, found, 3.45, tmp_path)
        needs[bool(found)] = [line[-1] for line in lines]
        assert len(lines) == 6 and all(line[1].endswith("/ –") is not bool(found) for line in lines)
    assert needs[True] == ["nothing, 3 seeds"] * 6
    assert needs[False][3:5] == ["nothing, if its layers are those of all iterations"] * 2


def test_the_figure_has_a_line_for_each_printed_column_and_each_log():
    plan = experiments.GRIDS["recon_table3"]("paper", 1, ("equal", "cagrad"))
    found = filled(plan, counts={"train": 96})
    table = dense_pages.lines(printed_tables.table("recon", 8))
    above, below = dense_runs.cosine_figure(plan, found, "recon_table3", table, plots.COLOURS).axes
    assert len(above.patches) == 12 and len(below.patches) == 8  # ours: two methods of three kinds, and random layers
    assert {text.get_text() for text in above.texts} == {"without Recon", "with Recon", "RSL", "RSP"}
    assert {text.get_text() for text in below.texts} == {"without Recon", "with Recon", "RSL", "RSP", "kept layers"}
    drawn = [tuple(map(round, patch.get_data().values)) for patch in below.patches]
    assert [drawn.count(of) for of in ((0, 10, 0, 0, 40), (0, 5, 0, 0, 20), (95, 5, 0, 0, 0))] == [2, 2, 4]
    assert "100 cosines a line" in below.get_title(loc="left")


# --- synthetic scenes


@pytest.fixture(scope="module")
def streams():
    return DenseScenes(), filled(DenseScenes(), lambda row: 0.9 if "equal" in row and "Recon" not in row else 0.5)


def test_three_streams_are_planned_to_the_end(streams):
    plan, found = streams
    rows = plan.plan(found)
    assert dense_scenes.counted(found) == f"{len(found)} of {len(found)}"
    for kind in KINDS:
        for stream in range(STREAMS):
            for row in ROWS:
                runs = rows[f"{kind}, {stream}, {row}"]
                assert [run.seed for run in runs] == [EVALUATIONS * stream + n for n in range(EVALUATIONS)]
                assert all(run.test and run.schedule["epochs"] == 2 for run in runs)
    weights = rows["indoor, 0, static"][0].method_options["weights"]
    assert len(weights) == 3 and sum(weights) == pytest.approx(3, rel=1e-4)
    assert len(rows["street, 1, cagrad + Recon"][0].split) == dense_scenes.LAYERS
    assert not any(run.test for row, of in rows.items() if ", try" in row or "search" in row for run in of)


def test_the_best_rate_of_the_validation_data_is_taken():
    plan, found = DenseScenes(seeds=1), []
    rows = plan.plan([])
    values = {0.001: 0.4, 0.003: 0.6, 0.01: 0.5}
    for row, runs in rows.items():
        found += [record(row, run, values[run.schedule["learning_rate"]]) for run in runs]
    for line in found:  # errors are best where accuracies are
        for task, metrics in line["final"]["validation"].items():
            metrics |= {m: 1 - metrics[m] for m, up in UP[task].items() if not up}
    assert plan.plan(found)["indoor, 0, equal"][0].schedule["learning_rate"] == 0.003
    found[4]["diverged"] = None
    for line in found:
        if line["config"]["schedule"]["learning_rate"] == 0.003:
            line["diverged"] = {"epoch": 0}
    assert plan.plan(found)["indoor, 0, equal"][0].schedule["learning_rate"] == 0.01


def test_the_rule_says_what_the_records_hold(streams):
    plan, found = streams
    for line in found:  # depth alone decides: lower is better, so 0.9 is worse there
        for of in line["final"].values():
            for task in of:
                of[task] |= {m: 0.5 for m in UP[task] if task != "depth"}
    rows = dense_scenes.scores(found, "indoor")
    words = {name: word for name, (_, word) in dense_scenes.contrasts(rows).items()}
    assert len(words) == sum(map(len, CONTRASTS.values()))
    assert words["H1: equal − single-task"] == "worse" and words["H2: log_sum − equal"] == "better"
    assert words["H4: cagrad − static"] == "equivalent"
    part = [line for line in found if line["row"] != "indoor, 2, static"]
    assert dense_scenes.contrasts(dense_scenes.scores(part, "indoor")) == {}


# --- the real run, rehearsed on a few made-up images in the true format


@pytest.fixture
def rehearsal(monkeypatch, no_data):
    """Function of a data set -> the plan of its table for one method, narrow, two epochs; it makes the files."""

    def made(data):
        name = {"cityscapes": "recon_table3", "nyuv2": "recon_table15", "pascal": "recon_table4"}[data]
        ROOTS[data](no_data)
        kind, published = experiments.GRIDS[name], PUBLISHED[name]
        short = replace(published, schedule={**published.schedule, "epochs": 2}, searched=1)
        monkeypatch.setattr(kind, "published", short)
        monkeypatch.setattr(kind, "network", lambda self, name: {"width": 0.25 if name == "mobilenet_raspp" else 2})
        return name, kind(profile="paper", seeds=1, methods=("cagrad",), own={"size": 64} if data == "pascal" else {})

    return made


@pytest.mark.parametrize("data", TASKS)
def test_the_real_run_goes_on_after_a_kill_and_writes_the_line_of_the_table(data, rehearsal, tmp_path, monkeypatch):
    name, plan = rehearsal(data)
    monkeypatch.setenv("MTL_RUNS", str(tmp_path / "runs"))
    assert plan.base.problem_options["train"] == len(build.load_problem(plan.base).train), "a part of the set is named"
    written, write = [], checkpoints.write

    def killed(state, path):
        write(state, path)
        written.append(path)
        if len(written) == 2:  # the search is whole, and of the first run one epoch of two
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        completion.complete_grid(name, plan, root=tmp_path)
    assert [line["row"] for line in records.load(name, "paper", tmp_path)] == ["search"]
    monkeypatch.setattr(checkpoints, "write", write)
    completion.complete_grid(name, plan, root=tmp_path)
    found = records.load(name, "paper", tmp_path)
    assert {line["row"] for line in found} == {
        "search", "cagrad", "cagrad + Recon", *(f"single {task}" for task in TASKS[data])
    }  # fmt: skip
    assert not any(line["diverged"] for line in found) and not any(map(dense_tables.whole, found))
    resumed = next(line for line in found if line["row"] == f"single {TASKS[data][0]}")
    run = next(r for r in plan.plan(found)[resumed["row"]])
    fresh = records.compact(execute.execute(run, Store(tmp_path / "other")), resumed["row"])
    assert fresh["final"] == resumed["final"], "as if it had never been killed"
    table = PRINTED[name]
    mine = dense_pages.measured(found, table, 1)
    assert list(mine.rows["cagrad + Recon"]) == [0] and np.isfinite(mine.delta("cagrad + Recon")[0])
    ours = dense_pages.beside(name, table, found, 3.45, tmp_path)[1]
    line = next(line for line in ours if line[0] == "CAGrad + Recon")
    assert not any(cell.endswith("/ –") for cell in line[1 : 1 + len(dense_pages.metrics_of(table))])


def test_images_are_evaluated_as_many_at_a_time_as_the_published_code_does(rehearsal):
    """Five hundred at once, as of small images, would fill any memory."""
    _, plan = rehearsal("nyuv2")
    problem = build.load_problem(plan.base)
    problem.test.numbers = list(problem.test.numbers) * 2
    assert [len(inputs) for inputs, _ in problem.test.batches(500)] == [2, 2]


def test_a_run_of_one_task_reads_its_targets_alone(rehearsal):
    _, plan = rehearsal("nyuv2")
    problem = build.load_problem(plan.base)
    alone = build.load_problem(replace(plan.base, tasks=[1]))
    for split in ("train", "validation", "test"):
        order = [torch.Generator().manual_seed(0) for _ in range(2)] if split == "train" else [None, None]
        (inputs, (target,)), whole = (
            next(getattr(p, split).batches(2, o)) for p, o in zip((alone, problem), order, strict=True)
        )
        assert torch.equal(inputs, whole[0]) and torch.equal(target, whole[1][1])
    assert [task.name for task in alone.tasks] == ["depth"] and problem.train.tasks is None


def test_a_network_that_learns_nothing_from_a_few_images_leaves_its_page_without_a_change():
    """A relative change needs a baseline above zero, and a mIoU of a few made-up images may be zero."""
    plan = experiments.GRIDS["recon_table4"]("paper", 1, ("equal",), "pascal")
    for value, shown in ((0.5, "+0.0"), (0.0, "–")):
        found = filled(plan, lambda row, value=value: value)
        lines = {line[0]: line for line in dense_runs.own_lines(plan, found)[1]}
        assert lines["equal"][-1] == shown and "search" not in lines
