"""Fingerprints: a changed update expires a row, a comment does not. And the rule came before its results."""

import importlib
import json
import subprocess
from dataclasses import replace

import pytest
import torch
from made_up_table import judge, parts

from mtl_core import methods, protocol, records, results, runs, tables, tasks
from mtl_core.data.errors import DataError


def test_a_changed_update_makes_its_row_stale_and_no_other(monkeypatch):
    table, search, *_ = parts()  # made by the code as it is, before it changes
    original = methods.SAMGS.forward

    def turned(self, J):
        update = original(self, J)
        return update + 0.02 * update.norm() / J[0].norm() * J[0]

    monkeypatch.setattr(methods.SAMGS, "forward", turned)
    verdict = judge(now=records.fingerprints_of(table, search))
    assert {name: row.state for name, row in verdict.rows.items() if row.state != "judged"} == {"sam_gs": "stale"}
    assert "row sam_gs: stale: the first training steps are not those" in verdict.complaints()[0]
    assert verdict.rows["sam_gs"].difference is not None  # shown, though not judged


def test_the_same_code_gives_the_same_fingerprint():
    table, search, _, prints = parts()
    row = table.row("sam_gs")
    again = records.fingerprint(table, row, search["rows"]["sam_gs"]["choice"])
    assert again == prints["sam_gs"] and [len(step) for step in again] == [5, 5, 5, 100]


def test_a_fingerprint_tells_every_method_from_every_other():
    table, _, _, _ = parts()
    choice = {"learning_rate": 0.05, "weight_decay": 0.0}
    rows = [replace(table.row("equal"), method=name) for name in ("equal", "pcgrad", "mgda", "cagrad", "sam_gs")]
    found = [records.fingerprint(table, row, choice)[:3] for row in rows]
    for k, one in enumerate(found):
        assert [records.same_fingerprint(one, other) for other in found] == [k == place for place in range(len(found))]


@pytest.mark.parametrize(("moved", "same"), [(1e-15, True), (1e-5, False)])
def test_rounding_does_not_move_a_fingerprint_and_a_changed_start_does(moved, same, monkeypatch):
    """CAGrad amplifies most: in float32, another number of threads moved its second step by 5e-3."""
    table, search, _, _ = parts()
    row = replace(table.row("equal"), method="cagrad")
    choice, build = search["rows"]["equal"]["choice"], runs.build_model
    before = records.fingerprint(table, row, choice)

    def elsewhere(*given):
        model = build(*given)
        noise = torch.Generator().manual_seed(0)
        for parameter in model.double().parameters():
            parameter.data *= 1 + moved * torch.randn(parameter.shape, generator=noise, dtype=torch.float64)
        return model

    monkeypatch.setattr(runs, "build_model", elsewhere)
    assert records.same_fingerprint(before, records.fingerprint(table, row, choice)) is same


def test_a_row_without_a_fingerprint_is_void():
    stored = {name: found for name, found in parts()[3].items() if name != "mgda"}
    assert judge(stored=stored).rows["mgda"].reasons == ("fingerprints.json does not have it",)


def test_stale_reference_makes_all_stale():
    now = {**parts()[3], "static": [[1.0]]}
    verdict = judge(now=now)
    assert verdict.rows["equal"].state == "stale" and verdict.controls_pass is None


def test_rows_that_are_judged_by_another_measure_are_stale(monkeypatch):
    """The same training, but accuracy in another unit: no first step tells."""
    table, search, *_ = parts()
    original = tasks._Scaled.compute
    monkeypatch.setattr(tasks._Scaled, "compute", lambda self: 1.001 * original(self))
    verdict = judge(now=records.fingerprints_of(table, search))
    assert {row.state for row in verdict.rows.values()} == {"stale"}
    assert all(": stale: the losses, metrics or test data are not those" in line for line in verdict.complaints()[1:])


