"""RotoGrad's arrows and SAM-GS's gate in a browser: mtl_core's numbers, the keyboard, and stills without scripts."""

import json
import pathlib
import re
import sys

import pytest
import torch
from torch import nn

from mtl_core import conflict
from mtl_core.linalg import equalised
from mtl_core.methods import SAMGS
from mtl_core.models.rotations import orthogonal

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT, HTML = ROOT / "book" / "_static" / "explorables.js", ROOT / "_build" / "html"
sys.path.insert(0, str(ROOT / "book" / "_ext"))
import explorables  # noqa: E402

BUILT = {"rotograd": HTML / "methods" / "rotograd.html", "sam_gs": HTML / "notebooks" / "sam_gs" / "sam_gs.html"}
CONTROLS = {"rotograd": ["rotograd-step", "rotograd-angle", "rotograd-equal", "rotograd-three", "Play"]}
CONTROLS["sam_gs"] = ["samgs-ratio", "samgs-gate"]
SAID = "[...document.querySelector('#explore-{} .said').children].map((p) => p.textContent)"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    file = tmp_path_factory.mktemp("explorables") / "page.html"
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    body = "".join(map(explorables.html, explorables.DATA))
    file.write_text(f"{head}<title>x</title><script>{SCRIPT.read_text('utf-8')}</script><main>{body}</main>", "utf-8")
    return file


def turned_by_hand(pulls, steps):
    """Equation 3 restated: G_k at each step, from autograd through the rotations themselves."""
    skew, found = torch.zeros(len(pulls), 2, 2, dtype=torch.float64, requires_grad=True), []
    for _ in range(steps + 1):
        back = torch.einsum("kij,ki->kj", orthogonal(skew, "matrix_exp"), pulls)
        found.append(back.detach())
        common = nn.functional.normalize(found[-1], dim=1).mean(0) * found[-1].mean(0).norm()
        (slope,) = torch.autograd.grad(-2 * (back @ common).sum(), skew)
        skew = (skew - explorables.RATE * slope).detach().requires_grad_()
    return torch.stack(found)


@pytest.mark.parametrize("three", [0, 1])
def test_arrows_turn_as_the_equation_says_and_the_trunk_gets_the_methods_update(chromium, page, three):
    chromium.open(page)
    places = [(a, s, e) for a in range(len(explorables.ANGLES)) for s in (0, 3, 11, explorables.STEPS) for e in (0, 1)]
    settings = json.dumps([[a, s, bool(e), three] for a, s, e in places])
    found = chromium.run(f"{settings}.map((one) => explorables.rotograd.at(...one))")
    for (a, step, equal), here in zip(places, found, strict=True):
        G = turned_by_hand(explorables.fan(explorables.ANGLES[a], explorables.TASKS[three]), step)[-1]
        norms = G.norm(dim=1, keepdim=True)
        update = norms.mean() * (G / norms).sum(0) if equal else G.sum(0)  # no length ever changes: C is their mean
        assert here["update"] == pytest.approx(update.tolist(), abs=2e-4)
        shown = torch.tensor(here["gradients"])
        if explorables.ANGLES[a] != 180:
            expected = G / norms * norms.mean() if equal else G
            assert shown.numpy() == pytest.approx(expected.numpy(), abs=2e-3)
        cosine = min(torch.cosine_similarity(G[i], G[j], 0).item() for i in range(2 + three) for j in range(i))
        assert here["cosine"][1] == pytest.approx(cosine, abs=2e-3)
        gains = G @ update
        if gains.abs().min() > 1e-2:
            raised = [str(k + 1) for k, gain in enumerate(gains.tolist()) if gain < 0]
            assert here["said"] == (
                f"A small step along the update raises the loss of task {' and '.join(raised)}."
                if raised
                else "A small step along the update lowers every loss."
            )
    if not three:
        opposite = found[places.index((explorables.ANGLES.index(180), explorables.STEPS, 1))]
        assert opposite["said"] == "The update is zero: no task moves." and opposite["cosine"][1] == -1


def test_the_gate_chooses_as_sam_gs_does_at_every_setting(chromium, page):
    chromium.open(page)
    places = [(r, g) for r in range(len(explorables.RATIOS)) for g in range(len(explorables.GAMMAS))]
    found = chromium.run(f"{json.dumps(places)}.map((one) => explorables.sam_gs.at(...one))")
    branches = set()
    for (r, g), here in zip(places, found, strict=True):
        J, gamma = explorables.pair(explorables.RATIOS[r]), explorables.GAMMAS[g]
        assert here["update"] == pytest.approx(SAMGS(gamma=gamma)(J).tolist(), rel=1e-9, abs=1e-9), (r, g)
        norms = J.norm(dim=1)
        assert here["similarity"] == pytest.approx(conflict.magnitude_similarity(norms).item(), rel=1e-12)
        if here["branch"] == "equalise":
            assert here["update"] == pytest.approx(equalised(J, norms, norms.mean()).tolist(), abs=1e-9)
        assert here["times"] == pytest.approx((SAMGS(gamma=gamma)(J).norm() / J.sum(0).norm()).item(), rel=1e-9)
        branches.add(here["branch"])
    assert branches == {"equalise", "momentum"}


