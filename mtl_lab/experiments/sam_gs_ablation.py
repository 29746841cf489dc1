"""What SAM-GS's γ and β₂ do on real data: one row per setting, each with a separate search over rate and decay.

Single-task networks, reference row and controls are those of the problem's main table; none of them is trained again.
γ = 0 is momentum alone, γ = 1 the equalised sum alone. The rows were fixed before any of their runs. QM9 has the γ of
the paper's ablation with the algorithm's β₂ = 0.99, and the paper's other β₂ with γ = 0 and γ = 0.9.
Multi-Fashion+MNIST, whose runs cost six times as much, has five of these settings.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from mtl_lab.experiments import multi_fashion_mnist, qm9
from mtl_lab.experiments.registry import register_table
from mtl_lab.protocol.table import Table

SETTINGS = {
    "qm9": [(g, 0.99) for g in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)] + [(g, b) for g in (0.0, 0.9) for b in (0.9, 0.95)],
    "multi_fashion_mnist": [(g, 0.99) for g in (0.0, 0.5, 0.9, 1.0)] + [(0.0, 0.9)],
}
TITLES = {"qm9": "QM9, eleven targets", "multi_fashion_mnist": "Multi-Fashion+MNIST"}


def table(main_table: Callable[[str], Table], profile: str = "small") -> Table:
    """(γ, β₂) in `SETTINGS`, beside the rows of the problem's main table that are taken over."""
    main = main_table(profile)
    extended = replace(main, name=f"{main.name}_sam_gs", extends=main.name, ranking=None)
    sam_gs, rows = main.row("sam_gs"), [row for row in main.rows if extended.takes_over(row.name)]
    for gamma, beta2 in SETTINGS[main.name]:
        options, title = {"gamma": gamma, "beta2": beta2}, f"γ = {gamma:g}, β₂ = {beta2:g}"
        rows.append(replace(sam_gs, name=setting(gamma, beta2), title=title, options=options, space={}))
    return replace(extended, rows=rows)


def setting(gamma: float, beta2: float) -> str:
    """The row's name: "gamma 0.9, beta2 0.99"."""
    return f"gamma {gamma:g}, beta2 {beta2:g}"


register_table("qm9_sam_gs", partial(table, qm9.table))
register_table("multi_fashion_mnist_sam_gs", partial(table, multi_fashion_mnist.table))