def test_the_measure_sees_each_loss_metric_and_test_target():
    """On the digit problem, whose five tasks have losses and metrics of four kinds."""
    table = protocol.TABLES["two_digits"]("tiny")
    before = records.measure(table)
    assert [len(task) for task in before] == [2] * 5 and all(0 < x < 1e3 for task in before for x in task)
    assert before[2][1] > 20, "F1 counts something"
    problem = runs.load_problem(table.base)
    for k in range(5):
        targets = list(problem.test.targets)
        targets[k] = targets[k].roll(1)
        moved = replace(problem, test=replace(problem.test, targets=tuple(targets)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runs, "load_problem", lambda run, moved=moved: moved)
            after = records.measure(table)
        for place, (one, other) in enumerate(zip(before, after, strict=True)):
            assert all((x == y) is (place != k) for x, y in zip(one, other, strict=True))


def test_a_table_without_a_measure_is_void():
    verdict = judge(stored={name: found for name, found in parts()[3].items() if name})
    assert verdict.reasons == ("fingerprints.json does not have the measure",)
    assert {row.state for row in verdict.rows.values()} == {"void"}


def test_fingerprints_of_other_code_are_refused_and_kept_where_they_fit(tmp_path):
    table, search, found, prints = parts()
    place = tmp_path / table.name / "tiny"
    here, older = ({"commit": "c0ffee", "source_digest": digest} for digest in (runs.source_digest(), "older"))
    sealed = [results.seal({**r, "provenance": older if r["row"] == "mgda" else here}) for r in found]
    results.write_lines(sealed, place / "runs.jsonl")
    runs.write_atomically(place / "search.json", json.dumps(search))
    with pytest.raises(ValueError, match="found others of the table, by which measure, mgda: go to the commit"):
        records.write_fingerprints(table, "tiny", tmp_path)
    first, *rest = prints["mgda"]
    close = [[x * (1 + 1e-7) for x in first], *rest]
    file = place / "fingerprints.json"
    file.write_text(json.dumps({"measure": prints[""], "rows": {"mgda": close}}))
    assert records.write_fingerprints(table, "tiny", tmp_path) == {**prints, "mgda": close}
    off = [[x * (1 + 1e-4) for x in first], *rest]
    for measured, row, named in ((prints[""], off, "mgda"), (off, close, "the table, by which measure")):
        file.write_text(json.dumps({"measure": measured, "rows": {"mgda": row}}))
        with pytest.raises(ValueError, match=f"found others of {named}: go"):
            records.write_fingerprints(table, "tiny", tmp_path)


def test_what_is_written_is_what_is_read(tmp_path, monkeypatch):
    table, search, found, prints = parts()
    place = tmp_path / table.name / "tiny"
    here = {"commit": "c0ffee", "source_digest": runs.source_digest()}
    sealed = [results.seal({**record, "provenance": here}) for record in found]
    lines = "\n".join(json.dumps(record, sort_keys=True, ensure_ascii=False) for record in sealed)
    runs.write_atomically(place / "runs.jsonl", lines + "\n")
    runs.write_atomically(place / "search.json", json.dumps(search))
    assert records.write_fingerprints(table, "tiny", tmp_path) == prints
    assert records.stored_fingerprints(table.name, "tiny", tmp_path) == prints
    monkeypatch.setitem(protocol.TABLES, table.name, lambda profile: table)
    assert not tables.committed(table.name, "tiny", tmp_path).complaints()
    assert tables.committed(table.name, "small", tmp_path) is None


def with_data():
    """Folders of results whose records name the data that they rest on."""
    return [f.parent for f in sorted(results.ROOT.glob("*/*/runs.jsonl")) if "source" in results.lines(f)[0]]


@pytest.mark.parametrize("folder", with_data(), ids=lambda folder: folder.parent.name)
def test_committed_runs_rest_on_the_data_that_the_code_makes(folder):
    """How many examples, always; checksums and pairs as well where the data are there (MTL_DATA)."""
    record = results.lines(folder / "runs.jsonl")[0]
    run = runs.Run.from_dict(record["config"])
    module = importlib.import_module(f"mtl_core.data.{run.problem}")
    assert record["source"]["counts"] == module.COUNTS[folder.name]
    try:
        problem = runs.load_problem(run)
    except DataError:
        pytest.skip("the full sets are not there; set MTL_DATA")
    assert json.loads(json.dumps(results.rounded(problem.source))) == record["source"]


def git(root, *arguments):
    return subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, check=False)


