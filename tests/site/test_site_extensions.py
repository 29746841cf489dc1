"""What pages can quote: numbers and verdicts from records, code from the module, the feed. What is missing is named."""

import io
import itertools
import pathlib
import sys
import xml.etree.ElementTree as xml
from dataclasses import replace

import numpy as np
import pytest
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import docutils_namespace, patch_docutils

from mtl_lab import experiments
from mtl_lab.claims import verdicts
from mtl_lab.experiments import below_the_floor

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book" / "_ext"))

import conflicting_gradients_site as furniture  # noqa: E402
import fault_record  # noqa: E402
import feed  # noqa: E402
import ledger  # noqa: E402
import module_code  # noqa: E402
import quotes  # noqa: E402


@pytest.fixture(scope="module")
def judged():
    """The committed table of QM9."""
    return experiments.committed("qm9", "small")


@pytest.fixture(autouse=True)
def committed(judged, monkeypatch):
    monkeypatch.setattr(experiments, "committed", lambda *name: {("qm9", "small"): judged}.get(name))
    monkeypatch.setattr(ledger, "judged", list)


@pytest.fixture
def record(judged, monkeypatch):
    """Text that the role shows, from the committed table with one row changed."""

    def shown(*what, table=judged.table, **changed):
        rows = dict(judged.rows) | {"sam_gs": replace(judged.rows["sam_gs"], **changed)}
        found = {("qm9", "small"): replace(judged, rows=rows, table=table)}
        monkeypatch.setattr(experiments, "committed", lambda *name: found.get(name))
        return "".join(node.astext() for node in quotes.record(*what))

    return shown


def plain(text):
    return text.replace("−", "-").replace("\u00a0", " ")


def test_numbers_are_those_of_the_table(record, judged):
    row = judged.rows["sam_gs"]
    d, deltas = row.difference, list(row.delta.values())
    assert len(deltas) == 20
    shown = plain(record("qm9", "small", "sam_gs", "difference"))
    assert shown == f"{d.mean:+.1f} [{d.low:.1f}, {d.high:.1f}]"
    assert record("qm9", "small", "sam_gs", "difference", "mean") == f"{d.mean:+.1f}"
    assert plain(record("qm9", "small", "sam_gs", "delta")) == f"{np.mean(deltas):+.1f} ± {np.std(deltas, ddof=1):.1f}"
    assert record("qm9", "small", "sam_gs", "outcome") == row.outcome
    assert record("qm9", "small", "sam_gs", "seeds") == "20"
    assert record("qm9", "small", "margin") == f"{judged.table.margin:g}"
    finer = replace(judged.table, margin=0.5)
    shown = plain(record("qm9", "small", "sam_gs", "difference", table=finer))
    assert shown == f"{d.mean:+.2f} [{d.low:.2f}, {d.high:.2f}]"
    mean, sd = row.metrics["HOMO"]["MAE (meV)"]
    assert record("qm9", "small", "sam_gs", "HOMO", "MAE", "(meV)") == f"{mean:.4g} ± {sd:.2g}"
    mean, sd = judged.rows["single mu"].metrics["mu"]["MAE (D)"]
    assert record("qm9", "small", "single", "mu", "mu", "MAE", "(D)") == f"{mean:.4g} ± {sd:.2g}", "a blank in the name"


def test_a_count_names_its_denominator(record, judged):
    others = [row for row in judged.rows.values() if row.difference and not row.control]
    better = sum(row.outcome == "better" for row in others)
    assert better and record("qm9", "small", "count", "better") == f"{better} of {len(others)}"
    words = ("better", "(amount", "uncertain)")
    small = sum(row.outcome == " ".join(words) for row in others)
    assert small and record("qm9", "small", "count", *words) == f"{small} of {len(others)}"
    titles = [row.title for row in others if row.outcome == "worse"]
    assert len(titles) > 1 and record("qm9", "small", "rows", "worse") == ", ".join(titles)
    assert record("qm9", "small", "rows", "excellent") == "none"
    lost = {"state": "void", "outcome": "void", "difference": None}  # still one of the rows
    assert record("qm9", "small", "count", "better", **lost) == f"{better - 1} of {len(others)} (1 void)"
    assert record("qm9", "small", "rows", "better", **lost).endswith(" (1 void)")


def test_what_cannot_be_relied_on_says_so(record):
    assert record("qm9", "small", "sam_gs", "difference", state="unfinished").endswith("] (unfinished)")
    assert record("qm9", "small", "sam_gs", "difference", state="unfinished").endswith("] (unfinished)")
    assert record("qm9", "small", "sam_gs", "difference", state="void") == "void"


