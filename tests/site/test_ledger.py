"""The ledger: bars count verdicts, comparisons become cells, filter and permalinks work, no script is needed."""

import collections
import itertools
import pathlib
import re
import subprocess
import sys
from urllib.parse import parse_qs, urlencode

import numpy as np
import pytest
import yaml
from bs4 import BeautifulSoup
from site_pages import SITE, pages  # noqa: F401 (a fixture)

from mtl_lab import experiments
from mtl_lab.checks import Check
from mtl_lab.claims import printed_rules, verdicts

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book" / "_ext"))

import comparisons  # noqa: E402
import ledger  # noqa: E402

PAGE = SITE / "ledger.html"
NAMES = [claim["id"] for paper in ledger.PAPERS for claim in verdicts.load(paper)]


@pytest.fixture(scope="module")
def judged():
    return {paper: verdicts.verdicts(paper) for paper in ledger.PAPERS}


@pytest.fixture(scope="module")
def built(pages):  # noqa: F811
    return BeautifulSoup(PAGE.read_text("utf-8"), "html.parser")


# --- what the page is made of


def test_numbers_of_the_bars_are_those_of_the_verdicts(judged):
    for paper, found in judged.items():
        soup, shown = BeautifulSoup(ledger.bars_of(paper, found), "html.parser"), collections.Counter()
        for bar in soup.select(".outcome-bar"):
            strip = bar.select(".strip span")
            labels = bar.select("li span")
            assert [int(one.text) for one in strip] == [int(one.text.split()[0]) for one in labels]
            assert all(one["style"] == f"flex-grow: {one.text}" for one in strip), "width is the number"
            for one in labels:
                asked = {name: value[0] for name, value in parse_qs(one["data-query"]).items()}
                assert asked["paper"] == paper and asked["scope"] == bar["data-kind"]
                shown[asked["scope"], asked["outcome"]] += int(one.text.split()[0])
        kinds = [("arithmetic" if one.claim["scope"] == "arithmetic" else "training", one.outcome) for one in found]
        assert shown == collections.Counter(kinds)


def test_outcomes_have_a_place_and_a_colour():
    words = {word for pair in verdicts.WORDS.values() for word in pair}
    words |= {verdicts.AGREE, verdicts.DISAGREE, verdicts.OPEN, "undecided", "void"}
    assert words == set(ledger.ORDER) and len(ledger.ORDER) == len(words)
    assert [ledger.group(word) for word in (verdicts.AGREE, "not reproduced", "void", verdicts.OPEN)] == [
        "yes",
        "no",
        "unsure",
        "open",
    ]


