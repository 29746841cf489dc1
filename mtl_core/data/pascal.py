"""PASCAL-Context for several tasks: PASCAL_MT as ASTMT released it (Maninis et al., CVPR 2019).

Recon uses it with the augmentation of BMTAS (Bruggemann et al., BMVC 2020) and four tasks: 21 classes, seven human
parts, saliency and normals, of which the last two were distilled from networks. The user brings the files, see
`python -m mtl_core.data status`, to

    ROOT/PASCAL_MT/{ImageSets/Context,JPEGImages,semseg/VOC12,semseg/pascal-context,human_parts,normals_distill,
                    sal_distill,pascal-context/trainval}

No copy could be had when this was written: names and axes are those of the loaders in the published code.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import torch
from torch import Generator
from torch.nn import functional as F

from ..seeds import numpy_generator
from . import decoded, dense
from .cifar10 import source
from .files import Root
from .held import Held, Survey, place
from .matlab import arrays
from .pascal_tasks import NORMAL_CLASSES, PARTS, angles_l1, saliency
from .problem import Problem
from .profiles import sizes
from .streamed import Example, Streamed

SIZE, PERSON = 512, 15
LISTS = {"train": "train", "test": "val"}
PUBLISHED = {"train": 4_998, "test": 5_105}
SCALES = tuple(0.5 + 0.25 * step for step in range(7))
COUNTS = {
    "tiny": {"train": 8, "validation": 4, "test": 4},
    "small": {"train": 200, "validation": 100, "test": 100},
    "paper": {"train": 4_998, "validation": 5_105, "test": 5_105},
}


def load(
    root: Root = None,
    profile: str = "tiny",
    seed: int = 0,
    *,
    train: int | None = None,
    validation: int | None = None,
    test: int | None = None,
    size: int = SIZE,
    augment: bool = True,
) -> Problem:
    """The problem: inputs (N, 3, 512, 512) float32 in [-1, 1]; tasks "semantic", "parts", "saliency", "normals".

    profile  how many images at most: 8, 200 or all 4,998 to train on. Every profile reads the user's files.
    seed     changes nothing; what is drawn while training comes from the training's own seed.
    train, test  numbers of images in place of the profile's.
    validation   images that are held out of the train ones. Without it the validation images are test images, as in the
                 paper: then nothing may be selected by them.
    size     pixels of a train crop; test images are padded to it and must fit.
    augment  scale by 0.5 to 2 in steps of 0.25, crop, flip (normals' x negated).

    Targets are those of `dense`; saliency (H, W) int64, 0 or 1. Padding has no label; an image without human parts has
    no label of parts at all. Errors: ValueError for an option out of range; `DataError` for files that are missing,
    damaged or not those of the manifest that `check` wrote.
    """
    largest = {"train": PUBLISHED["train"], "validation": PUBLISHED["test"], "test": PUBLISHED["test"]}
    given = {"train": train, "validation": validation, "test": test}
    chosen = sizes(COUNTS, profile, given, "images", largest)
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"size is a number of pixels, at least 1, got {size!r}")
    held = Held("pascal", place(root, CHECKS["pascal"]))
    names = both(held)
    there, own = {split: len(of) for split, of in names.items()}, validation or 0
    for split, number in (("train", own + (train or 1)), ("test", test or 1)):
        if number > there[split]:
            raise held.error(f"ImageSets/Context/{LISTS[split]}.txt", f"{number} images", f"{there[split]}")
    order = {
        split: numpy_generator(0, "split", f"pascal {split}").permutation(sorted(of)) for split, of in names.items()
    }
    test_names = order["test"][: chosen["test"]]
    parts = {
        "train": order["train"][own:][: chosen["train"]],
        "validation": order["train"][:own] if own else test_names[: chosen["validation"]],
        "test": test_names,
    }
    for name in {str(name) for of in parts.values() for name in of}:  # judged now, not in the middle of a training
        example(held, name)

    def read_whole(name: str) -> Example:
        return example(held, str(name))

    def read_padded(name: str) -> Example:
        return _finished(_padded(read_whole(name), size))

    made = {part: Streamed(of, read_padded) for part, of in parts.items()}
    if augment:
        made["train"] = Streamed(
            parts["train"], read_whole, lambda one, order: _finished(scale_crop_flip(one, size, order))
        )
    return Problem(
        (dense.segmentation(21), dense.segmentation(7, "parts"), saliency(), replace(dense.normals(), loss=angles_l1)),
        **made,
        source=source(held, "pascal", profile, parts)
        | {
            "origin": "PASCAL_MT, files that the user brought",
            "complete": there == PUBLISHED,
            "checked": held.expected is not None,
            "validation": "train images, held out" if own else "test images, as in the paper: select nothing by them",
            "note": "Labels of saliency and normals were distilled from networks by those who released the set.",
        },
    )


def both(held: Held) -> dict[str, list[str]]:
    """The `identifiers` of each split. `DataError` where an image is in both."""
    names = {split: identifiers(held, split) for split in LISTS}
    if shared := sorted(set(names["train"]) & set(names["test"])):
        raise held.error("ImageSets/Context/val.txt", "images that are not in train.txt", shared[0])
    return names


def identifiers(held: Held, split: str) -> list[str]:
    """Names of the images of a split. `DataError` where the list is missing or holds anything else."""
    file = f"ImageSets/Context/{LISTS[split]}.txt"
    content = held.read(file, 1 << 20)
    with held.damage(file, "lines such as 2008_000002"):
        names = content.decode().split()
        if wrong := [
            name for name in names if not re.fullmatch(r"[0-9]{4}_[0-9]{6}", name)
        ]:  # no path leads out of the folder
            raise ValueError(f"found {wrong[0]!r}")
        if not names or len(set(names)) != len(names):
            raise ValueError("no image, or one twice")
    return names


def example(held: Held, name: str) -> Example:
    """Image (3, H, W) of 0 to 255, classes (H, W), parts (H, W), saliency (H, W), normals (3, H, W), as on disk."""

    def pixels(file: str, modes: tuple[str, ...], like: np.ndarray | None = None) -> np.ndarray:
        size = (SIZE, SIZE) if like is None else like.shape[:2]
        return decoded.image(held, file, held.read(file, decoded.LARGEST), modes, (size[0], size[1]), like is not None)

    image = pixels(f"JPEGImages/{name}.jpg", ("RGB",))
    folders = [f for f in ("VOC12", "pascal-context") if (held.folder / f"semseg/{f}/{name}.png").is_file()]
    file = f"semseg/{(folders or ['VOC12'])[0]}/{name}.png"
    classes = pixels(file, ("P", "L"), image).astype(np.int64)
    if ((classes > 20) & (classes != 255)).any():
        raise held.error(file, "classes 0 to 20, or 255", f"class {classes[(classes > 20) & (classes != 255)][0]}")
    classes[classes == 255] = dense.VOID
    salient = pixels(f"sal_distill/{name}.png", ("L",), image) / 255 > 0.5
    encoded = pixels(f"normals_distill/{name}.png", ("RGB",), image)
    context = _context(held, name, image.shape[:2])
    normals = 2 * encoded.astype(np.float32) / 255 - 1
    normals[~np.isin(context, NORMAL_CLASSES)] = 0
    lengths = np.linalg.norm(normals, axis=2)
    if (off := (lengths > 0) & (np.abs(lengths - 1) > 0.1)).sum() > 0.05 * (lengths > 0).sum():
        raise held.error(f"normals_distill/{name}.png", "unit vectors", f"one of length {lengths[off][0]:.2f}")
    parts = _parts(held, name, image.shape[:2])
    planes = (torch.from_numpy(array) for array in (classes, parts, salient.astype(np.int64)))
    return torch.from_numpy(image).movedim(2, 0).float(), *planes, torch.from_numpy(normals).movedim(2, 0)


def _context(held: Held, name: str, size: tuple[int, ...]) -> np.ndarray:
    file = f"pascal-context/trainval/{name}.mat"
    found = arrays(held, file, held.read(file, 1 << 24), 1 << 24)
    with held.damage(file, "an array LabelMap of the image's size"):
        if found["LabelMap"].shape != size or found["LabelMap"].dtype.kind not in "iu":
            raise ValueError(f"found {found['LabelMap'].dtype} {found['LabelMap'].shape}, expected integers {size}")
        return found["LabelMap"]


def _parts(held: Held, name: str, size: tuple[int, ...]) -> np.ndarray:
    """(H, W) int64: parts 1 to 6 of persons and 0 elsewhere; all -1 where the image shows none."""
    file = f"human_parts/{name}.mat"
    found, made = arrays(held, file, held.read(file, 1 << 24), 1 << 26), np.zeros(size, dtype=np.int64)
    with held.damage(file, "persons with masks of parts"):
        for _, number, _, parts, *_ in found["anno"][0][0][1][0]:
            if int(number[0][0]) == PERSON and len(parts):
                for label, mask, *_ in parts[0]:
                    if mask.shape != size or mask.dtype.kind not in "biuf" or not (mask >= 0).all():
                        raise ValueError(f"a mask of {mask.dtype} {mask.shape}, expected 0 and 1, {size}")
                    made[mask.astype(bool)] = PARTS[str(label[0])]
    return made if made.any() else np.full(size, dense.VOID)


def scale_crop_flip(one: Example, size: int, order: Generator) -> Example:
    """BMTAS's augmentation: scaled (the image bilinearly, targets to the nearest pixel), padded, cropped, flipped."""

    def draw(count: int) -> int:
        return int(torch.randint(count, (1,), generator=order))

    scale = SCALES[draw(len(SCALES))]
    height, width = (int(side * scale) for side in one[0].shape[-2:])
    scaled = []
    for position, value in enumerate(one):
        planes = value.reshape(1, -1, *value.shape[-2:]).float()
        new = F.interpolate(planes, (height, width), mode="nearest" if position else "bilinear")
        scaled.append(new.reshape(*value.shape[:-2], height, width).to(value.dtype))
    padded = _padded(tuple(scaled), size)
    top, left = (draw(side - size + 1) for side in padded[0].shape[-2:])
    flips = draw(2) == 1
    cropped = [value[..., top : top + size, left : left + size] for value in padded]
    if flips:
        cropped = [value.flip(-1) for value in cropped]
        cropped[-1] = cropped[-1] * torch.tensor([-1.0, 1.0, 1.0])[:, None, None]
    return tuple(cropped)


def _padded(one: Example, size: int) -> Example:
    """At least `size` on both sides, the image in the middle of grey, which has no labels."""
    height, width = (max(size - side, 0) for side in one[0].shape[-2:])
    edges = (width // 2, width - width // 2, height // 2, height - height // 2)
    fills = (127.5, dense.VOID, dense.VOID, dense.VOID, 0.0)
    return tuple(F.pad(value, edges, value=fill) for value, fill in zip(one, fills, strict=True))


def _finished(one: Example) -> Example:
    image, classes, parts, *rest = one
    if not (parts > 0).any():  # a crop that shows no part has no label of parts, as in the published code
        parts = torch.full_like(parts, dense.VOID)
    return 2 * image / 255 - 1, classes, parts, *rest


def _survey(held: Held, progress: Callable[[Iterable], Iterable]) -> dict[str, int]:
    names = both(held)
    for name in progress([name for of in names.values() for name in of]):
        example(held, name)
    return {split: len(of) for split, of in names.items()}


CHECKS = {"pascal": Survey("PASCAL_MT", "ImageSets/Context", _survey, PUBLISHED)}
