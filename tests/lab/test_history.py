"""What was committed, and in which order: rules before results, records that nobody edits, data that the code makes."""

import importlib
import json
import subprocess

import pytest

from mtl_core.data.errors import DataError
from mtl_lab import experiments, records
from mtl_lab.protocol.table import OTHER_SEEDS, SEEDS
from mtl_lab.runs.build import load_problem
from mtl_lab.runs.run import Run


def with_data():
    """Folders of results whose records name the data that they rest on."""
    return [f.parent for f in sorted(records.ROOT.glob("*/*/runs.jsonl")) if "source" in records.read_lines(f)[0]]


@pytest.mark.parametrize("folder", with_data(), ids=lambda folder: folder.parent.name)
def test_committed_runs_rest_on_the_data_that_the_code_makes(folder):
    """How many examples, always; checksums and pairs as well where the data are there (MTL_DATA)."""
    record = records.read_lines(folder / "runs.jsonl")[0]
    run = Run.from_dict(record["config"])
    module = importlib.import_module(f"mtl_core.data.{run.problem}")
    counts = module.COUNTS[folder.name]
    assert record["source"]["counts"] == counts | {part: n for part, n in run.problem_options.items() if part in counts}
    try:
        problem = load_problem(run)
    except DataError:
        pytest.skip("the full sets are not there; set MTL_DATA")
    assert json.loads(json.dumps(records.rounded(problem.source))) == record["source"]


def git(root, *arguments):
    return subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, check=False)


def shown(root, commit, file):
    """The text of a file in a commit; "" where it is not there."""
    return git(root, "show", f"{commit}:{file.relative_to(root).as_posix()}").stdout


def out_of_order(root):
    """Margins, rows' entries in search.json and numbers of seeds that were changed after, or with, the first runs that
    they judge; and runs that others have replaced."""
    problems = []
    for file in sorted((root / "results").glob("*/*/runs.jsonl")):
        name, profile = file.parts[-3:-1]
        commits = git(root, "log", "--reverse", "--format=%H", "--", file).stdout.split()
        if name not in experiments.TABLES or not commits:
            continue
        table, search = experiments.TABLES[name](profile), file.with_name("search.json")
        # in the commit before the first runs, wherever in the package the table's line was then
        line = rf'Table\("{table.extends or name}",.*margin={table.margin},'
        if git(root, "grep", "-q", "-E", line, f"{commits[0]}~1", "--", "mtl_core", "mtl_lab").returncode:
            problems.append(f"{name}/{profile}: margin")
        entry_of = {row.name: row.reuses or row.name for row in table.rows}
        entries, known = json.loads(search.read_text())["rows"] if search.exists() else {}, set()
        extended, runs_of = file.with_name("extended.json"), {}
        for commit in commits:
            recorded = [json.loads(line) for line in shown(root, commit, file).splitlines()]
            for record in recorded:
                key = record["row"], record["config"]["seed"]
                if runs_of.setdefault(key, record["identity"]) != record["identity"]:
                    problems.append(f"{name}/{profile}: {record['row']} was run anew")
                    runs_of[key] = record["identity"]
            more = any(len(SEEDS) <= r["config"]["seed"] < OTHER_SEEDS for r in recorded)
            if more and shown(root, f"{commit}~1", extended) != extended.read_text():
                problems.append(f"{name}/{profile}: further seeds")
            rows = {record["row"] for record in recorded} - known
            earlier = json.loads(shown(root, f"{commit}~1", search) or '{"rows": {}}')["rows"]
            for row in sorted(rows):
                entry = earlier.get(entry_of.get(row, row))
                if entry is None or entry != entries.get(entry_of.get(row, row)):
                    problems.append(f"{name}/{profile}: {row}")
            known |= rows
    return problems


def test_the_rule_was_committed_before_its_results():
    root = records.ROOT.parent
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
    """One commit of these files, by the names of `FILES`; an empty text writes none."""
    git(root, "init", "-q")
    for name, text in texts.items():
        path = root / FILES[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        if text:
            path.write_text(text if isinstance(text, str) else json.dumps(text))
    git(root, "add", ".")
    author = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    assert git(root, *author, "commit", "-q", "-m", str(number)).returncode == 0


FILES = {"protocol": "mtl_lab/protocol/table.py"}
FILES |= {
    name: f"results/qm9/small/{name}.{end}"
    for name, end in (("runs", "jsonl"), ("search", "json"), ("extended", "json"))
}


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


# --- records are append-only

# The study of the landscapes was computed anew several times before records became append-only. The steps of the dense
# networks were first entered from printed output, then measured anew and recorded by the benchmark. The times
# beside the peers' were measured anew, all of them, when the memory of a step had left out what it keeps.
REPLACED_UNTIL = {
    "sam_gs_landscapes/small/runs.jsonl": "9a975e2",
    "dense_step/paper/runs.jsonl": "171bf08",
    "step_time/cpu/runs.jsonl": "e9bdf39",
}


def changed_records(root):
    """File -> how many records that some commit had are not in it any more, to the letter."""
    lost = {}
    for file in sorted((root / "results").glob("*/*/*.jsonl")):
        name = file.relative_to(root / "results").as_posix()
        since = [f"{REPLACED_UNTIL[name]}..HEAD"] if name in REPLACED_UNTIL else []
        kept = set(file.read_text(encoding="utf-8").splitlines())
        once = set()
        for commit in git(root, "log", "--format=%H", *since, "--", file).stdout.split():
            once |= set(shown(root, commit, file).splitlines())
        if once - kept:
            lost[name] = len(once - kept)
    return lost


def test_no_committed_record_was_changed_or_dropped():
    root = records.ROOT.parent
    if git(root, "rev-parse", "--is-shallow-repository").stdout.strip() != "false":
        pytest.skip("not a whole clone: earlier records cannot be seen")
    assert not changed_records(root)


def test_a_record_that_was_changed_or_dropped_is_seen(tmp_path):
    first, second = line("static"), line("static", 1)
    commit(tmp_path, 0, {"runs": first + second})
    assert not changed_records(tmp_path)
    for text in (first, first + line("static", 1, identity="forged")):
        (tmp_path / FILES["runs"]).write_text(text)
        assert changed_records(tmp_path) == {"qm9/small/runs.jsonl": 1}
    two_rows = [line(row, seed) for row in ("static", "equal") for seed in (0, 1)]
    commit(tmp_path, 1, {"runs": first + second + "".join(two_rows[2:])})
    (tmp_path / FILES["runs"]).write_text(two_rows[0] + two_rows[2])  # a whole seed is gone from every row
    assert changed_records(tmp_path) == {"qm9/small/runs.jsonl": 2}
    (tmp_path / FILES["runs"]).write_text(first + second + "".join(two_rows[2:]))
    correction = json.loads(first) | {"supersedes": records.key(json.loads(first)), "identity": "b"}
    (tmp_path / FILES["runs"]).write_text("".join(two_rows) + records.as_line(correction) + "\n")
    assert not changed_records(tmp_path)
    assert [r["identity"] for r in records.load("qm9", "small", tmp_path / "results")] == ["a", "a", "a", "b"]
