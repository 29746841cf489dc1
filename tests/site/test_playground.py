"""The playground in a headless Chromium: its rules against mtl_core, by hand and by address, without scripts."""

import html
import itertools
import json
import os
import pathlib
import random
import re
from dataclasses import replace

import pytest
import torch
from draw_playground import ARROWS, CHOSEN, COLOURS, FILE, LANDSCAPE, METHODS, START, TASKS, answer, drawing, paths
from notebook_tools import comparison

from mtl_core import methods
from mtl_lab.landscapes.descent import trajectories
from mtl_lab.landscapes.problems import LANDSCAPES

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPTS = [ROOT / "book" / "_static" / name for name in ("playground.js", "playground_rules.js")]
BUILT = ROOT / "_build" / "html" / "playground.html"
TEXT = (ROOT / "book" / "playground.md").read_text("utf-8")
PLACE = TEXT.split("```{raw} html\n")[1].split("```")[0]
WIDE = '<meta name="viewport" content="width=device-width">'
LINKS = [html.unescape(link) for link in re.findall(r'<a href="(\?[^"]+)">', TEXT)]
SEED = int(os.environ.get("PLAYGROUND_SEED") or 0)  # of the starts


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    file = tmp_path_factory.mktemp("playground") / "page.html"
    scripts = "".join(f"<script>{script.read_text('utf-8')}</script>" for script in SCRIPTS)
    links = "".join(f'<a href="{html.escape(link)}">try</a>' for link in LINKS)
    watch = "<script>var failed = 0; addEventListener('error', () => failed++)</script>"
    file.write_text(f'<!doctype html><meta charset="utf-8">{WIDE}{watch}{scripts}{PLACE}{links}', "utf-8")
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


DEGENERATE = {
    "zero": [[0, 0], [0, 0]],
    "one zero": [[0, 0], [1, -0.5]],
    "the other zero": [[0.3, 2], [0, 0]],
    "equal": [[1.2, -0.7], [1.2, -0.7]],
    "parallel": [[1, 0.5], [1.6, 0.8]],
    "opposite": [[1, 0.5], [-1, -0.5]],
    "opposite, one longer": [[1, 0.5], [-1.6, -0.8]],
    "right angle": [[0, 1.5], [1.5, 0]],
    "one short": [[1, 0.5], [-1e-6, 2e-6]],
    "both short": [[1e-7, 2e-7], [-2e-7, 1e-7]],
}


def pairs(count):
    draw = random.Random(f"{SEED} pairs")
    return [[[draw.uniform(-2, 2) for _ in range(2)] for _ in range(2)] for _ in range(count)]


@pytest.mark.parametrize("method", METHODS)
def test_answers_to_two_arrows(chromium, page, method):
    """As mtl_core gives them, and odd: for the negative gradients the negative update, which is the step."""
    chromium.open(page)
    cases = [*DEGENERATE.values(), *pairs(300)]
    found = chromium.run(f"{json.dumps(cases)}.map(([a, b]) => playground.answer('{method}', a, b))")
    for pair, mine in zip(cases, found, strict=True):
        for sign in (1, -1):
            expected = (sign * answer(method, sign * torch.tensor(pair, dtype=torch.float64))).tolist()
            # CAGrad's solver gives each gradient a small part of its own, which tells where gradients cancel
            size = max(max(map(abs, expected)), 1e-3 * max(abs(x) for g in pair for x in g))
            assert mine == pytest.approx(expected, abs=1e-6 * size), f"seed {SEED}: {pair}"


def test_which_methods_never_raise_a_loss(chromium, page):
    """What the page's third answer says, to first order."""
    chromium.open(page)
    cases = pairs(300)
    never = []
    for method in METHODS:
        steps = chromium.run(f"{json.dumps(cases)}.map(([a, b]) => playground.answer('{method}', a, b))")
        J, steps = (torch.tensor(x, dtype=torch.float64) for x in (cases, steps))
        gains = (J * steps[:, None]).sum(-1)
        raised = gains < -1e-9 * J.norm(dim=-1) * steps.norm(dim=-1, keepdim=True)
        if not raised.any():
            never.append(method)
    assert never == ["norm_equalised", "mgda", "pcgrad"], f"seed {SEED}"
    said = TEXT.split("Which methods never raise a loss?")[1].split(":::")[1]
    assert "The norm-equalised sum, MGDA and PCGrad. With two tasks" in said
    assert "Equal weights, CAGrad and SAM-GS can raise one" in said.replace("\n", " ")


