"""Fingerprints: a changed update expires a row, a comment does not. And the rule came before its results."""

import json
import subprocess
from dataclasses import replace

import pytest
from made_up_table import judge, parts

from mtl_core import methods, protocol, records, results, runs, tables


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
    assert again == prints["sam_gs"] and [len(step) for step in again] == [5, 5, 5]


def test_a_fingerprint_tells_every_method_from_every_other():
    table, _, _, _ = parts()
    choice = {"learning_rate": 0.05, "weight_decay": 0.0}
    rows = [replace(table.row("equal"), method=name) for name in ("equal", "pcgrad", "mgda", "cagrad", "sam_gs")]
    found = [records.fingerprint(table, row, choice) for row in rows]
    for k, one in enumerate(found):
        assert [records.same_fingerprint(one, other) for other in found] == [k == place for place in range(len(found))]


def test_a_row_without_a_fingerprint_is_void():
    stored = {name: found for name, found in parts()[3].items() if name != "mgda"}
    assert judge(stored=stored).rows["mgda"].reasons == ("fingerprints.json does not have it",)


def test_stale_reference_makes_all_stale():
    now = {**parts()[3], "static": [[1.0]]}
    verdict = judge(now=now)
    assert verdict.rows["equal"].state == "stale" and verdict.controls_pass is None


def test_fingerprints_of_other_code_are_refused(tmp_path):
    table, search, found, _ = parts()
    for record in found:
        record = results.seal({**record, "provenance": {"commit": "c0ffee", "source_digest": "older"}})
        results.add(record, tmp_path / table.name / "tiny" / "runs.jsonl")
        break
    with pytest.raises(ValueError, match="found \\['older'\\]"):
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


def git(root, *arguments):
    return subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True, check=False)


def out_of_order(root):
    """Results folders of a repository whose search.json or margin last changed after, or with, their first runs."""
    found = []
    for file in sorted((root / "results").glob("*/*/runs.jsonl")):
        name, profile = file.parts[-3:-1]
        added = git(root, "log", "--diff-filter=A", "--format=%H", "--", file).stdout.split()
        if name not in protocol.TABLES or not added:
            continue
        margin = f"margin={protocol.TABLES[name](profile).margin}"
        for what, where in (("search.json", ["--", file.with_name("search.json")]),
                            (margin, ["-S", margin, "--", "mtl_core/protocol.py"])):  # fmt: skip
            (rule,) = git(root, "log", "-1", "--format=%H", *where).stdout.split() or [""]
            before = rule and git(root, "merge-base", "--is-ancestor", rule, added[-1]).returncode == 0
            if not before or rule == added[-1]:
                found.append(f"{name}/{profile}: {what}")
    return found


def test_the_rule_was_committed_before_its_results():
    root = results.ROOT.parent
    if git(root, "rev-parse", "--is-shallow-repository").stdout.strip() != "false":
        pytest.skip("not a whole clone: the order of commits cannot be seen")
    assert not out_of_order(root)


@pytest.mark.parametrize(
    ("commits", "late"),
    [
        ([["protocol.py", "search.json"], ["runs.jsonl"], ["runs.jsonl"]], []),
        ([["protocol.py"], ["search.json", "runs.jsonl"]], ["search.json"]),
        ([["protocol.py", "search.json"], ["runs.jsonl"], ["search.json"]], ["search.json"]),
        ([["search.json"], ["runs.jsonl"], ["protocol.py"]], ["margin=2.0"]),
        ([["protocol.py"], ["runs.jsonl"]], ["search.json"]),
    ],
)
def test_an_order_of_commits_that_is_wrong_is_seen(tmp_path, commits, late):
    git(tmp_path, "init", "-q")
    for number, files in enumerate(commits):
        for name in files:
            path = tmp_path / ("mtl_core" if name.endswith("py") else "results/qm9/small") / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"margin=2.0\n# {number}\n")
        git(tmp_path, "add", ".")
        author = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
        assert git(tmp_path, *author, "commit", "-q", "-m", str(number)).returncode == 0
    assert out_of_order(tmp_path) == [f"qm9/small: {what}" for what in late]
