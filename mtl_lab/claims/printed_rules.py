"""Rules that arithmetic on printed tables can decide. Each yields its comparisons as `Check`s.

A comparison that falls within the rounding of the printed digits neither holds nor fails (None).
"""

from collections.abc import Callable
from itertools import product

from mtl_core.metrics import delta_m
from mtl_lab.checks import Check
from mtl_lab.claims import printed_tables

# --- printed lines


def lines(rows: list[dict]) -> dict[tuple[str, str], dict[tuple[str, str], dict]]:
    """Printed rows of one table as (method, variant) -> (task, metric) -> row."""
    table = {}
    for row in rows:
        table.setdefault((row["method"], row["variant"]), {})[row["task"], row["metric"]] = row
    return table


def delta_m_from_digits(line: dict, baseline: dict, grouped: bool = True) -> tuple[float, float, float]:
    """(low, value, high) of the Δm in percent that the printed metrics of a line give against those of `baseline`.

    The interval is that of rounding: each number lay within half of its last printed digit. A metric's relative change
    rises with the one number and falls with the other, so that both ends are reached exactly. `grouped` averages inside
    a task first; without it, over all metrics at once.
    """
    keys = [k for k in baseline if k[0]]  # numbers of the whole line (Δm, size) have no task
    up = {k: baseline[k]["higher_is_better"] for k in keys}

    def shifted(rows, sign):  # sign > 0: every number at the end that is better for it
        return {k: rows[k]["value"] + sign * (1 if up[k] else -1) * rows[k]["half_unit"] for k in keys}

    groups = {k: k[0] for k in keys} if grouped else None
    return tuple(delta_m(shifted(line, s), shifted(baseline, -s), up, groups) for s in (-1, 0, 1))


def delta_m_as_printed(printed: dict, line: dict, baseline: dict, grouped: bool = True) -> tuple[float, float, float]:
    """`delta_m_from_digits` with the sign of the printed Δm: where lower is better (SAM-GS), the opposite of ours."""
    ends = delta_m_from_digits(line, baseline, grouped)
    return ends if printed["higher_is_better"] else tuple(-x for x in reversed(ends))


def overlap(row: dict, low: float, high: float) -> bool:
    """Whether a printed number, before its rounding, could lie in [low, high]."""
    slack = 1e-9 + row["half_unit"]
    return low - slack <= row["value"] <= high + slack


# --- rules: each yields the comparisons it makes


def _delta_m_follows(paper, tables, grouped=True):
    for number in tables:
        table = lines(printed_tables.table(paper, number))
        for name, line in table.items():
            if printed := line.get(("", "delta_m")):
                low, value, high = delta_m_as_printed(printed, line, table["Single-task", ""], grouped)
                text = f"{_title(number, name)}: printed {printed['printed']}, recomputed {value:.2f}"
                yield Check(f"{text} [{low:.2f}, {high:.2f}]", overlap(printed, low, high))


def _reductions_follow(paper, tables):
    for number in tables:
        table = lines(printed_tables.table(paper, number))
        for name, line in table.items():
            for (_, metric), printed in line.items():
                if metric.startswith("reduction below "):
                    threshold = float(metric.removeprefix("reduction below "))
                    masses = [_mass_below(table[key], threshold) for key in (name, ("Joint", ""))]
                    (mass, half), (joint, joint_half) = masses
                    low, high = (100 * (1 - (mass + s * half) / (joint - s * joint_half)) for s in (1, -1))
                    text = f"{_title(number, name)}: printed {printed['printed']}, from the bins"
                    yield Check(f"{text} [{low:.2f}, {high:.2f}]", overlap(printed, low, high))


def _shares_sum_to_100(paper, tables):
    for number in tables:
        for name, line in lines(printed_tables.table(paper, number)).items():
            shares = [row for (_, metric), row in line.items() if metric.startswith("share in ")]
            total, half = (sum(row[k] for row in shares) for k in ("value", "half_unit"))
            yield Check(f"{_title(number, name)}: sums to {total:.2f}", abs(total - 100) <= half + 1e-9)


def _drops_follow(paper, tables):
    for number in tables:
        table = lines(printed_tables.table(paper, number))
        for (method, variant), line in table.items():
            for task in ("T1", "T2"):
                best, other = table[method, "Recon"][task, "accuracy"], line[task, "accuracy"]
                drop, half = best["value"] - other["value"], best["half_unit"] + other["half_unit"]
                text = f"{_title(number, (method, variant))}, {task}: printed {line[task, 'drop']['printed']}"
                yield Check(f"{text}, recomputed {drop:.2f}", overlap(line[task, "drop"], drop - half, drop + half))


