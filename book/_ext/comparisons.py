"""The comparisons behind a verdict as a table, and its rule in plain words.

A check comes as one line of text, for example "a against b: +0.41 [-0.56, +1.37], 20 seeds, margin 2: equivalent"; here
each number gets a column of its own. A text of an unknown form stays whole, in one cell.
"""

import functools
import re

import checkout  # noqa: F401 (before mtl_lab)
from docutils import nodes

from mtl_lab import experiments

RULES = {
    "separated": "In each table, the smallest number of the one group is larger than the largest of the other.",
    "bounded": "Every printed number lies within the bounds.",
    "improves": "Each method is better with the change than without it, in every table that the claim names.",
    "size ratio": "The size with Recon over the size without; the claim names no bound, so the ratios are listed only.",
    "delta_m follows": "Each printed Δm can be reached by numbers that round to the printed metrics.",
    "reductions follow": "Each printed reduction can be reached from the printed shares of the bins.",
    "shares sum to 100": "The printed shares sum to 100 %, within rounding.",
    "drops follow": "Each printed drop is the difference of two printed accuracies, within rounding.",
    "placed": "The method is among the best so many of its column.",
    "ordered": "The first of each pair has the better printed number.",
    "mean ranks": "Mean ranks have a known sum, and none lies outside 1 to the number of methods.",
    "mean ranks follow": "Each printed mean rank is the mean of the ranks in the printed columns.",
    "same numbers": "The two columns hold the same numbers.",
    "ratio": "The one printed number over the other, within the bound.",
    "only positive mean": "The mean over tasks is positive for this method and for no other.",
    "paired difference": "Each is better than its partner, seed by seed, corrected for multiple comparisons.",
    "smaller spread": "Over paired seeds, Δm has a smaller standard deviation than that of each partner.",
    "interval of the mean": "The interval of the mean of our runs contains the printed number.",
    "dense pairs": "Each is better than its partner, seed by seed, corrected for multiple comparisons.",
    "recon improves every method": "With the layers split, every method is better than without.",
    "recon pairs": "The first of each pair is better than the second, seed by seed.",
    "recon logs": "What one run of each method says, without an interval.",
    "it is the conflict": "Three comparisons that the explanation by conflict needs; all must hold.",
    "reaches": "The method reaches an optimum from at least so many of the published starts.",
    "steady": "At each weighting, no other method reaches the optimum from more of the starts.",
    "imitation of MT10": "The first of each pair is better than the second, over three runs.",
    "step time": "A step takes at most so many times as long as one of each other method.",
    "success rate": "More than half of the seeds succeed with the one method, and fewer than half with the other.",
    "rotation rate": "The first rate has a smaller squared error than each of the others, seed by seed.",
}
HEADS = (
    "compared",
    "with",
    "printed",
    "recomputed",
    "found",
    "estimate",
    "interval",
    "seeds",
    "margin",
    "within",
    "bound",
)
HEADS += ("outside", "outcome")
WORD = r"(?:better|worse)(?: \(amount uncertain\))?|equivalent|cannot decide"
INTERVAL = r" ?\[([^\],]+), ([^\]]+)\]"
RATIO = r"(.*?)(\S+) takes (\S+) times as (?:long|much) as (\w\S*)"
SUMS = r"(\d+) numbers sum to (\S+), mean ranks would to (\S+?)(?:; outside (.+))?"
BEGINS = r": (?=[-+\d]|printed|recomputed|sums|mean |smallest|ratio|squared|column|[^:]+ at place|\S+ \d+ of)"


@functools.cache
def titles():
    """Row of a table of ours -> its title."""
    found = {}
    for name in ("multi_fashion_mnist", "two_digits", "qm9", "qm9_sam_gs", "multi_fashion_mnist_sam_gs"):
        found |= {row.name: row.title for row in experiments.TABLES[name]("small").rows}
    return found


def taken(pattern, text):
    """(groups of the pattern or None, the text without what matched)."""
    found = re.search(pattern, text)
    return (found.groups(), text[: found.start()] + text[found.end() :]) if found else (None, text)