def test_the_needle_and_the_gate_lie_where_their_values_say(chromium, page):
    chromium.open(page)
    chromium.run("Object.assign(document.getElementById('samgs-gate'), {value: 10}).dispatchEvent(new Event('input'))")
    ends = "[...document.querySelectorAll('#explore-sam_gs :is(.needle, .gate)')].map((p) => p.getAttribute('d'))"
    gate, needle = chromium.run(ends)
    middle, tip = ([float(x) for x in point.split(",")] for point in needle[1:].split("L"))
    J = explorables.pair(4)
    angle = torch.pi * (1 - conflict.magnitude_similarity(J.norm(dim=1)).item())
    assert (tip[0] - middle[0]) / 54 == pytest.approx(torch.cos(torch.tensor(angle)).item(), abs=3e-3)
    assert (middle[1] - tip[1]) / 54 == pytest.approx(torch.sin(torch.tensor(angle)).item(), abs=3e-3)
    assert {point.split(",")[0] for point in gate[1:].split("L")} == {f"{middle[0]:.1f}"}, "γ = 0.5 points straight up"


def test_keyboard_alone_moves_the_arrows_and_the_gate(chromium, page):
    chromium.open(page)
    order = []
    for _ in range(7):
        chromium.press("Tab")
        look = "getComputedStyle(document.activeElement).outlineStyle !== 'none'"
        order.append(chromium.run(f"[document.activeElement.id || document.activeElement.textContent, {look}]"))
        if order[-1][0] == "rotograd-step":
            chromium.press("Home")
        if order[-1][0] == "samgs-ratio":
            chromium.press("Home")
    assert order == [[name, True] for name in CONTROLS["rotograd"] + CONTROLS["sam_gs"]]
    first, cosine, _ = chromium.run(SAID.format("rotograd"))
    assert first.startswith("This is RotoGrad before its first rotation")
    assert cosine.endswith("−0.50 before, −0.50 now.")
    assert chromium.run(SAID.format("sam_gs"))[0].startswith("The similarity is not below γ")
    value = "document.activeElement.getAttribute('aria-valuetext')"
    assert chromium.run(value) == "0.7"
    chromium.press("ArrowLeft")
    assert chromium.run(value) == "0.65"


def test_the_arrows_open_half_turned_and_play_goes_to_the_last_step_or_for_a_still_reader_jumps(chromium, page):
    chromium.open(page)
    first, cosine, _ = chromium.run(SAID.format("rotograd"))
    now = float(re.search(r"before, (\S+) now", cosine)[1].replace("−", "-"))
    assert first == "This is RotoGrad." and -0.4 < now < 0.95, cosine
    step, press = (
        "document.getElementById('rotograd-step').value",
        "document.querySelector('#explore-rotograd button').click()",
    )
    chromium.run(press)
    assert int(chromium.run(step)) < explorables.STEPS
    chromium.wait(f"{step} === '{explorables.STEPS}'", "the arrows stood still")
    try:
        chromium.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
        chromium.open(page)
        for there in (explorables.STEPS, 0):
            chromium.run(press)
            assert int(chromium.run(step)) == there
    finally:
        chromium.send("Emulation.setEmulatedMedia", features=[])


def test_each_change_takes_less_than_a_tenth_of_a_second_and_fits_a_phone(chromium, page):
    try:
        chromium.screen(390, 844)
        chromium.open(page)
        change = """[...document.querySelectorAll('.explorable input')].map((input) => {
          const start = performance.now();
          if (input.type === 'range') input.value = Number(input.value) ? 0 : input.max;
          else input.checked = !input.checked;
          input.dispatchEvent(new Event('input'));
          document.body.getBoundingClientRect();
          return performance.now() - start;
        })"""
        times = [chromium.run(change) for _ in range(3)]  # a busy machine is forgiven twice
        assert max(map(min, zip(*times, strict=True))) < 100
        assert chromium.run("document.documentElement.scrollWidth") <= 390
        boxes = "[...document.querySelectorAll('.explorable svg text')].map((t) => t.getBoundingClientRect())"
        sides = chromium.run(f"{boxes}.map((b) => [b.left, b.right, b.height])")
        assert all(left >= 0 and right <= 390 and height > 10 for left, right, height in sides)
    finally:
        chromium.send("Emulation.clearDeviceMetricsOverride")


def test_without_scripts_there_are_stills_and_words(chromium, page):
    chromium.open(page, scripts=False)
    images = chromium.run("[...document.images].map((i) => [i.complete && i.naturalWidth, i.alt])")
    assert len(images) == 2 and all(width > 250 and len(alt) > 80 for width, alt in images)
    assert chromium.run("document.querySelectorAll('input').length") == 0
    assert len(chromium.run("[...document.querySelectorAll('.explorable figcaption')].map((c) => c.textContent)")) == 2


def test_an_unknown_name_is_a_warning_and_other_pages_get_nothing(chromium, page, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(explorables.log, "warning", lambda words, *more, **where: said.append(words % more))
    directive = explorables.Explorable.__new__(explorables.Explorable)
    directive.arguments, directive.get_location = ["rotogrid"], lambda: None
    assert directive.run() == [] and said == ["no explorable rotogrid; there are: rotograd, sam_gs"]
    file = tmp_path / "other.html"
    file.write_text(page.read_text("utf-8").replace('id="explore-', 'id="other-'), "utf-8")
    chromium.open(file)
    assert chromium.run("typeof window.explorables") == "undefined" and chromium.complaints() == []


@pytest.mark.parametrize("name", BUILT)
def test_the_page_of_the_book_has_it(chromium, name):
    if not BUILT[name].exists():
        pytest.skip("there is no site: run `make book`")
    chromium.open(BUILT[name])
    assert chromium.run(f"explorables.{name}.data") == json.loads(json.dumps(explorables.DATA[name]()))
    assert len(chromium.run(SAID.format(name))) == 3 and chromium.complaints() == []
