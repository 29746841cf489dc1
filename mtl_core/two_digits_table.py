"""P3: the rows of the digit problem, fixed before any of its runs.

The 2 x 2 of RotoGrad's halves is equal (neither), rotate_only, scale_only, rotograd (both): these four have twenty
seeds from the start, all other rows ten (`results/two_digits/small/extended.json` names them before the evaluation).
"""

from mtl_core.protocol import Row, Table, common_rows
from mtl_core.runs import Run

FEATURES = 50
HALVES = {"none": "equal", "rotate": "rotate_only", "scale": "scale_only", "both": "rotograd"}


def table(profile: str = "small") -> Table:
    """Five tasks, the reduced LeNet (10 and 20 channels, 50 features), Adam."""
    from mtl_core.data import two_digits as source

    schedule = {"epochs": 10, "batch_size": 256, "optimizer": "adam", "learning_rate": 2e-3, "decay": "cosine"}
    options = {"profile": profile}
    if profile == "tiny":
        schedule |= {"epochs": 4, "batch_size": 32}  # shorter, no image is called odd and F1 is 0
        options |= {"train": 1_600, "test": 400}
    base = Run("two_digits", options, model="lenet", model_options={"features": FEATURES}, schedule=schedule)
    size = {"rotation_size": FEATURES}
    rate = {"rotation_rate": ("log", 0.02, 2.0)}  # of the network's rate: from a fiftieth to twice
    layer = {"rotation_size": FEATURES}  # an option of the network: R_k trained on the task's own loss
    rows = common_rows(list(source.NAMES)) + [
        Row("imtl_g", "IMTL-G", "imtl_g"),
        Row("scale_only", "ScaleOnly", "scale_only", options=size),
        Row("rotate_only", "RotateOnly", "rotate_only", options=size, space=rate),
        Row("rotograd", "RotoGrad", "rotograd", options=size, space=rate),
        Row("rotograd_haar", "RotoGrad, Haar start", "rotograd", options=size | {"init": "haar"}, space=rate),
        Row("equal_layer", "Equal weights + R_k as a layer", "equal", model=layer),
        Row("imtl_g_layer", "IMTL-G + R_k as a layer", "imtl_g", model=layer),
    ]
    # The search up to 0.02 had got to a single-task network in its outer tenth: each row draws two more, up to 0.08.
    return Table("two_digits", base, rows, margin=2.0, rate=(2e-4, 2e-2), widened=(8e-2, 2))
