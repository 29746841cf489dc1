"""The table on QM9. Two of its rows were added after the first evaluation (ledger, corrections)."""

from mtl_core.data import qm9 as source
from mtl_lab.experiments.common_rows import common_rows
from mtl_lab.experiments.registry import register_table
from mtl_lab.protocol.table import Row, Table
from mtl_lab.runs.run import Run


def table(profile: str = "small") -> Table:
    """Eleven targets on descriptors, a perceptron of three layers of 128, Adam."""
    schedule = {"epochs": 30, "batch_size": 256, "optimizer": "adam", "learning_rate": 0.01, "decay": "cosine"}
    if profile == "tiny":
        schedule |= {"epochs": 4, "batch_size": 64}
    network = {"inputs": 74, "width": 128, "depth": 3}
    base = Run("qm9", {"profile": profile}, model="mlp", model_options=network, schedule=schedule)
    longer = "Fixed weights, four times the epochs"
    rows = common_rows(list(source.TARGETS)) + [
        # TorchJD's solver stops early where gradients differ in length: the row "mgda" uses it as the library has it.
        Row("mgda_exact", "MGDA, solved exactly", "mgda", options={"solver": "exact"}),
        # A step with eleven gradients takes 2.7 to 5 times the core-seconds of a step on a weighted sum.
        Row("static_longer", longer, "static", reuses="static", control=True, epochs=4),
    ]
    # The first search, over 1e-3 to 1e-1, chose a rate at its lower edge and no useful one above 0.02.
    return Table("qm9", base, rows, margin=2.0, rate=(5e-4, 5e-2), groups=source.GROUPS)


register_table("qm9", table)
