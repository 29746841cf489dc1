"""The layer explorer in a headless Chromium: what it shows against mtl_core, by keyboard, and without scripts."""

import itertools
import json
import pathlib
import re
from functools import cache

import pytest
import torch

from mtl_core import recon
from mtl_core.conflict import ConflictScores
from mtl_core.models import forks, resnet18
from mtl_lab import experiments
from mtl_lab.figures.layer_explorer import layer_explorer
from mtl_lab.protocol import committed

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "book" / "_static" / "layer_explorer.js"
BUILT = ROOT / "_build" / "html" / "notebooks" / "recon" / "recon.html"
TABLE = experiments.TABLES["multi_fashion_mnist"]("small")
THRESHOLDS = (-0.15, -0.1, -0.05, 0.0)  # from left to right on the slider
SETTINGS = [(-0.1, 25), (0.0, 10), (0.0, 2), (-0.15, 41), (-0.05, 0)]
SHOWN = "document.querySelector('#layer-explorer {}')"


@cache
def log():
    return committed.search_of(TABLE)["ranking"]


@cache
def model():
    return resnet18([10, 10], **TABLE.base.model_options)


@cache
def scores():
    """The committed counts as mtl_core's own."""
    layers, found = log()["layers"], ConflictScores(log()["layers"], 2, THRESHOLDS)
    counts = torch.tensor([[log()[tail][str(S)] for S in THRESHOLDS] for tail in ("scores", "mirror")])
    found.load_state_dict({"found": (layers, 2, log()["iterations"]), "blocks": [counts[..., None]]})
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    place = layer_explorer(log(), model().trunk, ["digit", "garment"], -0.1, 25)
    file = tmp_path_factory.mktemp("explorer") / "page.html"
    head = '<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    watch = "<script>var failed = 0; addEventListener('error', () => failed++)</script>"
    file.write_text(f"{head}{watch}<script>{SCRIPT.read_text('utf-8')}</script>{place}", "utf-8")
    return file


def expected(threshold, count):
    """What Python says of a setting: names, parameters of the trunk, layers that run for each task, positive excess."""
    chosen = scores().ranking(threshold)[:count]
    split = recon.split(model(), chosen, 2).trunk
    calls = [node.target for node in forks.trace(split).nodes if node.op == "call_module"]
    runs = {name: sum(call in (name, f"{name}.0", f"{name}.1") for call in calls) for name in log()["layers"]}
    above = [name for name in chosen if scores().scores(threshold)[name] > scores().mirror(threshold)[name]]
    return chosen, sum(p.numel() for p in split.parameters()), sum(n == 2 for n in runs.values()), len(above)


def set_to(chromium, threshold, count):
    """Move both sliders of a page that was just opened, by keyboard alone."""
    chromium.press("Tab")
    steps = THRESHOLDS.index(threshold)
    for key in ["Home"] + ["ArrowRight"] * steps:
        chromium.press(key)
    chromium.press("Tab")
    for key in ["End"] + ["ArrowLeft"] * (41 - count) if count > 20 else ["Home"] + ["ArrowRight"] * count:
        chromium.press(key)


def shown(chromium):
    """(names, parameters, layers that run for each task, layers in more conflict than agreement), read off the page."""
    lines = chromium.run(f"[...{SHOWN.format('.said')}.children].map((p) => p.textContent)")
    names = chromium.run(SHOWN.format("details p") + ".textContent")
    numbers = [int(re.search(r"[\d,]+(?= \(| of)", line)[0].replace(",", "")) for line in lines[1:]]
    return [[] if names == "none" else names.split(", "), *numbers]


