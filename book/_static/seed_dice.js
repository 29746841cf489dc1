/* Seed dice: draw three of the committed seeds and read the table again, as if no other seed had been run.
   Data: what mtl_lab/protocol/seed_subsets.py writes; without it this file does nothing. Statistics: those of its
   read_table, compared by tests/site/test_seed_dice.py; with three seeds Student's t has two degrees
   of freedom, and closed forms for quantile and p value. */
(() => {
  "use strict";
  const SIZE = 3;

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
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  const signed = (x) => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(1);

  function start(place) {
    const data = JSON.parse(place.querySelector("script").textContent);
    const controls = element("p"), said = element("p", { "aria-live": "polite" });
    const head = ["row", "outcome", "rank", "interval, points", "mean Δm"];
    const body = element("tbody"), caption = element("caption");
    const table = element("table", { class: "table" }, caption,
      element("thead", {}, element("tr", {}, ...head.map((word) => element("th", { scope: "col" }, word)))), body);
    let draws = 0, agreed = 0;

    function show(places) {
      const found = evaluate(data, places), names = places.map((k) => data.seeds[k]).join(", ");
      let moved = 0, turned = 0;
      const lines = data.rows.map((row) => {
        const now = found[row.name], all = row.all;
        const [rank, word] = [now.rank !== all.rank, now.outcome !== all.outcome];
        moved += rank; turned += word;
        const was = (changed, text, before) => (changed ? element("strong", {}, `${text} (was ${before})`) : text);
        const cells = [now.outcome === null ? "reference" : was(word, now.outcome, all.outcome),
          now.rank === null ? "–" : was(rank, now.rank, all.rank),
          now.low === null ? "–" : `${signed(now.low)} to ${signed(now.high)}`, signed(now.mean)];
        return element("tr", {}, element("th", { scope: "row", style: "font-weight: normal" }, row.title),
          ...cells.map((cell) => element("td", {}, cell)));
      });
      body.replaceChildren(...lines);
      caption.textContent = `The table as seeds ${names} alone would print it.`;
      draws += 1; agreed += moved + turned === 0;
      said.textContent = `Seeds ${names}. Differing from all ${data.seeds.length} seeds: ranks ${moved}, `
        + `outcomes ${turned}. Draws so far: ${draws}; with the same table: ${agreed}.`;
    }

    function draw() {
      const left = data.seeds.map((_, k) => k), places = [];
      while (places.length < SIZE) places.push(...left.splice(Math.floor(Math.random() * left.length), 1));
      show(places.sort((a, b) => a - b));
    }

    for (const [text, action] of [
      [`Draw ${SIZE} of the ${data.seeds.length} seeds`, draw],
      [`Seeds ${data.seeds.slice(0, SIZE).join(", ")}`, () => show([0, 1, 2])],
    ]) {
      const button = element("button", { type: "button", class: "sd-btn sd-btn-primary" }, text);
      button.addEventListener("click", action);
      controls.append(button, " ");
    }
    said.textContent = "Nothing drawn yet.";
    place.replaceChildren(controls, said, element("div", { class: "pst-scrollable-table-container" }, table));
    window.seedDice = { data, evaluate: (places) => evaluate(data, places) };
  }

  function find() {
    const place = document.getElementById("dice-of-seeds");
    if (place) start(place);
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", find);
  else find();
})();
