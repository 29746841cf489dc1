"""The rows of QM9. Two of them were added after the first evaluation (ledger, corrections)."""

from mtl_core.data import qm9 as source
from mtl_lab.experiments.registry import register_table
from mtl_lab.protocol.table import Row, Table, common_rows
from mtl_lab.runs.run import Run


def table(profile: str = "small") -> Table:
    """Eleven targets on descriptors, a perceptron of three layers of 128, Adam."""
    schedule = {"epochs": 30, "batch_size": 256, "optimizer": "adam", "learning_rate": 0.01, "decay": "cosine"}
    if profile == "tiny":
        schedule |= {"epochs": 4, "batch_size": 64}
    base = Run("qm9", {"profile": profile}, model="mlp", model_options={"inputs": 74, "width": 128, "depth": 3},
               schedule=schedule)  # fmt: skip
    rows = common_rows(list(source.TARGETS)) + [
        # TorchJD's solver stops early where norms differ: the row "mgda" is what one gets from the library.
        Row("mgda_exact", "MGDA, solved exactly", "mgda", options={"solver": "exact"}),
        # A step of the rows that need eleven gradients takes 2.7 to 5 times the core-seconds of a weighted sum's.
        Row(
            "static_longer", "Static weights, four times the epochs", "static", follows="static", control=True, epochs=4
        ),
    ]
    # The first search, over 1e-3 to 1e-1, found a rate at its lower edge and none of use above 0.02.
    return Table("qm9", base, rows, margin=2.0, rate=(5e-4, 5e-2), groups=source.GROUPS)


register_table("qm9", table)
