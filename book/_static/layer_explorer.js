/* The layer explorer: two sliders, the threshold S and the number of layers to split. They move the ranking of the layers,
   their scores against the positive tail, and the network that forks. The data are what a cell of notebooks/recon/recon.ipynb
   writes from the committed search; tests/site/test_layer_explorer.py compares what is shown with mtl_core. Without an
   element #layer-explorer this file does nothing. */
(() => {
  "use strict";
  const STYLE = `#layer-explorer { --normalisation: #0072b2; --convolution: #b35c00; --linear: #007a58;
      --ground: var(--pst-color-background, white); }
    html[data-theme="dark"] #layer-explorer { --normalisation: #6cb8ea; --convolution: #f0a860; --linear: #4fc9a4; }
    #layer-explorer .controls { display: flex; flex-wrap: wrap; gap: .75rem 1.5rem; align-items: end; margin-bottom: .75rem; }
    #layer-explorer .controls > div { flex: 1 1 14rem; }
    #layer-explorer input { display: block; width: 100%; height: 1.75rem; margin: 0; accent-color: var(--normalisation); }
    #layer-explorer input:focus-visible { outline: 3px solid var(--pst-color-text-base, currentColor); outline-offset: 2px; border-radius: 4px; }
    #layer-explorer output { font-weight: 700; }
    #layer-explorer .marks { display: flex; justify-content: space-between; font-size: .85em; }
    #layer-explorer .said { min-height: 7rem; margin-bottom: .75rem; }
    @media (max-width: 40rem) { #layer-explorer .said { min-height: 11rem; } }
    #layer-explorer .said p { margin: 0 0 .15rem; }
    #layer-explorer .pictures { display: flex; flex-wrap: wrap; gap: 1rem 1.5rem; }
    #layer-explorer figure { flex: 1 1 19rem; max-width: 27rem; min-width: 0; margin: 0; padding: 0; }
    #layer-explorer figcaption { font-size: .85em; font-weight: inherit; color: inherit; margin: 0 0 .25rem; padding: 0;
      text-align: start; }
    #layer-explorer svg { display: block; width: 100%; height: auto; font-size: 11px; }
    #layer-explorer svg text { fill: currentColor; stroke: var(--ground); stroke-width: 3px; paint-order: stroke; }
    #layer-explorer .end { text-anchor: end; }
    #layer-explorer .middle { text-anchor: middle; }
    #layer-explorer .line { fill: none; stroke: currentColor; stroke-opacity: .3; }
    #layer-explorer .cut { fill: none; stroke: currentColor; stroke-width: 1.5; stroke-dasharray: 4 3; }
    #layer-explorer .tick { fill: none; stroke: currentColor; stroke-width: 2; }
    #layer-explorer .wire { fill: none; stroke: currentColor; stroke-width: 1.5; }
    #layer-explorer .wire.two { stroke-width: 13; }
    #layer-explorer .wire.inside { stroke: var(--ground); stroke-width: 10; stroke-linecap: square; }
    #layer-explorer .kind { stroke: var(--kind); stroke-width: 1.5; fill: var(--ground); }
    #layer-explorer .own .kind, #layer-explorer .kind.own { fill: var(--kind); }
    #layer-explorer .normalisation { --kind: var(--normalisation); }
    #layer-explorer .convolution { --kind: var(--convolution); }
    #layer-explorer .linear { --kind: var(--linear); }
    #layer-explorer .words { color: var(--kind); font-weight: 700; }
    #layer-explorer .box.own text { font-weight: 700; }
    #layer-explorer .ranking .layer text { font-size: 10.5px; }
    @media (prefers-reduced-motion: no-preference) { #layer-explorer g.layer { transition: transform .25s; } }`;
  const WIDTH = 360, ROW = 13, TOP = 30, NAME = 130;

  function element(tag, attributes = {}, ...children) {
    const svg = ["svg", "g", "path", "text", "title", "rect"].includes(tag);
    const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  const text = (x, y, words, where = "") => element("text", { x, y, class: where }, words);
  const signed = (x) => String(x).replace("-", "−");
  const whole = (x) => x.toLocaleString("en-US");

  /* What follows from one setting: places of layers by falling score, those that are split, those whose input is K values. */
  function splitAt(data, tail, count) {
    const { scores, mirror } = data.tails[tail], all = data.layers.map((_, i) => i), sum = (list) =>
      list.reduce((total, i) => total + data.layers[i].size, 0);
    const order = [...all].sort((a, b) => scores[b] - scores[a]); // stable: ties keep the order of the network
    const chosen = order.slice(0, count), own = new Set(chosen);
    const forked = new Set(chosen.flatMap((i) => data.layers[i].behind));
    return { order, own, forked, chosen, before: sum(all), after: sum(all) + (data.tasks.length - 1) * sum(chosen),
      often: all.filter((i) => own.has(i) || forked.has(i)).length, above: chosen.filter((i) => scores[i] > mirror[i]).length };
  }

  /* Bars in the order of the ranking; a row keeps its element and moves. */
  function ranking(data, top) {
    const at = (count) => NAME + 6 + (WIDTH - NAME - 60) * count / top, bottom = TOP + ROW * data.layers.length;
    const svg = element("svg", { viewBox: `0 0 ${WIDTH} ${bottom + 6}`, role: "img", class: "ranking" });
    for (let share = 0; share <= top / data.steps + 1e-9; share += 0.2) {
      const x = at(share * data.steps);
      svg.append(element("path", { class: "line", d: `M${x},${TOP - 6}V${bottom}` }),
        text(x, TOP - 10, `${Math.round(100 * share)} %`, "middle"));
    }
    const rows = data.layers.map(({ name, kind }) => element("g", { class: `layer ${kind}` }, text(NAME, 10, name, "end"),
      element("rect", { class: "kind", x: at(0), y: 2.5, height: ROW - 5 }), element("path", { class: "tick" })));
    const cut = element("path", { class: "cut" }), words = text(WIDTH - 2, 0, "", "end");
    svg.append(...rows, cut, words);
    return [svg, ({ scores, mirror }, { order, own }) => {
      order.forEach((i, rank) => {
        rows[i].style.transform = `translate(0px, ${TOP + ROW * rank}px)`;
        rows[i].classList.toggle("own", own.has(i));
        rows[i].children[1].setAttribute("width", at(scores[i]) - at(0));
        rows[i].children[2].setAttribute("d", `M${at(mirror[i])},0.5V${ROW - 0.5}`);
      });
      const y = TOP + ROW * own.size;
      cut.setAttribute("d", `M0,${y}H${WIDTH}`);
      words.setAttribute("y", own.size > 3 ? y - 4 : y + 11);
      words.textContent = own.size > 3 ? `↑ ${own.size} split` : `${data.layers.length - own.size} shared ↓`;
      svg.setAttribute("aria-label", `Layers by falling score; the first ${own.size} are split. First: `
        + order.slice(0, 3).map((i) => data.layers[i].name).join(", "));
    }];
  }

  /* Score over positive tail: above the diagonal a layer's gradients oppose each other more often than they agree. */
  function scatter(data, top) {
    const size = WIDTH - 50, at = (x, y) => [40 + size * x / top, 22 + size * (1 - y / top)], [left, bottom] = at(0, 0);
    const svg = element("svg", { viewBox: `0 0 ${WIDTH} ${bottom + 34}`, role: "img", class: "scatter" },
      element("path", { class: "line", d: `M${left},22V${bottom}H${left + size}` }),
      element("path", { class: "cut", d: `M${left},${bottom}L${left + size},22` }),
      text(2, 11, "% of steps with cosine below S"), text(left + size, bottom + 30, "% of steps with cosine above −S", "end"),
      text(left + 10, 44, "more conflict"), text(left + 10, 57, "than agreement"),
      text(left + size - 4, bottom - 23, "more agreement", "end"), text(left + size - 4, bottom - 10, "than conflict", "end"));
    for (let share = 0; share <= top / data.steps + 1e-9; share += 0.2) {
      const [x, y] = at(share * data.steps, share * data.steps), words = Math.round(100 * share);
      svg.append(text(x, bottom + 14, words, "middle"), text(left - 5, y + 4, words, "end"));
    }
    const shape = { normalisation: "M-4,0a4,4 0 1 0 8,0a4,4 0 1 0 -8,0z", convolution: "M-4,-4h8v8h-8z", linear: "M0,-5L5,4H-5z" };
    const dots = data.layers.map(({ kind }) => element("g", { class: `layer ${kind}` },
      element("path", { class: "kind", d: shape[kind] })));
    svg.append(...dots);
    return [svg, ({ scores, mirror }, { own }) => {
      dots.forEach((dot, i) => {
        dot.style.transform = `translate(${at(mirror[i], 0)[0]}px, ${at(0, scores[i])[1]}px)`;
        dot.classList.toggle("own", own.has(i));
      });
      const above = scores.filter((score, i) => score > mirror[i]).length;
      svg.setAttribute("aria-label", `Score against positive tail: ${above} of ${scores.length} layers lie above the diagonal`);
    }];
  }

  /* The network: stem, stages of two blocks with a skip connection each, the last linear layer, the heads. A wire is one
     line where a value is one for all tasks, two where each task has its own. */
  function network(data) {
    const place = new Map(data.layers.map(({ name }, i) => [name, i])), HALF = 16;
    const svg = element("svg", { role: "img", class: "network" });
    return [svg, (_, { own, forked }) => {
      const wires = [], inside = [], boxes = [];
      const wire = (two, d) => {
        wires.push(element("path", { class: two ? "wire two" : "wire", d }));
        if (two) inside.push(element("path", { class: "wire inside", d }));
      };
      const box = (x, y, half, name, label, below) => {
        const i = place.get(name), { kind, size } = data.layers[i], split = own.has(i);
        const parts = split ? [[-half, half - 2], [2, half - 2]] : [[-half, 2 * half]];
        boxes.push(element("g", { class: `${kind} box${split ? " own" : ""}`, "data-layer": name }, element("title", {},
          `${name}: ${whole(size)} parameters, ${split ? "a copy for each task" : "shared"}`),
        ...parts.map(([dy, height]) => element("rect", { class: "kind", x, y: y + dy, width: 30, height, rx: 2 })),
        text(x + 15, below ? y + half + 12 : y - half - 4, label, "middle")));
        return { into: forked.has(i), out: forked.has(i) || split };
      };
      const last = (name) => name.split(".").pop();
      /* Boxes from left to right on one wire, from x0 to x1; what goes in, what comes out. */
      const chain = (names, x0, x1, y, half, xs, below, label = last) => {
        let before = x0, state;
        const first = names.map((name, k) => {
          const here = box(xs[k], y, half, name, label(name), below);
          wire(here.into, `M${before},${y}H${xs[k]}`);
          [before, state] = [xs[k] + 30, here];
          return here;
        })[0];
        wire(state.out, `M${before},${y}H${x1}`);
        return [first.into, state.out];
      };
      chain(["conv1", "bn1"], 0, WIDTH, 34, HALF, [22, 58], true);
      boxes.push(text(0, 10, "input"));
      let y = 86;
      const stages = [...new Set(data.layers.map(({ name }) => /^layer\d+/.exec(name)?.[0]).filter(Boolean))];
      for (const stage of stages) {
        boxes.push(text(0, y - 8, stage));
        const main = y + 46, skip = y + 8;
        for (const block of [0, 1]) {
          const start = 176 * block, xs = [0, 1, 2, 3].map((k) => start + 22 + 36 * k), down = `${stage}.${block}.downsample`;
          const names = ["conv1", "bn1", "conv2", "bn2"].map((name) => `${stage}.${block}.${name}`);
          const [low, high] = [start + 10, start + 171];
          const [into, out] = chain(names, start, high, main, HALF, xs, true);
          let around = into;
          if (place.has(`${down}.0`)) {
            around = chain([`${down}.0`, `${down}.1`], low + 40, high - 40, skip, 11, [start + 58, start + 94], false,
              (name) => (name.endsWith("0") ? "conv" : "bn"))[1];
            wire(into, `M${low},${main}V${skip}H${low + 40}`);
            wire(around, `M${high - 40},${skip}H${high}V${main}`);
          } else wire(into, `M${low},${main}V${skip}H${high}V${main}`);
          wire(out || around, `M${high},${main}H${block ? WIDTH : high + 5}`); // the sum of both ways
        }
        y += 104;
      }
      const [, out] = chain(["fc"], 0, 84, y + 18, HALF, [22], true);
      boxes.push(element("path", { class: "wire", d: `M84,${y + 12}H110M84,${y + 24}H110${out ? "" : `M84,${y + 12}v12`}` }));
      data.tasks.forEach((task, k) => boxes.push(element("rect", { class: "wire", x: 110, y: y + 2 + 18 * k, width: 30, height: 14,
        rx: 2 }), text(146, y + 13 + 18 * k, `head: ${task}`)));
      svg.setAttribute("viewBox", `0 0 ${WIDTH} ${y + 50}`);
      svg.replaceChildren(...wires, ...inside, ...boxes);
      svg.setAttribute("aria-label", `The network: ${own.size} layers as a box for each task, ${data.layers.length - own.size} as one`);
    }];
  }

  function slider(id, words, marks, attributes) {
    const input = element("input", { type: "range", id: `explore-${id}`, min: 0, step: 1, ...attributes });
    const output = element("output", { for: input.id });
    return [input, output, element("div", {}, element("label", { for: input.id }, words), " ", output, input,
      element("div", { class: "marks", "aria-hidden": "true" }, ...marks.map((mark) => element("span", {}, String(mark)))))];
  }

  function start(root) {
    const data = JSON.parse(root.querySelector("script").textContent), total = data.layers.length;
    const most = Math.max(...data.tails.flatMap(({ scores, mirror }) => [...scores, ...mirror])) / data.steps;
    const top = Math.ceil(most * 10) / 10 * data.steps;
    const paper = data.tails.findIndex(({ threshold }) => threshold === data.start.threshold);
    const thresholds = data.tails.map(({ threshold }) => signed(threshold));
    const [tail, tailSaid, tailBox] = slider("threshold", "Threshold S:", thresholds, { max: thresholds.length - 1, value: paper });
    const [count, countSaid, countBox] = slider("layers", "Layers to split:", [0, total], { max: total, value: data.start.count });
    const back = element("button", { type: "button", class: "sd-btn sd-btn-primary" }, "The paper’s setting");
    const said = element("div", { class: "said", "aria-live": "polite" }), names = element("p");
    const lines = Array.from({ length: 4 }, () => element("p"));
    said.append(...lines);
    const kinds = [...new Set(data.layers.map(({ kind }) => kind))];
    const legend = kinds.flatMap((kind) => [element("span", { class: `${kind} words` }, kind), ", "]).slice(0, -1);
    const views = [network(data), ranking(data, top), scatter(data, top)];
    const captions = [["The network. Filled: a copy for each task; outlined: shared. Two lines: one value for each task. ", ...legend],
      ["The ranking. Bar: % of steps with a cosine below S; tick: above −S, the positive tail."],
      ["Score against positive tail, a dot for each layer; filled: split. Round: normalisation, square: convolution, triangle: linear."]];

    function show() {
      const here = data.tails[tail.value], found = splitAt(data, tail.value, Number(count.value));
      const { chosen, before, after, often, above } = found;
      tailSaid.textContent = thresholds[tail.value];
      tail.setAttribute("aria-valuetext", `S = ${thresholds[tail.value]}`);
      countSaid.textContent = `${count.value} of ${total}`;
      const parts = kinds.map((kind) => {
        const all = data.layers.filter((layer) => layer.kind === kind).length;
        return `${chosen.filter((i) => data.layers[i].kind === kind).length} of ${all} ${kind}`;
      });
      const news = [`Split: ${parts.join(", ")} layers.`,
        `Shared parameters: ${whole(before)}, with the copies ${whole(after)} (+${(100 * (after / before - 1)).toFixed(1)} %).`,
        `Layers that run once for each task: ${often} of ${total}.`,
        `In more conflict than agreement: ${above} of the ${chosen.length} split layers.`];
      news.forEach((line, k) => { if (lines[k].textContent !== line) lines[k].textContent = line; });
      names.textContent = chosen.map((i) => data.layers[i].name).join(", ") || "none";
      for (const [, draw] of views) draw(here, found);
    }

    for (const input of [tail, count]) input.addEventListener("input", show);
    back.addEventListener("click", () => {
      [tail.value, count.value] = [paper, data.start.count];
      show();
    });
    root.replaceChildren(element("style", {}, STYLE), element("div", { class: "controls" }, tailBox, countBox, back), said,
      element("div", { class: "pictures" }, ...views.map(([svg], k) => element("figure", {}, element("figcaption", {}, ...captions[k]), svg))),
      element("details", {}, element("summary", {}, "Names of the split layers, highest score first"), names));
    show();
    window.layerExplorer = { data, at: (place, layers) => {
      const { chosen, after, often, above } = splitAt(data, place, layers);
      return { names: chosen.map((i) => data.layers[i].name), after, often, above };
    } };
  }

  function find() {
    const root = document.getElementById("layer-explorer");
    if (root) start(root);
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", find);
  else find();
})();