def _improves(paper, tables, metric, variant="Recon", over=("",), tasks=("",), methods=None, margin=0.0):
    """`variant` beats each of `over` in `metric` by more than `margin`, for every method that has both."""
    for number in tables:
        table = lines(printed_tables.table(paper, number))
        chosen = [m for m, v in table if v == variant and (methods is None or m in methods)]
        for method, other, task in product(chosen, over, tasks):
            if (method, other) in table:
                a, b = table[method, variant][task, metric], table[method, other][task, metric]
                gain = (a["value"] - b["value"]) * (1 if a["higher_is_better"] else -1)
                text = f"{_title(number, (method, variant))} against {other or 'as is'} {task}".strip()
                yield _compare(f"{text}: {gain:+.2f}", gain - margin, a["half_unit"] + b["half_unit"])


def _bounded(paper, tables, metric=None, metrics=None, least=None, most=None, methods=None, variants=None):
    """Every number of `metric` (or `metrics`, by table) is at least `least` and at most `most`."""
    for number in tables:
        for row in printed_tables.table(paper, number):
            wanted = row["metric"] == (metric or metrics[number])
            wanted &= methods is None or row["method"] in methods
            if wanted and (variants is None or row["variant"] in variants):
                inside = (least is None or row["value"] >= least) and (most is None or row["value"] <= most)
                yield Check(f"{_title(number, (row['method'], row['variant']))}: {row['printed']}", inside)


def _separated(paper, tables, metrics, high, low, margin=0.0):
    """In each table the smallest number of variants `high` exceeds the largest of variants `low`."""
    for number in tables:
        rows = [row for row in printed_tables.table(paper, number) if row["metric"] == metrics[number]]
        least = min((row for row in rows if row["variant"] in high), key=lambda row: row["value"])
        largest = max((row for row in rows if row["variant"] in low), key=lambda row: row["value"])
        text = f"Table {number}: smallest {least['printed']}, largest of the others {largest['printed']}"
        gap = least["value"] - largest["value"] - margin
        yield _compare(text, gap, least["half_unit"] + largest["half_unit"])


def _size_ratio(paper, tables, most=None):
    """Size of the changed networks over that of the plain ones; without a bound it can only be listed."""
    for number in tables:
        table = lines(printed_tables.table(paper, number))
        ratio = table["Joint", "Recon"]["", "parameters"]["value"] / table["Joint", ""]["", "parameters"]["value"]
        text = f"Table {number}: {100 * (ratio - 1):+.1f} % parameters"
        yield Check(text, None if most is None else ratio <= most)


def _column(paper, number, task, metric, variant=None, methods=None):
    """method -> printed number, of one column."""
    rows = [r for r in printed_tables.table(paper, number) if (r["task"], r["metric"]) == (task, metric)]
    rows = [r for r in rows if variant is None or r["variant"] == variant]
    return {r["method"]: r for r in rows if methods is None or r["method"] in methods}


def _ahead(a, b):
    """Whether number `a` is better than `b`: True, False, or None within rounding."""
    gap = (a["value"] - b["value"]) * (1 if a["higher_is_better"] else -1)
    return None if abs(gap) <= a["half_unit"] + b["half_unit"] + 1e-9 else gap > 0


def _ranked(paper, tables, method, metric, most, task="", variant=None, among=None):
    """The rank of `method` in a column is at most `most`; `among`: another paper's column to rank it in."""
    for number in tables:
        others = _column(paper, number, task, metric, variant)
        printed, where = others.pop(method), f"Table {number}"
        if among is not None:
            others = _column(among["paper"], among["table"], "", among["metric"])
            short = printed_tables.about(among["paper"])["short"]
            where += f" among Table {among['table']} of {short}, {among['metric']}"
        others.pop("Single-task", None)
        ahead = [_ahead(other, printed) for other in others.values()]
        first, last = 1 + ahead.count(True), 1 + ahead.count(True) + ahead.count(None)
        rank = f"{first}" if first == last else f"{first} to {last}"
        text = f"{where}, {' '.join(filter(None, [variant, task]))}".rstrip(", ")
        holds = True if last <= most else False if first > most else None
        yield Check(f"{text}: {method} at place {rank} of {len(others) + 1}", holds)


def _ordered(paper, tables, metric, pairs, task="", variant=None):
    """The first of each pair is better than the second; names may end in `: variant`."""
    for number in tables:
        table = lines(printed_tables.table(paper, number))
        for names in pairs:
            a, b = (table[tuple(n.split(": ")) if ": " in n else (n, variant or "")][task, metric] for n in names)
            text = f"Table {number} {task or metric}, {names[0]} against {names[1]}: {a['printed']} and {b['printed']}"
            yield Check(text, _ahead(a, b))