def test_on_bowls_every_method_comes_to_the_pareto_set_and_not_to_one_point():
    for name in list(LANDSCAPES)[:3]:
        ends = [trajectories(LANDSCAPES[name], starts(name, 20), method).points[-1] for method in METHODS]
        for end in ends:
            assert torch.cdist(end, LANDSCAPES[name].pareto).amin(1).max() < 0.15, f"{name}, seed {SEED}"
        assert max((a - b).norm(dim=-1).median().item() for a, b in itertools.combinations(ends, 2)) > 0.1


def test_beside_the_axis_three_methods_come_back():
    """What the page's second answer says."""
    on, beside = (
        {m: trajectories(LANDSCAPES["ravines"], [start], m).points[:, 0] for m in METHODS}
        for start in ((0, 3), (0.1, 3))
    )
    assert all(path[:, 0].abs().max() < 1e-9 for path in on.values())
    assert [m for m, path in beside.items() if path[-1, 0].abs() < 0.02] == ["equal", "cagrad", "sam_gs"]


def test_it_opens_where_methods_differ():
    """On a path that bends, with ends at four places."""
    _, found = paths()
    path = found[CHOSEN].points[:, 0]
    way = path[-1] - path[0]
    away = (path - path[0]) @ torch.stack([-way[1], way[0]]) / way.norm() ** 2
    assert away.abs().max() > 0.1
    ends = torch.stack([found[m].points[-1, 0] for m in ("equal", "norm_equalised", "mgda", "pcgrad")])
    assert torch.pdist(ends).min() > 0.8


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
    assert min(smooth) >= 9, f"paths that nothing makes chaotic, seed {SEED}: {compared}"
    assert sum(ends) > 0.8 * 10 * len(ends) and min(way for _, way in compared.values()) > 0.2, f"{SEED}: {compared}"


ROOT_BOX = "document.querySelector('#two-task-playground')"
STATE = "(({problem, method, start, arrows}) => [problem, method, start, arrows])(playground.state)"
PLANE, LOSSES, ARROW_VIEW = (f"{ROOT_BOX}.querySelectorAll('svg.view')[{k}]" for k in range(3))
OPENING = [LANDSCAPE, CHOSEN, list(START), [list(tip) for tip in ARROWS]]


def opened(chromium, address):
    """The page with the paths of all methods."""
    chromium.open(address)
    chromium.wait("playground.ready()", "not all paths are there")


def said(chromium):
    return chromium.run(f"{ROOT_BOX}.querySelector('[role=status]').textContent")


def value(chromium, label):
    boxes = "[...document.querySelectorAll('#two-task-playground label')]"
    return chromium.run(f"{boxes}.find((l) => l.textContent.startsWith({label!r})).control.value")


def pick(chromium, method):
    chromium.run(f"{ROOT_BOX}.querySelector('input[value={method}]').click()")


def problem(chromium, name):
    box = f"{ROOT_BOX}.querySelector('select')"
    chromium.run(f"{box}.value = '{name}', {box}.dispatchEvent(new Event('change'))")


def state(chromium):
    return chromium.run(STATE)


def button(words):
    return f"[...{ROOT_BOX}.querySelectorAll('button')].find((b) => b.textContent.startsWith({words!r}))"


def test_it_opens_as_the_still_picture_shows(chromium, page):
    opened(chromium, page)
    assert state(chromium) == OPENING
    for names, colours in ((METHODS, COLOURS.values()), (("task-1", "task-2"), TASKS)):
        for name, colour in zip(names, colours, strict=True):
            shown = chromium.run(f"getComputedStyle({ROOT_BOX}).getPropertyValue('--{name}').trim()")
            assert shown == ("currentColor" if name == "equal" else colour)