def cells(text):
    """Head of a column -> cell, of the text of one check."""
    made, rest = {}, text
    if (got := taken(rf"[:,] ({WORD})$", rest))[0]:
        made["outcome"], rest = got[0][0], got[1]
    if (got := taken(r", margin (\S+)$", rest))[0]:
        made["margin"], rest = got[0][0], got[1]
    if (got := taken(r", ((?:at most|at least|above|more than|fewer than) \S+|compared with \S+ %)$", rest))[0]:
        made["bound"], rest = got[0][0], got[1]
    if (got := taken(r", (\d+) seeds\b|(?<=: )(\d+) seeds, ", rest))[0]:
        made["seeds"], rest = next(filter(None, got[0])), got[1]
    if (got := taken(r" within (\S+ steps)", rest))[0]:
        made["within"], rest = got[0][0], got[1]
    rest = re.sub(r": (\S+) (\d+) of (\d+) starts, (.+) (\d+)$", r", \1 against \4: \2 and \5 of \3 starts", rest)
    rest = rest.replace(" against as is", " against unchanged")
    if (got := taken(INTERVAL, rest))[0]:
        made["interval"], rest = " to ".join(got[0]), got[1]
    if ratio := re.fullmatch(RATIO, rest):
        where, one, times, other = ratio.groups()
        made |= {"compared": f"{where}{title(one)}", "with": title(other), "estimate": f"{times} times"}
    else:
        what, *found = re.split(BEGINS, rest, maxsplit=1) if re.search(BEGINS, rest) else rest.split(": ", 1)
        made |= zip(("compared", "with"), apart(*map(title, what.split(" against "))), strict=False)
        if found and (both := re.fullmatch(r"printed (\S+?)(?:, (?:recomputed (.+)|from the bins))?", found[0])):
            made |= {head: cell for head, cell in zip(("printed", "recomputed"), both.groups(), strict=True) if cell}
        elif found and (sums := re.fullmatch(SUMS, found[0])):
            made["compared"] += f", {sums[1]} numbers"
            made |= {"found": f"sum {sums[2]}", "bound": f"{sums[3]} for mean ranks"}
            made |= {"outside": sums[4]} if sums[4] else {}
        elif found and (place := re.fullmatch(r"(.+) at (place .+)", found[0])):
            made |= {"compared": f"{made['compared']}, {place[1]}", "found": place[2]}
        elif found:
            made["estimate" if "interval" in made else "found"] = found[0]
    return {head: re.sub(r"(?<![\w.])-(?=\d)", "−", cell).replace("delta_m", "Δm") for head, cell in made.items()}


def title(name):
    return titles().get(name, name)


def apart(one, *other):
    """The two names of a comparison without the settings at their ends that both have."""
    if not other:
        return [one]
    names = [one.split(", "), other[0].split(", ")]
    while min(map(len, names)) > 1 and names[0][-1] == names[1][-1]:
        names = [name[:-1] for name in names]
    return [", ".join(name) for name in names]


def table(checks, most=12):
    """Nodes: a table of comparisons, those that do not hold first; of more than `most`, the first."""
    ordered = sorted(checks, key=lambda check: check.holds is True)
    shown = [(cells(check.text), check.holds) for check in ordered[:most]]
    heads = [head for head in HEADS if any(head in row for row, _ in shown)]
    body = [[row.get(head, "–") for head in heads] + [HOLDS[holds]] for row, holds in shown]
    found = [small([*heads, "holds"], body, "comparisons")]
    if len(checks) > most:
        rest = [check.holds for check in ordered[most:]]
        words = "all hold" if all(rest) else "not all hold"
        found.append(nodes.paragraph(text=f"{len(rest)} more comparisons: {words}."))
    return found


HOLDS = {True: "yes", False: "no", None: "undecided"}


def small(head, body, style):
    """A table of plain text; a cell may also be a list of nodes. Without `head` the first column names the lines."""
    width = len(body[0])
    group = nodes.tgroup(
        "", *(nodes.colspec(colwidth=1, stub=int(not head and not k)) for k in range(width)), cols=width
    )
    if head:
        group += nodes.thead("", line(head))
    group += nodes.tbody("", *map(line, body))
    return nodes.table("", group, classes=[style])


def line(texts):
    filled = ([nodes.paragraph(text=text)] if isinstance(text, str) else text for text in texts)
    return nodes.row("", *(nodes.entry("", *cell) for cell in filled))


def options(rule):
    """The options of a rule, a short line each."""
    for name, value in rule.items():
        if name == "name":
            continue
        if name == "pairs":
            yield from (f"{one} against {other}" for one, other in value)
        elif isinstance(value, list) and len(value) > 3 and isinstance(value[0], str):
            yield from (f"{name}: {one}" for one in value)
        elif isinstance(value, dict):
            words = {"rows": "methods"}
            yield from (f"{name}, {words.get(key, key)}: {plain(inner)}" for key, inner in value.items())
        else:
            yield f"{name}: {plain(value)}"


def plain(value):
    if isinstance(value, list) and all(isinstance(one, int) for one in value):
        return runs(value)
    if isinstance(value, list):
        return ", ".join(plain(one) or "unchanged" for one in value)
    return {"delta_m": "Δm", "": "unchanged"}.get(value, str(value)).replace("-0.", "−0.")


def runs(numbers):
    """ "1 to 5, 15, 16" of whole numbers in order."""
    parts = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(f"{a} to {b}" if b > a + 1 else f"{a}, {b}" if b > a else f"{a}" for a, b in parts)
