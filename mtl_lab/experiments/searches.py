"""Procedures compared over independent searches, on the three problems of the main tables (`protocol.streams`).

Rows, numbers of streams and limits of the margin were fixed before any of their runs. QM9 is judged on molecules that
no earlier table has used, so its single-task networks are trained again, with the main table's configurations. The
digits, at five streams, only describe: they have no controls, and the main table's margin.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from mtl_lab.experiments import multi_fashion_mnist, qm9, two_digits
from mtl_lab.experiments.registry import SEARCHES, register_study
from mtl_lab.protocol.streams import FAULTS, Searches
from mtl_lab.protocol.table import A_A, REFERENCE, Row, Table

QM9 = "equal log_sum norm_equalised norm_equalised_clip mgda_exact pcgrad cagrad sam_gs autoscale"
PLANS = {  # problem -> rows beside the reference, number of streams, limits of the margin
    "qm9": (QM9, 20, (2.0, 4.0)),
    "multi_fashion_mnist": ("norm_equalised_clip recon_pcgrad split_normalisation autoscale", 10, (0.3, 0.5)),
    "two_digits": ("log_sum sam_gs", 5, (2.0, 2.0)),
}


def searches(main_table: Callable[[str], Table], profile: str = "small") -> Searches:
    """The comparison on the problem of a main table."""
    main = main_table(profile)
    methods, streams, limits = PLANS[main.name]
    known = {row.name: row for row in (*main.rows, Row("autoscale", "AutoScale", "autoscale"))}
    rows = main.singles() + [known[name] for name in (REFERENCE, *methods.split())]
    if limits[0] < limits[1]:
        rows.append(replace(main.row(REFERENCE), name=A_A, title="A/A: fixed weights, other searches", control=True))
        broken = {"reuses": A_A, "control": True, "downweighted_tasks": range(len(main.singles()) // 2)}
        rows += [Row(name, f"Broken: half of the tasks, {n} δ", "static", **broken) for name, n in FAULTS.items()]
    changes = {"name": f"{main.name}_searches", "extends": main.name, "margin": limits[0], "rows": rows}
    # One sequence covers the whole range of rates, a widened one too.
    changes |= {"rate": main.rates(), "widened": None, "streams": streams, "limits": limits}
    if main.name == "qm9":
        options = {**main.base.problem_options, "fresh": True}
        changes |= {"fresh": True, "base": replace(main.base, problem_options=options)}
    return Searches(**vars(main) | changes)


for _module in (qm9, multi_fashion_mnist, two_digits):
    SEARCHES[f"{_module.table().name}_searches"] = partial(searches, _module.table)
register_study("stream_coverage", lambda _: "simulated by `python benchmarks/stream_coverage.py --record`.")