def test_keyboard_alone_moves_the_start_and_plays(chromium, page):
    chromium.open(page)
    drawn = f"{PLANE}.querySelector('.method.chosen .line').getAttribute('d')"
    before = chromium.run(drawn)
    order = []
    for _ in range(16):
        chromium.press("Tab")
        words = "document.activeElement.ariaLabel ?? document.activeElement.textContent"
        order.append(chromium.run(f"document.activeElement.tagName + ' ' + ({words})").split(";")[0])
    titles = [methods.METHODS[name].title for name in METHODS]
    assert order[0].startswith("SELECT") and order[1:8] == ["INPUT "] * 3 + [
        "g start", "BUTTON Play", "INPUT ", "BUTTON Reset"]  # fmt: skip
    assert order[8:] == ["BUTTON Copy link", "g arrow of task 1", "g arrow of task 2"] + [
        f"BUTTON {title}" for title in titles[:5]
    ]
    chromium.run(f"{ROOT_BOX}.querySelector('g.start').focus()")
    chromium.press("ArrowRight")
    assert (value(chromium, "Start θ₁"), value(chromium, "Start θ₂")) == ("0.60", "3.50")
    shift = "new KeyboardEvent('keydown', {key: 'ArrowDown', shiftKey: true})"
    chromium.run(f"document.activeElement.dispatchEvent({shift})")
    assert value(chromium, "Start θ₂") == "2.50" and chromium.run(drawn) != before
    assert "0.60 to the right, 2.50 up" in chromium.run("document.activeElement.getAttribute('aria-valuetext')")
    chromium.run(f"{button('Play')}.focus()")
    chromium.press("Enter")
    assert chromium.run("document.activeElement.textContent") == "Pause"
    assert chromium.run("new Promise((done) => setTimeout(() => done(playground.shown()), 300))") < 590
    chromium.press(" ")
    assert chromium.run("document.activeElement.textContent") == "Play"


def test_keyboard_alone_chooses_a_method_and_turns_an_arrow(chromium, page):
    opened(chromium, page)
    chromium.run(f"{ROOT_BOX}.querySelector('input:checked').focus()")
    chromium.press("ArrowRight")
    assert state(chromium)[1] == "cagrad" and said(chromium).startswith("CAGrad")
    chromium.run(f"{ROOT_BOX}.querySelectorAll('tr.method-row button')[2].focus()")
    assert hot(chromium) == {"mgda"} and state(chromium)[1] == "cagrad", "focus highlights, and does not choose"
    assert names_shown(chromium) == [["MGDA"]] * 3
    chromium.press("Enter")
    assert state(chromium)[1] == "mgda" and said(chromium).startswith("MGDA")
    chromium.run(f"{ROOT_BOX}.querySelectorAll('g.tip')[1].focus()")
    assert hot(chromium) == set()
    chromium.press("ArrowLeft")
    chromium.press("ArrowUp")
    assert state(chromium)[3] == [list(ARROWS[0]), [-1.1, 0.8]]
    assert "-1.10 to the right, 0.80 up" in chromium.run("document.activeElement.getAttribute('aria-valuetext')")


def hot(chromium):
    return set(chromium.run(f"[...{ROOT_BOX}.querySelectorAll('.hot')].map((g) => g.dataset.method)"))


def names_shown(chromium):
    """The names of methods beside paths and arrows, one list a picture."""
    seen = "[...v.querySelectorAll('.method text')].filter((t) => t.checkVisibility()).map((t) => t.textContent)"
    return chromium.run(f"[...{ROOT_BOX}.querySelectorAll('svg.view')].map((v) => {seen})")


def hover(chromium, point):
    x, y = chromium.run(
        f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({point}.getBoundingClientRect())"
    )
    chromium.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)