@pytest.mark.parametrize("threshold, count", SETTINGS)
def test_sliders_moved_by_keyboard_show_what_python_says(chromium, page, threshold, count):
    chromium.open(page)
    set_to(chromium, threshold, count)
    assert shown(chromium) == list(expected(threshold, count))
    ranked, places = scores().ranking(threshold), "Number(/, ([\\d.]+)px/.exec(g.style.transform)[1])"
    rows = f"[...{SHOWN.format('.ranking')}.querySelectorAll('g.layer')].map((g) => [{places}, g.textContent])"
    assert [name for _, name in sorted(chromium.run(rows))] == ranked
    boxes = "[...document.querySelectorAll('#layer-explorer .network .box')]"
    drawn = chromium.run(f"{boxes}.map((g) => [g.dataset.layer, g.querySelectorAll('rect').length])")
    assert {name: number for name, number in drawn} == {name: 1 + (name in ranked[:count]) for name in ranked}
    assert len(drawn) == 41 and chromium.run("failed") == 0


def test_all_settings_agree_and_ties_keep_the_order_of_the_network(chromium, page):
    chromium.open(page)
    places = [[k, count] for k, count in itertools.product(range(4), range(42))]
    found = chromium.run(f"{json.dumps(places)}.map(([k, count]) => layerExplorer.at(k, count))")
    graph, sizes = forks.trace(model().trunk), {}
    for name in log()["layers"]:
        sizes[name] = sum(p.numel() for p in model().trunk.get_submodule(name).parameters())
    for (k, count), here in zip(places, found, strict=True):
        chosen = scores().ranking(THRESHOLDS[k])[:count]
        reached = {node.target for node in forks.downstream(graph, set(chosen))} & set(sizes)
        after = sum(sizes.values()) + sum(sizes[name] for name in chosen)
        assert (here["names"], here["after"], here["often"]) == (chosen, after, len(reached))
    tied = [THRESHOLDS[k] for k in range(4) if len(set(scores().scores(THRESHOLDS[k]).values())) < 41]
    assert tied, "the committed scores have ties"


@pytest.mark.parametrize("threshold, count", SETTINGS)
def test_a_wire_is_double_where_a_layer_gets_a_value_for_each_task(chromium, page, threshold, count):
    chromium.open(page)
    set_to(chromium, threshold, count)
    graph = forks.trace(model().trunk)
    reached = forks.downstream(graph, set(scores().ranking(threshold)[:count]))
    nodes = {node.target: node for node in graph.nodes if node.target in log()["layers"]}
    wire = "(w) => [w.getAttribute('d'), w.classList[1]]"
    wires = chromium.run(f"[...document.querySelectorAll('.network path.wire')].map({wire})")
    place = "(g) => [g.dataset.layer, ...['x', 'y'].map((k) => g.querySelector('rect')[k].baseVal.value)]"
    boxes = chromium.run(f"[...document.querySelectorAll('.network .box')].map({place})")
    for name, x, y in boxes:
        middle = y + (11 if "downsample" in name else 16)
        mine = [kind for d, kind in wires if kind != "inside" and re.fullmatch(rf"M[\d.]+,{middle:g}(V.*)?H{x:g}", d)]
        assert mine == ["two" if set(nodes[name].all_input_nodes) & reached.keys() else None], name


def test_bars_ticks_and_dots_are_drawn_to_scale(chromium, page):
    chromium.open(page)
    set_to(chromium, 0.0, 5)
    names, score, mirror = log()["layers"], scores().scores(0.0), scores().mirror(0.0)
    row = "[g.children[1].width.baseVal.value, Number(/^M([\\d.]+)/.exec(g.children[2].getAttribute('d'))[1])]"
    bars = chromium.run(f"[...{SHOWN.format('.ranking')}.querySelectorAll('g.layer')].map((g) => {row})")
    where = "[...g.style.transform.matchAll(/([\\d.]+)px/g)].map((m) => Number(m[1]))"
    dots = chromium.run(f"[...{SHOWN.format('.scatter')}.querySelectorAll('g.layer')].map((g) => {where})")
    left = chromium.run(SHOWN.format(".ranking rect") + ".x.baseVal.value")
    unit = bars[0][0] / score[names[0]]
    for name, (width, tick), (x, y) in zip(names, bars, dots, strict=True):
        assert width == pytest.approx(unit * score[name], abs=0.01)
        assert tick == pytest.approx(left + unit * mirror[name], abs=0.01)
        assert (332 - y) * mirror[name] == pytest.approx((x - 40) * score[name], rel=1e-3), name


