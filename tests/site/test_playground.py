"""The playground in a headless Chromium: its rules against mtl_core, by keyboard and pointer, and without scripts."""

import json
import os
import pathlib
import random
import re
from dataclasses import replace

import pytest
import torch
from draw_playground import FILE, METHODS, drawing
from notebook_tools import comparison

from mtl_core import methods
from mtl_lab.landscapes.descent import trajectories
from mtl_lab.landscapes.problems import LANDSCAPES

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPTS = [ROOT / "book" / "_static" / name for name in ("playground.js", "playground_rules.js")]
BUILT = ROOT / "_build" / "html" / "playground.html"
PLACE = (ROOT / "book" / "playground.md").read_text("utf-8").split("```{raw} html\n")[1].split("```")[0]
SEED = int(os.environ.get("PLAYGROUND_SEED") or int.from_bytes(os.urandom(4), "big"))  # of the starts; printed


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    file = tmp_path_factory.mktemp("playground") / "page.html"
    scripts = "".join(f"<script>{script.read_text('utf-8')}</script>" for script in SCRIPTS)
    watch = "<script>var failed = 0; addEventListener('error', () => failed++)</script>"
    file.write_text(f'<!doctype html><meta charset="utf-8">{watch}{scripts}{PLACE}', "utf-8")
    return file


def starts(name, count):
    draw = random.Random(f"{SEED} {name}")
    return [[draw.uniform(*low_high) for low_high in LANDSCAPES[name].limits] for _ in range(count)]


