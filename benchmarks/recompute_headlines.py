"""Computes the book's headline numbers anew from `results/`: python benchmarks/recompute_headlines.py [ROOT]

It imports nothing of this book, only the standard library, numpy and scipy, and does each piece of arithmetic in its
own way. Somebody who does not trust the book's code can read these lines instead;
`tests/lab/test_recompute_headlines.py` compares. The definitions are those of the pages, and stand beside the lines
that follow them. What an experiment still lacks is printed as "n of N".
"""

import hashlib
import json
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy import optimize, stats

TABLES = {"qm9": 14, "multi_fashion_mnist": 21, "two_digits": 19}  # rows beside the reference, controls included
ENERGIES = {"U0", "U", "H", "G"}  # of QM9: nearly one quantity, so that together they count as one task
TARGETS = ["mu", "alpha", "HOMO", "LUMO", "R2", "ZPVE", "U0", "Cv", "log A", "log B", "log C"]  # of balanced_pairs
ALPHA = 0.05


def read(root, experiment):
    """The records of an experiment; one that a later record supersedes, by the SHA-256 of its line, does not count."""
    file = Path(root) / experiment / "small" / "runs.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    records = {hashlib.sha256(line.encode()).hexdigest()[:16]: json.loads(line) for line in lines}
    gone = {record.get("supersedes") for record in records.values()}
    return [record for key, record in records.items() if key not in gone]


def by_row(records, number):
    """Row -> seed -> number(record), of the records with test data, seeds in order."""
    rows = {}
    for record in sorted(records, key=lambda r: r["config"]["seed"]):
        if record["final"].get("test"):
            rows.setdefault(record["row"], {})[record["config"]["seed"]] = number(record)
    return rows


def metric(record, task, split="test"):
    """(value, +1 where higher is better and -1 where lower is) of a task's metric."""
    ((name, value),) = [item for item in record["final"][split][task].items() if item[0] != "loss"]
    return value, 1 if name in ("accuracy", "F1") else -1


# --- intervals


def t_interval(d, alpha=ALPHA):
    """Mean of paired differences and mean ± t · s / √n."""
    d = np.asarray(d)
    return (d.mean(), *stats.t.interval(1 - alpha, len(d) - 1, d.mean(), stats.sem(d)))


def holm(contrasts, family=None):
    """Name -> (mean, low, high, n). The contrast with the i-th smallest p value, from 0, has level 1 − α / (m − i);
    from the first whose interval holds zero on, all have that one's level.

    family  m, where some contrasts have no data.
    """
    p = {name: stats.ttest_1samp(d, 0).pvalue for name, d in contrasts.items()}
    left, found = family or len(contrasts), {}
    for name in sorted(contrasts, key=lambda name: p[name]):
        found[name] = (*t_interval(contrasts[name], ALPHA / left), len(contrasts[name]))
        left -= bool(found[name][1] * found[name][2] > 0 and left > 1)
    return found


# --- Δm and the main tables


def delta_m(record, zero):
    """100 times the mean of ± (M − S) / S over tasks; QM9's energies of atomisation are averaged first."""
    change = {t: s * (v / zero[t] - 1) for t in record["final"]["test"] for v, s in [metric(record, t)]}
    energies = [change.pop(task) for task in ENERGIES & set(change)]
    return 100 * np.mean([*change.values(), *([np.mean(energies)] if energies else [])])


def table(root, experiment):
    """The reference's Δm, and each row minus the reference, the i-th seed of one beside the i-th of the other."""
    records = read(root, experiment)
    singles = by_row(records, lambda r: r["final"]["test"])
    zero = {}  # task -> mean of its first ten single-task networks
    for row in [row for row in singles if row.startswith("single ")]:
        ((task, _),) = next(iter(singles[row].values())).items()
        of = [r for r in records if r["row"] == row and r["config"]["seed"] in list(singles[row])[:10]]
        zero[task] = np.mean([metric(r, task)[0] for r in of])
    shared = [r for r in records if not r["row"].startswith("single ")]
    delta = {row: [*seeds.values()] for row, seeds in by_row(shared, lambda r: delta_m(r, zero)).items()}
    gaps = {row: [x - y for x, y in zip(d, delta["static"])] for row, d in delta.items() if row != "static"}  # noqa: B905
    found = {f"{experiment}: {row} minus static": e for row, e in holm(gaps, TABLES[experiment]).items()}
    return {f"{experiment}: Δm of static": (*t_interval(delta["static"]), len(delta["static"]))} | found


# --- pairs of targets: conflict, the losses' ratio, and harm