def shown(root, commit, file):
    """The text of a file in a commit; "" where it is not there."""
    return git(root, "show", f"{commit}:{file.relative_to(root).as_posix()}").stdout


def out_of_order(root):
    """Margins, rows' entries in search.json and numbers of seeds that were changed after, or with, the first runs that
    they judge; and runs in whose place others stand now."""
    found = []
    for file in sorted((root / "results").glob("*/*/runs.jsonl")):
        name, profile = file.parts[-3:-1]
        commits = git(root, "log", "--reverse", "--format=%H", "--", file).stdout.split()
        if name not in protocol.TABLES or not commits:
            continue
        table, search = protocol.TABLES[name](profile), file.with_name("search.json")
        # in the commit before the first runs, wherever in the package the table's line stood then
        line = rf'Table\("{protocol.LENDERS.get(name, name)}",.*margin={table.margin},'
        if git(root, "grep", "-q", "-E", line, f"{commits[0]}~1", "--", "mtl_core").returncode:
            found.append(f"{name}/{profile}: margin")
        entry_of = {row.name: row.follows or row.name for row in table.rows}
        entries, known = json.loads(search.read_text())["rows"] if search.exists() else {}, set()
        extended, runs_of = file.with_name("extended.json"), {}
        for commit in commits:
            here = [json.loads(line) for line in shown(root, commit, file).splitlines()]
            for record in here:
                place = record["row"], record["config"]["seed"]
                if runs_of.setdefault(place, record["identity"]) != record["identity"]:
                    found.append(f"{name}/{profile}: {record['row']} was run anew")
                    runs_of[place] = record["identity"]
            more = any(len(protocol.SEEDS) <= r["config"]["seed"] < protocol.OTHER_SEEDS for r in here)
            if more and shown(root, f"{commit}~1", extended) != extended.read_text():
                found.append(f"{name}/{profile}: further seeds")
            rows = {record["row"] for record in here} - known
            earlier = json.loads(shown(root, f"{commit}~1", search) or '{"rows": {}}')["rows"]
            for row in sorted(rows):
                entry = earlier.get(entry_of.get(row, row))
                if entry is None or entry != entries.get(entry_of.get(row, row)):
                    found.append(f"{name}/{profile}: {row}")
            known |= rows
    return found


def test_the_rule_was_committed_before_its_results():
    root = results.ROOT.parent
    if git(root, "rev-parse", "--is-shallow-repository").stdout.strip() != "false":
        pytest.skip("not a whole clone: the order of commits cannot be seen")
    assert not out_of_order(root)


RULE, OTHERS = 'Table("qm9", base, margin=2.0, rate=0)\n', 'Table("two_digits", base, margin=2.0, rate=0)\n'
OLD, NEW = {"static": 1}, {"static": 1, "equal": 2}  # entries of search.json
FIRST, SECOND = ["static"], ["static", "equal"]  # rows that have runs


