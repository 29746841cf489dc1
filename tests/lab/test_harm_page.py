"""The page `does_conflict_predict_harm` on made-up records: of all runs, of all but a few, of none."""

import ast
import io
import json
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
from notebook_tools import SOURCES

from mtl_lab import completion, records
from mtl_lab.experiments import balanced_pairs, conflict_dial
from mtl_lab.experiments.balanced_pairs import TARGETS, BalancedPairs
from mtl_lab.experiments.conflict_dial import ConflictDial

LOAD, PLANNED = records.load, completion.planned_grid
MADE = {"balanced_pairs": BalancedPairs(seeds=2), "conflict_dial": ConflictDial(seeds=3)}  # fewer seeds than theirs


def cells():
    book = json.loads((SOURCES / "ideas" / "does_conflict_predict_harm.ipynb").read_text(encoding="utf-8"))
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            yield cell["id"], "".join(line for line in cell["source"] if not line.startswith("%"))


def shown(monkeypatch, made):
    """What each cell of the page shows as text, and how many figures it draws, with these records of `MADE`."""
    monkeypatch.setattr(records, "load", lambda name, *a: made[name] if name in MADE else LOAD(name, *a))
    monkeypatch.setattr(completion, "planned_grid", lambda name, *a: MADE.get(name) or PLANNED(name, *a))
    names, texts, figures = {}, {}, {}
    for cell, source in cells():
        body = ast.parse(source).body
        last = [body.pop()] if isinstance(body[-1], ast.Expr) else []
        exec(compile(ast.Module(body, []), cell, "exec"), names)
        value = eval(compile(ast.Expression(last[0].value), cell, "eval"), names) if last else None
        texts[cell], figures[cell] = getattr(value, "data", ""), len(plt.get_fignums())
        for number in plt.get_fignums():
            plt.figure(number).savefig(io.BytesIO(), format="svg")
        plt.close("all")
    return texts, {cell for cell, count in figures.items() if count}


def value_of(row, run, effect):
    """A made-up error. In pairs it grows by `effect` percent with minus the cosine; opposed signs and κ count too."""
    random, rate = np.random.default_rng(int(run.identity, 16)), run.schedule["learning_rate"]
    harm = 0.05 * random.standard_normal() + (abs(math.log2(rate / 0.0056)) if row.startswith("search") else 0)
    if run.problem == "qm9" and len(run.tasks or ()) == 2 and not row.startswith("search"):
        harm += effect * turned(run.tasks)
    harm += 8 * (row.startswith("together, shared") and row.endswith("s -1")) - 3 * row.endswith("κ 1, matched")
    return math.exp(harm / 100)


def turned(pair):
    return math.sin(3 * pair[0] + 5 * pair[1])


def record(row, run, effect):
    error = value_of(row, run, effect)
    tasks = {TARGETS[k]: {"loss": error * 0.7**k, "MAE": error} for k in run.tasks or (0, 1)}
    found = {"row": row, "identity": run.identity, "config": json.loads(run.canonical()), "diverged": None}
    if row.endswith("κ -1") and run.seed == 0:
        found["diverged"] = {"epoch": 1}
    found["final"] = {"validation": tasks} | ({"test": tasks} if run.test else {})
    if row.startswith("predictor"):
        c = -turned(run.tasks)
        found["conflict"] = {"products": [[1, c], [c, 1]], "labels": [[1, c**2], [c**2, 1]]}
        found["conflict"]["negative_share"] = 0.5 - c / 4
    elif row.startswith("together"):
        share = 0.4 - 0.2 * run.problem_options["sign"]
        found["conflict"] = {"all": {"histogram": {"900": 3, "1200": 1}, "negative_share": share}}
    return found


@pytest.fixture(scope="module")
def complete():
    """Records of all that both grids plan, with an effect of the predictor."""
    made = {name: [] for name in MADE}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "load", lambda name, *_: made[name])  # the dial reads the pairs
        for name, grid in MADE.items():
            while missing := completion.missing_of_grid(grid, made[name]).values():
                made[name] = sorted(made[name] + [record(*m, 3) for m in missing], key=lambda r: r["row"])
    return made


ANSWERS = {"harm-fig-balanced", "harm-fig-sign", "harm-fig-removal"}
TABLES = {"harm-balanced-table", "harm-sign-table", "harm-removal-judged"}


def test_the_page_answers_once_all_runs_are_there(monkeypatch, complete):
    texts, figures = shown(monkeypatch, complete)
    finding = texts["harm-finding"] + texts["harm-also"]
    assert "equal size, yes: pairs with more conflict lose more." in finding and "Not known yet" not in finding
    assert "Yes, in one setting, fixed beforehand: with the sign of the conflict turned" in finding
    assert "So it does in all 3 other settings." in texts["harm-sign-words"]
    removal = texts["harm-removal-words"]
    assert "In 5 of 5 settings PCGrad, which removes it, helps more" in finding and "Not shown" not in finding
    assert "In 5 of 5 settings is PCGrad shown to help because it answers conflict." in removal
    assert "which answer no conflict, help in none." in removal
    said = "**Yes: pairs with more conflict lose more.** By the rule: *Predicts* (permutations: p < 0.001)."
    assert said in texts["harm-balanced-answer"]
    assert figures >= ANSWERS and all(texts[table].count("\n") > 3 for table in TABLES)
    own = ("harm-balanced-answer", "harm-sign-words", "harm-removal-words")
    assert not any("Not complete" in texts[cell] for cell in own)
    assert "(of eleven, the highest)" in texts["harm-balanced-table"] and "| 20 | 60 |" in texts["harm-sign-table"]
    assert "last finite epoch: 5." in texts["harm-removal-words"] and "epoch" not in texts["harm-balanced-answer"]


