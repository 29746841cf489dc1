"""NYUv2 as MTAN released it: indoor images of 288 x 384, 13 classes, depth in metres, surface normals.

Silberman et al. (ECCV 2012), processed by Liu et al. (MTAN, CVPR 2019). RotoGrad, Recon and SAM-GS use these files. The
user brings them, see `python -m mtl_core.data status`, to

    ROOT/nyuv2/{train,val}/{image,label,depth,normal}/0.npy, 1.npy, …
"""

from . import dense
from .files import Root
from .mtan_folders import Layout, load_folders
from .problem import Problem

LAYOUT = Layout(
    name="nyuv2",
    size=(288, 384),
    targets={"label": "label", "depth": "depth", "normal": "normal"},
    classes=13,
    depths=(0, 100),  # a Kinect sees ten metres; a hundred is another unit
    published={"train": 795, "test": 654},
    most=2,
)
COUNTS = {
    "tiny": {"train": 8, "validation": 4, "test": 4},
    "small": {"train": 200, "validation": 100, "test": 100},
    "paper": {"train": 795, "validation": 654, "test": 654},
}
CHECKS = {"nyuv2": LAYOUT.survey()}


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
    """The problem: inputs (N, 3, 288, 384) float32, tasks "semantic", "depth" and "normals" of `dense`, read from disk.

    profile  how many images at most: 8, 200 or all 795 to train on. Every profile reads the user's files.
    seed     changes nothing; what is drawn while training comes from the training's own seed.
    train, test  numbers of images in place of the profile's.
    validation   images that are held out of the train ones, the same for every run. Without it the validation images
                 are test images, as in the papers, which have no third split: then nothing may be selected by them.
    augment  scale, crop and flip train images, see `mtan_folders.scale_crop_flip`.
    over     what metrics of depth and normals are a mean over, see `dense`.

    Errors: ValueError for an option out of range; `DataError` for files that are missing, damaged or not those of the
    manifest that `check` wrote. `source` says whether the set is complete.
    """
    tasks = (dense.segmentation(13), dense.depth(over=over), dense.normals(over=over))
    given = {"train": train, "validation": validation, "test": test}
    return load_folders(LAYOUT, tasks, COUNTS, root, profile, given, augment)
