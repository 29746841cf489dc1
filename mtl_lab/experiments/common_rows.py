"""The rows that every table has: single-task networks, baselines, methods and controls."""

from collections.abc import Sequence

from mtl_lab.protocol.table import A_A, BROKEN, REFERENCE, Row


def common_rows(tasks: Sequence[str]) -> list[Row]:
    """The single-task networks, the reference row, eight methods and the two controls, for tasks with these names.

    Two tasks have one free static weight, and a search of eight configurations covers it. Eleven tasks have ten: in
    the first search on QM9 the best of eight random weightings was 18 points of validation Δm below equal weights.
    With more than two tasks the reference is therefore the family L_k^(-a), which has one parameter and holds equal
    weights (a = 0) and inverse losses (a = 1). The best of eight random weightings is a row of its own.
    """
    simplex = {"weights": ("simplex", len(tasks))}
    reference = [Row(REFERENCE, "Tuned fixed weights", "static", space=simplex)]
    if len(tasks) > 2:
        reference = [
            Row(REFERENCE, "Tuned fixed weights", "static", space={"power": ("uniform", 0.0, 1.0)}),
            Row("static_random", "Fixed weights, random search", "static", space=simplex),
        ]
    sam_gs_space = {"gamma": ("uniform", 0.0, 1.0), "beta2": ("choice", [0.9, 0.95, 0.99])}
    half = len(tasks) // 2
    broken = f"Broken: shared gradients of {half} of {len(tasks)} tasks × 0.1"
    others = range(1, half)  # the method "broken" weakens task 0 itself
    return [
        *(Row(f"single {name}", f"Single-task: {name}", tasks=[k]) for k, name in enumerate(tasks)),
        *reference,
        Row("equal", "Equal weights", "equal"),
        Row("log_sum", "Sum of logs", "log_sum"),
        Row("norm_equalised", "Norm-equalised sum", "norm_equalised"),
        Row("norm_equalised_clip", "Norm-equalised sum, clipped", "norm_equalised", convention="plain, clipped"),
        Row("mgda", "MGDA", "mgda"),
        Row("pcgrad", "PCGrad", "pcgrad"),
        Row("graddrop", "GradDrop", "graddrop"),
        Row("cagrad", "CAGrad", "cagrad", space={"c": ("uniform", 0.1, 0.9)}),
        Row("sam_gs", "SAM-GS", "sam_gs", convention="samgs", space=sam_gs_space),
        Row(A_A, "A/A: fixed weights again, other seeds", "static", reuses=REFERENCE, control=True),
        Row(BROKEN, broken, "broken", reuses=REFERENCE, control=True, downweighted_tasks=others),
    ]
