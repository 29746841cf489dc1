/* Seed dice: roll three of the committed seeds and read the table again, as if no other seed had been run. The address
   holds the choice: ?seeds=0,3,7. Data: what mtl_lab/protocol/seed_subsets.py writes; without it this file does nothing.
   Statistics: those of its read_table, compared by tests/site/test_seed_dice.py; with three seeds Student's t has two
   degrees of freedom, and closed forms for quantile and p value. */
(() => {
  "use strict";
  const SIZE = 3, COUNT = ["", "one", "two", "three"];
  const STYLE = `#dice-of-seeds { --better: #0072b2; --worse: #b35c00; }
    html[data-theme="dark"] #dice-of-seeds { --better: #6cb8ea; --worse: #f0a860; }
    #dice-of-seeds .controls { display: flex; flex-wrap: wrap; gap: .5rem; align-items: center; margin-bottom: .75rem; }
    #dice-of-seeds .one { min-width: 2.2rem; padding: .2rem .4rem; border: 1px solid currentColor; border-radius: .25rem;
      background: none; color: inherit; }
    #dice-of-seeds .one[aria-pressed="true"] { background: var(--pst-color-text-base, black);
      color: var(--pst-color-background, white); }
    #dice-of-seeds button:focus-visible { outline: 3px solid var(--better); outline-offset: 2px; }
    #dice-of-seeds .said { min-height: 3.2em; margin-bottom: .5rem; }
    #dice-of-seeds .address { display: flex; gap: .5rem; align-items: center; margin-top: .75rem; }
    #dice-of-seeds .address input { flex: 1 1 8rem; min-width: 0; padding: .2rem .4rem; background: none; color: inherit;
      border: 1px solid currentColor; border-radius: .25rem; }
    #dice-of-seeds .line { display: grid; grid-template-columns: 10.5rem 1fr 9.5rem; column-gap: .75rem; align-items: center;
      grid-template-rows: minmax(2rem, auto);
      font-size: .85em; line-height: 1.2; }
    #dice-of-seeds .line > svg { width: 100%; height: 0; min-height: 100%; grid-area: 1 / 2; overflow: hidden; }
    #dice-of-seeds .name { grid-area: 1 / 1; text-align: end; }
    #dice-of-seeds .word { grid-area: 1 / 3; }
    #dice-of-seeds .before { display: block; font-size: .9em; }
    #dice-of-seeds .better { color: var(--better); }
    #dice-of-seeds .worse { color: var(--worse); }
    @media (max-width: 48rem) {
      #dice-of-seeds .line { grid-template: auto 1.5rem / 1fr auto; }
      #dice-of-seeds .line > svg { grid-area: 2 / 1 / 3 / 3; }
      #dice-of-seeds .name { text-align: start; }
      #dice-of-seeds .word { grid-area: 1 / 2; text-align: end; }
    }
    #dice-of-seeds svg :is(line, path) { stroke: currentColor; fill: none; stroke-width: 2.5; }
    #dice-of-seeds svg .zero { stroke: var(--pst-color-text-base, black); stroke-width: 1; stroke-opacity: .6; }
    #dice-of-seeds svg rect { fill: var(--pst-color-text-base, black); fill-opacity: .1; }
    #dice-of-seeds svg .whole { stroke-width: 11; stroke-opacity: .22; }
    #dice-of-seeds svg circle { fill: var(--pst-color-text-base, black); fill-opacity: .65; }
    #dice-of-seeds svg text { fill: currentColor; font-size: 13px; }`;

  function quantile(level) {  // two-sided, 2 degrees of freedom
    return level * Math.sqrt(2 / (1 - level * level));
  }

  function pairedT(differences) {
    const mean = differences.reduce((a, b) => a + b, 0) / SIZE;
    const squares = differences.reduce((sum, d) => sum + (d - mean) ** 2, 0);
    const error = Math.sqrt(squares / (SIZE - 1) / SIZE);
    const t = Math.abs(mean) / error;
    return { mean, error, p: error > 0 ? 1 - t / Math.sqrt(2 + t * t) : Number(mean === 0) };
  }

  function outcome(low, high, margin) {
    if (low > margin) return "better";
    if (high < -margin) return "worse";
    if (-margin < low && high < margin) return "equivalent";
    return low <= 0 && high >= 0 ? "cannot decide" : `${low > 0 ? "better" : "worse"} (amount uncertain)`;
  }

  function evaluate(data, places) {
    const good = Array.isArray(places) && new Set(places).size === SIZE && places.length === SIZE
      && places.every((k) => Number.isInteger(k) && k >= 0 && k < data.seeds.length);
    if (!good) throw new RangeError(`expected ${SIZE} different places below ${data.seeds.length}, got ${places}`);
    const values = data.rows.map((row) => places.map((k) => row.delta[k]));
    const base = values[data.rows.findIndex((row) => row.name === data.reference)];
    const means = values.map((v) => v.reduce((a, b) => a + b, 0) / SIZE);
    const found = {};
    data.rows.forEach((row, i) => {
      let rank = null;
      if (!row.control) {
        const others = means.filter((_, j) => j !== i && !data.rows[j].control);
        rank = 1 + others.filter((m) => m > means[i]).length + others.filter((m) => m === means[i]).length / 2;
      }
      found[row.name] = { mean: means[i], rank, low: null, high: null, outcome: null };
    });
    // Holm: each row at the level of its step; from the first interval that holds zero on, the level stays.
    const tests = data.rows.map((row, i) => ({ name: row.name, ...pairedT(values[i].map((v, k) => v - base[k])) }))
      .filter((test) => test.name !== data.reference).sort((a, b) => a.p - b.p);
    let step = 0;
    for (const test of tests) {
      const half = quantile(1 - (1 - data.level) / (data.family - step)) * test.error;
      const low = test.mean - half, high = test.mean + half;
      Object.assign(found[test.name], { low, high, outcome: outcome(low, high, data.margin) });
      if (low > 0 || high < 0) step = Math.min(step + 1, data.family - 1);
    }
    return found;
  }

  function element(tag, attributes = {}, ...children) {
    const svg = ["svg", "line", "path", "circle", "rect", "text"].includes(tag);
    const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  const signed = (x, digits = 1) => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(digits);
  const kind = (word) => /^better|^worse/.exec(word)?.[0] ?? "";

  /* The places that an address names; null where it names none, undefined where it names something else. */
  function placesOf(data, search) {
    const given = new URLSearchParams(search).get("seeds");
    if (given === null) return null;
    const places = given.split(",").map((word) => data.seeds.map(String).indexOf(word.trim())).sort((a, b) => a - b);
    return places.length === SIZE && new Set(places).size === SIZE && places[0] >= 0 ? places : undefined;
  }

  function start(place) {
    const data = JSON.parse(place.querySelector("script").textContent), total = data.seeds.length;
    const base = data.rows.find((row) => row.name === data.reference);
    const rows = data.rows.filter((row) => row !== base).map((row) => ({ ...row, title: row.title.split(":")[0],
      gaps: row.delta.map((d, k) => d - base.delta[k]) }));
    const reach = rows.flatMap((row) => [...row.gaps, row.all.low, row.all.high]);
    const [least, most] = [Math.min(...reach, -data.margin), Math.max(...reach, data.margin)];
    const at = (x) => 3 + 94 * (x - least) / (most - least), percent = (x) => `${at(x).toFixed(3)}%`;

    const rule = (a, b, where, y = "50%") => element("line", { x1: percent(a), x2: percent(b), y1: y, y2: y, class: where });
    const ground = () => [element("rect", { x: percent(-data.margin), width: `${at(data.margin) - at(-data.margin)}%`, y: 0,
      height: "100%" }), element("line", { x1: percent(0), x2: percent(0), y1: 0, y2: "100%", class: "zero" })];
    const mark = (x, shape) => {
      const held = element("svg", { x: percent(x), y: "50%", overflow: "visible", width: 1, height: 1,
        style: "overflow: visible; width: 1px; height: 1px" });
      held.append(element("path", { d: shape, style: "fill: currentColor" }));
      return held;
    };

    function strip(row, now, gaps) {
      const mean = gaps.reduce((sum, gap) => sum + gap, 0) / gaps.length, { low, high } = now;
      const svg = element("svg", { role: "img", class: kind(now.outcome), "data-mean": mean,
        "aria-label": `${row.title}: mean ${signed(mean)}, interval ${signed(low)} to ${signed(high)}` }, ...ground(),
      rule(row.all.low, row.all.high, "whole"), rule(Math.max(low, least), Math.min(high, most), "interval"));
      if (low < least) svg.append(mark(least, "M0,-6L-8,0L0,6Z"));
      if (high > most) svg.append(mark(most, "M0,-6L8,0L0,6Z"));
      svg.append(...gaps.map((gap) => element("circle", { cx: percent(gap), cy: "50%", r: 3.5 })), mark(mean, "M0,-5L5,0L0,5L-5,0Z"));
      return svg;
    }

    const words = (x, text, side, y = "65%") => element("text", { x, y, "text-anchor": side }, text);
    const head = element("svg", { "aria-hidden": "true" }, ...ground(), words(percent(least), "◀ worse", "start"),
      words(percent(0), "same", "middle"), words(percent(most), "better ▶", "end"));
    const step = most - least > 20 ? 10 : most - least > 8 ? 4 : 1, ticks = [];
    for (let x = Math.ceil(least / step) * step; x <= most; x += step) ticks.push(words(percent(x), signed(x, 0).replace("+0", "0"), "middle"));
    const lines = element("div", { class: "forest" }), said = element("p", { class: "said", "aria-live": "polite" });
    let chosen = [], rolls = 0, agreed = 0;
    const seeds = data.seeds.map((seed, k) => element("button", { type: "button", class: "one", "aria-label": `seed ${seed}` }, String(seed)));
    const address = element("input", { readonly: "", id: "dice-address", "aria-label": "Address of this choice" });

    /* Draws one choice, or null for all seeds; returns how many outcomes and ranks it turns. */
    function show(places, first = false) {
      const found = places && evaluate(data, places), used = places ?? data.seeds.map((_, k) => k);
      let outcomes = 0, ranks = 0;
      const drawn = rows.map((row) => {
        const now = found ? found[row.name] : row.all, other = now.outcome !== row.all.outcome;
        outcomes += other; ranks += now.rank !== row.all.rank;
        const word = other ? [element("strong", {}, now.outcome), element("span", { class: "before" }, `was ${row.all.outcome}`)] : [now.outcome];
        return element("div", { class: "line" }, element("span", { class: "name" }, row.title),
          strip(row, now, used.map((k) => row.gaps[k])), element("span", { class: "word" }, ...word));
      });
      if (found) ranks += found[base.name].rank !== base.all.rank;
      lines.replaceChildren(element("div", { class: "line" }, head), ...drawn, element("div", { class: "line" },
        element("svg", { "aria-hidden": "true" }, ...ticks.map((tick) => tick.cloneNode(true)))));
      chosen = places ?? [];
      seeds.forEach((button, k) => button.setAttribute("aria-pressed", String(chosen.includes(k))));
      const there = new URL(window.location.href);
      there.search = places ? `seeds=${places.map((k) => data.seeds[k]).join(",")}` : "";
      address.value = there.href;
      if (!first) try { history.replaceState(null, "", there); } catch { /* a page from a disk: the box below has it */ }
      said.textContent = places ? `Seeds ${places.map((k) => data.seeds[k]).join(", ")}. `
        + `Against all ${total} seeds, ${outcomes} of ${rows.length} outcomes ${outcomes === 1 ? "changes" : "change"}, and ${ranks || "no"} ${ranks > 1 ? "ranks" : "rank"}.` : `All ${total} seeds. Roll, or choose three.`;
      return outcomes + ranks === 0;
    }

    function roll() {
      const left = data.seeds.map((_, k) => k), places = [];
      while (places.length < SIZE) places.push(...left.splice(Math.floor(Math.random() * left.length), 1));
      agreed += show(places.sort((a, b) => a - b)); rolls += 1;
      said.textContent += ` Rolls so far: ${rolls}; with the same table: ${agreed}.`;
    }

    seeds.forEach((button, k) => button.addEventListener("click", () => {
      const next = chosen.includes(k) ? chosen.filter((other) => other !== k) : [...chosen, k].slice(-SIZE);
      if (next.length === SIZE) return void show([...next].sort((a, b) => a - b));
      chosen = next;
      seeds.forEach((other, i) => other.setAttribute("aria-pressed", String(chosen.includes(i))));
      said.textContent = `Choose ${COUNT[SIZE - chosen.length]} more.`;
    }));
    const action = (text, what, where) => {
      const button = element("button", { type: "button", class: `sd-btn ${where}` }, text);
      button.addEventListener("click", what);
      return button;
    };
    const copy = action("Copy", () => {
      address.select();
      const done = navigator.clipboard ? navigator.clipboard.writeText(address.value) : Promise.reject();
      done.then(() => true, () => document.execCommand("copy")).then((worked) => { copy.textContent = worked ? "Copied" : "Selected"; });
    }, "sd-btn-outline-primary");
    place.replaceChildren(element("style", {}, STYLE),
      element("div", { class: "controls" }, action(`Roll ${COUNT[SIZE]} seeds`, roll, "sd-btn-primary"),
        action(`All ${total}`, () => show(null), "sd-btn-outline-primary"), ...seeds),
      said, lines, element("p", { class: "unit" }, "points of Δm against tuned fixed weights"),
      element("div", { class: "address" }, element("label", { for: address.id }, "Address:"), address, copy));
    const asked = placesOf(data, window.location.search);
    show(asked ?? null, true);
    if (asked === undefined) said.textContent = `The address names no ${COUNT[SIZE]} of these seeds. ${said.textContent}`;
    window.seedDice = { data, evaluate: (places) => evaluate(data, places) };
  }

  function find() {
    const place = document.getElementById("dice-of-seeds");
    if (place) start(place);
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", find);
  else find();
})();
