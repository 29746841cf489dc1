"""Does the momentum half of SAM-GS help where it meets Adam, the optimizer of all its published experiments?

*Hypothesis*: the book's tables on Multi-Fashion+MNIST step with momentum SGD, and there a gain of the momentum half may
be lost that Adam would keep. *Rows*: SAM-GS at γ = 0 (momentum alone), 0.5, 0.9 and 1 (the equalised sum alone) with
β₂ = 0.99 in its published convention, K times and clipped; equal weights; the norm-equalised sum, clipped, which is
γ = 1 but for the factor K before the clip. *Optimizer*: Adam with torch's defaults and without weight decay, as in the
paper; data, network and the cosine of the rate are the table's, so that nothing but the optimizer differs.

*Seeds*: five streams (`protocol.streams`), each with a search of every row, 8 rates in 1e-4 to 1e-2, which holds the
paper's 1e-4 to 1e-3. *Estimand*: difference of the expected Δm on test data of two procedures; unit: the stream.
*Contrasts*, at once (Bonferroni over five): momentum, each γ below 1 minus the clipped sum; *same rule*, γ = 1 minus
the clipped sum, a control that should be equivalent; *equal lengths*, the clipped sum minus equal weights. *Margin*:
the table's 0.3 points. *Rule*: momentum helps, or harms, at a γ whose interval lies above, or below, zero; it does not
matter where all three are equivalent; else the streams cannot tell. If *same rule* is better or worse, nothing is
said. With a standard deviation of a difference of 0.3 points the half-width is 0.6, and a gain of 0.8 is found with
power 0.8.

*Cost*: one epoch took 9.8 core-seconds with equal weights and 16.0 with the others; a search and an evaluation are 20
epochs of a row: 2.5 core-hours in all. The table's ten epochs, with 50, would cost 6.2: so four epochs.
"""

from dataclasses import replace
from pathlib import Path

from mtl_lab import records
from mtl_lab.experiments import five_streams, multi_fashion_mnist
from mtl_lab.experiments.registry import SEARCHES
from mtl_lab.protocol import stream_verdict
from mtl_lab.protocol.streams import Searches
from mtl_lab.statistics.paired import PairedDifference, outcome, paired_difference
from mtl_lab.statistics.streams import at_once

NAME, GAMMAS, EPOCHS, CLIPPED = "sam_gs_adam", (0.0, 0.5, 0.9, 1.0), 4, "norm_equalised_clip"
CONTRASTS = {f"momentum, γ = {g:g}": (f"gamma {g:g}", CLIPPED) for g in GAMMAS[:-1]} | {
    "same rule": ("gamma 1", CLIPPED),
    "equal lengths": (CLIPPED, "equal"),
}


def searches(profile: str = "small") -> Searches:
    """The comparison; its rows are "equal", "norm_equalised_clip" and "gamma G"."""
    main = multi_fashion_mnist.table(profile)
    sam_gs, rows = main.row("sam_gs"), [main.row("equal"), main.row(CLIPPED)]
    for gamma in GAMMAS:
        options, title = {"gamma": gamma, "beta2": 0.99}, f"SAM-GS, γ = {gamma:g}"
        rows.append(replace(sam_gs, name=f"gamma {gamma:g}", title=title, options=options, space={}))
    schedule = {**main.base.schedule, "optimizer": "adam", "epochs": min(EPOCHS, main.base.schedule["epochs"])}
    return five_streams.searches(
        main, NAME, rows, replace(main.base, schedule=schedule), rate=(1e-4, 1e-2), decay=(0.0,)
    )


def contrasts(found: stream_verdict.Comparison) -> dict[str, tuple[PairedDifference, str]]:
    """`CONTRASTS` with their outcomes; the intervals hold at once."""
    level, of = at_once(len(CONTRASTS)), {row: found.of(row) for row in found.first}
    pairs = {name: paired_difference(of[a], of[b], level) for name, (a, b) in CONTRASTS.items()}
    return {name: (d, outcome(d.low, d.high, found.margin)) for name, d in pairs.items()}


def finding(profile: str = "small", root: Path = records.ROOT) -> str:
    """The finding in one sentence by the rule above; before the last run how many there are."""
    table = searches(profile)
    if (waiting := five_streams.unfinished(table, root)) or (found := stream_verdict.compare(table, root)) is None:
        return waiting
    judged = contrasts(found)
    same = judged["same rule"]
    if same[1].startswith(("better", "worse")):
        return f"With Adam, γ = 1 is called {same[1]} than the rule that it repeats, so this comparison says nothing."
    momentum = {name.split(", ")[1]: word for name, (_, word) in judged.items() if name.startswith("momentum")}
    ways = {"helps": "better", "harms": "worse"}
    said = [
        f"{verb} at {'each γ below 1 that was tried' if len(gammas) == len(momentum) else ', '.join(gammas)}"
        for verb, start in ways.items()
        if (gammas := [gamma for gamma, word in momentum.items() if word.startswith(start)])
    ]
    if set(momentum.values()) == {"equivalent"}:
        said = [f"does not matter, to within {found.margin:g} points"]
    claim = " and ".join(said) or "neither helps nor harms as far as five streams can tell"
    return f"With Adam, the momentum half of SAM-GS {claim} (Multi-Fashion+MNIST, against the clipped equalised sum)."


SEARCHES[NAME] = searches
