"""The front page: its answers are the records', its cards those of the papers' pages, its path is marked on its way."""

import json
import re
import sys
from statistics import median

import pytest
import yaml
from bs4 import BeautifulSoup
from docutils import nodes
from site_pages import ROOT, SITE, pages  # noqa: F401 (a fixture)

from mtl_core.methods import METHODS
from mtl_lab import experiments, records
from mtl_lab.claims import verdicts
from mtl_lab.experiments import recon_exchange
from mtl_lab.protocol.verdict import paired_differences
from mtl_lab.statistics import paired

sys.path.insert(0, str(ROOT / "book" / "_ext"))
import cards  # noqa: E402
import drawn  # noqa: E402
import lecture  # noqa: E402
import share  # noqa: E402
import ten_minutes  # noqa: E402

PAIR = recon_exchange.ReconExchange.pair
INDEX, README = (" ".join((ROOT / f).read_text("utf-8").split()) for f in ("book/index.md", "README.md"))
TABLES = {name: experiments.committed(name, "small") for name in cards.PROBLEMS}


def rows(name):
    """name -> RowVerdict of the methods that compete in a table."""
    verdict = TABLES[name]
    return {r.name: verdict.rows[r.name] for r in verdict.table.shared() if not r.control and r.name != "static"}


def said(paper):
    """The card of a paper, its terms without the link to the glossary."""
    card = cards.load()[paper]
    return {field: re.sub(r"\{term\}`(.*?)`", r"\1", x) if isinstance(x, str) else x for field, x in card.items()}


def article(page):
    return BeautifulSoup((SITE / f"{page}.html").read_text("utf-8"), "html.parser").find("article")


# --- the answers


def test_none_of_the_methods_that_win_on_the_molecules_looks_at_angles():
    planned = {row.name: row for row in TABLES["qm9"].table.shared()}
    uses = {drawn.use(planned[name]) for name, row in rows("qm9").items() if row.outcome == "better"}
    assert "and none of these looks at angles" in INDEX and uses and uses <= {"losses alone", "gradient lengths"}
    assert "of those that beat tuned fixed weights on eleven properties of molecules, none looks at angles" in README


def test_readme_gives_the_answer_of_its_page_first_and_its_links_leave_the_repository():
    (found,) = lecture.Site(SITE).said("notebooks/ideas/does_conflict_predict_harm#balanced-scales")
    assert found.astext().startswith("A little")
    answer = "**Does gradient conflict predict harm? A little, once the losses are balanced."
    assert README.startswith(f"# Conflicting Gradients {answer}")
    links = re.findall(r"\]\(([^)]*)\)|(?:src|href)=\"([^\"]*)", README)
    assert len(links) > 10 and [link for link in map("".join, links) if not link.startswith("https://")] == []


def test_no_method_wins_everywhere_and_longer_training_gains_most():
    winners = [{name for name, row in rows(table).items() if row.outcome == "better"} for table in TABLES]
    assert "no method is better on all three of our problems" in INDEX and not set.intersection(*winners)
    qm9 = TABLES["qm9"]
    longer = qm9.rows["static_longer"]
    assert "on the molecules training the fixed weights longer gained most" in INDEX
    assert longer.difference.low > max(row.difference.high for row in rows("qm9").values())
    assert "fewer backward passes than a method that needs all eleven gradients" in INDEX
    epochs = {row.name: row.epochs for row in qm9.table.shared()}["static_longer"]
    passes = {name: row.cost.get("trunk_backward_passes") for name, row in qm9.rows.items()}
    assert "when they are trained four times as long" in INDEX and epochs == 4
    assert epochs * passes["static"] < min(passes["norm_equalised"], passes["pcgrad"])
    seconds = {}
    for record in qm9.records:
        seconds.setdefault(record["row"], []).append(record["core_seconds"])
    most = {name: median(taken) for name, taken in seconds.items() if name != "static_longer"}
    assert "but took more core-seconds" in INDEX and median(seconds["static_longer"]) > max(most.values())


def test_the_answers_have_one_number_each_at_most():
    answers = (ROOT / "book" / "index.md").read_text("utf-8").partition("**Does")[2].split("\n::::")[0]
    text = re.sub(r"\{record\}`[^`]+`", "N", answers)
    sentences = re.split(r"(?<=[.?])\s", text)
    assert 4 < len(sentences) < 9 and all(len(re.findall(r"\bN\b|\d", sentence)) <= 1 for sentence in sentences)


# --- the table of outcomes


