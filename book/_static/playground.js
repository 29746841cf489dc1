/* The playground. Above: move the start and watch the paths of all methods, in parameter and in loss space. Below: move the
   arrows of two tasks and watch every method's answer. The address of the page holds the state. What is shown is computed in
   playground_rules.js. Without an element #two-task-playground this file does nothing. */
(() => {
  "use strict";
  const dot = (a, b) => a[0] * b[0] + a[1] * b[1];
  const norm = (a) => Math.sqrt(dot(a, a));
  const clamp = (x, low, high) => Math.min(high, Math.max(low, x));
  const round = (x) => Math.round(100 * x) / 100; // the state has two decimals, so that its address says all of it

  const WIDTH = 340, HEIGHT = 300, LEFT = 34, BOTTOM = 34, TOP = 8, RIGHT = 8;
  const FIRST = { problem: "uneven_bowls", method: "pcgrad", arrows: [[1.8, -0.4], [-1, 0.7]] };
  const REACH = 2.6, TIP = 2; // half the width of the picture of arrows, and how far a tip moves from the middle
  const STYLE = `#two-task-playground { --ground: var(--pst-color-background, white); --task-1: #0072b2; --task-2: #b35c00;
      --equal: currentColor; --norm_equalised: #7b2d8e; --mgda: #b3204d; --pcgrad: #2a7400; --cagrad: #6b5b00; --sam_gs: #00707f; }
    html[data-theme="dark"] #two-task-playground { --task-1: #6cb8ea; --task-2: #f0a860;
      --norm_equalised: #d39be6; --mgda: #ff8fa8; --pcgrad: #8fd05a; --cagrad: #d9c650; --sam_gs: #4fd3e6; }
    #two-task-playground .controls { display: flex; flex-wrap: wrap; gap: .5rem 1rem; align-items: end; margin-bottom: .75rem; }
    #two-task-playground .controls > label { display: flex; flex-direction: column; font-size: .85em; }
    #two-task-playground input[type=range] { width: 100%; height: 1.5rem; }
    #two-task-playground :is(select, input[type=number], button) { font: inherit; font-size: 1rem; color: inherit; max-width: 100%;
      background: var(--ground); border: 1px solid var(--pst-color-text-muted, currentColor); border-radius: 4px; padding: .15rem .5rem; }
    #two-task-playground input[type=number] { width: 5rem; }
    #two-task-playground fieldset { border: 0; margin: 0 0 .75rem; padding: 0; display: flex; flex-wrap: wrap; gap: .35rem .5rem; }
    #two-task-playground legend { font-size: .85em; float: none; width: auto; margin: 0; padding: 0; }
    #two-task-playground fieldset label { display: inline-flex; align-items: center; gap: .4rem; cursor: pointer; margin: 0;
      border: 1px solid var(--pst-color-text-muted, currentColor); border-radius: 1rem; padding: .1rem .7rem; }
    #two-task-playground fieldset input { accent-color: var(--own); margin: 0; }
    #two-task-playground fieldset label:has(:checked) { border: 2px solid var(--own); padding: calc(.1rem - 1px) calc(.7rem - 1px); font-weight: 600; }
    #two-task-playground :is(button, select, input, fieldset label:has(:focus-visible)):focus-visible,
    #two-task-playground fieldset label:has(:focus-visible) { outline: 3px solid var(--pst-color-text-base, currentColor); outline-offset: 2px; }
    #two-task-playground fieldset input:focus-visible { outline: none; }
    #two-task-playground .pictures { display: flex; flex-wrap: wrap; gap: .75rem 1rem; align-items: start; }
    #two-task-playground :is(figure, .answers) { flex: 1 1 18rem; max-width: 27rem; margin: 0; padding: 0; min-width: 0; }
    #two-task-playground svg.view { width: 100%; height: auto; display: block; font-size: 12px; touch-action: pan-y; }
    #two-task-playground svg text { fill: currentColor; stroke: var(--ground); stroke-width: 4px; paint-order: stroke; stroke-linejoin: round; }
    #two-task-playground .swatch { width: 1.4rem; height: .7rem; flex: none; }
    #two-task-playground .level { fill: none; stroke: var(--own); stroke-opacity: .35; }
    #two-task-playground .axis { fill: none; stroke: currentColor; stroke-opacity: .6; }
    #two-task-playground .lowest { fill: none; stroke: var(--own); stroke-width: 2.5; }
    #two-task-playground svg text.task { fill: var(--own); font-weight: 700; }
    #two-task-playground .pareto { fill: none; stroke: currentColor; stroke-width: 7; stroke-opacity: .25; stroke-linecap: round; }
    #two-task-playground .line { fill: none; stroke: var(--own); stroke-width: 1.4; stroke-opacity: .6; stroke-linejoin: round; }
    #two-task-playground .answer .line { stroke-width: 1.8; stroke-opacity: .9; }
    #two-task-playground .hit { fill: none; stroke: transparent; stroke-width: 14; cursor: pointer; }
    #two-task-playground circle.hit { fill: transparent; stroke: none; cursor: grab; }
    #two-task-playground .end { fill: var(--own); }
    #two-task-playground .method text { display: none; fill: var(--own); font-weight: 700; pointer-events: none; }
    #two-task-playground .method:is(.chosen, .hot) .line { stroke-width: 3; stroke-opacity: 1; }
    #two-task-playground .method.hot text, #two-task-playground :not(.elsewhere) > .method.chosen text { display: block; }
    #two-task-playground .arrow { fill: none; stroke: var(--own); stroke-width: 2.2; }
    #two-task-playground .task.arrow { stroke-width: 4; }
    #two-task-playground .pull.arrow { stroke-width: 2.6; }
    #two-task-playground .handle { cursor: grab; touch-action: none; outline: none; }
    #two-task-playground .knob { fill: var(--ground); stroke: var(--own, currentColor); stroke-width: 2.5; }
    #two-task-playground .handle:focus .knob { stroke-width: 5; }
    #two-task-playground figcaption { font-size: .85em; font-weight: inherit; color: inherit; margin: 0 0 .25rem; padding: 0; text-align: start; }
    #two-task-playground table { width: 100%; margin: 0 0 .5rem; border-collapse: collapse; font-size: .9em; }
    #two-task-playground :is(th, td) { text-align: start; padding: .2rem .3rem; font-weight: inherit; border: 0; }
    #two-task-playground thead th { font-size: .9em; vertical-align: bottom; border-bottom: 1px solid var(--pst-color-text-muted, currentColor); }
    #two-task-playground td.number { text-align: end; font-variant-numeric: tabular-nums; padding-inline-end: .8rem; }
    #two-task-playground tr.method-row button { display: inline-flex; align-items: center; gap: .4rem; border: 0; padding: .1rem .2rem; text-align: start; font-size: inherit; }
    #two-task-playground tr.method-row.chosen button { font-weight: 700; }
    #two-task-playground tr.hot { background: var(--pst-color-surface, #eee); }
    #two-task-playground tr.method-row.hot button { background: none; text-decoration: underline; }
    #two-task-playground .rises { font-weight: 700; }
    #two-task-playground .said { min-height: 3.4rem; }
    @media (max-width: 40rem) { #two-task-playground .said { min-height: 5.2rem; } }
    @media print { #two-task-playground button { display: none; } }`;

  function element(tag, attributes = {}, ...children) {
    const svg = ["svg", "g", "path", "circle", "text", "clipPath", "rect"].includes(tag);
    const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  const signed = (x) => String(x).replace("-", "−");
  const number = (x, digits = 2) => signed(x.toFixed(digits).replace(/^-(0\.?0*)$/, "$1"));
  const own = (name) => `--own: var(--${name})`;
  const swatch = (name) => element("svg", { class: "swatch", viewBox: "0 0 24 10", "aria-hidden": "true" },
    element("path", { d: "M1,5h21", style: `${own(name)}; stroke: var(--own); stroke-width: 4` }));

  function frame([[x0, x1], [y0, y1]]) {
    const w = WIDTH - LEFT - RIGHT, h = HEIGHT - TOP - BOTTOM;
    return {
      to: (x, y) => [LEFT + w * (x - x0) / (x1 - x0), TOP + h * (y1 - y) / (y1 - y0)],
      from: (px, py) => [x0 + (x1 - x0) * (px - LEFT) / w, y1 - (y1 - y0) * (py - TOP) / h],
      limits: [[x0, x1], [y0, y1]],
    };
  }

  function line(place, points) {
    return "M" + points.map(([x, y]) => place.to(x, y).map((z) => clamp(z, -2e3, 3e3).toFixed(1)).join(",")).join("L");
  }

  function ticks([low, high]) {
    const raw = (high - low) / 4, power = 10 ** Math.floor(Math.log10(raw));
    const step = power * [1, 2, 5, 10].find((s) => s * power >= raw), found = [];
    for (let x = Math.ceil(low / step) * step; x <= high + step * 1e-9; x += step) found.push(Number(x.toPrecision(10)));
    return found;
  }

  function axes(place, xName, yName) {
    const [xs, ys] = place.limits, right = WIDTH - RIGHT, bottom = HEIGHT - BOTTOM;
    const made = [element("path", { class: "axis", d: `M${LEFT},${TOP}V${bottom}H${right}` }),
      element("text", { x: (LEFT + right) / 2, y: HEIGHT - 4, "text-anchor": "middle" }, xName),
      element("text", { x: 10, y: TOP + 4, "dominant-baseline": "hanging", "text-anchor": "middle" }, yName)];
    for (const x of ticks(xs)) made.push(element("text", { x: place.to(x, 0)[0], y: bottom + 14, "text-anchor": "middle" }, signed(x)));
    for (const y of ticks(ys)) {
      const py = place.to(0, y)[1];
      if (py > TOP + 16) made.push(element("text", { x: LEFT - 4, y: py + 4, "text-anchor": "end" }, signed(y)));
    }
    return made;
  }

  /* Level lines of both losses by marching squares, at even shares of the area that is shown, and where each loss is lowest. */
  function levels(problem, place) {
    const N = 64, [[x0, x1], [y0, y1]] = problem.limits, values = [[], []], made = [], names = [];
    const at = (i, j) => [x0 + (x1 - x0) * i / N, y0 + (y1 - y0) * j / N];
    for (let j = 0; j <= N; j++) for (let i = 0; i <= N; i++) problem.at(...at(i, j)).losses.forEach((l, k) => values[k].push(l));
    values.forEach((value, task) => {
      const sorted = [...value].sort((a, b) => a - b), style = own(`task-${task + 1}`);
      for (const share of [0.02, 0.08, 0.18, 0.32, 0.5, 0.7, 0.88]) {
        const c = sorted[Math.floor(share * (sorted.length - 1))];
        let d = "";
        for (let j = 0; j < N; j++) for (let i = 0; i < N; i++) {
          const first = value[j * (N + 1) + i] < c, next = (j + 1) * (N + 1) + i;
          if (value[j * (N + 1) + i + 1] < c === first && value[next] < c === first && value[next + 1] < c === first) continue;
          const corners = [[i, j], [i + 1, j], [i + 1, j + 1], [i, j + 1]], cut = [];
          corners.forEach((p, k) => {
            const q = corners[(k + 1) % 4], u = value[p[1] * (N + 1) + p[0]] - c, v = value[q[1] * (N + 1) + q[0]] - c;
            if ((u < 0) !== (v < 0)) cut.push(at(p[0] + (q[0] - p[0]) * u / (u - v), p[1] + (q[1] - p[1]) * u / (u - v)));
          });
          for (let k = 0; k + 1 < cut.length; k += 2) d += line(place, [cut[k], cut[k + 1]]);
        }
        made.push(element("path", { class: "level", style, d }));
      }
      const lowest = value.indexOf(sorted[0]), ends = problem.pareto;
      const [x, y] = place.to(...(ends ? ends[task * (ends.length - 1)] : at(lowest % (N + 1), Math.floor(lowest / (N + 1)))));
      made.push(element("path", { class: "lowest", style, d: `M${x - 5},${y - 5}l10,10m0,-10l-10,10` }));
      names.push(element("text", { class: "task", style, x: clamp(x, LEFT + 26, WIDTH - RIGHT - 26),
        y: y > HEIGHT - BOTTOM - 30 ? y - 10 : y + 19, "text-anchor": "middle" }, `task ${task + 1}`));
    });
    return [...made, ...names];
  }

  /* An arrow in pixels from (x, y) by (dx, dy), with a head unless it leaves the picture. */
  function arrow([x, y], [dx, dy], look, style, headless = false) {
    const length = Math.hypot(dx, dy), k = Math.min(9, length / 2) / length;
    if (!(length > 1)) return element("g");
    const head = [[-dx * k - dy * k * 0.5, -dy * k + dx * k * 0.5], [-dx * k + dy * k * 0.5, -dy * k - dx * k * 0.5]];
    const [p, q] = head.map(([hx, hy]) => `${(x + dx + hx).toFixed(1)},${(y + dy + hy).toFixed(1)}`), tip = `${(x + dx).toFixed(1)},${(y + dy).toFixed(1)}`;
    return element("path", { class: look, style, d: `M${x.toFixed(1)},${y.toFixed(1)}L${tip}${headless ? "" : `M${p}L${tip}L${q}`}` });
  }

  /* A name beside a point of the picture, on the side where there is room. */
  function name(words, [x, y], below = false) {
    const left = x < WIDTH / 2, side = clamp(x + (left ? 9 : -9), LEFT, WIDTH - RIGHT);
    return element("text", { x: side.toFixed(1), y: clamp(y + (below ? 17 : -9), TOP + 12, HEIGHT - BOTTOM - 4).toFixed(1), "text-anchor": left ? "start" : "end" }, words);
  }

  /* A point that is dragged, or moved by arrow keys: at(x, y) of the picture, move(point). */
  function handle(view, label, look, style, place, at, move) {
    const made = element("g", { class: `handle ${look}`, style, tabindex: "0", role: "slider", "aria-label": label },
      element("circle", { class: "hit", r: 17 }), element("circle", { class: "knob", r: 8 }));
    made.addEventListener("keydown", (event) => {
      const step = event.shiftKey ? 1 : 0.1, by = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] }[event.key];
      if (by) { event.preventDefault(); move(at().map((x, j) => x + by[j])); }
    });
    made.addEventListener("pointerdown", (event) => { event.preventDefault(); made.focus(); made.setPointerCapture(event.pointerId); });
    made.addEventListener("pointermove", (event) => {
      if (!made.hasPointerCapture(event.pointerId)) return;
      const box = view.getBoundingClientRect();
      move(place().from((event.clientX - box.left) * WIDTH / box.width, (event.clientY - box.top) * HEIGHT / box.height));
    });
    const put = () => {
      const [x, y] = at(), low = place().limits[0];
      made.setAttribute("transform", `translate(${place().to(x, y).map((z) => z.toFixed(1)).join(" ")})`);
      for (const [key, value] of [["min", low[0]], ["max", low[1]], ["now", x.toFixed(2)]]) made.setAttribute(`aria-value${key}`, value);
      made.setAttribute("aria-valuetext", `${x.toFixed(2)} to the right, ${y.toFixed(2)} up`);
    };
    return [made, put];
  }

  function start(root) {
    const { problems, methods, run, answer } = window.playgroundRules, names = Object.keys(methods);
    const state = {};

    // --- the state and its address

    function address() { // a comma would be rewritten as %2C by other scripts of a page
      const { problem, method, start, arrows } = state, values = { problem, method, start, task1: arrows[0], task2: arrows[1] };
      const url = new URL(location.href);
      url.search = Object.entries(values).map(([key, value]) => `${key}=${Array.isArray(value) ? value.map(round).join("_") : value}`).join("&");
      url.hash = "";
      return url.href;
    }

    function read(search) {
      const given = new URLSearchParams(search), known = (key, all) => (Object.hasOwn(all, given.get(key)) ? given.get(key) : FIRST[key]);
      const pair = (key, otherwise, limits) => {
        const found = (given.get(key) ?? "").split("_").map((x) => (x.trim() ? Number(x) : NaN));
        return (found.length === 2 && found.every(Number.isFinite) ? found : otherwise).map((x, j) => round(clamp(x, ...limits[j])));
      };
      const problem = known("problem", problems), { start: first, limits } = problems[problem], tips = [[-TIP, TIP], [-TIP, TIP]];
      Object.assign(state, { problem, method: known("method", methods), start: pair("start", first, limits),
        arrows: FIRST.arrows.map((tip, k) => pair(`task${k + 1}`, tip, tips)) });
    }

    let saving = null;
    function save() { // once it is quiet: browsers allow a page few changes of its address a second
      clearTimeout(saving);
      saving = setTimeout(() => { try { history.replaceState(null, "", address()); } catch { /* the button still gives it */ } }, 250);
    }

    // --- controls

    const problemBox = element("select", {}, ...Object.entries(problems).map(([k, v]) => element("option", { value: k }, v.title)));
    const radios = new Map(names.map((k) => [k, element("input", { type: "radio", name: "playground-method", value: k })]));
    const coordinates = [0, 1].map(() => element("input", { type: "number", step: "0.1" }));
    const button = (words) => element("button", { type: "button" }, words);
    const play = button("Play"), back = button("Reset"), copy = button("Copy link"), take = button("Use the gradients at the start");
    const range = element("input", { type: "range", min: "0", step: "1" });
    const said = element("p", { role: "status", class: "said" });
    const view = (label) => element("svg", { class: "view", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "group", "aria-label": label });
    const plane = view("Parameter space: level lines of the two losses, the paths of all methods, and at the end of the chosen path the arrows of the two tasks");
    const lossView = view("Loss space: the same paths in the plane of the two losses, and the Pareto front");
    const arrowView = view("The arrows of two tasks, and the step of every method");
    const marked = (k, node) => { // hover, focus and click, wherever a method is shown
      node.dataset.method = k;
      const events = [["pointerenter", k], ["pointerleave", null]];
      if (node instanceof HTMLElement) events.push(["focusin", k], ["focusout", null]); // a group with such a listener takes the focus
      for (const [event, on] of events) node.addEventListener(event, () => heat(on));
      return node;
    };

    function heat(k) {
      for (const node of root.querySelectorAll("[data-method]")) {
        node.classList.toggle("hot", node.dataset.method === k);
        node.classList.toggle("chosen", node.dataset.method === state.method);
      }
      for (const scene of root.querySelectorAll("g.scene")) scene.classList.toggle("elsewhere", k !== null && k !== state.method);
    }

    const cells = new Map(names.map((k) => [k, [0, 1, 2].map((j) => element("td", j ? {} : { class: "number" }))]));
    const rows = names.map((k) => {
      const choose = element("button", { type: "button" }, swatch(k), methods[k].title);
      choose.addEventListener("click", () => pick(k));
      return marked(k, element("tr", { class: "method-row", style: own(k) }, element("th", { scope: "row" }, choose), ...cells.get(k)));
    });
    const heads = ["method", "length", "loss of task 1", "loss of task 2"].map((words) => element("th", { scope: "col" }, words));
    const table = element("table", {}, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows));

    // --- paths: that of the chosen method at once, the others as time allows

    let place, paths = new Map(), turns = 0, shown, total, timer = null, scene;
    const even = [[-REACH, REACH], [-1, 1].map((s) => s * REACH * (HEIGHT - TOP - BOTTOM) / (WIDTH - LEFT - RIGHT))], board = frame(even);

    function compute(k) {
      const { points } = run(state.problem, k, state.start), count = points.length / 2, every = Math.max(1, Math.ceil(count / 600));
      const at = (t) => [points[2 * t], points[2 * t + 1]], { at: values } = problems[state.problem];
      const kept = [...Array(count).keys()].filter((t) => t % every === 0 || t === count - 1);
      paths.set(k, { at, kept, losses: kept.map((t) => values(...at(t)).losses) });
    }

    function complete() {
      const mine = ++turns, began = performance.now(), later = () => { if (mine === turns) { complete(); picture(); } }, missing = () => [state.method, ...names].find((k) => !paths.has(k));
      for (let k = missing(); k && (performance.now() - began < 25 || !paths.has(state.method)); k = missing()) compute(k);
      if (missing()) requestAnimationFrame(() => setTimeout(later)); // once this is painted
    }

    const ordered = () => [...names.filter((k) => k !== state.method && paths.has(k)), state.method]; // the chosen one lies on top

    /* The group of one method in a picture: its line, a wide one to point at, its end, its name there. */
    function trace(k, d, end, below) {
      const made = marked(k, element("g", { class: "method", style: own(k) }, element("path", { class: "line", d }), element("path", { class: "hit", d }),
        element("circle", { class: "end", r: 3.5, cx: end[0].toFixed(1), cy: end[1].toFixed(1) }), name(methods[k].title, end, below)));
      made.addEventListener("click", () => pick(k));
      return made;
    }

    const clip = element("clipPath", { id: "playground-inside" },
      element("rect", { x: LEFT, y: TOP, width: WIDTH - LEFT - RIGHT, height: HEIGHT - TOP - BOTTOM }));
    const inside = { class: "scene", "clip-path": "url(#playground-inside)" };
    const [knob, putKnob] = handle(plane, "start; arrow keys move it", "start", "", () => place, () => state.start, move);

    function background() {
      const problem = problems[state.problem];
      place = frame(problem.limits);
      const front = problem.pareto ? [element("path", { class: "pareto", d: line(place, problem.pareto) })] : [];
      scene = element("g", inside);
      plane.replaceChildren(clip, ...axes(place, "θ₁", "θ₂"), element("g", { "clip-path": inside["clip-path"] }, ...levels(problem, place), ...front), scene, knob);
    }

    function picture() {
      const problem = problems[state.problem], chosen = paths.get(state.method), at = chosen.at(Math.min(shown, total));
      const until = ({ kept }) => [...kept.filter((t) => t < shown), Math.min(shown, total)];
      const { gradients, losses } = problem.at(...at), longest = Math.max(...gradients.map(norm), 1e-12), end = place.to(...at);
      const pull = (g, k) => arrow(end, [-g[0] * 40 / longest, g[1] * 40 / longest], "pull arrow", own(`task-${k + 1}`));
      scene.replaceChildren(...ordered().map((k) => {
        const path = paths.get(k), steps = until(path);
        return trace(k, line(place, steps.map(path.at)), place.to(...path.at(steps.at(-1))));
      }), ...gradients.map(pull));
      putKnob();

      const front = problem.pareto ? problem.pareto.map((p) => problem.at(...p).losses) : [], all = [...front];
      for (const path of paths.values()) all.push(...path.losses);
      const limits = [0, 1].map((k) => {
        let low = Infinity, high = -Infinity;
        for (const l of all) { low = Math.min(low, l[k]); high = Math.max(high, l[k]); }
        const pad = 0.06 * (high - low) || 1;
        return [low - pad, high + pad];
      });
      const values = frame(limits), from = values.to(...problem.at(...state.start).losses);
      const traces = ordered().map((k) => {
        const path = paths.get(k), steps = until(path), last = problem.at(...path.at(steps.at(-1))).losses;
        return trace(k, line(values, [...path.losses.slice(0, steps.length - 1), last]), values.to(...last));
      });
      lossView.replaceChildren(...axes(values, "L₁", "L₂"), ...(front.length ? [element("path", { class: "pareto", d: line(values, front) })] : []),
        element("g", inside, ...traces), element("circle", { class: "knob", r: 6, cx: from[0].toFixed(1), cy: from[1].toFixed(1) }));

      const [a, b] = gradients, lengths = norm(a) * norm(b);
      range.setAttribute("aria-valuetext", `${shown} of ${total} steps`);
      said.textContent = `${methods[state.method].title}, after ${shown} of ${total} steps: θ = (${at.map((x) => number(x)).join(", ")}), `
        + `L₁ = ${number(losses[0])}, L₂ = ${number(losses[1])}. There the gradients have cosine ${number(dot(a, b) / (lengths || 1))}.`;
      heat(null);
    }

    // --- the two arrows

    const tipScene = element("g", { ...inside, class: "scene answer" }), middle = board.to(0, 0);
    const tips = [0, 1].map((k) => handle(arrowView, `arrow of task ${k + 1}; arrow keys move its tip`, "tip", own(`task-${k + 1}`), () => board,
      () => state.arrows[k], (tip) => turn(state.arrows.map((old, j) => (j === k ? tip : old)))));

    function arrows() {
      const wide = board.limits.map(([, most]) => most);
      const made = [...names.filter((k) => k !== state.method), state.method].map((k) => {
        const step = answer(k, ...state.arrows), length = norm(step), over = Math.max(Math.abs(step[0]) / wide[0], Math.abs(step[1]) / wide[1], 1);
        const tip = board.to(step[0] / over, step[1] / over), by = tip.map((z, j) => z - middle[j]);
        const [size, ...effects] = cells.get(k);
        size.textContent = number(length, length < 10 ? 2 : 0);
        state.arrows.forEach((task, j) => {
          const gain = dot(step, task), sure = Math.abs(gain) > 1e-9 * norm(task) * (norm(state.arrows[0]) + norm(state.arrows[1])); // to first order
          effects[j].textContent = !sure ? "stays" : gain > 0 ? "falls" : "rises";
          effects[j].classList.toggle("rises", sure && gain < 0);
        });
        const group = marked(k, element("g", { class: "method", style: own(k) }, arrow(middle, by, "line", "", over > 1), arrow(middle, by, "hit", ""),
          name(methods[k].title + (over > 1 ? " (longer than shown)" : length > 0.02 ? "" : " (no step)"), tip, tip[1] > middle[1])));
        group.addEventListener("click", () => pick(k));
        return group;
      });
      tipScene.replaceChildren(...state.arrows.map((tip, k) => {
        const end = board.to(...tip);
        return arrow(middle, end.map((z, j) => z - middle[j]), "task arrow", own(`task-${k + 1}`));
      }), ...made, ...state.arrows.map((tip, k) => {
        const [x, y] = board.to(...tip), below = y === middle[1] ? k === 1 : y > middle[1];
        return element("text", { class: "task", style: own(`task-${k + 1}`), x: clamp(x, LEFT + 20, WIDTH - RIGHT - 20).toFixed(1), y: (y + (below ? 22 : -13)).toFixed(1),
          "text-anchor": "middle" }, `task ${k + 1}`);
      }));
      for (const [, put] of tips) put();
      heat(null);
    }

    // --- changes

    function stop() {
      cancelAnimationFrame(timer);
      timer = null;
      play.textContent = "Play";
    }

    function again() { // the start or the problem is another
      stop();
      paths = new Map();
      complete();
      total = problems[state.problem].steps;
      shown = total;
      range.max = String(total);
      range.value = range.max;
      coordinates.forEach((box, j) => { if (document.activeElement !== box) box.value = state.start[j].toFixed(2); });
      picture();
    }

    function move(point) {
      state.start = point.map((x, j) => round(clamp(x, ...problems[state.problem].limits[j])));
      again();
      save();
    }

    function turn(tips) {
      state.arrows = tips.map((tip) => tip.map((x) => round(clamp(x, -TIP, TIP))));
      arrows();
      save();
    }

    function pick(k) {
      state.method = k;
      radios.get(k).checked = true;
      complete();
      picture();
      arrows();
      heat(root.querySelector("tr:focus-within")?.dataset.method ?? null);
      save();
    }

    function open(search) {
      read(search);
      problemBox.value = state.problem;
      radios.get(state.method).checked = true;
      coordinates.forEach((box, j) => { [box.min, box.max] = problems[state.problem].limits[j].map(String); });
      background();
      again();
      arrows();
    }

    problemBox.addEventListener("change", () => {
      const { method, arrows: [one, two] } = state;
      open(`?problem=${problemBox.value}&method=${method}&task1=${one.join("_")}&task2=${two.join("_")}`);
      save();
    });
    for (const [k, radio] of radios) radio.addEventListener("change", () => pick(k));
    coordinates.forEach((box, j) => box.addEventListener("input", () => {
      if (box.value !== "" && Number.isFinite(box.valueAsNumber)) move(state.start.map((x, i) => (i === j ? box.valueAsNumber : x)));
    }));
    range.addEventListener("input", () => { stop(); shown = Number(range.value); picture(); });
    back.addEventListener("click", () => { open(`?problem=${state.problem}&method=${state.method}`); save(); });
    copy.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(address());
        copy.textContent = "Copied";
      } catch { // a browser that does not let a page write there
        history.replaceState(null, "", address());
        copy.textContent = "It is in the address bar";
      }
      setTimeout(() => { copy.textContent = "Copy link"; }, 2000);
    });
    take.addEventListener("click", () => {
      const { gradients } = problems[state.problem].at(...state.start), longest = Math.max(...gradients.map(norm)) || 1;
      turn(gradients.map((g) => g.map((x) => -x * 1.9 / longest)));
    });
    play.addEventListener("click", () => {
      if (timer !== null) { stop(); return; }
      const began = performance.now(), from = shown >= total ? 0 : shown;
      play.textContent = "Pause";
      said.setAttribute("aria-live", "off"); // one sentence at the end, not one a frame
      const tick = (now) => {
        shown = Math.min(total, from + Math.floor(Math.max(0, now - began) / 5000 * total));
        range.value = String(shown);
        if (shown >= total) { said.setAttribute("aria-live", "polite"); stop(); } else timer = requestAnimationFrame(tick);
        picture();
      };
      timer = requestAnimationFrame(tick);
    });
    document.addEventListener("click", (event) => { // links of this page that set the state
      const link = event.target.closest?.("a[href^='?']");
      if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
      event.preventDefault();
      clearTimeout(saving);
      open(link.search);
      history.pushState(null, "", address());
      (link.search.includes("start=") ? root : arrowView.parentElement).scrollIntoView({ block: "start" });
    });
    addEventListener("popstate", () => { // a step back, or an anchor of this page, which changes nothing here
      if (location.search === new URL(address()).search) return;
      clearTimeout(saving);
      open(location.search);
    });

    arrowView.append(element("path", { class: "axis", d: `M${LEFT},${middle[1]}H${WIDTH - RIGHT}M${middle[0]},${TOP}V${HEIGHT - BOTTOM}`, style: "stroke-opacity: .2" }),
      tipScene, ...tips.map(([tip]) => tip));
    const labels = names.map((k) => marked(k, element("label", { style: own(k) }, radios.get(k), swatch(k), methods[k].title)));
    root.replaceChildren(element("style", {}, STYLE),
      element("p", {}, "Drag the open circle, or an arrow’s tip in the picture below; or focus one and press the arrow keys (with Shift: farther)."),
      element("div", { class: "controls" }, element("label", {}, "Problem", problemBox),
        ...coordinates.map((box, j) => element("label", {}, `Start θ${"₁₂"[j]}`, box))),
      element("fieldset", {}, element("legend", {}, "Method"), ...labels),
      element("div", { class: "pictures" }, element("figure", {}, element("figcaption", {}, "The plane of the two parameters. ×: where a task’s loss is lowest; grey: the Pareto set."), plane),
        element("figure", {}, element("figcaption", {}, "The same paths in the plane of the two losses; grey: the Pareto front, where it is known."), lossView)),
      element("div", { class: "controls" }, play, element("label", { style: "flex: 1 1 12rem" }, "Steps shown", range), back, copy), said,
      element("div", { class: "pictures" }, element("figure", {}, element("figcaption", {}, "Each task’s arrow points the way its own loss falls fastest. Thin arrows: the steps of the methods."), arrowView),
        element("div", { class: "answers" }, table, take)));
    open(location.search);
    window.playground = { problems, methods, run, answer, state, address, ready: () => names.every((k) => paths.has(k)), shown: () => shown };
  }

  function find() {
    const root = document.getElementById("two-task-playground");
    if (root) start(root);
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", find);
  else find();
})();