@pytest.mark.parametrize(
    ("commits", "late"),
    [
        ([(RULE, OLD, []), (RULE, OLD, FIRST)], []),
        ([(RULE, OLD, []), (RULE, OLD, FIRST), (RULE, NEW, FIRST), (RULE, NEW, SECOND)], []),
        ([(RULE, OLD, []), (RULE, OLD, FIRST), (RULE, NEW, SECOND)], ["equal"]),
        ([(RULE, {}, []), (RULE, OLD, FIRST)], ["static"]),
        ([(RULE, OLD, []), (RULE, OLD, FIRST), (RULE, {"static": 3}, FIRST)], ["static"]),
        ([(RULE, OLD, []), (RULE, OLD, ["static", "a_a"])], []),
        ([("", OLD, []), ("", OLD, FIRST), (RULE, OLD, FIRST)], ["margin"]),
        ([("", OLD, []), (RULE, OLD, FIRST)], ["margin"]),
        ([(OTHERS, OLD, []), (RULE, OLD, FIRST)], ["margin"]),
    ],
)
def test_an_order_of_commits_that_is_wrong_is_seen(tmp_path, commits, late):
    for number, (rule, entries, rows) in enumerate(commits):
        lines = "".join(line(row) for row in rows)
        commit(tmp_path, number, {"protocol": f"{rule}# {number}\n", "runs": lines, "search": {"rows": entries}})
    assert out_of_order(tmp_path) == [f"qm9/small: {what}" for what in late]


def line(row, seed=0, identity="a"):
    return json.dumps({"row": row, "config": {"seed": seed}, "identity": identity}) + "\n"


def commit(root, number, texts):
    """One commit of these files, by the names of `PLACES`; an empty text writes none."""
    git(root, "init", "-q")
    for name, text in texts.items():
        path = root / PLACES[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        if text:
            path.write_text(text if isinstance(text, str) else json.dumps(text))
    git(root, "add", ".")
    author = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    assert git(root, *author, "commit", "-q", "-m", str(number)).returncode == 0


PLACES = {"protocol": "mtl_core/protocol.py"}
PLACES |= {name: f"results/qm9/small/{name}.{end}" for name, end in
           (("runs", "jsonl"), ("search", "json"), ("extended", "json"))}  # fmt: skip


@pytest.mark.parametrize(
    ("second", "late"),
    [
        ({"runs": line("static") + line("static", 10), "extended": {"seeds": 20}}, ["further seeds"]),
        ({"runs": line("static", identity="b")}, ["static was run anew"]),
        ({"runs": line("static") + line("static", 1) + line("static", 200)}, []),
    ],
)
def test_runs_that_were_replaced_or_added_unannounced_are_seen(tmp_path, second, late):
    commit(tmp_path, 0, {"protocol": RULE, "search": {"rows": OLD}})
    commit(tmp_path, 1, {"runs": line("static")})
    commit(tmp_path, 2, second)
    assert out_of_order(tmp_path) == [f"qm9/small: {what}" for what in late]


def test_seeds_that_were_announced_are_in_order(tmp_path):
    commit(tmp_path, 0, {"protocol": RULE, "search": {"rows": OLD}, "extended": {"seeds": 20}})
    commit(tmp_path, 1, {"runs": line("static") + line("static", 10)})
    assert out_of_order(tmp_path) == []


def test_fingerprints_tell_settings_of_sam_gs_apart():
    """Three steps on one batch do not: they see one side of the gate. The tables' rows differ in γ and β₂ alone."""
    found = {}
    for name in protocol.TABLES:
        for row in protocol.TABLES[name]("small").rows:
            if row.method == "sam_gs" and row.options.keys() >= {"gamma", "beta2"}:
                found[row.options["gamma"], row.options["beta2"]] = records.made_up_steps(row.options)
    assert len(found) > 10 and len({tuple(numbers) for numbers in found.values()}) == len(found)


@pytest.mark.parametrize(("name", "value"), [("gamma", 0.3), ("beta2", 0.94)])
def test_a_changed_gate_or_average_of_sam_gs_is_seen(monkeypatch, name, value):
    options = {"gamma": 0.5, "beta2": 0.95}
    before, original = records.made_up_steps(options), methods.SAMGS.forward

    def changed(self, J):
        setattr(self, name, value)
        return original(self, J)

    monkeypatch.setattr(methods.SAMGS, "forward", changed)
    assert not records.same_fingerprint([before], [records.made_up_steps(options)])
