"""The built site, offline: links, words for images, weight, nothing from outside, nothing of this machine."""

import json
import re
import xml.etree.ElementTree as xml
from urllib.parse import urlsplit

import pytest
import site_pages
import yaml
from site_pages import ROOT, SITE, pages  # noqa: F401 (a fixture)

import mtl_core

CHECKS = (
    "printed_objects",
    "broken_links",
    "broken_source_links",
    "outside_loads",
    "absent_loads",
    "heavy_pages",
    "wordless_images",
)


@pytest.mark.parametrize("check", CHECKS)
def test_the_site_has_no(check, pages):  # noqa: F811
    assert len(pages) > 5
    assert not getattr(site_pages, check)(SITE, pages)


def test_nothing_of_the_build_machine(pages):  # noqa: F811
    assert not site_pages.machine_paths(SITE)


def test_formulas_are_set_by_the_site_itself(pages):  # noqa: F811
    with_math = [p for p, page in pages.items() if any("mathjax/tex-svg.js" in src for src in page.loads)]
    assert with_math and (SITE / "_static" / "mathjax" / "tex-svg.js").stat().st_size > 10**6


def test_every_page_carries_what_the_site_adds_to_the_theme(pages):  # noqa: F811
    # The lecture kit is not made by the theme: slides and handouts have a style and a script of their own.
    for path in [p for p in pages if p.name not in ("genindex.html", "search.html") and p.parent.name != "lecture"]:
        loaded = {urlsplit(src).path.rpartition("/")[2] for src in pages[path].loads}
        assert {"site.js", "site.css", "words.css"} <= loaded, path.name


def test_the_start_page_has_its_doors(pages):  # noqa: F811
    links = {urlsplit(href).path for href in pages[SITE / "index.html"].links}
    doors = {"notebooks/recon/recon_multi_fashion_mnist.html", "notebooks/build_on/in_your_own_loop.html", "rerun.html"}
    assert doors | {"add_a_method.html"} <= links


def test_the_readme_shows_the_figure_that_the_records_draw():
    def shape(file):
        return re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):.1f}", file.read_text(encoding="utf-8"))

    shown, drawn = ROOT / "book" / "_static" / "forest_qm9.svg", ROOT / "book" / "_drawn" / "forest-qm9-small.svg"
    assert str(shown.relative_to(ROOT)) in (ROOT / "README.md").read_text(encoding="utf-8")
    assert shape(shown) == shape(drawn), f"cp {drawn.relative_to(ROOT)} {shown.relative_to(ROOT)}"


def executed(pages):  # noqa: F811
    found = [p for p in pages if p.parent.parent == SITE / "notebooks"]
    assert found
    return found


def test_executed_pages_carry_their_run_card(pages):  # noqa: F811
    for path in executed(pages):
        text = "".join(pages[path].text)
        assert "how-this-page-was-made" in pages[path].ids
        words = ("Hardware", "Commit", "Versions", "First cell in Colab", f"make run PAGE={path.stem}")
        assert [word for word in words if word not in text] == []