def ranks_related(x, y, given=None):
    """Spearman's ρ of x and y, or the partial one with a third measurement fixed, by the formula of three ρ."""
    if given is None:
        return np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1]
    r = np.corrcoef([stats.rankdata(v) for v in (x, y, given)])
    return (r[0, 1] - r[0, 2] * r[1, 2]) / np.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))


def jackknife(pairs, x, y, given=None):
    """(ρ, low, high, pairs): each task is left out once with all of its pairs, on Fisher's z scale, t with K − 1."""
    tasks, arrays = sorted({t for pair in pairs for t in pair}), [np.array(v) for v in (x, y, given) if v is not None]
    z = [np.arctanh(ranks_related(*(v[[t not in p for p in pairs]] for v in arrays))) for t in tasks]
    rho, K = ranks_related(*arrays), len(tasks)
    half = stats.t.ppf(1 - ALPHA / 2, K - 1) * np.std(z) * np.sqrt(K - 1)
    return (rho, *np.tanh(np.arctanh(rho) + np.array([-half, half])), len(pairs))


def task_pairs(root):
    """Harm: 100 (error together / error alone − 1), mean over two targets, of means over seeds. Ratio: |log| of that of
    the validation losses alone. Conflict: share of logged steps with a negative cosine. Unlike lengths: 1 − magnitude
    similarity."""
    records = read(root, "task_pairs")
    rows = {}
    for record in records:
        rows.setdefault(record["row"], []).append(record)
    pairs = sorted({tuple(r["final"]["test"]) for r in records if r["conflict"]})
    of = {pair: [r for r in records if tuple(r["final"]["test"]) == pair] for pair in pairs}
    error = {(p, t): np.mean([metric(r, t)[0] for r in of[p]]) for p in pairs for t in p}
    alone = {t: np.mean([metric(r, t)[0] for r in rows[f"alone {t}"]]) for p in pairs for t in p}
    loss = {t: np.mean([np.log(r["final"]["validation"][t]["loss"]) for r in rows[f"alone {t}"]]) for t in alone}
    harm = [100 * np.mean([error[p, t] / alone[t] - 1 for t in p]) for p in pairs]
    x = {"ratio": [abs(loss[a] - loss[b]) for a, b in pairs]}
    x["conflict"] = [np.mean([r["conflict"]["all"]["negative_share"] for r in of[p]]) for p in pairs]
    x["unlike lengths"] = [1 - np.mean([r["conflict"]["magnitude_similarity"] for r in of[p]]) for p in pairs]
    found = {f"task_pairs: ρ({name}, harm)": jackknife(pairs, v, harm) for name, v in x.items()}
    for name, fixed in (("ratio", "conflict"), ("conflict", "ratio"), ("unlike lengths", "ratio")):
        found[f"task_pairs: ρ({name}, harm), {fixed} fixed"] = jackknife(pairs, x[name], harm, x[fixed])
    return found


def node_effect(pairs, x, y, given):
    """(effect, low, high, pairs): y on x and `given`, from the 10th to the 90th percentile of x; one random effect of
    each node, its variance by restricted likelihood; t with n less the columns and the nodes."""
    nodes = sorted({t for pair in pairs for t in pair})
    Z = np.array([[t in pair for t in nodes] for pair in pairs], float)
    X, y, n = np.column_stack([x, given, np.ones(len(x))]), np.asarray(y), len(y)

    def fitted(ratio):
        L = np.linalg.cholesky(np.eye(n) + ratio * Z @ Z.T)
        A, b = np.linalg.solve(L, X), np.linalg.solve(L, y)
        q, r = np.linalg.qr(A)
        rest = b - q @ (q.T @ b)
        logs = np.log(np.abs(np.concatenate([np.diag(L), np.diag(r)]))).sum()
        error = np.sqrt(rest @ rest / (n - X.shape[1])) * np.linalg.norm(np.linalg.inv(r)[0])
        return logs + (n - X.shape[1]) / 2 * np.log(rest @ rest), np.linalg.solve(r, q.T @ b)[0], error

    tried = [optimize.minimize_scalar(lambda s: fitted(np.exp(s))[0], bounds=ends, method="bounded",
                                      options={"xatol": 1e-9}) for ends in ((-20, 0), (0, 9))]  # fmt: skip
    _, slope, error = fitted(np.exp(min(tried, key=lambda one: one.fun).x))
    size = np.quantile(x, 0.9) - np.quantile(x, 0.1)
    half = stats.t.ppf(1 - ALPHA / 2, n - 2 - len(nodes)) * error
    return (*(size * np.array([slope, slope - half, slope + half])), len(pairs))