def test_problems_are_those_of_python(chromium, page):
    chromium.open(page)
    found = chromium.run("Object.entries(playground.problems).map(([k, {at, ...p}]) => [k, p])")
    assert [name for name, _ in found] == list(LANDSCAPES)
    for name, problem in found:
        expected = LANDSCAPES[name]
        training = expected.training
        assert problem["title"] == expected.title and problem["limits"] == [list(pair) for pair in expected.limits]
        assert (problem["optimizer"], problem["rate"]) == (training["optimizer"], training["learning_rate"])
        assert problem["steps"] == training["steps"] and tuple(problem["start"]) in set(expected.starts)
        assert problem["convention"] == training["convention"]
        if expected.pareto is not None:
            ends = [problem["pareto"][0], problem["pareto"][-1]]
            assert ends == [pytest.approx(end, abs=1e-9) for end in expected.pareto[[0, -1]].tolist()]
            middle = problem["pareto"][len(problem["pareto"]) // 2]
            assert middle == pytest.approx(expected.pareto[100].tolist(), abs=1e-9)


def test_methods_are_rows_of_the_registry(chromium, page):
    chromium.open(page)
    found = chromium.run("Object.entries(playground.methods).map(([k, m]) => [k, m.title, m.native])")
    assert [name for name, _, _ in found] == list(METHODS)
    for name, title, native in found:
        assert (title, native) == (methods.METHODS[name].title, methods.METHODS[name].native_scale)
        for problem in LANDSCAPES:
            convention = methods.CONVENTIONS[LANDSCAPES[problem].training["convention"]].of(name)
            scaling = chromium.run(f"playgroundRules.scaling(playground.problems.{problem}, playground.methods.{name})")
            assert scaling == [convention.factor(native, 2), convention.clip]


@pytest.mark.parametrize("name", LANDSCAPES)
def test_losses_and_gradients(chromium, page, name):
    chromium.open(page)
    where = starts(name, 40)
    found = chromium.run(f"{json.dumps(where)}.map((p) => playground.problems.{name}.at(...p))")
    losses, gradients = LANDSCAPES[name].gradients(torch.tensor(where, dtype=torch.float64))
    for k, label in ((losses, "losses"), (gradients, "gradients")):
        mine = torch.tensor([f[label] for f in found], dtype=torch.float64)
        torch.testing.assert_close(mine, k, rtol=1e-8, atol=1e-8, msg=lambda text: f"{text}\nseed {SEED}")


@pytest.fixture(scope="module")
def compared():
    """(landscape, method) -> (paths of ten that were compared to their end, share of the way)."""
    return {}


@pytest.mark.parametrize("name", LANDSCAPES)
@pytest.mark.parametrize("method", METHODS)
def test_end_points(chromium, page, compared, name, method):
    """Within 1e-3, from starts drawn now. A method with a switch (a sign, a threshold) can come so near to it that the
    last bit decides. Where that is so, Python's own paths part when the start moves by 1e-10 and every later point by
    1e-13, rounding written large: a path is compared until 50 steps before the first of eight such neighbours leaves
    it (SAM-GS, at rest on bowls, leaves the optimum at a step that rounding alone decides)."""
    landscape, where = LANDSCAPES[name], torch.tensor(starts(name, 10), dtype=torch.float64)
    steps = min(landscape.training["steps"], 600)
    chromium.open(page)
    script = f"(p) => Array.from(playground.run('{name}', '{method}', p, {steps}).points)"
    found = torch.tensor(chromium.run(f"{json.dumps(where.tolist())}.map({script})"), dtype=torch.float64)
    found = found.reshape(10, steps + 1, 2).transpose(0, 1)
    draw = torch.Generator().manual_seed(SEED)

    def moved(points, size):
        """All but the first ten, by up to `size`."""
        noise = size * (2 * torch.rand(points.shape, dtype=torch.float64, generator=draw) - 1)
        return points + noise.index_fill(-2, torch.arange(10), 0.0)

    shaken = replace(landscape, losses=lambda points: landscape.losses(moved(points, 1e-13)))
    paths = trajectories(shaken, moved(where.repeat(9, 1), 1e-10), method, steps=steps).points
    path, neighbours = paths[:, :10], paths[:, 10:].reshape(steps + 1, 8, 10, 2)
    spread = (neighbours - path[:, None]).abs().amax((1, 3))
    parted = (spread > 1e-6).cumsum(0)  # (T, 10)
    known = torch.cat([parted[50:], parted[-1:].expand(50, 10)]) == 0
    apart = (found - path).abs().amax(-1) * known
    assert apart.max() < 1e-3, f"seed {SEED}, start {where[apart.amax(0).argmax()].tolist()}"
    compared[name, method] = (known[-1].sum().item(), known.double().mean().item())
    assert (path[-1] - where).abs().amax(-1).median() > 1e-2, "a start may lie at an end, most do not"


def test_nearly_all_of_the_way_was_compared(compared):
    if len(compared) < len(LANDSCAPES) * len(METHODS):
        pytest.skip("needs all of test_end_points")
    ends = [end for end, _ in compared.values()]
    # no switch, and a clip where SAM-GS's valleys have gradients of a hundred thousand
    smooth = [
        end
        for (name, method), (end, _) in compared.items()
        if method == "cagrad" or method in ("equal", "mgda") and not name.startswith("samgs")
    ]
    assert min(smooth) == 10, f"paths that nothing makes chaotic, seed {SEED}: {compared}"
    assert sum(ends) > 0.8 * 10 * len(ends) and min(way for _, way in compared.values()) > 0.2, f"{SEED}: {compared}"


def said(chromium):
    return chromium.run("document.querySelector('#two-task-playground [role=status]').textContent")


def value(chromium, label):
    boxes = "[...document.querySelectorAll('#two-task-playground label')]"
    return chromium.run(f"{boxes}.find((l) => l.textContent.startsWith({label!r})).control.value")


def test_keyboard_alone_moves_the_start_and_plays(chromium, page):
    chromium.open(page)
    drawn = "document.querySelector('#two-task-playground path.path').getAttribute('d')"
    before = chromium.run(drawn)
    chromium.run("document.querySelector('#two-task-playground circle.start').focus()")
    chromium.run(
        "document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', shiftKey: true}))"
    )
    assert value(chromium, "Start θ₁") == "-2.50" and value(chromium, "Start θ₂") == "3.00"
    chromium.run("document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowDown'}))")
    assert value(chromium, "Start θ₂") == "2.90" and chromium.run(drawn) != before
    assert "-2.50, θ2 2.90" in chromium.run("document.activeElement.getAttribute('aria-valuetext')")
    order = []
    chromium.open(page)
    for _ in range(8):
        chromium.press("Tab")
        order.append(chromium.run("document.activeElement.tagName + (document.activeElement.type ?? '')"))
    assert order == ["SELECTselect-one"] * 2 + ["INPUTnumber"] * 2 + ["BUTTONbutton", "circle", "BUTTONbutton"] + [
        "INPUTrange"
    ]
    chromium.run("document.querySelectorAll('#two-task-playground button')[1].focus()")
    chromium.press("Enter")
    assert chromium.run("document.activeElement.textContent") == "Pause"
    assert chromium.run("new Promise((done) => setTimeout(() => done(playground.state.shown), 300))") < 590
    chromium.press(" ")
    assert chromium.run("document.activeElement.textContent") == "Play"


def choose(chromium, place, choice):
    box = f"document.querySelectorAll('#two-task-playground select')[{place}]"
    chromium.run(f"{box}.value = '{choice}', {box}.dispatchEvent(new Event('change'))")


def test_what_is_shown_is_what_was_computed(chromium, page):
    chromium.open(page)
    choose(chromium, 0, "uneven_bowls")
    choose(chromium, 1, "mgda")
    path = trajectories(LANDSCAPES["uneven_bowls"], [(-3.5, 3.0)], "mgda")
    x, y = path.points[-1, 0].tolist()
    numbers = [float(n) for n in re.findall(r"-?\d+\.\d+", said(chromium).replace("−", "-"))]
    assert numbers[:2] == pytest.approx([x, y], abs=0.006)
    assert numbers[2:4] == pytest.approx(path.losses[-1, 0].tolist(), abs=0.006)
    dot = (
        "(k) => { const c = document.querySelectorAll('#two-task-playground svg.view')[k].querySelector('circle.sum');"
    )
    px, py = chromium.run(f"[0].map({dot} return [c.cx.baseVal.value, c.cy.baseVal.value] }})")[0]
    assert px == pytest.approx(34 + 298 * (x + 5) / 10, abs=0.1) and py == pytest.approx(8 + 258 * (4 - y) / 8, abs=0.1)
    range_ = "document.querySelector('#two-task-playground input[type=range]')"
    chromium.run(f"{range_}.value = '100', {range_}.dispatchEvent(new Event('input'))")
    assert "after 100 of 600 steps" in said(chromium)
    assert f"{path.points[100, 0, 0]:.2f}".replace("-", "−") in said(chromium)


def test_the_start_is_dragged(chromium, page):
    chromium.open(page)
    handle = "document.querySelector('#two-task-playground circle.start').getBoundingClientRect()"
    box = chromium.run(f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({handle})")
    scale = chromium.run("document.querySelector('#two-task-playground svg.view').getBoundingClientRect().width / 340")
    mouse = {"button": "left", "clickCount": 1}
    chromium.send("Input.dispatchMouseEvent", type="mousePressed", x=box[0], y=box[1], **mouse)
    x, y = box[0] + 2 * 29.8 * scale, box[1] + 32.25 * scale  # two to the right, one down
    chromium.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, buttons=1, **mouse)
    chromium.send("Input.dispatchMouseEvent", type="mouseReleased", x=x, y=y, **mouse)
    moved = [float(value(chromium, label)) for label in ("Start θ₁", "Start θ₂")]
    assert moved == pytest.approx([-1.5, 2.0], abs=0.05)
    chromium.send("Input.dispatchMouseEvent", type="mouseMoved", x=x + 50, y=y, **mouse)
    assert [float(value(chromium, label)) for label in ("Start θ₁", "Start θ₂")] == moved, "let go is let go"


def test_every_choice_is_drawn_without_error(chromium, page):
    chromium.open(page)
    for name in LANDSCAPES:
        choose(chromium, 0, name)
        for method in METHODS:
            choose(chromium, 1, method)
            drawn = chromium.run(
                "[...document.querySelectorAll('#two-task-playground path')].map((p) => p.getAttribute('d')).join()"
            )
            assert "NaN" not in drawn and "Infinity" not in drawn
            assert methods.METHODS[method].title in said(chromium)
    assert chromium.run("failed") == 0


def test_without_scripts_a_picture_stands_there(chromium, page):
    chromium.open(page, scripts=False)
    assert (
        chromium.run("document.querySelector('#two-task-playground img').getAttribute('src')")
        == "_static/playground.svg"
    )
    assert len(chromium.run("document.querySelector('#two-task-playground img').alt")) > 80
    assert chromium.run("document.querySelectorAll('#two-task-playground button').length") == 0


def test_the_picture_is_what_the_module_computes():
    """The committed file, drawn anew: same words, numbers within half a unit of the drawing."""
    assert comparison.same_text(FILE.read_text("utf-8"), drawing(), 1e-3, 0.5), "run tests/draw_playground.py"


def test_nothing_happens_on_other_pages(chromium, page, tmp_path):
    file = tmp_path / "other.html"
    file.write_text(page.read_text("utf-8").replace('id="two-task-playground"', 'id="other"'), "utf-8")
    chromium.open(file)
    assert chromium.run("typeof window.playground + failed") == "undefined0"


def test_the_page_of_the_book_plays(chromium):
    if not BUILT.exists():
        pytest.skip("there is no site: run `make book`")
    chromium.open(BUILT)
    assert chromium.run("document.querySelectorAll('#two-task-playground svg.view').length") == 2
    assert said(chromium).startswith("Equal weights, after 600 of 600 steps")
