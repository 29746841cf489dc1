"""Ours beside its peers: the committed records of `make bench`, one for each case and form, on a CPU and on a GPU.

results/step_time/cpu/runs.jsonl and results/step_time/gpu/runs.jsonl. A record holds the ratios of a step's seconds to
those of the floor in the same round, the floor's seconds, peak memory beyond what the form had before its first step,
and on a GPU the host's synchronisations in a step; or, where the form did not run, its error.
"""

from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np

from mtl_lab import records
from mtl_lab.experiments.step_time import NAME, spread
from mtl_lab.runs import provenance

PROFILES = ("cpu", "gpu")
CASES = ("narrow8", "mlp2", "mlp8", "wide8", "qm9", "mlp40", "lstm", "transformer", "resnet18", "cnn40", "segnet")
ALONG = {
    "tasks": ("mlp2", "mlp8", "mlp40"),
    "parameters": ("narrow8", "mlp8", "wide8"),
}  # setting -> cases that vary it
RULES = ("PCGrad", "UPGrad")  # which ours and TorchJD's forms have in common
MOST = 1.05  # of the time of TorchJD's best form


def write(case: str, forms: Mapping[str, Mapping], profile: str, device: str = "cpu", root=records.ROOT) -> None:
    """Put the records of a case into the file, in place of those that it had: `forms` by name, without provenance."""
    file = records.folder(NAME, profile, root) / "runs.jsonl"
    kept = [record for record in records.read_lines(file) if record["case"] != case]
    shared = {"case": case, "provenance": provenance.provenance(device)}
    new = [records.rounded({"row": f"{case}, {form}", "form": form, **of, **shared}) for form, of in forms.items()]
    records.write_lines(sorted([*kept, *new], key=lambda record: record["row"]), file)


def load(profile: str, root=records.ROOT) -> dict[str, dict[str, dict]]:
    """Case -> form -> record, in the order of `CASES`; cases without records are left out."""
    found: dict[str, dict[str, dict]] = {}
    for record in records.load(NAME, profile, root):
        found.setdefault(record["case"], {})[record["form"]] = record
    return {case: found[case] for case in CASES if case in found}


def against(forms: Mapping[str, Mapping], ours: str, other: str) -> tuple[float, float, float] | None:
    """Median of the ratio of two forms' seconds over rounds, with its interval; None where one did not run."""
    pair = [forms.get(form, {}).get("ratios") for form in (ours, other)]
    return spread([a / b for a, b in zip(*pair, strict=True)]) if all(pair) else None


def best_of_torchjd(forms: Mapping[str, Mapping], rule: str) -> str | None:
    """The form of TorchJD with the smallest median for a rule; None where none ran."""
    ran = {
        form: median(of["ratios"])
        for form, of in forms.items()
        if form.startswith("TorchJD") and form.endswith(f": {rule}") and of.get("ratios")
    }
    return min(ran, key=ran.__getitem__) if ran else None


def slower(found: Mapping[str, Mapping]) -> list[str]:
    """Cases and rules where the whole interval of ours over TorchJD's best form lies above `MOST`."""
    said = []
    for case, forms in found.items():
        for rule in RULES:
            best = best_of_torchjd(forms, rule)
            ratio = best and against(forms, f"ours: {rule}", best)
            if ratio and ratio[1] > MOST:
                said.append(f"{case}, {rule}: {ratio[0]:.2f} [{ratio[1]:.2f}, {ratio[2]:.2f}] times {best}")
    return said


def overhead(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(seconds that a step of any size costs, factor on the floor): least squares of seconds on the floor's seconds.

    points  (seconds of the floor, seconds of the form), each weighted by one over the floor's seconds.
    """
    floor, seconds = np.array(points, dtype=float).T
    constant, factor = np.linalg.lstsq(np.column_stack([1 / floor, np.ones_like(floor)]), seconds / floor, rcond=None)[
        0
    ]
    return float(constant), float(factor)


def fitted(found: Mapping[str, Mapping], form: str) -> tuple[float, float] | None:
    """`overhead` of a form over the cases that it ran in; None below three."""
    points = [
        (median(forms[form]["floor_seconds"]), median(forms[form]["ratios"]) * median(forms[form]["floor_seconds"]))
        for forms in found.values()
        if forms.get(form, {}).get("ratios")
    ]
    return overhead(points) if len(points) >= 3 else None