def test_the_pointer_highlights_and_a_click_chooses(chromium, page):
    chromium.screen(1280, 1500)
    try:
        opened(chromium, page)
        assert names_shown(chromium) == [["PCGrad"]] * 3, "the chosen one has its name"
        hover(chromium, f"{PLANE}.querySelector('[data-method=mgda] .end')")
        assert hot(chromium) == {"mgda"} and names_shown(chromium) == [["MGDA"]] * 3
        hover(chromium, f"{ROOT_BOX}.querySelector('tr[data-method=equal]')")
        assert hot(chromium) == {"equal"} and names_shown(chromium)[2] == ["Equal weights"]
        hover(chromium, f"{ROOT_BOX}.querySelector('[role=status]')")
        assert hot(chromium) == set() and names_shown(chromium) == [["PCGrad"]] * 3
        width = "(m) => getComputedStyle(document.querySelector(`.method[data-method=${m}] .line`)).strokeWidth"
        strong = chromium.run(f"{json.dumps(METHODS)}.map({width})")
        assert [float(w.removesuffix("px")) > 2 for w in strong] == [m == CHOSEN for m in METHODS]
        chromium.run(
            f"{LOSSES}.querySelector('[data-method=cagrad] .hit')"
            ".dispatchEvent(new MouseEvent('click', {bubbles: true}))"
        )
        assert state(chromium)[1] == "cagrad" and names_shown(chromium) == [["CAGrad"]] * 3
    finally:
        chromium.send("Emulation.clearDeviceMetricsOverride")


def pixels(x, y, limits):
    (x0, x1), (y0, y1) = limits
    return [34 + 298 * (x - x0) / (x1 - x0), 8 + 258 * (y1 - y) / (y1 - y0)]


def test_what_is_shown_is_what_was_computed(chromium, page):
    """All six paths, at their ends and on the way; the sentence below; both losses' contours."""
    opened(chromium, page)
    landscape = LANDSCAPES[LANDSCAPE]
    end = "(m) => (({cx, cy}) => [cx.baseVal.value, cy.baseVal.value])(PLANE.querySelector(`[data-method=${m}] .end`))"
    steps = f"{ROOT_BOX}.querySelector('input[type=range]')"
    for shown in (600, 100):
        chromium.run(f"{steps}.value = '{shown}', {steps}.dispatchEvent(new Event('input'))")
        found = chromium.run(f"{json.dumps(METHODS)}.map({end.replace('PLANE', PLANE)})")
        for method, place in zip(METHODS, found, strict=True):
            x, y = trajectories(landscape, [START], method).points[shown, 0].tolist()
            assert place == pytest.approx(pixels(x, y, landscape.limits), abs=0.15), (method, shown)
        path = trajectories(landscape, [START], CHOSEN)
        numbers = [float(n) for n in re.findall(r"-?\d+\.\d+", said(chromium).replace("−", "-"))]
        assert f"after {shown} of 600 steps" in said(chromium)
        assert numbers[:2] == pytest.approx(path.points[shown, 0].tolist(), abs=0.006)
        assert numbers[2:4] == pytest.approx(path.losses[shown, 0].tolist(), abs=0.006)
    lines = f"[...{PLANE}.querySelectorAll('.level')].map((p) => [p.getAttribute('style'), p.getAttribute('d')])"
    for style, d in chromium.run(lines):  # a level line of a round bowl is a circle around its minimum
        task = 1 if "task-2" in style else 0
        points = torch.tensor([[float(z) for z in p.split(",")] for p in re.findall(r"[\d.-]+,[\d.-]+", d)])
        x, y = (points[:, 0] - 34) / 29.8 - 5, 4 - (points[:, 1] - 8) / 32.25
        radius = torch.hypot(x - (-2.0, 2.0)[task], y - (0.0, 1.0)[task])
        assert radius.max() - radius.min() < 0.06, style
    names = f"[...{PLANE}.querySelectorAll('text.task')].map((t) => [t.textContent, t.getAttribute('style')])"
    assert chromium.run(names) == [[f"task {k}", f"--own: var(--task-{k})"] for k in (1, 2)]