def test_the_focus_is_seen_and_the_sliders_say_what_they_are(chromium, page):
    chromium.open(page)
    order = []
    for _ in range(4):
        chromium.press("Tab")
        look = "getComputedStyle(document.activeElement).outlineStyle"
        words = "document.activeElement.labels?.[0]?.textContent ?? document.activeElement.textContent"
        order.append(chromium.run(f"[{words}, {look} !== 'none']"))
    assert [words.split(",")[0] for words, _ in order] == [
        "Threshold S:", "Layers to split:", "The paper’s setting", "Names of the split layers"]  # fmt: skip
    assert all(seen for _, seen in order)
    chromium.open(page)
    set_to(chromium, 0.0, 3)
    assert chromium.run(SHOWN.format("input") + ".getAttribute('aria-valuetext')") == "S = 0"
    chromium.press("Tab")
    chromium.press("Enter")
    assert shown(chromium) == list(expected(-0.1, 25)), "the button goes back to the paper's setting"


def test_rows_stand_still_for_those_who_ask_and_a_phone_is_wide_enough(chromium, page):
    moves = f"getComputedStyle({SHOWN.format('g.layer')}).transitionDuration"
    try:
        chromium.screen(390, 844)
        chromium.open(page)
        assert chromium.run(moves) == "0.25s"
        assert chromium.run("document.documentElement.scrollWidth") <= 390
        assert chromium.run(SHOWN.format(".network") + ".getBoundingClientRect().width") > 330
        chromium.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
        assert chromium.run(moves) == "0s"
    finally:
        chromium.send("Emulation.setEmulatedMedia", features=[])
        chromium.send("Emulation.clearDeviceMetricsOverride")


def test_without_scripts_a_figure_of_the_papers_setting_is_there(chromium, page):
    chromium.open(page, scripts=False)
    images = chromium.run("[...document.images].map((i) => [i.complete && i.naturalWidth, i.alt])")
    assert len(images) == 2 and all(width > 300 and "25 are split at S = -0.1" in alt for width, alt in images)
    assert chromium.run("document.querySelectorAll('#layer-explorer input').length") == 0
    chosen, after, *_ = expected(-0.1, 25)
    before = sum(p.numel() for p in model().trunk.parameters())
    said = chromium.run(SHOWN.format("p") + ".textContent")
    assert said.startswith(f"S = −0.1, 25 layers split, highest score first: {', '.join(chosen)}.")
    assert said.endswith(f"Shared parameters: {before:,}, with the copies {after:,}.")


def test_nothing_happens_on_other_pages(chromium, page, tmp_path):
    file = tmp_path / "other.html"
    file.write_text(page.read_text("utf-8").replace('id="layer-explorer"', 'id="other"'), "utf-8")
    chromium.open(file)
    assert chromium.run("typeof window.layerExplorer + failed") == "undefined0"


def test_the_page_of_the_book_has_the_committed_scores(chromium):
    if not BUILT.exists():
        pytest.skip("there is no site: run `make book`")
    chromium.open(BUILT)
    data = chromium.run("layerExplorer.data")
    for k, S in enumerate(THRESHOLDS):
        assert [data["tails"][k][tail] for tail in ("scores", "mirror")] == [
            log()[tail][str(S)] for tail in ("scores", "mirror")
        ]
    assert shown(chromium) == list(expected(-0.1, 25))
    finding = chromium.run(
        "[...document.querySelectorAll('p')].find((p) => /picks small layers/.test(p.textContent)).textContent"
    )
    before, shares = sum(p.numel() for p in model().trunk.parameters()), []
    for S in (-0.1, 0.0):
        shares.append(f"{100 * (expected(S, 25)[1] / before - 1):.0f}")
    assert re.findall(r"(\d+) %", finding) == shares and int(shares[0]) < int(shares[1])
