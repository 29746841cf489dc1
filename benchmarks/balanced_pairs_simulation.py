"""How often the interval of `balanced_pairs` covers, and what its test and its answers find: made-up pairs.

    python benchmarks/balanced_pairs_simulation.py [--trials 1000]

writes one record per setting into results/balanced_pairs_simulation/small/runs.jsonl. It was run, and committed, before
the first run of the experiment, and chose its interval: the mixed model, in place of least squares with a jackknife.
"""

import argparse
from itertools import combinations, product

import numpy as np
from scipy import special

from mtl_lab import records
from mtl_lab.runs.provenance import provenance
from mtl_lab.statistics.dyadic import Effect, answer, membership, mrqap, of_pairs, spread

NODES, MARGIN = 11, 1.0
PAIRS = np.array(list(combinations(range(NODES), 2)))
KINDS = ("normal", "heavy tails", "products of node values")
NAMES = ("coverage", "coverage of the jackknife", "half_width", "half_width of the jackknife", "power")
NAMES += ("power of the permutations", "predicts", "predicts the opposite", "does not", "cannot tell")


def jackknife(x, y, pairs, ratio, level: float = 0.95) -> Effect:
    """The effect of x on y by least squares, its interval by leaving out one node and its K - 1 pairs at a time.

    t with K - 1 degrees of freedom. It counts the noise of a pair twice, once for each node.
    """
    design = np.column_stack([x, ratio, np.ones(len(x))])

    def slope(kept):
        return np.linalg.lstsq(design[kept], y[kept], rcond=None)[0][0] * spread(x)

    without = [slope(kept) for kept in membership(pairs, np.max(pairs) + 1).T == 0]
    freedom, value = len(without) - 1, slope(slice(None))
    error = np.sqrt(freedom * np.var(without))
    half = special.stdtrit(freedom, 0.5 + level / 2) * error
    return Effect(value, value - half, value + half, 2 * special.stdtr(freedom, -abs(value) / error))


def made_up(random, true: float, node: float, kind: str):
    """x, y and the log loss ratio of the pairs; the ratio acts on both. SD of the noise of a pair: 1.

    x has node effects, so that about 0.3 of its variance is its own. node: SD of the outcome's node effects. With heavy
    tails, noise and node effects have t distributions with 4 degrees of freedom; products of two node values are noise
    that is not independent between pairs, against the model.
    """
    i, j = PAIRS.T

    def noise(size):
        return random.standard_t(4, size) / 2**0.5 if kind == "heavy tails" else random.normal(size=size)

    loss, of_x, of_y, other = random.normal(size=NODES), random.normal(size=NODES), node * noise(NODES), noise(NODES)
    ratio = np.abs(loss[i] - loss[j])
    x = 0.8 * (of_x[i] + of_x[j]) / 2**0.5 + 0.6 * random.normal(size=len(PAIRS)) + 0.5 * ratio
    rest = (
        noise(len(PAIRS)) if kind != "products of node values" else (other[i] * other[j] + noise(len(PAIRS))) / 2**0.5
    )
    return x, true * x / spread(x) + ratio + of_y[i] + of_y[j] + rest, ratio


def simulate(true: float, node: float, kind: str, trials: int, seed: int = 0) -> dict[str, float]:
    """Shares of the trials in which intervals cover, tests find the effect (p < 0.05) and each answer is given."""
    random, rows = np.random.default_rng(seed), []
    for trial in range(trials):
        x, y, ratio = made_up(random, true, node, kind)
        e, least = of_pairs(x, y, PAIRS, {"ratio": ratio}), jackknife(x, y, PAIRS, ratio)
        said = answer(e.low, e.high, MARGIN)
        found = [f.low <= true <= f.high for f in (e, least)] + [(f.high - f.low) / 2 for f in (e, least)]
        found += [e.p < 0.05, mrqap(x, y, PAIRS, {"ratio": ratio}, permutations=500, seed=trial) < 0.05]
        rows.append(found + [said == "predicts", said.endswith("opposite"), "within" in said, said.endswith("tell")])
    return dict(zip(NAMES, np.mean(rows, axis=0).tolist(), strict=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    trials = parser.parse_args().trials
    settings = [(true, node, "normal") for node, true in product((0.0, 1.0, 3.0), (0.0, 1.0, 2.0, 3.0))]
    settings += [(0.0, node, kind) for node, kind in product((0.0, 1.0, 3.0), KINDS[1:])]
    file = records.folder("balanced_pairs_simulation", "small") / "runs.jsonl"
    lines = []
    for true, node, kind in settings:
        row = f"effect {true:g}, node SD {node:g}, {kind}"
        setting = {"true": true, "node": node, "kind": kind, "trials": trials, "seed": 0, "margin": MARGIN}
        found = simulate(true, node, kind, trials)
        print(row, {name: round(value, 3) for name, value in found.items()}, flush=True)
        lines.append(records.rounded({"row": row, **setting, "shares": found, "provenance": provenance()}))
    records.write_lines(sorted(lines, key=lambda line: line["row"]), file)


if __name__ == "__main__":
    main()