def test_the_arrows_and_the_table_are_what_python_says(chromium, page):
    wide = 2.6, 2.6 * 258 / 298
    cases = [ARROWS, *[[[round(x, 2) for x in g] for g in pair] for pair in pairs(5)], *list(DEGENERATE.values())[:8]]
    for pair in cases:
        one, two = ("_".join(map(str, tip)) for tip in pair)
        chromium.open(f"{page.as_uri()}?task1={one}&task2={two}")
        assert state(chromium)[3] == [list(tip) for tip in pair]
        inside = "(t) => t.x.baseVal[0].value - 20 >= 34 && t.x.baseVal[0].value + 20 <= 332"
        names = f"[...{ARROW_VIEW}.querySelectorAll('text.task')].map((t) => [t.textContent, ({inside})(t)])"
        assert chromium.run(names) == [["task 1", True], ["task 2", True]]
        cell = "[...r.querySelectorAll('td')].map((c) => c.textContent)"
        table = chromium.run(f"[...{ROOT_BOX}.querySelectorAll('tr.method-row')].map((r) => {cell})")
        line = f"{ARROW_VIEW}.querySelector(`[data-method=${{m}}] .line`)?.getAttribute('d') ?? null"
        lines = chromium.run(f"{json.dumps(METHODS)}.map((m) => {line})")
        for method, (length, *effects), d in zip(METHODS, table, lines, strict=True):
            J = torch.tensor(pair, dtype=torch.float64)
            step = answer(method, J)
            size = step.norm().item()
            assert float(length) == pytest.approx(size, abs=0.51 if size > 9.9 else 0.00501), (method, pair)
            gains = (J @ step) / (J.norm(dim=1) * J.norm(dim=1).sum()).clamp(min=1e-300)
            for effect, gain in zip(effects, gains.tolist(), strict=True):
                if abs(gain) > 1e-6:
                    assert effect == ("falls" if gain > 0 else "rises"), (method, pair)
                elif abs(gain) < 1e-12:
                    assert effect == "stays", (method, pair)
            if size < 0.1:
                continue
            over = max(step[0].abs().item() / wide[0], step[1].abs().item() / wide[1], 1)
            tip = [float(z) for z in re.match(r"M[\d.]+,[\d.]+L([\d.-]+),([\d.-]+)", d).groups()]
            limits = [[-w, w] for w in wide]
            assert tip == pytest.approx(pixels(*(step / over).tolist(), limits), abs=0.15), (method, pair)


def mouse(chromium, kind, x, y):
    more = {"buttons": 1} if kind == "mouseMoved" else {}
    chromium.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1, **more)


