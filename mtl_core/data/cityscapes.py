"""CityScapes as MTAN released it: street images of 128 x 256, 7 classes, inverse depth.

Cordts et al. (CVPR 2016), processed by Liu et al. (MTAN, CVPR 2019). Recon and SAM-GS use these files. The user brings
them, see `python -m mtl_core.data status`, to

    ROOT/cityscapes/{train,val}/{image,label_7,depth}/0.npy, 1.npy, …
"""

from . import dense
from .files import Root
from .mtan_folders import Layout, load_folders
from .problem import Problem

LAYOUT = Layout(
    name="cityscapes",
    size=(128, 256),
    targets={"label_7": "label", "depth": "depth"},
    classes=7,
    depths=(-0.01, 10),  # disparities are decoded as (p - 1) / 256, which makes a missing one slightly negative
    published={"train": 2_975, "test": 500},
    most=8,
)
COUNTS = {
    "tiny": {"train": 8, "validation": 4, "test": 4},
    "small": {"train": 400, "validation": 100, "test": 100},
    "paper": {"train": 2_975, "validation": 500, "test": 500},
}
CHECKS = {"cityscapes": LAYOUT.survey()}


def load(
    root: Root = None,
    profile: str = "tiny",
    seed: int = 0,
    *,
    train: int | None = None,
    validation: int | None = None,
    test: int | None = None,
    augment: bool = True,
    over: str = "image",
) -> Problem:
    """The problem: inputs (N, 3, 128, 256) float32, tasks "semantic" and "depth" (inverse) of `dense`, read from disk.

    profile  how many images at most: 8, 400 or all 2,975 to train on.
    The other options, and errors, are those of `nyuv2.load`.
    """
    given = {"train": train, "validation": validation, "test": test}
    return load_folders(LAYOUT, (dense.segmentation(7), dense.depth(over=over)), COUNTS, root, profile, given, augment)