def test_every_method_has_one_place_in_the_table_of_outcomes():
    for name in TABLES:
        counts, of = cards.outcomes(name)
        assert sum(int(n) for cell in counts.values() for n in re.findall(r"\d+", cell)) == of == len(rows(name))
        better = sum(row.outcome == "better" for row in rows(name).values())
        unsure = sum(row.outcome == "worse (amount uncertain)" for row in rows(name).values())
        assert int(counts["better"].split()[0]) == better
        assert counts["worse"].endswith(f"(+{unsure})") == bool(unsure)
    with pytest.raises(LookupError, match="no runs of qm9, paper"):
        cards.outcomes("qm9", "paper")


# --- the cards


def test_a_card_that_is_not_whole_is_named(tmp_path):
    file = tmp_path / "cards.yml"
    file.write_text(yaml.safe_dump({"recon": {"title": "Recon", "claims": "x", "verdict": "y"}}))
    lacks = "cards.yml: recon lacks, or has .* change, finding, found, page, short, sure, verdict, verdicts"
    with pytest.raises(LookupError, match=lacks):
        cards.load(file)
    assert set(cards.load()) == {"recon", "rotograd", "sam_gs"}


def test_what_the_card_of_recon_says():
    card, margin = said("recon"), TABLES["multi_fashion_mnist"].table.margin
    claim = next(v for v in verdicts.verdicts("recon") if v.claim["id"] == "recon-improves-rerun-mfm")
    checks = {check.text.split(":")[0].split(" against ")[1]: check for check in claim.checks}
    assert checks["pcgrad"].text.endswith(": better")
    delta = {name: row.delta for name, row in TABLES["multi_fashion_mnist"].rows.items() if row.delta}
    pairs = {n: paired_differences(delta, f"recon_{n}", n) for n in METHODS if {n, f"recon_{n}"} <= set(delta)}
    judged = {n: paired.outcome(d.low, d.high, margin) for n, d in paired.holm_intervals(pairs).items()}
    titles = {"equal": "equal weights"}
    named = {
        word: " and ".join(titles.get(n, METHODS[n].title) for n in judged if judged[n] == word)
        for word in set(judged.values())
    }
    helped, unsure = named["better"], named["cannot decide"]
    finding = f"Recon clearly helped {helped} in our small rerun. For {unsure} we cannot tell."
    assert card["finding"] == finding
    assert card["short"] == f"helped {helped}; for {unsure} we cannot tell."
    assert all(checks[name].text.endswith(": cannot decide") for name in ("equal", "cagrad"))
    assert "Plain training with equal weights, on the layers and the learning rate" in card["found"]
    assert "found for PCGrad, does as well" in card["found"]
    found = recon_exchange.crossed(TABLES["multi_fashion_mnist"], records.load("recon_exchange", "small"), PAIR)
    d = paired.paired_difference(*(found[method, "recon_pcgrad"] for method in ("recon_pcgrad", "recon_equal")))
    assert max(-d.low, d.high) < margin


def test_what_the_card_of_rotograd_says():
    row, card = TABLES["two_digits"].rows["rotograd"], said("rotograd")
    assert ("does as well as tuned fixed weights, to within" in card["finding"]) == (row.outcome == "equivalent")
    assert ("as good as tuned fixed weights on digits, not better" in card["short"]) == (row.outcome == "equivalent")
    claim = next(v for v in verdicts.verdicts("rotograd") if v.claim["id"] == "rotograd-digits-better")
    outcomes = {c.text.split(":")[0].split(" against ")[1]: c.text.rpartition(": ")[2] for c in claim.checks}
    assert "clearly beats MGDA and does as well as equal weights" in card["found"]
    assert outcomes.pop("mgda") == "better" and outcomes.pop("equal") == "equivalent"
    assert "For GradDrop, PCGrad and IMTL-G we cannot tell" in card["found"]
    assert outcomes == dict.fromkeys(("graddrop", "pcgrad", "imtl_g"), "cannot decide")