def test_a_few_missing_runs_leave_no_verdict_on_their_part(monkeypatch, complete):
    """The last seed of a network, of a sign's row and of a dose on the synthetic data are missing."""
    rows = ("log_sum mu + Cv", "together, shared, width 64, m 0.5, s -1", "synthetic, sgd, κ 0")
    last = {row: max(r["config"]["seed"] for of in complete.values() for r in of if r["row"] == row) for row in rows}
    made = {n: [r for r in of if r["config"]["seed"] != last.get(r["row"])] for n, of in complete.items()}
    assert sum(map(len, complete.values())) - sum(map(len, made.values())) == 3
    texts, figures = shown(monkeypatch, made)
    assert (
        figures & ANSWERS == {"harm-fig-removal"}
        and (texts["harm-finding"] + texts["harm-also"]).lower().count("not known yet") == 2
    )
    assert "*harm* " in texts["harm-balanced-answer"] and "194 of 195" in texts["harm-sign-words"]
    assert "*synthetic, sgd* " in texts["harm-removal-words"] and "synthetic" not in texts["harm-removal-judged"]
    assert "In 4 of 4 settings so far PCGrad" in texts["harm-also"]
    assert "In 4 of 4 settings is PCGrad so far shown to help because" in texts["harm-removal-words"]
    assert not any(word in str(texts) for word in ("Yes: ", "Yes, in", "Predicts"))


def test_the_page_without_any_of_them_says_what_is_missing_and_how_to_train_it(monkeypatch):
    texts, figures = shown(monkeypatch, {name: [] for name in MADE})
    assert (
        not figures & ANSWERS
        and (texts["harm-finding"] + texts["harm-also"]).lower().count("not known yet: 0 of ") == 3
    )
    for cell, name in (("balanced-answer", 0), ("sign-words", 1), ("removal-words", 1)):
        assert f"`make results EXPERIMENT={[*MADE][name]} PROFILE=small` trains the rest" in texts[f"harm-{cell}"]
    assert "*task_pairs* 198 of 660; *conflict_dose* 108 of 180." in texts["harm-lacks"]
    assert "*harm* not planned yet" in texts["harm-balanced-answer"]


PAIRS = ("lowest", "median", "highest", "eleven")


def test_the_front_page_says_what_the_records_say():
    found = LOAD("conflict_dial", "small")
    said = " ".join((SOURCES.parent / "book" / "index.md").read_text(encoding="utf-8").split())
    sign, dose = conflict_dial.sign_contrasts(found), conflict_dial.dose_contrasts(found, "synthetic", "sgd")
    assert (sign["interaction"].low > conflict_dial.SAME) == (
        "Then conflict does harm at the setting fixed beforehand" in said
    )
    others = [conflict_dial.sign_contrasts(found, *at)["interaction"] for at in conflict_dial.CELLS[1:]]
    few = [sum(d.low > conflict_dial.SAME for d in others), sum(d.high < -conflict_dial.SAME for d in others)]
    assert (few == [0, 1]) == ("At three other settings that is not shown, and at one of them opposed" in said)
    assert (sign["trained"].low < 0 < sign["trained"].high) == (
        "unless each task has an output layer of its own" in said
    )
    assert max(abs(dose["answers"].low), dose["answers"].high) < conflict_dial.MARGIN
    assert "helped no more there than the same weights replayed from another run" in said
    answers = [conflict_dial.dose_contrasts(found, name, conflict_dial.DATA[name])["answers"] for name in PAIRS]
    within = all(max(-d.low, d.high) < conflict_dial.MARGIN for d in answers[:3])
    assert within == ("Nor did it on three pairs of properties of molecules" in said)
    assert (max(-answers[3].low, answers[3].high) > conflict_dial.MARGIN) == (
        "with all eleven these seeds cannot tell" in said
    )
    assert "Conflict can do harm" in said and "Removing it is another matter" in said
    pairs = LOAD("balanced_pairs", "small")
    assert not completion.missing_of_grid(BalancedPairs(), pairs)
    measured = balanced_pairs.measured(pairs)
    primary = next(iter(balanced_pairs.effects(measured).values()))
    small = primary.low > 0 and "These pairs cannot tell" in balanced_pairs.sentence(measured)
    assert small == ("pairs with more conflict lose a little more.** These pairs cannot tell" in said)
    assert small == ("lose slightly more by sharing a network, perhaps too little to matter" in said)
