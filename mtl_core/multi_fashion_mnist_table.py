"""The rows of Multi-Fashion+MNIST."""

from dataclasses import replace

from mtl_core.protocol import Row, Table, common_rows
from mtl_core.runs import Run


def table(profile: str = "small") -> Table:
    """Two tasks on the rebuilt pictures, ResNet18 of width 8, momentum SGD."""
    schedule = {"epochs": 10, "batch_size": 256, "optimizer": "sgd", "learning_rate": 0.05, "decay": "cosine"}
    options = {"profile": profile}
    if profile == "tiny":
        schedule |= {"epochs": 2, "batch_size": 64}
        options["train"] = 640
    base = Run("multi_fashion_mnist", options, model_options={"width": 8}, schedule=schedule)
    found = {"threshold": ("choice", [-0.15, -0.1, -0.05, 0.0]), "layers": ("choice", [10, 15, 20, 25, 30, 35])}
    rows = common_rows(["digit", "garment"])
    for name in ("equal", "static", "pcgrad", "cagrad", "sam_gs"):
        plain = next(row for row in rows if row.name == name)
        own = plain.space if name == "static" else {}  # S and the number of layers are the two own parameters
        rows.append(
            replace(
                plain,
                name=f"recon_{name}",
                title=f"{plain.title} + Recon",
                split="ranking",
                space=own | found,
                options={"gamma": 0.7, "beta2": 0.99} if name == "sam_gs" else {},
            )
        )
    rows += [
        Row("split_normalisation", "Equal weights, all normalisation layers split", split="normalisation"),
        Row("split_convolutions", "Equal weights, only the ranking's convolutions split", split="convolutions"),
        Row("split_random", "Equal weights, random layers of equal size split", split="random"),
        Row("equal_twice", "Equal weights at equal forward cost (twice the epochs)", epochs=2),
        # A method that needs both tasks' gradients costs less than twice a step of the weighted sum.
        Row("static_twice", "Static weights, twice the epochs", "static", follows="static", control=True, epochs=2),
    ]
    # The search up to 0.5 ended with three rows in its outer tenth: each row got two more draws, up to 2.
    return Table("multi_fashion_mnist", base, rows, margin=0.3, rate=(5e-3, 5e-1), widened=(2.0, 2),
                 thresholds=(-0.15, -0.1, -0.05, 0.0))  # fmt: skip
