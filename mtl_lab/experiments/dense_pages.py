"""What the pages of the dense tables share: printed cells beside ours or beside what they need.

Printed numbers are the rows of `claims.printed_tables.table`. Only runs on a whole real set count as ours.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mtl_core.metrics import delta_m, mean_rank
from mtl_lab import records
from mtl_lab.checks import Check
from mtl_lab.experiments import dense_step
from mtl_lab.experiments.dense_step import planned
from mtl_lab.experiments.dense_tables import PUBLISHED, TASKS, TITLES, UP, Published, whole
from mtl_lab.experiments.registry import GRIDS, register_rule
from mtl_lab.statistics.paired import holm_intervals, paired_difference

TASK = {"segmentation": "semantic", "semantic segmentation": "semantic", "human parts": "parts"}
SIZE, TIME = ("", "parameters"), ("", "training time")  # MB and hours; of single-task networks their sum
Line = Mapping[tuple[str, str], Mapping]  # (task, metric) -> printed row
Values = Mapping[str, Mapping[str, float]]  # task -> metric -> number


def lines(printed: Sequence[Mapping]) -> dict[tuple[str, str], dict]:
    """(method, variant) -> (task, metric) -> printed row."""
    table: dict[tuple[str, str], dict] = {}
    for row in printed:
        table.setdefault((row["method"], row["variant"]), {})[row["task"], row["metric"]] = row
    return table


def metrics_of(table: Mapping[tuple[str, str], Line]) -> list[tuple[str, str]]:
    """The printed (task, metric) of a row, in order, without sizes and changes."""
    return [key for key in table["Single-task", ""] if key[0]]


def others_of(table: Mapping[tuple[str, str], Line]) -> list[tuple[str, str]]:
    """What is printed beside metrics, Δm and rank: sizes, times, changes of a task."""
    shown = {*metrics_of(table), ("", "delta_m"), ("", "mean rank")}
    return [*dict.fromkeys(key for line in table.values() for key in line if key not in shown)]


def ours(key: tuple[str, str]) -> tuple[str, str]:
    """(task, metric) of a printed one, as our records name them."""
    task, metric = key
    task = TASK.get(task, task)
    if task == "saliency":
        return task, "IoU"
    return task, f"{metric}°" if metric.startswith("within") else metric


def row_of(published: Published, method: str, variant: str) -> str | None:
    """The row of our plan for a printed line; None where there is no such network here."""
    if method == "Single-task":
        return "single"
    changes = published.rows.get(method)
    return None if changes is None else str(changes["method"]) + (f" + {variant}" if variant else "")


# --- from numbers to Δm and ranks


def change(values: Mapping, zero: Mapping, table: Mapping[tuple[str, str], Line], grouped: bool = True) -> float:
    """Δm in percent, positive = better; values and zero: printed (task, metric) -> number; grouped: in tasks first."""
    keys = metrics_of(table)
    up = {key: table["Single-task", ""][key]["higher_is_better"] for key in keys}
    return delta_m(
        {k: values[k] for k in keys}, {k: zero[k] for k in keys}, up, {k: k[0] for k in keys} if grouped else None
    )


def recomputed(table: Mapping[tuple[str, str], Line], grouped: bool = True) -> dict[tuple[str, str], tuple]:
    """(method, variant) -> Δm and mean rank among the lines but single-task, from the printed digits alone."""
    keys, rest = metrics_of(table), {name: line for name, line in table.items() if name[0] != "Single-task"}
    number = {name: {key: line[key]["value"] for key in keys} for name, line in table.items()}
    up = {key: table["Single-task", ""][key]["higher_is_better"] for key in keys}
    ranks, zero = mean_rank({name: number[name] for name in rest}, up), number["Single-task", ""]
    return {name: (change(number[name], zero, table, grouped), ranks[name]) for name in rest}


@dataclass(frozen=True)
class Measured:
    """Runs of one table: row -> seed -> printed (task, metric) -> number; "single" has those of all tasks alone."""

    table: Mapping[tuple[str, str], Line]
    rows: Mapping[str, Mapping[int, Mapping]]
    grouped: bool = True

    def delta(self, row: str) -> dict[int, float]:
        """Seed -> Δm of a row against the mean of the single-task networks; {} without either."""
        keys, alone = metrics_of(self.table), [*self.rows.get("single", {}).values()]
        if not alone:
            return {}
        zero = {key: float(np.mean([values[key] for values in alone])) for key in keys}
        return {s: change(v, zero, self.table, self.grouped) for s, v in self.rows.get(row, {}).items()}

    def cells(self, row: str, key: tuple[str, str]) -> list[float]:
        """What we measured for a printed number: one for each seed; a task's change is one for all."""
        here = [*self.rows.get(row, {}).values()]
        if key[1] != "task change":
            return [values[key] for values in here if key in values]
        if not here or row == "single" or not (alone := [*self.rows.get("single", {}).values()]):
            return []
        keys = [k for k in metrics_of(self.table) if k[0] == key[0]]
        means = [{k: float(np.mean([v[k] for v in of])) for k in keys} for of in (here, alone)]
        return [delta_m(*means, {k: self.table["Single-task", ""][k]["higher_is_better"] for k in keys})]