def test_edit_links_point_at_sources(pages):  # noqa: F811
    def sources(path):
        return {h.split("/edit/main/")[1] for h in pages[path].links if "/edit/main/" in h}

    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text(encoding="utf-8"))
    names = [toc["root"]] + [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    assert len(names) > 5
    for name in names:
        here = f"{name}.ipynb" if name.startswith("notebooks/") else f"book/{name}.md"
        assert sources(SITE / f"{name}.html") == {here}


def test_each_page_can_be_taken_home_and_disputed(pages):  # noqa: F811
    for path in executed(pages):
        links = pages[path].links
        name = urlsplit(site_pages.REPOSITORY).path
        assert (
            f"https://colab.research.google.com/github{name}/blob/main/notebooks/{path.parent.name}/{path.stem}.ipynb"
            in links
        )
        taken = [path.parent / h for h in links if h.endswith(".ipynb") and "_sources" in h]
        assert taken and json.loads(taken[0].read_text(encoding="utf-8"))["nbformat"] == 4
        assert any(
            f"/issues/new?title=Issue%20on%20page%20%2Fnotebooks/{path.parent.name}/{path.name}" in h for h in links
        )


def test_the_feed_is_announced_and_names_the_versions(pages):  # noqa: F811
    for path, page in pages.items():
        feeds = [href for href in page.announces if href.endswith(".xml")]
        assert feeds and all((path.parent / href).resolve() == SITE / "feed.xml" for href in feeds), path
    names = {"a": "http://www.w3.org/2005/Atom"}
    top = xml.parse(SITE / "feed.xml").getroot()
    titles = [entry.findtext("a:title", namespaces=names) for entry in top.findall("a:entry", names)]
    versions = re.findall(r"(?m)^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert titles == [f"Conflicting Gradients {version}" for version in versions]
    assert all(entry.findtext("a:content", namespaces=names) for entry in top.findall("a:entry", names))


def test_the_citation_names_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == mtl_core.__version__
    assert cited["repository-code"] == site_pages.REPOSITORY
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    assert cited["url"] == config["html"]["baseurl"] and config["repository"]["url"] == site_pages.REPOSITORY
    assert {reference["title"].split(":")[0] for reference in cited["references"]} >= {"Recon", "RotoGrad"}


# --- the checks themselves, on a site with one fault each

ALT = "a curve that falls from left to right"
GOOD = f'<a href="b.html#x">b</a><h2 id="x"></h2><img src="i.svg" alt="{ALT}">'
SOURCE = f'<a href="{site_pages.REPOSITORY}/edit/main/README.md">edit</a>'
FAULTS = {
    "object": (GOOD + "&lt;IPython.core.display.Markdown object&gt;", "printed_objects"),
    "target": (GOOD.replace("b.html", "c.html"), "broken_links"),
    "anchor": (GOOD.replace("#x", "#y"), "broken_links"),
    "source": (GOOD + SOURCE.replace("README", "ABSENT"), "broken_source_links"),
    "alt": (GOOD.replace(ALT, ""), "wordless_images"),
    "short alt": (GOOD.replace(ALT, "a curve"), "wordless_images"),
    "no alt": (GOOD.replace(f'alt="{ALT}"', ""), "wordless_images"),
    "same alt": (GOOD + f'<img src="k.svg" alt="{ALT}">', "wordless_images"),
    "weight": (GOOD + "x" * 10**6, "heavy_pages"),
    "heavy figure": (GOOD.replace("i.svg", "heavy.svg"), "heavy_pages"),
    "script": (GOOD + '<script src="https://cdn.example/x.js"></script>', "outside_loads"),
    "style": (GOOD + '<link rel="stylesheet" href="//cdn.example/x.css">', "outside_loads"),
    "image": (GOOD.replace("i.svg", "j.svg"), "absent_loads"),
    "own script": (GOOD + '<script src="_static/absent.js"></script>', "absent_loads"),
}


def small_site(folder, text):
    (folder / "a.html").write_text(text)
    (folder / "b.html").write_text(GOOD + SOURCE)
    (folder / "i.svg").write_text("<svg/>")
    (folder / "heavy.svg").write_text("<svg/>" + " " * 10**6)
    return site_pages.read(folder)


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(tmp_path, name):
    text, check = FAULTS[name]
    check = getattr(site_pages, check)
    assert check(tmp_path, small_site(tmp_path, GOOD)) == []
    assert check(tmp_path, small_site(tmp_path, text))


def test_outside_loads_of_a_style_sheet_are_found(tmp_path):
    found = small_site(tmp_path, GOOD)
    (tmp_path / "s.css").write_text("@import url('https://fonts.example/f.css');")
    assert site_pages.outside_loads(tmp_path, found)


@pytest.mark.parametrize("word", [str(ROOT) + "/x", "in /tmp" + "/abc/run.py", "from /home" + "/ada/book"])
def test_machine_paths_are_found(tmp_path, word):
    small_site(tmp_path, GOOD)
    assert not site_pages.machine_paths(tmp_path)
    small_site(tmp_path, f"<p>{word}</p>")
    assert site_pages.machine_paths(tmp_path)