@pytest.mark.parametrize(
    "what, named",
    [
        (("qm9", "tiny", "sam_gs", "difference"), "no runs of qm9, tiny"),
        (("qm9", "small", "sam_sg", "difference"), "no row 'sam_sg' in qm9, small; there are: .*sam_gs"),
        (
            ("qm9", "small", "sam_gs", "diference"),
            "'sam_gs' has no 'diference'; expected one of: difference, .*HOMO MAE",
        ),
        (("qm9", "small", "static", "difference"), "'static' has no 'difference'"),
    ],
)
def test_what_is_missing_is_named(record, what, named):
    with pytest.raises(LookupError, match=named):
        record(*what)


def test_verdicts_show_both_axes_and_lead_to_the_ledger():
    found = verdicts.verdicts("recon")[0]
    (box,) = quotes.verdict("recon", found.claim["id"])
    assert box.astext() == f"{found.claim['scope']} {found.outcome}"
    assert [badge["classes"][:2] for badge in box.children[::2]] == [
        ["verdict-badge", axis] for axis in ("scope", "outcome")
    ]
    with pytest.raises(LookupError, match="no claim 'recon-x' of recon; there are: recon-"):
        quotes.verdict("recon", "recon-x")


def test_a_tally_counts_every_claim_once():
    (text,) = quotes.tally("recon", "sam_gs")
    total = len(verdicts.load("recon")) + len(verdicts.load("sam_gs"))
    assert text.startswith(f"{total} claims: ")
    assert sum(int(part.split()[0]) for part in text.split(": ")[1].split(", ")) == total
    with pytest.raises(LookupError, match="no claims of a paper 'sam'"):
        quotes.tally("sam")


def test_a_cheaper_form_says_how_many_of_its_runs_are_here_until_all_are(monkeypatch):
    here = {}
    monkeypatch.setattr(quotes.records, "by_row", lambda *_: here)
    (text,) = quotes.cheaper("outcome", "pcgrad,", "every", "16")
    assert text == "not known yet (0 of 75 runs)"
    for stream, (number, row) in itertools.product(range(below_the_floor.STREAMS), enumerate(below_the_floor.ROWS)):
        here[f"{row}; stream {stream}"] = {"core_seconds": 5.0 + number, "test": 300 + number / 7 + number * stream % 3}
    cost, outcome, gain = (quotes.cheaper(what, "pcgrad,", "every", "16")[0] for what in ("cost", "outcome", "gain"))
    d, said, times = below_the_floor.judged(here)["pcgrad, every 16"]
    assert (cost, outcome) == (f"{times:.1f}", said) and gain.startswith(f"{d.mean:+.1f} [".replace("-", "−"))
    with pytest.raises(LookupError, match="cost alone"):
        quotes.cheaper("gain", "pcgrad,", "full")
    with pytest.raises(LookupError, match="expected cost, outcome or gain of one of"):
        quotes.cheaper("cost", "pcgrad")


# --- on a page


@pytest.fixture
def build(tmp_path):
    """Build one page with the extensions; (html, warnings)."""

    def built(text, more=""):
        source = tmp_path / "source"
        source.mkdir(exist_ok=True)
        (source / "conf.py").write_text(f'extensions = [{more}"myst_parser", "quotes", "module_code", "ledger"]\n')
        (source / "index.md").write_text(f"# A page\n\n{text}\n", encoding="utf-8")
        said = io.StringIO()
        with patch_docutils(str(source)), docutils_namespace():
            out = tmp_path / "out"
            app = Sphinx(source, source, out, tmp_path / "doctrees", "html", status=None, warning=said, freshenv=True)
            app.config.html_theme_options["repository_url"] = "https://code.example/book"
            app.build(force_all=True)
        return (out / "index.html").read_text(encoding="utf-8"), said.getvalue()

    return built


def test_a_page_without_its_record_does_not_build(build):
    html, said = build("It gained {record}`qm9 paper sam_gs difference`, {verdict}`recon nothing`, {tally}`nobody`.")
    assert "index.md:3: WARNING: record `qm9 paper sam_gs difference`: no runs of qm9, paper, are committed" in said
    assert "WARNING: verdict `recon nothing`: no claim 'nothing'" in said and "nobody" in said
    assert "missing: qm9 paper" in html


def test_code_is_that_of_the_module(build):
    html, said = build(
        "```{code-of} mtl_core.metrics.mean_rank\n```\n\n```{code-of} mtl_lab.protocol.verdict.RowVerdict\n```"
    )
    assert "code-of" not in said and "index.md" not in said
    file = (ROOT / "mtl_core" / "metrics.py").read_text(encoding="utf-8")
    line = file[: file.index("def mean_rank")].count("\n") + 1
    assert f"https://code.example/book/blob/main/mtl_core/metrics.py#L{line}-" in html
    assert "mean_rank" in html and "RowVerdict" in html and "controls_pass" not in html