@pytest.mark.parametrize("handle, unit", [("g.start", (29.8, 32.25)), ("g.tip", (298 / 5.2, 298 / 5.2))])
def test_points_are_dragged(chromium, page, handle, unit):
    chromium.screen(1280, 1500)
    try:
        chromium.open(page)
        read = "playground.state.start" if handle == "g.start" else "playground.state.arrows[0]"
        before = chromium.run(read)
        box = f"{ROOT_BOX}.querySelector('{handle}').getBoundingClientRect()"
        box = chromium.run(f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({box})")
        scale = chromium.run(f"{PLANE}.getBoundingClientRect().width / 340")
        mouse(chromium, "mousePressed", *box)
        x, y = box[0] - 1.5 * unit[0] * scale, box[1] + unit[1] * scale  # one and a half to the left, one down
        mouse(chromium, "mouseMoved", x, y)
        mouse(chromium, "mouseReleased", x, y)
        moved = chromium.run(read)
        assert moved == pytest.approx([before[0] - 1.5, before[1] - 1], abs=0.05)
        assert all(round(z, 2) == z for z in moved), "the address has two decimals"
        mouse(chromium, "mouseMoved", x + 5, y)
        assert chromium.run(read) == moved, "let go is let go"
    finally:
        chromium.send("Emulation.clearDeviceMetricsOverride")


# --- the address


def test_the_address_says_the_state(chromium, page):
    chromium.open(page)
    problem(chromium, "ravines")
    pick(chromium, "cagrad")
    chromium.run(f"{ROOT_BOX}.querySelector('g.start').focus()")
    chromium.press("ArrowRight")
    chromium.run(f"{ROOT_BOX}.querySelectorAll('g.tip')[0].focus()")
    chromium.press("ArrowUp")
    there = ["ravines", "cagrad", [0.6, 3.5], [[1.8, -0.3], list(ARROWS[1])]]
    assert state(chromium) == there
    search = "?problem=ravines&method=cagrad&start=0.6_3.5&task1=1.8_-0.3&task2=-1_0.7"
    chromium.wait(f"location.search === '{search}'", "the address does not follow")
    copied = "navigator.clipboard.writeText = (text) => { window.copied = text; return Promise.resolve(); }"
    chromium.run(f"{copied}, {button('Copy link')}.click()")
    chromium.wait("window.copied", "nothing copied")
    address = chromium.run("copied")
    assert address == page.as_uri() + search and chromium.run(button("Copied") + " !== undefined")
    chromium.open(page)
    assert state(chromium) == OPENING
    chromium.open(address)
    assert state(chromium) == there and value(chromium, "Problem") == "ravines"
    assert chromium.run(f"{ROOT_BOX}.querySelector('input:checked').value") == "cagrad"
    chromium.run(f"{button('Reset')}.click()")
    assert state(chromium) == ["ravines", "cagrad", [0.5, 3.5], OPENING[3]]


def test_the_address_survives_a_closed_clipboard(chromium, page):
    chromium.open(page)
    chromium.run(
        f"navigator.clipboard.writeText = () => Promise.reject(new Error('no')), {button('Copy link')}.click()"
    )
    chromium.wait(button("It is in the address bar"), "nothing said")
    assert chromium.run("location.href === playground.address()")


@pytest.mark.parametrize(
    "search, place",
    [
        ("?problem=none&method=toString&start=a_b&task1=1&task2=", OPENING),
        ("?start=1_2_3&task1=NaN_1&task2=Infinity_0", OPENING),
        ("?start=99_-99&task1=9_0.004", [LANDSCAPE, CHOSEN, [5, -4], [[2, 0], list(ARROWS[1])]]),
        ("?problem=samgs_1", ["samgs_1", CHOSEN, [-3, 7.5], OPENING[3]]),
    ],
)
def test_a_wrong_address_is_no_error(chromium, page, search, place):
    chromium.open(page.as_uri() + search)
    assert state(chromium) == place and chromium.run("failed") == 0


def test_links_of_the_page_set_the_state_in_place(chromium, page):
    places = [
        ["uneven_bowls", "equal", [0.5, 3.5], OPENING[3]],
        ["ravines", "pcgrad", [0, 3], OPENING[3]],
        ["uneven_bowls", "equal", [0.5, 3.5], OPENING[3]],
    ]
    assert len(LINKS) == 3
    chromium.screen(1280, 700)
    chromium.open(page)
    chromium.run("window.same = true")
    for k, (place, view) in enumerate(zip(places, (PLANE, PLANE, ARROW_VIEW), strict=True)):
        chromium.run(f"document.querySelectorAll('a')[{k}].click()")
        assert chromium.run("window.same") and state(chromium) == place
        seen = f"(({{top, bottom}}) => top >= 0 && bottom <= innerHeight)({view}.getBoundingClientRect())"
        assert chromium.run(seen), "the picture that it is about can be seen"
    chromium.run("history.back()")
    chromium.wait("playground.state.problem === 'ravines'", "back does not go back")
    chromium.send("Emulation.clearDeviceMetricsOverride")
    for link, place in zip(LINKS, places, strict=True):
        chromium.open(page.as_uri() + link)
        assert state(chromium) == place


def test_the_third_link_shows_what_the_text_says(chromium, page):
    chromium.open(page.as_uri() + LINKS[2])
    rises = f"[...{ROOT_BOX}.querySelectorAll('tr[data-method=equal] td')].map((c) => c.textContent)"
    assert chromium.run(rises)[1:] == ["falls", "rises"]


def test_the_gradients_at_the_start_become_the_arrows(chromium, page):
    chromium.open(page)
    chromium.run(f"{button('Use the gradients')}.click()")
    _, gradients = LANDSCAPES[LANDSCAPE].gradients(torch.tensor(START, dtype=torch.float64))
    expected = -gradients * 1.9 / gradients.norm(dim=-1).max()
    assert state(chromium)[3] == [pytest.approx(tip, abs=0.0051) for tip in expected.tolist()]


# --- all of it


PAINTED = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))"


def busy(chromium):
    """Seconds that the page's thread has worked."""
    return {m["name"]: m["value"] for m in chromium.send("Performance.getMetrics")["metrics"]}["TaskDuration"]


