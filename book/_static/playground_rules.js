/* Problems and update rules of the playground: those of mtl_lab.landscapes.problems and mtl_core.methods, for two tasks and two
   parameters. tests/site/test_playground.py compares losses, gradients, answers to two arrows, and paths. */
window.playgroundRules = (() => {
  "use strict";
  const FLOOR = 5e-6;
  const dot = (a, b) => a[0] * b[0] + a[1] * b[1];
  const norm = (a) => Math.sqrt(dot(a, a));
  const mix = (u, a, v, b) => [u * a[0] + v * b[0], u * a[1] + v * b[1]];
  const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

  // --- problems: at(x, y) -> { losses: [L1, L2], gradients: [g1, g2] }

  function bowls(a, H) {
    const at = (x, y) => {
      const found = { losses: [], gradients: [] };
      for (const k of [0, 1]) {
        const d = [x - a[k][0], y - a[k][1]], g = [dot(H[k][0], d), dot(H[k][1], d)];
        found.losses.push(dot(g, d) / 2);
        found.gradients.push(g);
      }
      return found;
    };
    const pareto = Array.from({ length: 101 }, (_, i) => {  // (wH1 + (1-w)H2) theta = w H1 a1 + (1-w) H2 a2
      const w = 1 - i / 100, M = [0, 1].map((r) => mix(w, H[0][r], 1 - w, H[1][r]));
      const b = [0, 1].map((r) => w * dot(H[0][r], a[0]) + (1 - w) * dot(H[1][r], a[1]));
      const det = M[0][0] * M[1][1] - M[0][1] * M[1][0];
      return [(M[1][1] * b[0] - M[0][1] * b[1]) / det, (M[0][0] * b[1] - M[1][0] * b[0]) / det];
    });
    const plain = { optimizer: "sgd", rate: 0.02, steps: 600, convention: "plain, clipped" };
    return { at, pareto, limits: [[-5, 5], [-4, 4]], start: [0.5, 3.5], ...plain };
  }

  function samgs(q, more) {  // q(x, y, side) -> [value, d/dx, d/dy] of the lower half
    const at = (x, y) => {
      const gate = Math.tanh(y / 2), slope = (1 - gate * gate) / 2, t = Math.tanh(y);
      const up = Math.max(gate, 0), down = Math.max(-gate, 0), found = { losses: [], gradients: [] };
      for (let side = 1; side >= -1; side -= 2) {
        const u = side > 0 ? 0.5 * (-x - 7) + t : 0.5 * (-x + 3) - t + 2, open = Math.abs(u) > FLOOR;
        const f = Math.log(Math.max(Math.abs(u), FLOOR)) + 6;
        const fx = open ? -0.5 / u : 0, fy = open ? side * (1 - t * t) / u : 0, [v, vx, vy] = q(x, y, side);
        found.losses.push(up * f + down * v);
        found.gradients.push([up * fx + down * vx, up * fy + down * vy + slope * (gate > 0 ? f : -v)]);
      }
      return found;
    };
    return { at, optimizer: "adam", rate: 1e-3, convention: "samgs", ...more };
  }

  const q1 = (x, y, s) => [((x - 7 * s) ** 2 + 0.1 * (y + 8) ** 2) / 10 - 20, (x - 7 * s) / 5, 0.02 * (y + 8)];
  const q2 = (x, y, s) => {
    const far = (x - 5.45 * s) / 4, near = (x - 5.5 * s) / 4, v = y / 4;
    return [0.1 * (far ** 6 + v ** 6) - (near ** 4 + v ** 4) - 1.5 * (near ** 2 + v ** 2) + 1.5,
      (0.6 * far ** 5 - 4 * near ** 3 - 3 * near) / 4, (0.6 * v ** 5 - 4 * v ** 3 - 3 * v) / 4];
  };
  const level = Array.from({ length: 29 }, (_, i) => [7 - i / 2, -8.3552]);
  const problems = {
    bowls: { title: "Two bowls", ...bowls([[-2, -1], [2, 1]], [[[1, 0], [0, 0.2]], [[0.4, 0], [0, 1.2]]]), start: [3.5, -2.5] },
    uneven_bowls: { title: "Two bowls, one ten times as steep",
      ...bowls([[-2, 0], [2, 1]], [[[10, 0], [0, 10]], [[1, 0], [0, 1]]]) },
    ravines: { title: "Two crossed ravines",
      ...bowls([[-1.5, 1], [1.5, 1]], [[[3, 2.6], [2.6, 3]], [[3, -2.6], [-2.6, 3]]]) },
    samgs_1: { title: "SAM-GS, problem 1",
      ...samgs(q1, { pareto: level, limits: [[-11, 11], [-11, 11]], start: [-3, 7.5], steps: 20000 }) },
    samgs_2: { title: "SAM-GS, problem 2",
      ...samgs(q2, { pareto: null, limits: [[-11, 11], [-13, 11]], start: [-3.5, 5.5], steps: 21000 }) },
  };

  // --- methods: a fresh rule, (g1, g2) -> update; "mean" rules are scaled to a sum. Convention -> factor of the update
  // and its largest length; in the released code of SAM-GS not all methods are doubled and clipped.

  function equalised(a, b) {
    const n = norm(a), m = norm(b), mean = (n + m) / 2;
    return mix(n > 0 ? mean / n : 0, a, m > 0 ? mean / m : 0, b);
  }

  const methods = {
    equal: { title: "Equal weights", native: "sum", samgs: [1, null], make: () => (a, b) => mix(1, a, 1, b) },
    norm_equalised: { title: "Norm-equalised sum", native: "sum", make: () => equalised },
    mgda: { title: "MGDA", native: "mean", samgs: [2, null], make: () => (a, b) => {
      const d = mix(1, b, -1, a), square = dot(d, d), w = square > 0 ? clamp(dot(b, d) / square, 0, 1) : 0;
      return mix(w, a, 1 - w, b);
    } },
    pcgrad: { title: "PCGrad", native: "sum", samgs: [1, 1], make: () => (a, b) => {
      const overlap = Math.min(0, dot(a, b)), share = (g) => 1 - overlap / (dot(g, g) || 1);
      return mix(share(a), a, share(b), b);
    } },
    cagrad: { title: "CAGrad", native: "mean", make: (c = 0.4) => (a, b) => {
      const mean = mix(0.5, a, 0.5, b), reach = c * norm(mean), d = mix(1, a, -1, b), square = dot(d, d);
      let w = 0.5;
      if (square > 0) {  // the minimum over w of g_w . mean + reach |g_w|, a convex function, in closed form
        const middle = -dot(b, d) / square, rest = Math.max(0, dot(b, b) - square * middle * middle);
        const s = reach > 0 ? -dot(d, mean) / reach : 0;
        const off = s * s < square ? Math.sqrt(s * s * rest / (square * (square - s * s))) : Infinity;
        w = clamp(s === 0 ? middle : middle + Math.sign(s) * off, 0, 1);
      }
      // A gradient of zero takes no part.
      const worst = norm(a) > 0 && norm(b) > 0 ? mix(w, a, 1 - w, b) : mix(1, a, 1, b), length = norm(worst);
      return mix(1, mean, length > 0 ? reach / length : 0, worst);
    } },
    sam_gs: { title: "SAM-GS", native: "sum", make: (gamma = 0.1, beta1 = 0.9, beta2 = 0.99) => {
      const m = [[0, 0], [0, 0]];
      let h = 0, t = 0;
      return (a, b) => {
        const n = [norm(a), norm(b)], large = Math.max(...n), r = large > 0 ? Math.min(...n) / large : 1;
        const similarity = 2 * r / (1 + r * r);
        t += 1;
        h = beta2 * h + (1 - beta2) * (1 - similarity) ** 2 + 1e-8;
        const gain = 1 / ((1 - beta1 ** t) * Math.sqrt(h / (1 - beta2 ** t))), u = [0, 0];
        for (let k = 0; k < 2; k++) for (let j = 0; j < 2; j++) {
          const g = k ? b : a;
          m[k][j] = beta1 * m[k][j] + (1 - beta1) * g[j];
          u[j] += gain * g[j] * Math.abs(m[k][j]);
        }
        return similarity < gamma ? equalised(a, b) : u;
      };
    } },
  };

  function scaling(problem, method) {  // [factor, largest length or null]
    return problem.convention === "samgs" ? method.samgs ?? [2, 1] : [method.native === "mean" ? 2 : 1, 1];
  }

  /* { points: Float64Array [x0, y0, x1, y1, …], updates: the vector that each step descended along } */
  function run(problemName, methodName, start, steps) {
    const problem = problems[problemName], method = methods[methodName], rule = method.make();
    const total = steps ?? problem.steps, size = 2 * total + 2;
    const points = new Float64Array(size), updates = new Float64Array(size);
    const [factor, longest] = scaling(problem, method);
    const m = [0, 0], v = [0, 0], p = [Number(start[0]), Number(start[1])];
    let first = 1, second = 1; // powers of Adam's decays
    for (let t = 0; t <= total; t++) {
      points.set(p, 2 * t);
      const [a, b] = problem.at(p[0], p[1]).gradients, raw = rule(a, b), u = [factor * raw[0], factor * raw[1]];
      const clip = longest === null ? 1 : Math.min(1, longest / (norm(u) + 1e-6));
      first *= 0.9;
      second *= 0.999;
      for (let j = 0; j < 2; j++) {
        const g = u[j] * clip;
        updates[2 * t + j] = g;
        if (problem.optimizer === "sgd") { p[j] -= problem.rate * g; continue; }
        m[j] += 0.1 * (g - m[j]);
        v[j] = 0.999 * v[j] + 0.001 * g * g;
        p[j] -= problem.rate / (1 - first) * m[j] / (Math.sqrt(v[j] / (1 - second)) + 1e-8);
      }
    }
    return { points, updates };
  }

  /* The first step of a method for two arrows, on the scale of a sum (twice a mean), never clipped. All rules are odd: for
     the two negative gradients it is the negative of the update. */
  function answer(methodName, a, b) {
    const { native, make } = methods[methodName], factor = native === "mean" ? 2 : 1;
    return make()(a, b).map((x) => factor * x);
  }

  return { problems, methods, run, scaling, answer };
})();