def measured(found: Iterable[Mapping], table: Mapping[tuple[str, str], Line], last: int, grouped=True) -> Measured:
    """The runs among compact records; a seed counts as "single" where each task has one."""
    rows, keys = dict[str, dict[int, dict]](), metrics_of(table)
    for record in found:
        if record["diverged"] is None and record["final"].get("test"):
            of, name = tested(record, last), "single" if record["row"].startswith("single ") else record["row"]
            here = {key: of[ours(key)[0]][ours(key)[1]] for key in keys if ours(key)[0] in of}
            seed = rows.setdefault(name, {}).setdefault(record["config"]["seed"], {SIZE: 0.0, TIME: 0.0})
            seed[SIZE] += record.get("parameters", {}).get("all", 0) * 4 / 2**20
            seed[TIME] += record.get("seconds", 0) / 3600
            seed.update(here)
    full = {n: {s: v for s, v in of.items() if set(keys) <= set(v)} for n, of in rows.items()}
    return Measured(table, full, grouped)


def tested(record: Mapping, last: int) -> Values:
    """Test metrics at the last epoch; or, where a paper prints it, their mean over the `last` epochs.

    Those are metrics on validation data, which on these sets are the test images.
    """
    if last == 1:
        return record["final"]["test"]
    epochs = record["epochs"]["validation"]
    return {t: {m: float(np.mean(of[-last:])) for m, of in metrics.items()} for t, metrics in epochs.items()}


# --- what a page shows


def real(name: str, root=records.ROOT) -> list[dict]:
    """The committed runs of a published table on all of its set."""
    return [record for record in records.load(name, "paper", root) if whole(record)]


def command(name: str) -> str:
    return f"make results EXPERIMENT={name} PROFILE=paper"


def needs(names: Sequence[str], printed_hours: float, root=records.ROOT) -> str:
    """What tables need: data, GPU-hours, the commands. A sentence for each table."""
    told = []
    for name in names:
        cost = dense_step.hours(planned(name), printed_hours, root)
        time = f"about {cost[1]:,.0f} GPU-hours (A100)" if cost else "an unmeasured time"
        p = PUBLISHED[name]
        tables = " and ".join(f"Table {n}" for n in (p.cosines, p.quarters) if n)
        with_them = f", with {tables}," if tables else ""
        what = f"Table {p.table}{with_them} needs {TITLES[p.data]}, which you bring"
        told.append(f"{what}, {time} and `{command(name)}`.")
    return " ".join(told)


def beside(name: str, table: Mapping[tuple[str, str], Line], found: Sequence[Mapping], hours: float, root=records.ROOT):
    """(header, lines) of a Markdown table: every cell "printed / ours", Δm and mean rank, and what a line needs."""
    published, keys, others = PUBLISHED[name], metrics_of(table), others_of(table)
    grouped = published.paper != "sam_gs"
    mine, again = measured(found, table, published.last, grouped), recomputed(table, grouped)
    runs, sign, made = planned(name), 1 if grouped else -1, []
    for (method, variant), line in table.items():
        row = row_of(published, method, variant)

        def shown(key, line=line):
            return line[key]["printed"] if key in line else "–"

        cells = [f"{shown(k)} / {average(mine.cells(row or '', k))}" for k in keys]
        change, rank = again.get((method, variant), (None, None))
        cells += [shown(("", "delta_m")), "–" if change is None else f"{sign * change:.2f}"]
        cells += [average([sign * d for d in mine.delta(row or "").values()] if row != "single" else [])]
        cells += [shown(("", "mean rank")), "–" if rank is None else f"{rank:.2f}"]
        cells += [f"{shown(k)} / {average(mine.cells(row or '', k))}" for k in others]
        need = lacks(name, row, mine.rows.get(row or "", {}), runs, hours, root)
        made.append([f"{method} + {variant}" if variant else method, *cells, need])
    head = [metric if task != "human parts" else f"parts, {metric}" for task, metric in keys]
    units = {SIZE: "MB", TIME: "hours"}
    tail = [units.get(key, f"{key[0]}, change %") for key in others]
    again = [f"{name}, recomputed" for name in ("Δm", "mean rank")]
    return ["", *head, "Δm", again[0], "ours", "mean rank", again[1], *tail, "needs"], made