# What the colour-blind see of linear light: Machado et al. 2009, severity 1.
SEEN = {
    "all": np.eye(3),
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def light(colour):
    """Linear red, green and blue of "#rgb" or "#rrggbb"."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * one for one in colour[1:])
    share = np.array([int(digits[k : k + 2], 16) for k in (0, 2, 4)]) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def lab(colour, eye):
    cubes = np.cbrt(XYZ @ np.clip(np.array(eye) @ light(colour), 0, 1) / [0.9505, 1, 1.0888])
    return np.array([116 * cubes[1] - 16, 500 * (cubes[0] - cubes[1]), 200 * (cubes[1] - cubes[2])])


def contrast(one, other):
    dark, bright = sorted(XYZ[1] @ light(colour) for colour in (one, other))
    return (bright + 0.05) / (dark + 0.05)


def test_each_outcome_has_a_colour_that_everybody_can_tell_from_the_others():
    style = (ROOT / "book" / "_static" / "ledger.css").read_text("utf-8")
    names = [ledger.classes(outcome).split()[1] for outcome in ledger.ORDER if outcome != verdicts.OPEN]
    colours = {name: re.search(rf"\.{name} {{\n  --outcome: (#\w+);", style)[1] for name in names}
    assert len(set(colours.values())) == len(names) == 10
    for one, other in itertools.combinations(names, 2):
        apart = [np.linalg.norm(lab(colours[one], eye) - lab(colours[other], eye)) for eye in SEEN.values()]
        assert min(apart) > 20, (one, other, dict(zip(SEEN, apart, strict=True)))
    dark_ink = re.search(r":is\(([^)]*)\) {\n  --ink: (#\w+);", style)
    for name in names:
        ink = dark_ink[2] if f".{name}" in dark_ink[1].split(", ") else "#fff"
        assert contrast(colours[name], ink) > 4.5, name


def test_a_bar_is_not_read_by_colour_alone(judged):
    """Each label has a mark of its own group, and arithmetic has stripes."""
    style = (ROOT / "book" / "_static" / "ledger.css").read_text("utf-8")
    marks = dict(re.findall(r'\.outcome-bar i\.(\w+)::before {\n  content: "(.)";', style))
    assert set(marks) == {"yes", "no", "unsure"} and len(set(marks.values())) == 3
    text = (ROOT / "book" / "ledger.md").read_text("utf-8").split("## ")[0]
    assert all(mark in text for mark in marks.values()) and "Stripes" in text
    assert ":is(.text-and-table-agree, .text-and-table-disagree) {\n  background: repeating-linear-gradient" in style
    soup = BeautifulSoup(ledger.bars_of("recon", judged["recon"]), "html.parser")
    for label in soup.select("li"):
        assert label.i["class"] == ledger.classes(label.get_text().split(" ", 1)[1]).split()


def test_every_rule_is_put_in_words():
    used = {claim["rule"]["name"] for paper in ledger.PAPERS for claim in verdicts.load(paper)}
    assert used <= set(comparisons.RULES)
    applied = {rule["name"] for rule in verdicts.APPLIED}
    assert set(comparisons.RULES) <= {*printed_rules.RULES, *experiments.RULES, *applied, *used}


CELLS = {
    "rotograd against equal: -0.41 [-0.56, +1.37], 20 seeds, margin 2: better (amount uncertain)": {
        "compared": "RotoGrad",
        "with": "Equal weights",
        "estimate": "−0.41",
        "interval": "−0.56 to +1.37",
        "seeds": "20",
        "margin": "2",
        "outcome": "better (amount uncertain)",
    },
    "gamma 0.7, beta2 0.99 against gamma 1, beta2 0.99: -6.79 [-7.64, -5.95], 10 seeds, margin 2: worse": {
        "compared": "γ = 0.7",
        "with": "γ = 1",
        "estimate": "−6.79",
        "interval": "−7.64 to −5.95",
        "seeds": "10",
        "margin": "2",
        "outcome": "worse",
    },
    "sam_gs against static: 20 seeds, ratio of standard deviations 0.94 [0.52, 1.68]": {
        "compared": "SAM-GS",
        "with": "Tuned fixed weights",
        "estimate": "ratio of standard deviations 0.94",
        "interval": "0.52 to 1.68",
        "seeds": "20",
    },
    "sam_gs takes 1.07 times as long as mgda [1.02, 1.11], at most 1.05": {
        "compared": "SAM-GS",
        "with": "MGDA",
        "estimate": "1.07 times",
        "interval": "1.02 to 1.11",
        "bound": "at most 1.05",
    },
    "Table 5, Joint (Recon): printed 4.14, recomputed -4.56 [-4.58, -4.53]": {
        "compared": "Table 5, Joint (Recon)",
        "printed": "4.14",
        "recomputed": "−4.56",
        "interval": "−4.58 to −4.53",
    },
    "Table 1 mean change, RotoGrad: m=512 against IMTL-G: rotations trained on the task losses: 4.48 and 3.02": {
        "compared": "Table 1 mean change, RotoGrad: m=512",
        "with": "IMTL-G: rotations trained on the task losses",
        "found": "4.48 and 3.02",
    },
    "samgs_1, weight 2: SAM-GS 4 of 7 starts within 20,000 steps, equal weights 2": {
        "compared": "samgs_1, weight 2, SAM-GS",
        "with": "equal weights",
        "found": "4 and 2 of 7 starts",
        "within": "20,000 steps",
    },
    "convex, sum: 0 of 100 seeds [0 %, 4 %], fewer than half": {
        "compared": "convex, sum",
        "estimate": "0 of 100 seeds",
        "interval": "0 % to 4 %",
        "bound": "fewer than half",
    },
    "something that no rule says": {"compared": "something that no rule says"},
}


@pytest.mark.parametrize("text", CELLS)
def test_a_comparison_becomes_cells(text):
    assert comparisons.cells(text) == CELLS[text]


def test_no_number_of_a_comparison_is_lost(judged):
    """Digits of every check, but for settings that both sides of a comparison have."""
    for verdict in (one for found in judged.values() for one in found):
        for check in verdict.checks:
            shown = " ".join(comparisons.cells(check.text).values()).replace("−", "-")
            plain = check.text.replace(", beta2 0.99", "").replace("as is", "unchanged")
            digits = collections.Counter(c for c in plain if c.isdigit())
            assert digits == collections.Counter(c for c in shown if c.isdigit()), check.text


def test_comparisons_that_fail_come_first_and_the_rest_is_counted():
    checks = [Check(f"Table {k}: {k}", k != 14) for k in range(15)]
    shown, rest = comparisons.table(checks)
    assert "no" in shown.astext().split("holds", 1)[1].split("\n\n")[:8]
    assert rest.astext() == "3 more comparisons: all hold."


def test_numbers_in_order_are_run_together():
    assert comparisons.runs([1, 2, 3, 5, 7, 8]) == "1 to 3, 5, 7, 8" and comparisons.runs([]) == ""


def test_how_we_read_a_claim_is_apart_from_the_claim():
    assert ledger.short("It is close (our reading, within 1).") == ("It is close.", "our reading, within 1")
    assert ledger.short("It is close (on QM9).") == ("It is close (on QM9).", "")


def test_the_commit_of_a_rule_is_that_of_its_last_change_of_meaning():
    """A note that is put in other words changes no date of a rule: what a commit is named for, it changed."""
    found = ledger.rule_commits(verdicts.ROOT / "recon.yml")
    if not found:
        pytest.skip("no history here")
    assert set(found) >= {claim["id"] for claim in verdicts.load("recon")}

    def claims(commit):
        show = ["git", "-C", ROOT, "show", f"{commit}:book/claims/recon.yml"]
        text = subprocess.run(show, capture_output=True, text=True, encoding="utf-8").stdout
        fields = ("rule", "margin", "results", "scope")
        return {one["id"]: [one[name] for name in fields] for one in yaml.safe_load(text) or ()}

    for commit in {line.split(",")[0] for line in found.values()}:
        before, after = claims(f"{commit}~1"), claims(commit)
        for name in (name for name, line in found.items() if line.startswith(commit)):
            assert before.get(name) != after[name], f"{commit} did not change {name}"


# --- on the built page


def test_every_claim_is_there_once_with_its_outcome(built, judged):
    boxes = {box["id"]: box for box in built.select("details.claim")}
    assert list(boxes) == NAMES
    for paper, found in judged.items():
        for verdict in found:
            box = boxes[verdict.claim["id"]]
            data = (box["data-paper"], box["data-outcome"], box["data-scope"])
            assert data == (paper, verdict.outcome, verdict.claim["scope"])
            assert box.select_one("summary .outcome").text == verdict.outcome
            assert not box.has_attr("hidden") and box.select_one(f'a[href="#{box["id"]}"]')


def test_words_of_a_claim_are_not_its_name(built):
    for name in ("recon", "sam_gs"):
        soup = BeautifulSoup((SITE / "papers" / f"{name}.html").read_text("utf-8"), "html.parser")
        text = soup.find("article").get_text(" ")
        assert not [claim for claim in NAMES if claim in text]
        links = {a["href"].partition("#")[2] for a in soup.select('a[href*="ledger.html#"]')}
        arithmetic = {c["id"] for c in verdicts.load(name) if c["scope"] == "arithmetic"}
        assert arithmetic <= links


SHOWN = "[...document.querySelectorAll('details.claim')].filter((box) => box.checkVisibility()).map((box) => box.id)"


def address(query="", claim=""):
    return PAGE.as_uri() + (f"?{urlencode(query)}" if query else "") + (f"#{claim}" if claim else "")


def expected(judged, **wanted):
    found = [(paper, one) for paper, claims in judged.items() for one in claims]
    return [
        one.claim["id"]
        for paper, one in found
        if wanted.get("paper", paper) == paper
        and wanted.get("outcome", one.outcome) == one.outcome
        and wanted.get("scope", one.claim["scope"]) == one.claim["scope"]
    ]


@pytest.mark.parametrize(
    "wanted",
    [
        {"paper": "recon", "outcome": "undecided"},
        {"outcome": verdicts.DISAGREE},
        {"scope": "other problem", "paper": "sam_gs"},
    ],
    ids=str,
)
def test_an_address_reproduces_a_filter(chromium, built, judged, wanted):
    chromium.open(address(wanted))
    assert chromium.run(SHOWN) == expected(judged, **wanted) != []
    said = chromium.run("document.querySelector('.claim-filter [role=status]').textContent")
    assert said == f"{len(expected(judged, **wanted))} of {len(NAMES)} claims"
    for name, value in wanted.items():
        assert chromium.run(f"document.querySelector('.claim-filter').elements.{name}.value") == value


def test_controls_filter_fast_and_write_the_address(chromium, built, judged):
    chromium.open(address())
    assert chromium.run(SHOWN) == NAMES
    milliseconds = chromium.run("""(() => {
      const form = document.querySelector(".claim-filter"), times = [];
      for (const [name, value] of [["outcome", "undecided"], ["paper", "sam_gs"], ["find", "QM9"], ["outcome", ""]]) {
        const start = performance.now();
        form.elements[name].value = value;
        form.elements[name].dispatchEvent(new Event("input", { bubbles: true }));
        document.body.offsetHeight;
        times.push(performance.now() - start);
      }
      return times;
    })()""")
    assert max(milliseconds) < 100
    shown = chromium.run(SHOWN)
    assert set(shown) < set(expected(judged, paper="sam_gs")) and "samgs-better-qm9" in shown
    assert chromium.run("location.search") == "?paper=sam_gs&find=QM9"
    chromium.run("document.querySelector('.claim-filter [type=reset]').click()")
    chromium.wait("location.search === ''", "the address keeps a filter that is gone")
    assert chromium.run(SHOWN) == NAMES


def test_a_permalink_opens_its_claim_and_survives_a_filter(chromium, built):
    name = "recon-bins-sum"
    chromium.open(address(claim=name))
    opened = "[...document.querySelectorAll('details.claim[open]')].map((box) => box.id)"
    assert chromium.run(opened) == [name] and chromium.run(SHOWN) == NAMES
    chromium.open(address({"paper": "rotograd"}, name))
    assert chromium.run(opened) == [name] and name in chromium.run(SHOWN)
    chromium.run("location.hash = '#recon-delta-m-columns'")
    chromium.wait("document.getElementById('recon-delta-m-columns').open", "a second permalink does not open")
    shown = chromium.run(SHOWN)
    assert "recon-delta-m-columns" in shown and name not in shown
    assert chromium.run("location.search") == "?paper=rotograd"


def test_a_label_of_a_bar_filters(chromium, built, judged):
    chromium.open(address())
    chromium.run("document.querySelector('.outcome-bar[data-paper=sam_gs] a[href*=undecided]').click()")
    arithmetic = set(expected(judged, paper="sam_gs", scope="arithmetic"))
    wanted = [name for name in expected(judged, paper="sam_gs", outcome="undecided") if name in arithmetic]
    assert chromium.run(SHOWN) == wanted != []


def test_keyboard_alone_reaches_and_opens(chromium, built):
    chromium.open(address())
    chromium.run("document.querySelector('.claim-filter select').focus()")
    for _ in range(5):  # two more selects, the words, the button, the first claim
        chromium.press("Tab")
    assert chromium.run("document.activeElement.parentElement.id") == NAMES[0]
    chromium.press("Enter")
    assert chromium.run("document.activeElement.parentElement.open") is True


def test_without_scripts_all_claims_are_there_and_no_form(chromium, built):
    chromium.open(address({"paper": "recon"}), scripts=False)
    assert chromium.run(SHOWN) == NAMES
    assert chromium.run("document.querySelector('.claim-filter').checkVisibility()") is False
    assert chromium.run("document.querySelectorAll('.outcome-bar a').length") == 0


def test_the_ledger_begins_with_how_many_claims_that_need_training_hold():
    papers = ("recon", "sam_gs", "rotograd")
    found = [one for paper in papers for one in verdicts.verdicts(paper) if one.claim["scope"] != "arithmetic"]
    yes, no, rest = (int(ledger.trained(answer, *papers)[0]) for answer in ("yes", "no", "open"))
    assert yes + no + rest == len(found)
    assert no == sum("not" in one.outcome.split() or one.outcome == verdicts.DISAGREE for one in found)
    with pytest.raises(LookupError):
        ledger.trained("maybe", *papers)


def test_the_glossary_explains_every_word_of_a_badge():
    text = " ".join((ROOT / "book" / "glossary.md").read_text(encoding="utf-8").lower().split())
    scope, verdict = (re.search(rf" {name} (.*?)(?: verdict | ```)", text)[1] for name in ("scope", "verdict"))
    assert [word for word in verdicts.SCOPES if f"*{word}*" not in scope] == []
    assert [word for word in (*ledger.ORDER,) if f"*{word}*" not in verdict] == []


# Every badge and mark whose words have less contrast than 4.5 with the ground behind them, closed boxes opened.
FAINT = """(() => {
  document.querySelectorAll("details").forEach((box) => (box.open = true));
  const parts = (colour) => {
    const at = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    at.fillStyle = colour;
    at.fillRect(0, 0, 1, 1);
    return [...at.getImageData(0, 0, 1, 1).data];
  };
  const ground = (box) => {
    for (; box; box = box.parentElement) {
      const found = parts(getComputedStyle(box).backgroundColor);
      if (found[3] === 255) return found;
    }
    return [255, 255, 255];
  };
  const light = (colour) => colour.slice(0, 3).map((part) => part / 255)
    .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
    .reduce((sum, part, k) => sum + part * [0.2126, 0.7152, 0.0722][k], 0);
  const faint = (box) => {
    const [dark, bright] = [parts(getComputedStyle(box).color), ground(box)].map(light).sort((a, b) => a - b);
    return (bright + 0.05) / (dark + 0.05) < 4.5;
  };
  const all = [...document.querySelectorAll(".verdict-badge, .outcome-bar i, .strip span")];
  return [all.length, all.filter(faint).map((box) => box.outerHTML.slice(0, 120))];
})()"""


@pytest.mark.parametrize("dark", (False, True))
@pytest.mark.parametrize("name", ("papers/recon", "papers/sam_gs", "papers/rotograd_in_a_page", "ledger"))
def test_no_badge_has_text_of_the_colour_behind_it(chromium, pages, name, dark):  # noqa: F811
    chromium.screen(1280, 900, dark)
    chromium.open(SITE / f"{name}.html")
    count, faint = chromium.run(FAINT)
    chromium.screen(1280, 900)
    assert count > 2 and faint == []
