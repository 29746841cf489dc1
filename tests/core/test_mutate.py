"""The deletion script finds what it should: on a module of a few lines, and on lines of SAM-GS."""

import ast

import hypothesis  # noqa: F401 (imported here, not in each fork)
import mutate
import pytest

SOURCE = '''"""A module."""

import math


def keep(function):
    return function


@keep
def root(x):
    """Text that is no statement."""
    seen: int
    x = abs(x)
    if x > 100:
        x = 100
    unused = 1
    return math.sqrt(x)
'''
TEST = """
import subject

def test_root():
    assert subject.root(4) == 2 and subject.root(-4) == 2
"""


@pytest.fixture
def subject(tmp_path):
    path, test = tmp_path.resolve() / "subject.py", tmp_path.resolve() / "test_subject.py"
    path.write_text(SOURCE)
    test.write_text(TEST)
    return path, test


def run(subject, **more):
    return mutate.go_through(subject[0], [subject[1]], root=subject[0].parent, **more)


def test_what_is_deleted(subject):
    tree = ast.parse(SOURCE)
    lines = [line for line, kind in mutate.statements(tree) if kind == "statement"]
    assert lines == [6, 7, 11, 14, 15, 16, 17, 18]  # no docstring, import or bare annotation
    assert [line for line, kind in mutate.statements(tree) if kind == "decorator"] == [10]
    assert {line for line, _ in mutate.statements(tree, ["keep"])} == {6, 7}
    deleted = {}
    exec(mutate.without(tree, 14, "statement", subject[0]), deleted)
    with pytest.raises(ValueError):
        deleted["root"](-4)


def test_survivors_need_a_reason_and_reasons_a_survivor(subject, monkeypatch, capfd):
    assert run(subject, lines={10, 14, 17}) == [
        "subject.py:10 @keep: no test notices that it is gone",
        "subject.py:17 unused = 1: no test notices that it is gone",
    ]
    assert "3 deletions, 2 survivors" in capfd.readouterr().out
    reasons = {"@keep": "the identity", "return function": "it does not survive"}
    monkeypatch.setattr(mutate, "EXPLAINED", {("subject.py", text): why for text, why in reasons.items()})
    assert run(subject, lines={10}) == []
    without_survivor = [line for line in run(subject, names=["keep"]) if line.endswith("which did not survive")]
    assert "EXPLAINED holds 'return function'" in str(without_survivor)


def test_tests_that_fail_anyway_prove_nothing(subject):
    subject[1].write_text(TEST + "    assert False\n")
    assert run(subject) == ["subject.py: the tests fail without any deletion"]


def test_lines_of_sam_gs():
    mutate.preload()
    path, test = mutate.ROOT / "mtl_core/methods/sam_gs.py", "core/test_sam_gs.py::test_restatement_in_float64[0.5-3]"
    lines = {
        i
        for i, text in enumerate(path.read_text().splitlines(), 1)
        if text.strip().startswith(("self.momentum.lerp_", "if gate < self.gamma"))
    }
    assert len(lines) == 2
    assert mutate.go_through(path, [mutate.ROOT / "tests" / test], lines=lines) == []


def test_targets_exist():
    for label, (names, tests) in mutate.TARGETS.items():
        tree = ast.parse((mutate.ROOT / label).read_text())
        assert names is None or set(names) <= {getattr(node, "name", None) for node in tree.body}
        assert all((mutate.ROOT / "tests" / test).exists() for test in tests)
    assert set(mutate.DEFAULT) <= set(mutate.TARGETS)
    for label, text in mutate.EXPLAINED:
        assert text in [line.strip() for line in (mutate.ROOT / label).read_text().splitlines()]
    with pytest.raises(SystemExit, match="no tests are named for 'mtl_core/nothing.py'"):
        mutate.main(["mtl_core/nothing.py"])