def test_a_verdict_links_to_its_entry(build):
    name = verdicts.load("recon")[0]["id"]
    _, said = build(f"{{verdict}}`recon {name}`")
    assert f"WARNING: verdict: no page has the ledger entry of {name}" in said
    html, said = build(f"{{verdict}}`recon {name}`\n\n```{{ledger}} recon\n```")
    assert "WARNING: verdict" not in said and f'<a class="verdict-badges reference internal" href="#{name}">' in html


@pytest.mark.parametrize(
    "name, named",
    [
        ("mtl_lab.statistics.paired.absent", "absent"),
        ("nothing.at_all", "no module holds 'nothing.at_all'"),
    ],
)
def test_code_that_is_gone_is_a_warning(build, name, named):
    _, said = build(f"```{{code-of}} {name}\n```")
    assert "WARNING" in said and named in said


def test_a_module_is_found_by_its_longest_prefix():
    assert module_code.find("mtl_core.data.qm9.load") == (ROOT / "mtl_core" / "data" / "qm9.py", "load")
    assert module_code.find("mtl_core.data.load") == (ROOT / "mtl_core" / "data" / "__init__.py", "load")


# --- the feed, and small repairs

LOG = "# Changelog\n\n## 0.2.0 (not released)\n\n- New.\n\n## 0.1.0 (2026-11-30)\n\n- *First* & `code`.\n- Second.\n"


def test_the_feed_has_an_entry_for_each_version():
    names = {"a": feed.ATOM}
    text = feed.feed(LOG, "A book", "Its authors", "https://book.example/", "2026-12-01T10:00:00Z")
    top = xml.fromstring(text.encode())
    find = [
        {tag: entry.findtext(f"a:{tag}", namespaces=names) for tag in ("id", "title", "updated", "content")}
        for entry in top.findall("a:entry", names)
    ]
    assert [one["title"] for one in find] == ["A book 0.2.0 (not released)", "A book 0.1.0 (2026-11-30)"]
    assert [one["updated"] for one in find] == ["2026-12-01T10:00:00Z", "2026-11-30T00:00:00Z"]
    assert "<li><em>First</em> &amp; <code>code</code>.</li>" in find[1]["content"]
    assert len({one["id"] for one in find}) == 2 and top.findtext("a:updated", namespaces=names) == find[0]["updated"]
    with pytest.raises(ValueError, match="expected a heading"):
        feed.feed("# Changelog\n", "A book", "Its authors", "https://book.example/", "2026-12-01T10:00:00Z")


def test_a_page_links_to_the_feed(build):
    html, said = build("The [feed](feed.xml) and [nothing](nothing.xml).", '"feed", ')
    assert 'internal" href="feed.xml"' in html and "nothing.xml" in said and "feed.xml" not in said


def test_roles_and_heads_for_screen_readers():
    context = {"body": '<div role="doc-biblioentry"></div><th class="head"><p></p></th><th class="head"><p>x</p></th>'}
    furniture.tidy_body(None, "page", "page.html", context, None)
    assert context["body"] == '<div role="listitem"></div><td class="head"></td><th class="head"><p>x</p></th>'


def test_the_record_of_faults_is_summed_by_kind_and_named_where_it_is_damaged(tmp_path):
    file = tmp_path / "record.jsonl"
    head = '{"commit": "0", "failures": 1, "faults": 6, "finished": "2026-01-01", "seed": 7}\n'
    line = '{{"kind": "a kill", "fault": "{}", "outcome": "{}", "count": {}, "seconds": 1.0}}\n'
    file.write_text(head + line.format("x", "ok", 2) + line.format("y", "ok", 3) + line.format("z", "FAILURE", 1))
    assert fault_record.counts(fault_record.read(file)[1]) == {"a kill": {"ok": 5, "one sentence": 0, "FAILURE": 1}}
    head = fault_record.read(file)[0]
    assert fault_record.answer(head) == "1 of 6 faults caused on purpose did harm: the table below says where."
    assert fault_record.answer(head | {"failures": 0}).startswith("No record was lost: after each of 6 faults")
    assert fault_record.grouped({"a kill": 1})[fault_record.OTHER] == {"a kill": 1}
    found = fault_record.counts(fault_record.read(fault_record.RECORD)[1])
    groups = fault_record.grouped(found)
    assert fault_record.OTHER not in groups and sum(map(len, groups.values())) == len(found), "each kind in one group"
    for content in ("", "{}\n", "no JSON"):
        file.write_text(content)
        with pytest.raises(ExtensionError, match="record.jsonl: no record of faults"):
            fault_record.read(file)
