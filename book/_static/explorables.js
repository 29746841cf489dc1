/* Two pictures that one can move: RotoGrad's arrows and SAM-GS's gate. Their numbers are what mtl_core gives, written into
   the page by book/_ext/explorables.py when the book is built; here are inner products, words and arrows only. Elements
   that are absent are passed over. */
(() => {
  "use strict";
  const STYLE = `.explorable { --one: #0072b2; --two: #b04a00; --three: #007a58; --ground: var(--pst-color-background, white);
      margin-bottom: 1.5rem; }
    html[data-theme="dark"] .explorable { --one: #6cb8ea; --two: #f0a860; --three: #4fc9a4; }
    .explorable .controls { display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; align-items: end; margin-bottom: .5rem; }
    .explorable .controls > div { flex: 1 1 13rem; }
    .explorable input[type="range"] { display: block; width: 100%; height: 1.75rem; margin: 0; accent-color: var(--one); }
    .explorable input[type="checkbox"] { width: 1.2rem; height: 1.2rem; vertical-align: -.2rem; accent-color: var(--one); }
    .explorable input:focus-visible { outline: 3px solid var(--pst-color-text-base, currentColor); outline-offset: 2px;
      border-radius: 4px; }
    .explorable .controls > div.checks { flex: 0 1 auto; }
    .explorable .checks label { display: block; }
    .explorable output { font-weight: 700; }
    .explorable .said { min-height: 5.5rem; }
    @media (max-width: 40rem) { .explorable .said { min-height: 9rem; } }
    .explorable .said p { margin: 0 0 .15rem; }
    .explorable svg { display: block; width: 100%; max-width: 36rem; height: auto; margin: 0 auto .5rem; font-size: 12px;
      font-family: sans-serif; }
    .explorable svg text { fill: currentColor; stroke: var(--ground); stroke-width: 3px; paint-order: stroke; text-anchor: middle; }
    .explorable .line { fill: none; stroke: currentColor; stroke-opacity: .45; }
    html[data-theme="dark"] .explorable .line { stroke-opacity: .7; }
    .explorable .arrow { fill: var(--task, currentColor); stroke: var(--task, currentColor); stroke-width: 2; }
    .explorable .arrow.update { stroke-width: 3.5; }
    .explorable .arrow.was { stroke-dasharray: 3 4; stroke-width: 1.25; fill: none; }
    .explorable .t0 { --task: var(--one); }
    .explorable .t1 { --task: var(--two); }
    .explorable .t2 { --task: var(--three); }
    .explorable svg text.task { fill: var(--task); font-weight: 700; }
    .explorable svg .title { font-weight: 700; }
    .explorable .zone { fill: none; stroke-width: 16; }
    .explorable .zone.here { stroke-width: 24; }
    .explorable .needle { stroke: currentColor; stroke-width: 4; stroke-linecap: round; }
    .explorable .gate { stroke: currentColor; stroke-width: 2; }
    @media print { .explorable .controls { display: none; } }`;

  function element(tag, attributes = {}, ...children) {
    const svg = ["svg", "g", "path", "text", "circle"].includes(tag);
    const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  const dot = (a, b) => a[0] * b[0] + a[1] * b[1];
  const size = (a) => Math.hypot(...a);
  const sum = (list) => list.reduce(([x, y], [u, v]) => [x + u, y + v], [0, 0]);
  const times = (factor, [x, y]) => [factor * x, factor * y];
  const number = (x, digits = 2) => x.toFixed(digits).replace(/^-(?=[0.]*$)/, "").replace("-", "−");
  const text = (x, y, words, where = "") => element("text", { x: x.toFixed(1), y: y.toFixed(1), class: where }, words);

  /* An arrow from `from` along `vector`, both in units of the picture; y points up in `vector` alone. */
  function arrow([x, y], [u, v], where) {
    const length = size([u, v]);
    if (length < 2) return element("circle", { class: `arrow ${where}`, cx: x, cy: y, r: 3 });
    const head = Math.min(9, length), [a, b] = [u / length, -v / length], tip = [x + u, y - v], end = length - head;
    if (where.startsWith("was")) return element("path", { class: `arrow ${where}`, d: `M${x},${y}L${tip.map((t) => t.toFixed(1))}` });
    const corner = (side) => `${(x + a * end - side * b * head * 0.45).toFixed(1)},${(y + b * end + side * a * head * 0.45).toFixed(1)}`;
    return element("path", { class: `arrow ${where}`,
      d: `M${x},${y}L${(x + a * end).toFixed(1)},${(y + b * end).toFixed(1)}M${corner(1)}L${tip.map((t) => t.toFixed(1))}L${corner(-1)}z` });
  }

  /* The update, bold, and above it the arrows of all tasks with their numbers, from left to right as they were `was`. */
  function fan(from, gradients, update, scale, was, dashed) {
    const put = (g, k) => {
      const away = scale + 11 / size(g), side = was.filter(([x]) => x < was[k][0]).length - (was.length - 1) / 2;
      return text(from[0] + away * g[0] + 14 * side, from[1] - away * g[1] + 4, k + 1, `task t${k}`);
    };
    return [...(dashed ? was : []).map((g, k) => arrow(from, times(scale, g), `was t${k}`)),
      arrow(from, times(scale, update), "update"), ...gradients.map((g, k) => arrow(from, times(scale, g), `t${k}`)), ...gradients.map(put)];
  }

  function slider(id, words, max, value) {
    const input = element("input", { type: "range", id, min: 0, max, step: 1, value }), output = element("output", { for: id });
    const tell = (said) => {
      output.textContent = said;
      input.setAttribute("aria-valuetext", said);
    };
    return [input, tell, element("div", {}, element("label", { for: id }, words), " ", output, input)];
  }

  function check(id, words, on) {
    const input = element("input", { type: "checkbox", id });
    input.checked = on;
    return [input, element("label", { for: id }, input, ` ${words}`)];
  }

  /* Lines of words that a screen reader hears where they change. */
  function speaker(count) {
    const lines = Array.from({ length: count }, () => element("p"));
    return [element("div", { class: "said", "aria-live": "polite" }, ...lines), (said) =>
      said.forEach((words, k) => { if (lines[k].textContent !== words) lines[k].textContent = words; })];
  }

  const inPairs = (flat) => flat.reduce((all, x, k) => (k % 2 ? all[all.length - 1].push(x) : all.push([x]), all), []);
  const helped = (gradients, update) => {
    const gains = gradients.map((g) => dot(g, update));
    const names = (wanted) => gains.map((gain, k) => [gain, k + 1]).filter(([gain]) => wanted(gain)).map(([, k]) => k).join(" and ");
    const worse = names((gain) => gain < -1e-3), same = names((gain) => Math.abs(gain) <= 1e-3);
    if (worse) return `A small step along the update raises the loss of task ${worse}.`;
    return same ? "The update is zero: no task moves." : "A small step along the update lowers every loss.";
  };

  /* RotoGrad: one setting of the four controls. */
  function rotogradAt(data, angle, step, equal, three) {
    const set = data.sets[three * data.angles.length + angle], all = set.turned.map(inPairs);
    const update = equal ? set.equal[step] : set.plain[step];
    const common = equal && size(sum(all[step].map((g) => times(1 / size(g), g))));
    const shown = equal ? all[step].map((g) => times((common > 1e-6 ? size(update) / common : 1) / size(g), g)) : all[step];
    const cosine = (list) => Math.min(...list.flatMap((a, i) => list.slice(i + 1).map((b) => dot(a, b) / size(a) / size(b))));
    const name = equal ? (step ? "RotoGrad" : "RotoGrad before its first rotation, or ScaleOnly") : step ? "RotateOnly" : "the plain sum";
    return { before: all[0], gradients: shown, update, sum: sum(all[0]), name, cosine: [cosine(all[0]), cosine(all[step])],
      said: helped(all[step], update) };
  }

  function rotograd(root, data) {
    const [angle, angleSaid, angleBox] = slider("rotograd-angle", "Angle at the start:", data.angles.length - 1, data.start);
    const [step, stepSaid, stepBox] = slider("rotograd-step", "Steps of the rotations:", data.steps, Math.round(0.3 * data.steps));
    const [equal, equalBox] = check("rotograd-equal", "Equal lengths", true), [three, threeBox] = check("rotograd-three", "Three tasks", false);
    const play = element("button", { type: "button", class: "sd-btn sd-btn-primary" }, "Play"), [said, say] = speaker(3);
    const svg = element("svg", { viewBox: "0 0 360 206", role: "img" });
    const at = () => rotogradAt(data, Number(angle.value), Number(step.value), equal.checked, Number(three.checked));
    let timer = 0;

    function show() {
      const { before, gradients, update, sum: plain, name, cosine, said: words } = at();
      const reach = (list, top) => Math.min(...list.map(([x, y]) => Math.min(76 / Math.max(Math.abs(x), 0.1),
        (y > 0 ? top : 14) / Math.max(Math.abs(y), 0.1))));
      const all = data.sets[Number(three.checked) * data.angles.length + Number(angle.value)];
      const scale = Math.min(reach([...before, plain, ...gradients], 135), reach([...all.equal, ...all.plain], 135));
      svg.replaceChildren(text(90, 14, "before: the plain sum", "title"), text(270, 14, equal.checked ? "equal lengths, turned" : "turned", "title"),
        ...fan([90, 168], before, plain, scale, before), ...fan([270, 168], gradients, update, scale, before, true),
        text(90, 198, "bold: update of the trunk"), text(270, 198, "dashed: before"));
      const count = before.length === 2 ? "two" : "three";
      svg.setAttribute("aria-label", `Arrows of ${count} tasks before, with their sum, and after ${step.value} steps of the rotations, `
        + `${equal.checked ? "with equal lengths" : "with lengths as they come"}; smallest cosine ${number(cosine[1])}`);
      angleSaid(`${data.angles[angle.value]}°`);
      stepSaid(step.value);
      say([`This is ${name}.`, `Smallest cosine between two tasks: ${number(cosine[0])} before, ${number(cosine[1])} now.`, words]);
    }

    function stop() {
      clearInterval(timer);
      timer = 0;
      play.textContent = "Play";
    }
    play.addEventListener("click", () => {
      if (timer) return stop();
      if (matchMedia("(prefers-reduced-motion: reduce)").matches) step.value = Number(step.value) < data.steps ? data.steps : 0;
      else {
        if (Number(step.value) === data.steps) step.value = 0;
        play.textContent = "Stop";
        timer = setInterval(() => {
          step.value = Number(step.value) + 1;
          show();
          if (Number(step.value) === data.steps) stop();
        }, 150);
      }
      show();
    });
    for (const input of [angle, step, equal, three]) {
      input.addEventListener("input", () => {
        stop();
        show();
      });
    }
    root.replaceChildren(element("div", { class: "controls" }, stepBox, angleBox, element("div", { class: "checks" }, equalBox, threeBox), play),
      svg, said);
    show();
    return { data, at: (...setting) => rotogradAt(data, ...setting) };
  }

  /* SAM-GS: one ratio of lengths, one gate. */
  function samgsAt(data, ratio, gate) {
    const { similarity, gradients, momentum, equalise } = data.readings[ratio], below = similarity < data.gammas[gate];
    const update = below ? equalise : momentum;
    return { similarity, gradients, update, branch: below ? "equalise" : "momentum", times: size(update) / size(sum(gradients)),
      said: helped(gradients, update) };
  }

  function samgs(root, data) {
    const [ratio, ratioSaid, ratioBox] = slider("samgs-ratio", "Lengths of the gradients:", data.ratios.length - 1, data.start[0]);
    const [gate, gateSaid, gateBox] = slider("samgs-gate", "Gate γ:", data.gammas.length - 1, data.start[1]);
    const [said, say] = speaker(3), svg = element("svg", { viewBox: "0 0 360 185", role: "img" });
    const MIDDLE = [88, 130], RADIUS = 62;
    const on = (value, radius) => {
      const turn = Math.PI * (1 - value);
      return [MIDDLE[0] + radius * Math.cos(turn), MIDDLE[1] - radius * Math.sin(turn)];
    };
    const spot = (value, radius) => on(value, radius).map((x) => x.toFixed(1)).join();
    const arc = (low, high, where) => element("path", { class: `zone ${where}`, d: high > low
      ? `M${spot(low, RADIUS)}A${RADIUS},${RADIUS} 0 0 1 ${spot(high, RADIUS)}` : "" });

    function show() {
      const { similarity, gradients, update, branch, times: factor, said: words } = samgsAt(data, Number(ratio.value), Number(gate.value));
      const gamma = data.gammas[gate.value], here = (name) => (name === branch ? " here" : ""), length = size(update);
      const drawn = length > 1.25 ? times(1.25 / length, update) : update;
      const mark = on(gamma, RADIUS + 26);
      const zones = [arc(0, gamma, `t0${here("equalise")}`), arc(gamma, 1, `t1${here("momentum")}`)];
      zones.forEach((zone) => { zone.style.stroke = "var(--task)"; });
      svg.replaceChildren(text(88, 14, `similarity ψ = ${number(similarity)}`, "title"), ...zones,
        element("path", { class: "gate", d: `M${spot(gamma, RADIUS - 16)}L${spot(gamma, RADIUS + 16)}` }),
        text(mark[0], mark[1] + 4, "γ"), text(26, 158, "0"), text(150, 158, "1"),
        element("path", { class: "needle", d: `M${MIDDLE}L${spot(similarity, RADIUS - 8)}` }),
        element("circle", { cx: MIDDLE[0], cy: MIDDLE[1], r: 5, fill: "currentColor" }),
        text(40, 178, "equalise", `task t0${here("equalise")}`), text(136, 178, "momentum", `task t1${here("momentum")}`),
        text(270, 14, `update: ${branch}`, "title"), ...fan([270, 130], gradients, drawn, 84, gradients),
        text(270, 158, `${factor >= 100 ? Math.round(factor) : number(factor)} × the sum${length > 1.25 ? ", cut" : ""}`),
        text(270, 178, "1: short, 2: long"));
      svg.setAttribute("aria-label", `A dial: similarity ${number(similarity)}, gate ${gamma}, so ${branch}. `
        + `Arrows of two gradients and the update, which is ${number(factor)} times as long as the plain sum`);
      ratioSaid(`1 : ${data.ratios[ratio.value]}`);
      gateSaid(String(gamma));
      say([branch === "equalise" ? "The similarity is below γ: SAM-GS adds the gradients at one common length."
        : "The similarity is not below γ: each gradient is multiplied, coordinate by coordinate, by the size of its running mean.",
      `The update is ${factor >= 100 ? Math.round(factor) : number(factor)} times as long as the plain sum.`, words]);
    }

    for (const input of [ratio, gate]) input.addEventListener("input", show);
    root.replaceChildren(element("div", { class: "controls" }, ratioBox, gateBox), svg, said);
    show();
    return { data, at: (...setting) => samgsAt(data, ...setting) };
  }

  function find() {
    for (const [name, start] of Object.entries({ rotograd, sam_gs: samgs })) {
      const root = document.getElementById(`explore-${name}`), data = root?.querySelector("script")?.textContent;
      if (!data) continue;
      if (!window.explorables) document.head.append(element("style", {}, STYLE));
      (window.explorables ??= {})[name] = start(root, JSON.parse(data));
    }
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", find);
  else find();
})();