@pytest.mark.parametrize("name", LANDSCAPES)
def test_every_choice_is_shown_without_error_and_soon(chromium, page, name):
    """The chosen path is there within 100 ms of any change: the page's own thread needs no more until it has painted.
    The thread's time, not the clock's, which counts what else this machine does; the median of five."""
    chromium.open(page)
    problem(chromium, name)
    chromium.wait("playground.ready()", "no paths")
    assert chromium.run(f"{PLANE}.querySelectorAll('.method').length") == len(METHODS)
    handle = "document.querySelectorAll('#two-task-playground g.handle')[k]"
    key = f"((k, key) => {handle}.dispatchEvent(new KeyboardEvent('keydown', {{key}})))"
    changes = {
        "the start": [f"{key}(0, 'Arrow{way}')" for way in ("Left", "Left", "Down", "Right", "Right")],
        "an arrow": [f"{key}(1, 'Arrow{way}')" for way in ("Left", "Left", "Down", "Right", "Right")],
        "the method": [f"{ROOT_BOX}.querySelector('input[value={method}]').click()" for method in METHODS[:5]],
        "the problem": [f"{ROOT_BOX}.querySelector('select').dispatchEvent(new Event('change'))"] * 5,
    }
    chromium.send("Performance.disable")
    chromium.send("Performance.enable", timeDomain="threadTicks")
    for what, scripts in changes.items():
        times = []
        for script in scripts:
            began = busy(chromium)
            chromium.run(f"{script}, {PAINTED}")
            times.append(1000 * (busy(chromium) - began))
            chromium.wait("playground.ready()", "the paths of all methods are not there", 20)
        assert sorted(times)[2] < 100, f"{what} of {name}: {times}"
        print(name, what, *(f"{ms:.0f}" for ms in times), "ms")
    for method in METHODS:
        pick(chromium, method)
        assert methods.METHODS[method].title in said(chromium)
        chromium.wait("playground.ready()", "the paths of all methods are not there", 5)
        ways = "[...document.querySelectorAll('#two-task-playground path')].map((p) => p.getAttribute('d')).join()"
        assert not re.search("NaN|Infinity", chromium.run(ways))
        assert chromium.run(f"{PLANE}.querySelectorAll('.method').length") == len(METHODS)
    assert chromium.run("failed") == 0


def test_a_phone_is_wide_enough_and_no_button_looks_dangerous(chromium, page):
    try:
        chromium.screen(390, 844)
        chromium.open(page)
        assert chromium.run("document.documentElement.scrollWidth") <= 390
        widths = chromium.run(
            f"[...{ROOT_BOX}.querySelectorAll('svg.view')].map((v) => v.getBoundingClientRect().width)"
        )
        assert min(widths) > 330
    finally:
        chromium.send("Emulation.clearDeviceMetricsOverride")
    look = "((s) => [s.backgroundColor, s.color, s.borderColor])(getComputedStyle(B))"
    looks = [chromium.run(look.replace("B", button(words))) for words in ("Reset", "Copy link", "Play")]
    assert looks[0] == looks[1] == looks[2]
    assert chromium.run(f"{ROOT_BOX}.querySelectorAll('[class*=sd-btn]').length") == 0


def test_the_instructions_come_first(chromium, page):
    chromium.open(page)
    first = chromium.run(f"[...{ROOT_BOX}.children].find((box) => box.tagName !== 'STYLE').textContent")
    assert first.startswith("Drag the open circle")


def test_without_scripts_a_picture_stands_there(chromium, page):
    chromium.open(page, scripts=False)
    assert (
        chromium.run("document.querySelector('#two-task-playground img').getAttribute('src')")
        == "_static/playground.svg"
    )
    assert len(chromium.run("document.querySelector('#two-task-playground img').alt")) > 80
    assert "JavaScript" in chromium.run("document.querySelector('#two-task-playground p').textContent")
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
    assert chromium.run("document.querySelectorAll('#two-task-playground svg.view').length") == 3
    assert said(chromium).startswith("PCGrad, after 600 of 600 steps")
    chromium.run("document.querySelectorAll('a[href^=\"?\"]')[1].click()")
    assert state(chromium)[:3] == ["ravines", "pcgrad", [0, 3]]
    address = chromium.run("playground.address()")
    chromium.open(address)
    assert state(chromium)[:3] == ["ravines", "pcgrad", [0, 3]]
