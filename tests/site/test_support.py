"""The table of what works with what is that of the marks on tests, and the marks say what their tests do."""

import ast
import re

import pytest
from notebook_tools import ROOT, load
from site_pages import SITE, pages  # noqa: F401 (a fixture)

support = load(ROOT / "book" / "_ext" / "support.py", "support_for_sphinx")
MARKS = support.marks()
PAGE = (ROOT / "book" / "support.md").read_text(encoding="utf-8")
LISTED = [line for part in re.findall(r"```\{support\}\n(.*?)```", PAGE, re.DOTALL) for line in part.splitlines()]
UNTESTED = {"autocast to float16 on a GPU", "several processes (nccl)"}


def test_every_mark_is_read():
    """One inside a class, or made by a function, would not be."""
    texts = [file.read_text(encoding="utf-8") for file in (ROOT / "tests" / "core").glob("test_*.py")]
    assert len(MARKS) == sum(text.count("mark.supports(") for text in texts) > 30


def test_the_page_lists_every_feature_once():
    assert sorted(LISTED) == sorted({mark.feature for mark in MARKS} | UNTESTED)


@pytest.mark.parametrize("mark", MARKS, ids=lambda mark: mark.feature)
def test_a_mark_says_what_its_test_does(mark):
    assert mark.outcome in ("yes", "refused") and bool(mark.remark) >= (mark.outcome == "refused")
    file = ROOT / mark.place.partition("#")[0]
    test = next(t for t in ast.parse(file.read_text(encoding="utf-8")).body if getattr(t, "name", "") == mark.test)
    text = ast.unparse(test)
    if mark.outcome == "refused":
        assert "pytest.raises" in text
    else:
        assert "assert" in text or "_process" in text


def test_answers():
    mark = support.Mark("x", "refused", "do y", "", "test_x", "tests/core/test_x.py#L1")
    assert support.answer([]) == "not tested here"
    assert support.answer([mark, mark._replace(test="test_y")]) == "refused; do y"
    assert support.answer([mark._replace(outcome="yes", remark="")]) == "yes"
    with pytest.raises(ValueError, match="'x' do not agree"):
        support.answer([mark, mark._replace(outcome="yes")])


def test_code_in_a_cell_breaks_after_its_marks_alone():
    html = "".join(str(node) for node in support.marked("refused; set a.b_c = False, or f(x_y=None), in ignore="))
    pieces = re.findall(r"<literal[^>]*>(.*?)</literal>", html)
    assert [re.sub(r"<raw.*?</raw>", "|", text) for text in pieces] == ["a.|b_|c =| False", "f(|x_|y=|None)", "ignore="]


def test_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(support, "there", lambda device: device == "")
    assert "not run" in support.answer([support.Mark("x", "yes", "", "cuda", "test_x", "")])


def test_marks_of_a_folder(tmp_path):
    folder = tmp_path / "tests" / "core"
    folder.mkdir(parents=True)
    text = '@pytest.mark.supports("a", "yes", device="mps")\n@other\ndef test_it():\n    pass\n\ndef test_no(): pass\n'
    (folder / "test_one.py").write_text(text)
    assert support.marks(folder) == [support.Mark("a", "yes", "", "mps", "test_it", "tests/core/test_one.py#L3")]


def test_the_built_page_links_to_each_test(pages):  # noqa: F811
    page = pages[SITE / "support.html"]
    names = {support.named(mark) for mark in MARKS}
    assert not any(name[0].isdigit() for name in names)
    assert names <= {*page.text}
    assert len([href for href in page.links if "/blob/main/tests/core/" in href]) == len(MARKS)