def lacks(name: str, row: str | None, values: Mapping, runs, hours: float, root=records.ROOT) -> str:
    """What a printed line still needs, or how many seeds of it are here."""
    if row is None:
        return "a network that is not here"
    if len(values) >= GRIDS[name].seeds:  # type: ignore[attr-defined]
        return f"nothing, {len(values)} seeds"
    alone, of = row == "single", row.partition(" + ")
    mine = [r for r in runs if (r.tasks is not None) == alone]
    mine = mine if alone else [r for r in mine if r.method == of[0] and bool(r.split) == bool(of[2]) and r.test]
    mine = mine[: len(mine) if alone else GRIDS[name].seeds]  # type: ignore[attr-defined]
    cost = dense_step.hours(mine, hours, root)
    return f"{TITLES[PUBLISHED[name].data]}, {len(mine)} runs" + (f", {cost[1]:.0f} GPU-hours" if cost else "")


def average(values: Sequence[float]) -> str:
    if not values:
        return "–"
    size = abs(float(np.mean(values)))
    return f"{np.mean(values):.{4 if size < 1 else 2}f}"


def verdicts(name: str, table: Mapping[tuple[str, str], Line], found: Sequence[Mapping], pairs) -> list[list[str]]:
    """For each pair of printed lines, a minus b in Δm: what is printed, and what we find, or how many seeds are here.

    Where no Δm is printed, it is that of the printed digits.

    agrees, disagrees: the 95 % interval over the seeds excludes zero on the printed side, on the other.
    """
    published = PUBLISHED[name]
    grouped = published.paper != "sam_gs"
    mine, again, made = measured(found, table, published.last, grouped), recomputed(table, grouped), []
    for a, b in pairs:
        ends = [table[line].get(("", "delta_m"), {}).get("value") for line in (a, b)]
        ends = [again[a][0], again[b][0]] if None in ends else [x if grouped else -x for x in ends]
        stated = ends[0] - ends[1]
        of, against = (mine.delta(row_of(published, *line) or "") for line in (a, b))
        seeds, total = sorted(of.keys() & against.keys()), GRIDS[name].seeds  # type: ignore[attr-defined]
        if len(seeds) < total:
            word = f"open: {len(seeds)} of {total} seeds on {TITLES[published.data]}"
        else:
            d = paired_difference([of[s] for s in seeds], [against[s] for s in seeds])
            word = "cannot decide" if d.low <= 0 <= d.high else "agrees" if d.mean * stated > 0 else "disagrees"
            word += f": {d.mean:+.2f} [{d.low:+.2f}, {d.high:+.2f}]"
        made.append([f"{' + '.join(filter(None, a))} − {' + '.join(filter(None, b))}", f"{stated:+.2f}", word])
    return made


# --- the rule of the ledger's claims


def checks(experiment: str, of: str, seeds: int, against: str | None = None, root=records.ROOT):
    """Whether rows are better in Δm than their partners: Holm intervals over `seeds` seeds on the whole real set.

    of       end of the rows, as "Recon", each against the same method without it; or a row, with `against` another.
    A comparison holds where its interval lies above zero, fails where it lies below. In words what is missing before.
    """
    published = PUBLISHED[experiment]
    table: dict = {("Single-task", ""): {}}
    for task in TASKS[published.data]:
        for metric, up in UP[task].items():
            if (published.data, metric) != ("pascal", "within 30°"):  # which its table does not have
                table["Single-task", ""][task, metric.rstrip("°")] = {"higher_is_better": up}
    if "saliency" in TASKS[published.data]:
        table["Single-task", ""]["saliency", "mIoU"] = table["Single-task", ""].pop(("saliency", "IoU"))
    mine = measured(real(experiment, root), table, published.last, published.paper != "sam_gs")
    rows = [str(changes["method"]) for changes in published.rows.values() if changes["method"] != "rotograd"]
    pairs = [(of, against)] if against else [(f"{row} + {of}", row) for row in rows]
    deltas = {row: mine.delta(row) for pair in pairs for row in pair}
    if (least := min(map(len, deltas.values()))) < seeds:
        return f"{least} of {seeds} seeds on {TITLES[published.data]}: `{command(experiment)}` trains the rest"
    shared = {a: sorted(deltas[a].keys() & deltas[b].keys()) for a, b in pairs}
    found = holm_intervals({a: [deltas[a][s] - deltas[b][s] for s in shared[a]] for a, b in pairs})
    return tuple(
        Check(
            f"{a} against {b}: {found[a].mean:+.2f} [{found[a].low:+.2f}, {found[a].high:+.2f}] points of Δm",
            True if found[a].low > 0 else False if found[a].high < 0 else None,
        )
        for a, b in pairs
    )


register_rule("dense pairs", checks)
