"""What to try first: four questions in a list, a form where scripts run; code that runs; words that records bear."""

import re
import sys

import pytest
import torch
from bs4 import BeautifulSoup
from site_pages import ROOT, SITE, pages  # noqa: F401 (a fixture)

import mtl_core
from mtl_core import recon
from mtl_lab import experiments

sys.path.insert(0, str(ROOT / "book" / "_ext"))
import drawn  # noqa: E402

PAGE = SITE / "practitioners.html"
TEXT = (ROOT / "book" / "practitioners.md").read_text("utf-8")
GUIDE = TEXT.split(":::{container} guide")[1].split("\n:::")[0]
WORDS = " ".join(GUIDE.split())
CODE = [re.sub(r"(?m)^     ", "", block) for block in re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)]
SHOWN = """[...document.querySelectorAll('.guide > ol > li')].map((item) => [
  item.checkVisibility(), [...item.querySelectorAll('ul > li')].map((answer) => answer.checkVisibility())])"""
SHORT = "document.querySelector('.guide .in-short')?.textContent"


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk, self.norm = torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)
        self.depth, self.edges = torch.nn.Linear(4, 1), torch.nn.Linear(4, 1)

    def forward(self, x):
        z = self.norm(self.trunk(x)).relu()
        return {"depth": self.depth(z), "edges": self.edges(z)}


@pytest.mark.parametrize("code", CODE, ids=[re.search(r'Balancer\("(\w+)', block)[1] for block in CODE])
def test_the_code_runs_as_it_is_printed(code):
    *before, last = code.strip().splitlines()
    assert last.startswith("balancer.backward(losses)")
    torch.manual_seed(0)
    names = {"Balancer": mtl_core.Balancer, "recon": recon, "net": Net(), "layers": ["trunk", "norm"]}
    exec("\n".join(before), names)
    outputs = names["net"](torch.randn(8, 3))
    names["losses"] = {task: output.square().mean() for task, output in outputs.items()}
    exec(last, names)
    grads = [p.grad for p in names["net"].parameters()]
    assert grads and all(g is not None and g.isfinite().all() for g in grads) and any(g.any() for g in grads)


def test_each_question_has_answers_with_a_name_and_advice(pages):  # noqa: F811
    questions = BeautifulSoup(PAGE.read_text("utf-8"), "html.parser").select(".guide > ol > li")
    assert len(questions) == 4
    for question in questions:
        assert question.find("p", recursive=False).get_text().endswith("?")
        answers = question.select(":scope > ul > li")
        assert len({answer.find("strong").get_text() for answer in answers}) == len(answers) == 2
        for answer in answers:
            assert answer.select_one(".do") and answer.get_text().strip().startswith(answer.strong.get_text())
    ends = [bool(question.select(".ends")) for question in questions]
    assert ends == [True, False, False, False]


def test_what_the_guide_says_of_the_records():
    tables = {name: experiments.committed(name, "small") for name in ("qm9", "multi_fashion_mnist", "two_digits")}
    assert "None of them beat the searched weights by more than the margin on any of our three problems" in WORDS
    for name, verdict in tables.items():
        planned = {row.name: row for row in verdict.table.shared()}
        angles = [verdict.rows[row] for row in planned if drawn.use(planned[row]) == "gradient angles, signs"]
        assert {"PCGrad", "CAGrad", "MGDA", "GradDrop"} <= {row.title for row in angles}, name
        assert not [row.name for row in angles if row.outcome == "better"], name
    assert "On QM9 both forms are" in WORDS
    assert len({tables["qm9"].rows[name].outcome for name in ("norm_equalised", "norm_equalised_clip")}) == 1
    assert "two of them by splitting the network" in WORDS
    verdict = tables["multi_fashion_mnist"]
    better = [row for row in verdict.table.shared() if verdict.rows[row.name].outcome == "better"]
    assert sum(drawn.use(row) == "a split network" for row in better) == 2
    methods = [[v.rows[row.name] for row in v.table.shared() if not row.control] for v in tables.values()]
    counts, totals = [sum(row.outcome == "better" for row in of) for of in methods], list(map(len, methods))
    assert "few methods do better than well tuned fixed weights" in TEXT
    assert all(n < of / 2 for n, of in zip(counts, totals, strict=True)) and sum(counts) < sum(totals) / 4


def test_without_scripts_all_answers_are_there(chromium, pages):  # noqa: F811
    chromium.screen(1280, 900)
    chromium.open(PAGE, scripts=False)
    try:
        assert chromium.run(SHOWN) == [[True, [True, True]]] * 4
        assert chromium.run("document.querySelectorAll('.guide :is(input, .in-short)').length") == 0
    finally:
        chromium.send("Emulation.setScriptExecutionDisabled", value=False)


def test_with_scripts_each_answer_brings_the_next_question(chromium, pages):  # noqa: F811
    chromium.screen(390, 844)
    chromium.open(PAGE)
    off, no, yes = [False, False], [True, False], [False, True]
    assert chromium.run(SHOWN) == [[True, off], [False, off], [False, off], [False, off]]
    chromium.run("document.querySelector('.guide input').focus()")
    chromium.press(" ")  # No: search first
    assert chromium.run(SHOWN) == [[True, no], [False, off], [False, off], [False, off]]
    first = chromium.run(SHORT)
    assert first.startswith("In short: Search the weights") and chromium.run("document.activeElement.value") == "0"
    chromium.press("ArrowRight")  # Yes
    assert chromium.run(SHOWN) == [[True, yes], [True, off], [False, off], [False, off]]
    assert chromium.run(SHORT) != first
    for _ in range(3):  # from group to group
        for _ in range(5):  # an answer may hold links and a button that copies
            chromium.press("Tab")
            if chromium.run("document.activeElement.matches('.guide input')"):
                break
        chromium.press(" ")
    assert chromium.run(SHOWN) == [[True, yes], [True, no], [True, no], [True, no]]
    said = chromium.run(SHORT)
    assert said.count(";") == 3 and said.endswith("more epochs.")
    assert chromium.run("document.querySelectorAll('.guide fieldset > legend').length") == 4
    assert chromium.run("document.documentElement.scrollWidth") <= 390 and chromium.complaints() == []
