/* The playground: choose a landscape and a method, move the start, watch the path in parameter and in loss space.
   What it draws is computed in playground_rules.js. Without an element #two-task-playground this file does nothing. */
(() => {
  "use strict";
  const dot = (a, b) => a[0] * b[0] + a[1] * b[1];
  const norm = (a) => Math.sqrt(dot(a, a));
  const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

  const WIDTH = 340, HEIGHT = 300, LEFT = 34, BOTTOM = 34, TOP = 8, RIGHT = 8;
  const STYLE = `#two-task-playground { --task-1: #0072b2; --task-2: #b35c00; --front: #007a58; }
    html[data-theme="dark"] #two-task-playground { --task-1: #6cb8ea; --task-2: #f0a860; --front: #4fc9a4; }
    #two-task-playground .controls { display: flex; flex-wrap: wrap; gap: .5rem 1rem; align-items: end; margin-bottom: .75rem; }
    #two-task-playground .controls > label { display: flex; flex-direction: column; font-size: .85em; }
    #two-task-playground input[type=range] { width: 100%; }
    #two-task-playground .controls :is(select, input[type=number]) { font: inherit; font-size: 1rem; color: inherit; max-width: 13rem;
      background: var(--pst-color-surface, transparent); border: 1px solid currentColor; border-radius: 4px; padding: .15rem .3rem; }
    #two-task-playground input[type=number] { width: 5rem; }
    #two-task-playground .pictures { display: flex; flex-wrap: wrap; gap: .5rem; }
    #two-task-playground figure { flex: 1 1 18rem; max-width: 27rem; margin: 0; min-width: 0; }
    #two-task-playground svg { width: 100%; height: auto; display: block; font-size: 11px; touch-action: pan-y; }
    #two-task-playground svg text { fill: currentColor; }
    #two-task-playground .level { fill: none; stroke: currentColor; stroke-opacity: .25; }
    #two-task-playground .axis { fill: none; stroke: currentColor; stroke-opacity: .6; }
    #two-task-playground .pareto { fill: none; stroke: var(--front); stroke-width: 5; stroke-opacity: .55; stroke-linecap: round; }
    #two-task-playground .path { fill: none; stroke: currentColor; stroke-width: 1.8; }
    #two-task-playground .task-1 { stroke: var(--task-1); fill: var(--task-1); }
    #two-task-playground .task-2 { stroke: var(--task-2); fill: var(--task-2); }
    #two-task-playground .sum { stroke: currentColor; fill: currentColor; }
    #two-task-playground .arrow { stroke-width: 2.2; fill: none; }
    #two-task-playground .start { fill: var(--pst-color-background, white); stroke: currentColor; stroke-width: 2.5; cursor: grab; touch-action: none; }
    #two-task-playground .start:focus { outline: none; stroke-width: 5; }
    #two-task-playground figcaption { font-size: .85em; }`;

  function element(tag, attributes = {}, ...children) {
    const svg = ["svg", "g", "path", "circle", "text", "clipPath", "rect"].includes(tag);
    const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  const number = (x, digits = 2) => x.toFixed(digits).replace("-", "−");

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
      element("text", { x: 10, y: TOP + 4, "dominant-baseline": "hanging" , "text-anchor": "middle" }, yName)];
    for (const x of ticks(xs)) made.push(element("text",
      { x: place.to(x, 0)[0], y: bottom + 13, "text-anchor": "middle" }, String(x).replace("-", "−")));
    for (const y of ticks(ys)) {
      const py = place.to(0, y)[1];
      if (py > TOP + 16) made.push(element("text", { x: LEFT - 4, y: py + 4, "text-anchor": "end" }, String(y).replace("-", "−")));
    }
    return made;
  }

  /* Level lines of L1 + L2 by marching squares; levels at even shares of the area that is shown. */
  function levels(problem, place) {
    const N = 64, [[x0, x1], [y0, y1]] = problem.limits, value = [];
    const at = (i, j) => [x0 + (x1 - x0) * i / N, y0 + (y1 - y0) * j / N];
    for (let j = 0; j <= N; j++) for (let i = 0; i <= N; i++) {
      const [a, b] = problem.at(...at(i, j)).losses;
      value.push(a + b);
    }
    const sorted = [...value].sort((a, b) => a - b);
    return [0.02, 0.07, 0.15, 0.25, 0.37, 0.5, 0.63, 0.75, 0.87, 0.95].map((share) => {
      const c = sorted[Math.floor(share * (sorted.length - 1))];
      let d = "";
      for (let j = 0; j < N; j++) for (let i = 0; i < N; i++) {
        const corners = [[i, j], [i + 1, j], [i + 1, j + 1], [i, j + 1]], cut = [];
        corners.forEach((p, k) => {
          const q = corners[(k + 1) % 4], u = value[p[1] * (N + 1) + p[0]] - c, v = value[q[1] * (N + 1) + q[0]] - c;
          if (u < 0 !== v < 0) cut.push(at(p[0] + (q[0] - p[0]) * u / (u - v), p[1] + (q[1] - p[1]) * u / (u - v)));
        });
        for (let k = 0; k + 1 < cut.length; k += 2) d += line(place, [cut[k], cut[k + 1]]);
      }
      return element("path", { class: "level", d });
    });
  }

  function arrow(place, point, vector, size, name) {
    const length = norm(vector), [x, y] = place.to(...point);
    if (!(length * size > 1)) return element("g");
    const [dx, dy] = [vector[0] * size, -vector[1] * size], k = Math.min(7, length * size / 2) / (length * size);
    const head = [[-dx * k - dy * k * 0.5, -dy * k + dx * k * 0.5], [-dx * k + dy * k * 0.5, -dy * k - dx * k * 0.5]];
    const [p, q] = head.map(([hx, hy]) => `${(x + dx + hx).toFixed(1)},${(y + dy + hy).toFixed(1)}`);
    return element("path", { class: `arrow ${name}`, fill: "none", style: "fill: none",
      d: `M${x.toFixed(1)},${y.toFixed(1)}l${dx.toFixed(1)},${dy.toFixed(1)}M${p}L${(x + dx).toFixed(1)},${(y + dy).toFixed(1)}L${q}` });
  }

  function start(root) {
    const { problems, methods, run } = window.playgroundRules;
    const state = { problem: "bowls", method: "equal", start: [...problems.bowls.start], shown: problems.bowls.steps };
    const choose = (words, entries) => {
      const select = element("select", {}, ...Object.entries(entries).map(([k, v]) => element("option", { value: k }, v.title)));
      return [select, element("label", {}, words, select)];
    };
    const [problemBox, problemLabel] = choose("Landscape", problems), [methodBox, methodLabel] = choose("Method", methods);
    const coordinates = [0, 1].map((j) => element("input", { type: "number", step: "0.1" }));
    const range = element("input", { type: "range", min: "0", step: "1" });
    const play = element("button", { type: "button", class: "sd-btn sd-btn-primary" }, "Play");
    const back = element("button", { type: "button", class: "sd-btn sd-btn-secondary" }, "Reset start");
    const said = element("p", { role: "status" });
    const views = ["Parameter space: level lines of L1 + L2, the path, and at its end the two descent directions and the step taken",
      "Loss space: the path of the two losses and the Pareto front"].map((label) =>
      element("svg", { class: "view", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "group", "aria-label": label }));
    const handle = element("circle", { class: "start", r: 8, tabindex: "0", role: "slider", "aria-label": "start; arrow keys move it" });
    let place, found, losses, timer = null, scene = null;

    function compute() {
      found = run(state.problem, state.method, state.start);
      const count = found.points.length / 2;
      losses = Array.from({ length: count }, (_, t) => problems[state.problem].at(found.points[2 * t], found.points[2 * t + 1]).losses);
    }

    function background() {
      const problem = problems[state.problem];
      place = frame(problem.limits);
      const made = [...axes(place, "θ₁", "θ₂"), ...levels(problem, place)];
      if (problem.pareto) made.push(element("path", { class: "pareto", d: line(place, problem.pareto) }));
      scene = element("g");
      views[0].replaceChildren(...made, scene, handle);
    }

    function picture() {
      const problem = problems[state.problem], last = Math.min(state.shown, losses.length - 1), every = Math.max(1, Math.ceil(losses.length / 1500));
      const kept = [...Array(last + 1).keys()].filter((t) => t % every === 0 || t === last);
      const point = (t) => [found.points[2 * t], found.points[2 * t + 1]];
      const { gradients } = problem.at(...point(last)), longest = Math.max(...gradients.map(norm), 1e-12);
      const end = place.to(...point(last)), down = (g) => [-g[0], -g[1]], update = down([found.updates[2 * last], found.updates[2 * last + 1]]);
      scene.replaceChildren(element("path", { class: "path", d: line(place, kept.map(point)) }),
        ...gradients.map((g, k) => arrow(place, point(last), down(g), 45 / longest, `task-${k + 1}`)),
        arrow(place, point(last), update, 45, "sum"),
        element("circle", { class: "sum", r: 3.5, cx: end[0], cy: end[1] }));
      const [hx, hy] = place.to(...state.start);
      handle.setAttribute("cx", hx);
      handle.setAttribute("cy", hy);
      handle.setAttribute("aria-valuenow", state.start[0].toFixed(2));
      handle.setAttribute("aria-valuetext", `θ1 ${state.start[0].toFixed(2)}, θ2 ${state.start[1].toFixed(2)}`);

      const front = problem.pareto ? problem.pareto.map((p) => problem.at(...p).losses) : [], all = [...front, ...losses.filter((_, t) => t % every === 0)];
      const limits = [0, 1].map((k) => {
        const low = Math.min(...all.map((l) => l[k])), high = Math.max(...all.map((l) => l[k])), pad = 0.06 * (high - low) || 1;
        return [low - pad, high + pad];
      });
      const plane = frame(limits), at = (t) => plane.to(...losses[t]), drawn = axes(plane, "L₁", "L₂");
      if (front.length) drawn.push(element("path", { class: "pareto", d: line(plane, front) }));
      drawn.push(element("path", { class: "path", d: line(plane, kept.map((t) => losses[t])) }),
        element("circle", { class: "start", r: 6, cx: at(0)[0], cy: at(0)[1], style: "cursor: auto" }),
        element("circle", { class: "sum", r: 3.5, cx: at(last)[0], cy: at(last)[1] }));
      views[1].replaceChildren(...drawn);

      const [a, b] = gradients, cosine = dot(a, b) / (norm(a) * norm(b) || 1);
      range.setAttribute("aria-valuetext", `${last} of ${losses.length - 1} steps`);
      said.textContent = `${methods[state.method].title}, after ${last} of ${losses.length - 1} steps: θ = (${point(last).map((x) => number(x)).join(", ")}), `
        + `L₁ = ${number(losses[last][0])}, L₂ = ${number(losses[last][1])}. There the gradients have cosine ${number(cosine)} and lengths ${norm(a).toPrecision(2)} and ${norm(b).toPrecision(2)}.`;
    }

    function stop() {
      cancelAnimationFrame(timer);
      timer = null;
      play.textContent = "Play";
    }

    function again() {
      stop();
      compute();
      state.shown = losses.length - 1;
      range.max = String(state.shown);
      range.value = range.max;
      coordinates.forEach((box, j) => { if (document.activeElement !== box) box.value = state.start[j].toFixed(2); });
      picture();
    }

    function move(point) {
      state.start = point.map((x, j) => clamp(x, ...problems[state.problem].limits[j]));
      again();
    }

    function open() {
      const problem = problems[state.problem];
      coordinates.forEach((box, j) => { [box.min, box.max] = problem.limits[j].map(String); });
      background();
      move([...problem.start]);
    }

    problemBox.addEventListener("change", () => { state.problem = problemBox.value; open(); });
    methodBox.addEventListener("change", () => { state.method = methodBox.value; again(); });
    coordinates.forEach((box, j) => box.addEventListener("input", () => {
      if (box.value !== "" && Number.isFinite(box.valueAsNumber)) move(state.start.map((x, i) => (i === j ? box.valueAsNumber : x)));
    }));
    range.addEventListener("input", () => { stop(); state.shown = Number(range.value); picture(); });
    back.addEventListener("click", () => move([...problems[state.problem].start]));
    play.addEventListener("click", () => {
      if (timer !== null) { stop(); return; }
      const last = losses.length - 1, began = performance.now(), from = state.shown >= last ? 0 : state.shown;
      play.textContent = "Pause";
      said.setAttribute("aria-live", "off");  // one sentence at the end, not one a frame
      const tick = (now) => {
        state.shown = Math.min(last, from + Math.floor(Math.max(0, now - began) / 5000 * last));
        range.value = String(state.shown);
        if (state.shown >= last) { said.setAttribute("aria-live", "polite"); stop(); } else timer = requestAnimationFrame(tick);
        picture();
      };
      timer = requestAnimationFrame(tick);
    });
    handle.addEventListener("keydown", (event) => {
      const step = event.shiftKey ? 1 : 0.1, by = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] }[event.key];
      if (by) { event.preventDefault(); move([state.start[0] + by[0], state.start[1] + by[1]]); }
    });
    const dragged = (event) => {
      const box = views[0].getBoundingClientRect();
      move(place.from((event.clientX - box.left) * WIDTH / box.width, (event.clientY - box.top) * HEIGHT / box.height));
    };
    handle.addEventListener("pointerdown", (event) => { event.preventDefault(); handle.focus(); handle.setPointerCapture(event.pointerId); });
    handle.addEventListener("pointermove", (event) => { if (handle.hasPointerCapture(event.pointerId)) dragged(event); });

    const key = [["task-1", "descent direction of task 1"], ["task-2", "of task 2"], ["sum", "step of the method, at full length where it is clipped;"]].map(([name, words]) =>
      element("span", {}, element("svg", { viewBox: "0 0 24 10", style: "display: inline; width: 1.6em; height: .7em", "aria-hidden": "true" },
        element("path", { class: `arrow ${name}`, d: "M1,5h20m-5,-4l5,4l-5,4", style: "fill: none" })), ` ${words}   `));
    root.replaceChildren(element("style", {}, STYLE),
      element("div", { class: "controls" }, problemLabel, methodLabel,
        ...coordinates.map((box, j) => element("label", {}, `Start θ${"₁₂"[j]}`, box)), back),
      element("div", { class: "pictures" }, ...views.map((view) => element("figure", {}, view))),
      element("div", { class: "controls" }, play, element("label", { style: "flex: 1 1 12rem" }, "Steps shown", range)), said,
      element("p", { style: "font-size: .85em" }, ...key, "green: the Pareto set and its losses, where they are known."));
    open();
    window.playground = { problems, methods, run, state };
  }

  function find() {
    const root = document.getElementById("two-task-playground");
    if (root) start(root);
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", find);
  else find();
})();
