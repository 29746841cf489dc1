"""Ten robots in one network: methods compared on imitating the scripted policies of Meta-World's MT10.

Table 4 of SAM-GS trains MT10 by reinforcement, a run in days. Imitation asks the published network (one trunk of three
layers of 400, here with a head for each task) for actions in the same ten tasks, in a minute, on data that the package
carries. It is another problem: nothing here reruns Table 4.

*Hypothesis*: the tasks' losses differ in size, so that rules which bring gradients to one length gain on equal weights,
SAM-GS among them; and its momentum half adds nothing to that. *Rows*: searched static weights, equal weights, the sum
of logs, the norm-equalised sum, plain and clipped, CAGrad, SAM-GS as in the vision code (searched γ and β₂, K times,
clipped), and as in the reinforcement code (its variant, γ = 0.9, β₂ = 0.99, no factor, no clip). Adam, no change of
data or network. *Metric*: the mean squared error of an action on held-out demonstrations, whose goals no training sees;
Δm against the single-task networks of the table `mt10`, ten seeds each.

*Seeds*: three streams (`protocol.streams`), each with a search of every row. *Estimand*: difference of the expected Δm
on test data of two procedures; unit: the stream. *Contrasts*, at once (Bonferroni over four): `CONTRASTS`. *Margin*: 5
points, as squared errors change twice as much as errors. *Rule*: the words of `paired.outcome` for each contrast;
"equal lengths explain SAM-GS" where *equal lengths* is better and *momentum* equivalent. With an SD of a difference of
2 points over streams the half-width is 10 (of five streams it would be 4): three streams see large effects only.

*Cost*: a pilot with equal weights took 40 core-seconds, 960 steps of 39 ms and validation; a step with each gradient
takes 44 to 49 ms. The comparison is 120 full runs, the table 34 and 140 of a single task, the policies that are rolled
out 18, with 13 s each in the simulator: about 2.4 core-hours in all; of five streams it would be 3.6.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mtl_core.data.mt10 import TASKS
from mtl_lab import records
from mtl_lab.checks import Check
from mtl_lab.experiments import five_streams
from mtl_lab.experiments.common_rows import common_rows
from mtl_lab.experiments.registry import SEARCHES, register_rule, register_table
from mtl_lab.protocol import stream_verdict
from mtl_lab.protocol.streams import Searches
from mtl_lab.protocol.table import CONTROLS, REFERENCE, Row, Table
from mtl_lab.runs.run import Run
from mtl_lab.statistics.paired import PairedDifference, outcome, paired_difference
from mtl_lab.statistics.streams import at_once

NAME, STREAMS, CLIPPED, VARIANT = "mt10_cloning", 3, "norm_equalised_clip", "sam_gs_reinforcement"
ROWS = (REFERENCE, "equal", "log_sum", "norm_equalised", CLIPPED, "cagrad", "sam_gs")
CONTRASTS = {
    "equal lengths": (CLIPPED, "equal"),
    "momentum": ("sam_gs", CLIPPED),
    "SAM-GS as in Table 4, or equal weights": (VARIANT, "equal"),
    "SAM-GS as in Table 4, or CAGrad": (VARIANT, "cagrad"),
}


def table(profile: str = "small") -> Table:
    """The single-task networks, the reference row and the controls: the zero of Δm, and whether it can be trusted."""
    schedule = {"epochs": 30, "batch_size": 128, "optimizer": "adam", "learning_rate": 1e-3, "decay": "cosine"}
    if profile == "tiny":
        schedule |= {"epochs": 4, "batch_size": 32}
    base = Run("mt10", {"profile": profile}, model="mt10_policy", schedule=schedule)
    rows = [replace(row, model={"reads": row.tasks}) if row.tasks else row for row in common_rows(TASKS)]
    rows = [row for row in rows if row.tasks or row.name in (REFERENCE, *CONTROLS)]
    return Table("mt10", base, rows, margin=5.0, rate=(1e-4, 1e-2), decay=(0.0, 1e-4))


def searches(profile: str = "small") -> Searches:
    """The comparison: eight rows in three streams beside the table `mt10`."""
    main, known = table(profile), {row.name: row for row in common_rows(TASKS)}
    options = {"variant": "reinforcement", "gamma": 0.9, "beta2": 0.99}
    rows = [*map(known.get, ROWS), Row(VARIANT, "SAM-GS, reinforcement variant", "sam_gs", options)]
    return replace(five_streams.searches(main, NAME, rows, main.base), streams=STREAMS)


def contrasts(found: stream_verdict.Comparison) -> dict[str, tuple[PairedDifference, str]]:
    """`CONTRASTS` with their outcomes; the intervals hold at once."""
    level = at_once(len(CONTRASTS))
    pairs = {name: paired_difference(found.of(a), found.of(b), level) for name, (a, b) in CONTRASTS.items()}
    return {name: (d, outcome(d.low, d.high, found.margin)) for name, d in pairs.items()}


def finding(profile: str = "small", root: Path = records.ROOT) -> str:
    """The finding in one sentence by the rule above; before the last run how many there are."""
    plan = searches(profile)
    if (waiting := five_streams.unfinished(plan, root)) or (found := stream_verdict.compare(plan, root)) is None:
        return waiting
    judged = contrasts(found)
    words = {name: word for name, (_, word) in judged.items()}
    explained = words["equal lengths"].startswith("better") and words["momentum"] == "equivalent"
    lead = "Equal lengths explain SAM-GS" if explained else "Equal lengths are not shown to explain SAM-GS"
    return f"{lead} in imitating MT10, to within {found.margin:g} points of Δm."


def checks(named: Sequence[str], root: Path = records.ROOT) -> tuple[Check, ...] | None:
    """Whether the first row of each contrast is better, by the words of `contrasts`; None before all streams are whole.

    A contrast is open if its interval holds zero and it is not equivalent.
    """
    plan = searches()
    if five_streams.unfinished(plan, root) or (found := stream_verdict.compare(plan, root)) is None:
        return None
    judged = {name: of for name, of in contrasts(found).items() if name in named}
    return tuple(
        Check(
            f"{name}: {d.mean:+.1f} [{d.low:+.1f}, {d.high:+.1f}], {word}",
            True if word.startswith("better") else None if word == "cannot decide" else False,
        )
        for name, (d, word) in judged.items()
    )


register_rule("imitation of MT10", checks)
register_table("mt10", table)
SEARCHES[NAME] = searches