def test_what_the_card_of_sam_gs_says():
    card = said("sam_gs")
    finding = card["finding"]
    assert "beats tuned fixed weights on molecules and loses to them on pictures" in finding
    assert card["short"] == "better than tuned fixed weights on molecules, worse on pictures."
    assert TABLES["qm9"].rows["sam_gs"].outcome == "better"
    assert TABLES["multi_fashion_mnist"].rows["sam_gs"].outcome == "worse"
    page = json.loads((ROOT / "notebooks" / "sam_gs" / "sam_gs.ipynb").read_text("utf-8"))["cells"][0]["source"]
    handout = (ROOT / "book" / "lecture" / "sam_gs.md").read_text("utf-8")
    for text in ("".join(page), handout):  # the same words, a verdict after each half
        plain = " ".join(
            re.sub(r"\s+\(\{verdict\}`sam_gs samgs-better-static-(qm9|mfm)`\)", "", text).replace("*", "").split()
        )
        assert "beats tuned fixed weights on molecules and loses to them on pictures." in plain
    assert "Equal lengths alone beat SAM-GS on both." in handout
    assert "Equal lengths alone beat SAM-GS on both" in finding
    both = ("qm9", "multi_fashion_mnist")
    for table in both:
        alone = experiments.committed(f"{table}_sam_gs", "small").rows["gamma 1, beta2 0.99"].difference
        assert min(alone.low, TABLES[table].rows["norm_equalised"].difference.low) > (
            TABLES[table].rows["sam_gs"].difference.high
        )
    momentum = [experiments.committed(f"{name}_sam_gs", "small").rows["gamma 0, beta2 0.99"] for name in both]
    lost = "Momentum alone, without equal lengths, loses to tuned fixed weights on both" in card["found"]
    assert lost == all(one.outcome.startswith("worse") for one in momentum)
    assert card["found"].startswith("Equal lengths do the work.")  # they beat SAM-GS on both, above


def test_the_same_card_is_on_the_front_page_and_opens_the_page_of_its_paper(pages):  # noqa: F811
    there = article("index").select(".verdict-card")
    assert len(there) == len(cards.load())
    for card, box in zip(cards.load().values(), there, strict=True):
        chapter = article(card["page"]).select_one("section")
        first = [child for child in chapter.children if child.name][1]  # after the heading
        assert "verdict-card" in first["class"]
        assert [" ".join(x.get_text().split()) for x in first.select("dt, dd, .finding, .verdicts li")] == [
            " ".join(x.get_text().split()) for x in box.select("dt, dd, .finding, .verdicts li")
        ]
        assert [dt.get_text() for dt in box.select("dt")] == list(cards.QUESTIONS.values())
        assert box.select_one(".paper a")["href"] == f"{card['page']}.html" and not first.select(".paper")
        assert len(box.select(".verdicts li > p > a.verdict-badges")) == len(card["verdicts"]) >= 2
        assert not box.select("dd .verdict-badge, .finding .verdict-badge"), "a sentence reads without its verdict"


# --- the ten-minute path


def test_each_page_of_the_path_says_where_it_is_and_what_comes_next(pages):  # noqa: F811
    path, last = list(ten_minutes.PATH), "practitioners"
    assert len(path) == 5
    for step, (page, after) in enumerate(zip(path, [*path[1:], last], strict=True)):
        bars = article(page).select(".ten-minute-path")
        assert len(bars) == 2, f"{page}: one under the title, one where the text ends"
        assert bars[0].find_previous_sibling().name == "h1"
        for bar in bars:
            assert f"{step + 1} of {len(path)}" in bar.get_text()
            target = (SITE / page).parent / bar.select_one("a")["href"]
            assert target.resolve() == (SITE / f"{after}.html").resolve()
    marked = {p for p in pages if 'class="ten-minute-path' in p.read_text("utf-8")}
    assert marked == {SITE / f"{page}.html" for page in path}


def test_the_front_page_links_the_path_in_its_order(pages):  # noqa: F811
    links = [a["href"] for a in article("index").select(".ten-minutes a")]
    assert links == [f"{page}.html" for page in ten_minutes.PATH]


def test_the_ideas_come_in_the_order_of_the_path():
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text("utf-8"))
    chapters = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    assert [chapter for chapter in chapters if chapter in ten_minutes.PATH] == list(ten_minutes.PATH)


# --- the picture of a link


def test_a_link_shows_the_two_answers_and_never_the_bar():
    screen = nodes.container(classes=["first-screen"])
    for text in ("Does it? A little.", "And so on.", "Do they? Some do.", "Why? No."):
        screen += nodes.paragraph(text=text)
    page = nodes.section("", screen)
    assert share.answers(page) == ["Does it? A little.", "Do they? Some do."]
    with pytest.raises(share.ExtensionError, match="no `first-screen`"):
        share.answers(nodes.section("", nodes.paragraph(text="Does it? A little.")))
    bar = nodes.paragraph(text="Ten-minute path: 1 of 5 and what comes next", classes=["ten-minute-path"])
    page = nodes.section("", bar, nodes.paragraph(text="When several tasks train one network, each pulls."))
    assert share.first_words(page).startswith("When several tasks")
