"""The page that rolls seeds: the dice with a still forest plot for readers without scripts, and what all choices say.

    ```{seed-dice} qm9 small        a judged table; book/_static/seed_dice.js puts the dice in the place of the figure
    :alt: what the figure shows
    Caption of the figure.
    ```
    {choices}`qm9 small 3`          "none of the 120 ways …"; LookupError where it is half or more

The numbers come from committed records. What is missing stops the build (`-W`) and is named.
"""

from functools import cache

import checkout  # noqa: F401 (before mtl_lab)
import drawn
import quotes
from docutils import nodes

from mtl_lab import experiments
from mtl_lab.protocol import seed_subsets
from mtl_lab.protocol.table import REFERENCE

WORDS = ["none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


@cache
def measured(experiment, profile):
    """(table, row -> seed -> Δm): highest mean first, controls last; of each row the seeds that all of them have."""
    verdict = experiments.committed(experiment, profile)
    found = {name: row.delta for name, row in verdict.rows.items() if row.delta} if verdict else {}
    if REFERENCE not in found:
        raise LookupError(f"no judged runs of {experiment}, {profile}, are committed in results/")
    seeds = min(map(len, found.values()))
    delta = {name: dict(list(values.items())[:seeds]) for name, values in found.items()}
    order = sorted(delta, key=lambda name: (verdict.table.row(name).control, -sum(delta[name].values())))
    return verdict.table, {name: delta[name] for name in order}


class SeedDice(drawn.Forest):
    def run(self):
        found = super().run()
        try:
            html = seed_subsets.seed_dice(*measured(*self.arguments[0].split())).removesuffix("</div>")
        except (LookupError, TypeError, ValueError):  # run() has warned
            return found
        return [nodes.raw("", html, format="html"), *found, nodes.raw("", "</div>", format="html")]


def choices(experiment, profile, size):
    """Inline nodes: how many choices of seeds give each row the outcome of all seeds, of how many."""
    table, delta = measured(experiment, profile)
    whole = [reading.outcome for reading in seed_subsets.read_table(table, delta).values()]
    found = seed_subsets.all_choices(table, delta, int(size))
    same = sum([reading.outcome for reading in one.values()] == whole for one in found.values())
    if 2 * same >= len(found):
        raise LookupError(f"{same} of {len(found)} choices agree: the page says that most do not")
    gives = "gives" if same < 2 else "give"
    count = WORDS[same] if same < len(WORDS) else str(same)
    few, all_of_them = WORDS[int(size)], WORDS[len(delta[REFERENCE])]
    text = f"{count} of the {len(found)} ways to choose {few} of {all_of_them} seeds {gives} every method"
    return [nodes.Text(f"{text} the outcome that all {all_of_them} give")]


def setup(app):
    app.add_directive("seed-dice", SeedDice)
    app.add_role("choices", quotes.Quote(choices))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