def _mean_ranks(paper, tables, metric, methods=None, expect=True):
    """Whether a column can hold mean ranks of n methods: it sums to n (n + 1) / 2, and each lies in [1, n]."""
    for number in tables:
        column = _column(paper, number, "", metric, methods=methods)
        n, total = len(column), sum(row["value"] for row in column.values())
        rounding = sum(row["half_unit"] for row in column.values()) + 1e-9
        outside = [row["printed"] for row in column.values() if not 1 <= row["value"] <= n]
        can = not outside and abs(total - n * (n + 1) / 2) <= rounding
        sums = f"{n} numbers sum to {total:.2f}, mean ranks would to {n * (n + 1) / 2:g}"
        text = f"Table {number}, column headed {metric}: {sums}"
        yield Check(text + (f"; outside 1 to {n}: {', '.join(outside)}" if outside else ""), can is expect)


def _mean_ranks_follow(paper, tables):
    """The printed mean rank is the mean of the ranks in the printed columns; ties within rounding may go either way."""
    for number in tables:
        table = {k: v for k, v in lines(printed_tables.table(paper, number)).items() if k[0] != "Single-task"}
        for name, line in table.items():
            keys = [key for key in line if key[0]]
            ahead = [[_ahead(other[key], line[key]) for n, other in table.items() if n != name] for key in keys]
            low = sum(1 + others.count(True) for others in ahead) / len(keys)
            high = low + sum(others.count(None) for others in ahead) / len(keys)
            printed = line["", "mean rank"]
            text = f"{_title(number, name)}: printed {printed['printed']}, recomputed {low:.2f} to {high:.2f}"
            yield Check(text, overlap(printed, low, high))


def _same_numbers(paper, tables, metric, other):
    """A column equals another paper's column, method by method."""
    for number in tables:
        theirs = _column(other["paper"], other["table"], "", other["metric"])
        for name, row in _column(paper, number, "", metric, methods=set(theirs)).items():
            text = f"Table {number}, {name}: {row['printed']}, there {theirs[name]['printed']}"
            yield Check(text, row["value"] == theirs[name]["value"])


def _ratio(paper, tables, metric, of, to, variant="", most=None):
    """The metric of one method over that of another; without a bound it can only be listed."""
    for number in tables:
        table = lines(printed_tables.table(paper, number))
        ratio = table[of, variant]["", metric]["value"] / table[to, variant]["", metric]["value"]
        where = f"Table {number} {variant}".strip()
        yield Check(f"{where}: {of} takes {ratio:.2f} times as much as {to}", None if most is None else ratio <= most)


def _mean_of(paper, tables, metric, method, least):
    """The mean over tasks of a method's printed `metric` is above `least`, and that of every other method is not."""
    for number in tables:
        for (name, variant), line in lines(printed_tables.table(paper, number)).items():
            numbers = [row for (_, m), row in line.items() if m == metric]
            if numbers:
                mean, half = (sum(row[k] for row in numbers) / len(numbers) for k in ("value", "half_unit"))
                above = _compare(f"{_title(number, (name, variant))}: mean {mean:+.2f}", mean - least, half)
                yield above if name == method else Check(above.text, None if above.holds is None else not above.holds)


def _compare(text, gap, rounding):
    return Check(text, None if abs(gap) <= rounding + 1e-9 else gap > 0)


def _mass_below(line, threshold):
    """Total share of the bins at or below `threshold`, and by how much rounding can have moved it."""
    edges = {m: float(m.split(",")[0].split()[-1].strip("([")) for _, m in line if m.startswith("share in ")}
    below = [row for (_, metric), row in line.items() if edges.get(metric, threshold + 1) <= threshold]
    return sum(row["value"] for row in below), sum(row["half_unit"] for row in below)


def _title(number, name):
    method, variant = name
    return f"Table {number}, {method}" + (f" ({variant})" if variant else "")


RULES: dict[str, Callable] = {
    "delta_m follows": _delta_m_follows,
    "reductions follow": _reductions_follow,
    "shares sum to 100": _shares_sum_to_100,
    "drops follow": _drops_follow,
    "improves": _improves,
    "bounded": _bounded,
    "separated": _separated,
    "size ratio": _size_ratio,
    "placed": _ranked,
    "ordered": _ordered,
    "mean ranks": _mean_ranks,
    "mean ranks follow": _mean_ranks_follow,
    "same numbers": _same_numbers,
    "ratio": _ratio,
    "only positive mean": _mean_of,
}