def balanced_pairs(root):
    """Predictor: minus ½ (P01 + P10) / √(P00 P11). Harm at balanced losses: 100 (log error together − alone)."""
    rows, pairs = {}, list(combinations(TARGETS, 2))
    for record in read(root, "balanced_pairs"):
        rows.setdefault(record["row"], []).append(record)
    names = [f"{a} + {b}" for a, b in pairs]
    logs = [[r["conflict"]["products"] for r in rows.get(f"predictor {name}", ())] for name in names]
    x = [-np.mean([(P[0][1] + P[1][0]) / 2 / np.sqrt(P[0][0] * P[1][1]) for P in of]) if of else np.nan for of in logs]
    found = {"balanced_pairs: mean predictor": (np.nanmean(x), None, None, f"{sum(map(len, logs))} of 165")}
    here = sum(len(rows.get(f"log_sum {name}", ())) for name in names)
    if here < 275 or any(f"alone {t}" not in rows for t in TARGETS):
        return found | {"balanced_pairs: effect at balanced losses": (None, None, None, f"{here} of 275")}

    def log_error(row, task):
        return np.mean([100 * np.log(metric(r, task)[0]) for r in rows[row]])

    harm = [np.mean([log_error(f"log_sum {n}", t) - log_error(f"alone {t}", t) for t in p])
            for n, p in zip(names, pairs, strict=True)]  # fmt: skip
    loss = {t: np.mean([np.log(r["final"]["validation"][t]["loss"]) for r in rows[f"alone {t}"]]) for t in TARGETS}
    effect = node_effect(pairs, np.array(x), harm, [abs(loss[a] - loss[b]) for a, b in pairs])
    return found | {"balanced_pairs: effect at balanced losses": effect}


# --- a conflict set by hand, and removed


def conflict_dial(root):
    """The sign: 100 log loss at s = −1 minus s = +1; its interaction: shared minus independent readouts. Removal, in
    100 log error: replayed weights minus PCGrad's own ("answers"), plain sum minus replayed weights ("weights")."""
    records, found = read(root, "conflict_dial"), {}
    loss = by_row(records, lambda r: np.mean([100 * np.log(of["loss"]) for of in r["final"]["test"].values()]))
    error = by_row(records, lambda r: np.mean([100 * np.log(metric(r, t)[0]) for t in r["final"]["test"]]))

    def gaps(rows, plus, minus):
        seeds = sorted(set.intersection(*(set(rows.get(row, {})) for row in plus + minus)))
        return [sum(rows[r][s] for r in plus) - sum(rows[r][s] for r in minus) for s in seeds]

    cell = {(o, s): f"together, {o}, width 64, m 0.5, s {s}" for o in ("shared", "independent") for s in ("-1", "+1")}
    signs = {"shared": gaps(loss, [cell["shared", "-1"]], [cell["shared", "+1"]])}
    signs["interaction"] = gaps(loss, [cell["shared", "-1"], cell["independent", "+1"]],
                                [cell["shared", "+1"], cell["independent", "-1"]])  # fmt: skip
    for name, d in signs.items():
        judged = (*t_interval(d), len(d)) if len(d) > 1 else (None, None, None, f"{len(d)} of 180")
        found[f"conflict_dial: sign, {name}"] = judged
    for data in ("synthetic, sgd", "lowest, sgd", "median, sgd", "highest, sgd", "eleven, adam"):
        own, again, plain = (f"{data}, {row}" for row in ("κ 1, matched", "replayed steps", "κ 0"))
        two = {"answers": gaps(error, [again], [own]), "weights": gaps(error, [plain], [again])}
        judged = holm(two) if min(map(len, two.values())) > 1 else dict.fromkeys(two, (None, None, None, "not yet"))
        found |= {f"conflict_dial: removal on {data}, {name}": e for name, e in judged.items()}
    return found


def headlines(root):
    """Name -> (value, low, high, n); None where records lack, and n then says how many are here."""
    found = {}
    for experiment in TABLES:
        found |= table(root, experiment)
    return found | task_pairs(root) | balanced_pairs(root) | conflict_dial(root)


if __name__ == "__main__":
    for name, (value, low, high, n) in headlines(*(sys.argv[1:] or ["results"])).items():
        shown = "not yet" if value is None else f"{value:+.4g}" + ("" if low is None else f" [{low:+.4g}, {high:+.4g}]")
        print(f"{name:<62} {shown:<34} n = {n}")
