"""What published codes do silently around a method, as named fields."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Convention:
    """How a method's output becomes gradients.

    heads  "unit": each head and each task-specific layer gets its own task's raw gradient;
           "weighted": that gradient times the method's weight of the task, where it has weights.
           A loss weighting, whose scalar the heads minimise too, weights them under either.
    scale  "sum": as if the method returned a sum over tasks; "mean": as if it returned a mean (the
           registry's `native_scale` says which it returns by itself); "K times": its own output times
           K, whatever it is; "raw": its own output.
    clip   largest L2 norm of the shared gradient, after scaling, by PyTorch's formula; None for none.
    """

    name: str
    heads: str = "unit"
    scale: str = "sum"
    clip: float | None = None
    source: str = ""

    def __post_init__(self):
        for name, allowed in (("heads", ("unit", "weighted")), ("scale", ("sum", "mean", "K times", "raw"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is one of {', '.join(allowed)}; got {getattr(self, name)!r}")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip is a positive norm or None, got {self.clip}")

    def factor(self, native_scale: str, tasks: int) -> float:
        """What a method's output is multiplied by."""
        if self.scale == "K times":
            return float(tasks)
        if self.scale == "raw" or self.scale == native_scale:
            return 1.0
        return float(tasks) if self.scale == "sum" else 1.0 / tasks

    def clip_factor(self, norm: float) -> float:
        """What an update of this L2 norm is multiplied by: PyTorch's min(1, clip / (norm + 1e-6))."""
        return 1.0 if self.clip is None else min(1.0, self.clip / (norm + 1e-6))


CONVENTIONS = {
    c.name: c
    for c in (
        Convention("plain", source="this book's default"),
        Convention("plain, clipped", clip=1.0, source="plain with the clipping of the SAM-GS code, as a control"),
        Convention("recon", scale="sum", source="github.com/moukamisama/Recon: mean-type updates times K"),
        Convention(
            "samgs",
            scale="K times",
            clip=1.0,
            source="github.com/ThomBors/samgs: any update times K, then clip 1",
        ),
    )
}
