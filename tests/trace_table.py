"""The recorded traces of released classes in tests/parity, and how closely ours follow each of them, as JSON.

    python tests/trace_table.py

One entry for each trace and number of printed digits: method, name, whose numbers, how many printed vectors, the
largest difference and the limit that the digits allow; `tests/test_parity.py` holds it to that. The traces of SAM-GS
are of float32 runs and have six significant digits: differences are relative to a vector's length, and none far below
1e-6 can be asked. All others are printed with five, six or ten decimals: differences are of single numbers, absolute.
"""

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from engine import combined  # noqa: E402
from rotograd_traces import BURN_IN, CASES, followed  # noqa: E402

from mtl_core import methods  # noqa: E402
from mtl_core.methods import SAMGS  # noqa: E402

FOLDER = Path(__file__).parent / "parity" / "samgs"
SAM_GS = "github.com/ThomBors/samgs, commit 7eee6a2"
ROTOGRAD = "github.com/adrianjav/rotograd 0.1.6.0, commit f924985"
LITERAL = "Algorithm 1 as printed, by a script that is not this project's"
SIX_DIGITS, DECIMALS = 2e-5, {places: 0.6 * 10.0**-places for places in (6, 10)}
NAMES = {"rotateonly": "rotate_only", "rotogradnorm": "rotograd_norm", "vanilla": "rotate_only"}

# One step of the code that comes with SAM-GS on the gradients (3, -4, 1) and (2, 5, -3) at the losses 45 and 67 (for
# SAM-GS on a tenth of them), printed with five decimals: the shared gradient as the optimizer would see it.
OFFICIAL = {
    "equal": (5, 1, -2),
    "uncertainty": (2.5, 0.5, -1),
    "log_sum": (0.09652, -0.01426, -0.02255),
    "famo": (2.59821, -0.38393, -0.60714),
    "imtl_g": (2.54729, 0.07435, -0.81082),
    "nash_mtl": (1.3471, 0.0393, -0.4288),
    "dwa": (2.5, 0.5, -1),
}
CLIPPED = {
    "pcgrad": (0.9435, 0.07463, -0.32285),
    "cagrad": (0.95901, -0.01913, -0.28272),
    "aligned_mtl": (0.94798, 0.05304, -0.31388),
    "sam_gs": (0.73363, 0.5079, -0.45147),
}


def one_step(name) -> tuple:
    """(shared gradient of ours, the printed one, what its digits and the released solver allow) of that step."""
    rows = [[3.0, -4, 1], [2, 5, -3]] if name != "sam_gs" else [[0.3, -0.4, 0.1], [0.2, 0.5, -0.3]]
    method = methods.make(name, **({"normalise": False} if name == "nash_mtl" else {}))
    shared, _ = combined(name, rows, "samgs", offsets=[45.0, 67.0], method=method)
    expected = torch.tensor((OFFICIAL | CLIPPED)[name], dtype=torch.float64)
    return shared, expected, 6e-5 if name in ("nash_mtl", "cagrad") else 1.2e-5


def sam_gs():
    """(name, source, [(found, printed)]) of each trace, ours in float64."""
    files = sorted(FOLDER.glob("[AB]_*.json"))
    cases = {p.stem[0]: [step["task_grads"] for step in json.loads(p.read_text())["steps"]] for p in files}
    for path in files:
        trace = json.loads(path.read_text())
        settings = trace["gamma"], trace["beta1"], trace["beta2"]
        yield path.stem, SAM_GS, _along(cases[path.stem[0]], [s["g_sum"] for s in trace["steps"]], *settings)
    for name, steps in json.loads((FOLDER / "variants.json").read_text()).items():
        if name.startswith("literal"):
            gamma, beta2 = (float(part[1:]) for part in name.split("_")[-2:])
            wanted, settings, source = [s["update"] for s in steps], (gamma, 0.9, beta2, 1e-8, "printed"), LITERAL
        elif "gamma" in name:
            gamma = float(name.rpartition("gamma")[2])
            wanted, settings, source = [s["g"] for s in steps], (gamma, 0.9, 0.99, 1e-8, "reinforcement"), SAM_GS
        else:
            continue  # three widths in turn: a test of its own
        yield name, source, _along(cases[name.split("_")[1]], wanted, *settings)


def _along(steps, wanted, *settings):
    method = SAMGS(*settings)
    return [(method(torch.tensor(J, dtype=torch.float64)), update) for J, update in zip(steps, wanted, strict=True)]


def rows() -> list[dict]:
    found = []
    for name in [*OFFICIAL, *CLIPPED]:
        ours, printed, limit = one_step(name)
        found.append(
            {
                "method": name,
                "trace": "one step",
                "source": SAM_GS,
                "digits": "5 decimals",
                "vectors": 1,
                "difference": (ours - printed).abs().max().item(),
                "limit": limit,
            }
        )
    for name, source, pairs in sam_gs():
        apart = [((o - torch.tensor(p)).norm() / o.norm()).item() for o, p in pairs]
        found.append(
            {
                "method": "sam_gs",
                "trace": name,
                "source": source,
                "digits": "6 significant",
                "vectors": len(pairs),
                "difference": max(apart),
                "limit": SIX_DIGITS,
            }
        )
    for name in [*CASES, "vanilla", BURN_IN]:
        apart = {places: [] for places in DECIMALS}
        for _, ours, printed, places in followed(name):
            printed = torch.tensor(printed, dtype=torch.float64).reshape(ours.shape)
            apart[places].append((ours.detach() - printed).abs().max().item())
        for places, found_apart in apart.items():
            found.append(
                {
                    "method": NAMES.get(name.split("_")[0], "rotograd"),
                    "trace": name,
                    "source": ROTOGRAD,
                    "digits": f"{places} decimals",
                    "vectors": len(found_apart),
                    "difference": max(found_apart),
                    "limit": DECIMALS[places],
                }
            )
    return found


if __name__ == "__main__":
    print(json.dumps(rows(), indent=1))
