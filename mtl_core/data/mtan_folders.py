"""What NYUv2 and CityScapes share as MTAN released them (Liu et al. 2019): folders of npy files, augmentation, splits.

    {train,val}/{image,label,depth,normal}/0.npy, 1.npy, …

No copy could be had when this was written. Names, axes and augmentation are those of the loaders in the published code
of MTAN, CAGrad and Recon; the ranges that values must lie in are ours, wide enough for what those loaders describe.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from ..seeds import numpy_generator
from ..tasks import Task
from .files import Root
from .held import Held, Survey, place
from .problem import Problem
from .profiles import sizes
from .streamed import Example, Streamed

SCALES = (1.0, 1.2, 1.5)
FOLDERS = {"train": "train", "test": "val"}  # split -> its folder; there is no third one


class Layout(NamedTuple):
    """One release.

    name       of the data set.
    size       (height, width).
    targets    folder -> kind of its arrays: "label", "depth" or "normal", in the order of the tasks.
    classes    of the labels; -1 is void.
    depths     least and largest depth; 0 is missing.
    published  images in each split.
    most       images that the published code evaluates at once, which metrics over "batch" depend on.
    """

    name: str
    size: tuple[int, int]
    targets: Mapping[str, str]
    classes: int
    depths: tuple[float, float]
    published: Mapping[str, int]
    most: int

    def survey(self) -> Survey:
        """How `check` finds and judges the set."""
        return Survey(self.name, "train/image", self.read_all, self.published)

    def read_all(self, held: Held, progress: Callable[[Iterable], Iterable]) -> dict[str, int]:
        """Read and judge every file; the number of images of each split."""
        counts = {split: self.images(held, split) for split in FOLDERS}
        for part, number in progress([(split, n) for split in FOLDERS for n in range(counts[split])]):
            self.example(held, part, number)
        return counts

    def images(self, held: Held, split: str) -> int:
        """How many images a split has. `DataError` where a number is missing in one of the folders."""
        kinds = ("image", *self.targets)
        there = {}
        for kind in kinds:
            folder = f"{FOLDERS[split]}/{kind}"
            with held.damage(folder, "a folder that can be read"):
                files = (held.folder / folder).glob("*.npy")
                there[kind] = {file.name for file in files if file.name[0] != "."}  # macOS writes ._0.npy beside 0.npy
            for other in sorted(name for name in there[kind] if not re.fullmatch(r"(0|[1-9]\d*)\.npy", name)):
                raise held.error(f"{folder}/{other}", "only files named 0.npy, 1.npy, …", "this one: take it away")
        count = max(map(len, there.values()))
        for kind, found in there.items():
            wanted = {f"{number}.npy" for number in range(max(count, 1))}
            for lost in sorted(wanted - found):
                raise held.error(f"{FOLDERS[split]}/{kind}/{lost}", f"images 0 to {max(count, 1) - 1}", "no such file")
        return count

    def example(self, held: Held, split: str, number: int) -> Example:
        """Image (3, H, W) float32 as stored, then the targets, see `dense`. `DataError` about the first wrong file."""
        made = [_image(held, f"{FOLDERS[split]}/image/{number}.npy", self.size)]
        for folder, kind in self.targets.items():
            file = f"{FOLDERS[split]}/{folder}/{number}.npy"
            if kind == "label":
                made.append(_label(held, file, self.size, self.classes))
            elif kind == "depth":
                made.append(_depth(held, file, self.size, self.depths))
            else:
                made.append(_normal(held, file, self.size))
        return tuple(made)


def _first(held: Held, file: str, wrong: np.ndarray, values: np.ndarray, expected: str) -> None:
    """`DataError` about the first value that is `wrong`, with its place."""
    if wrong.any():
        where = tuple(int(axis[0]) for axis in np.nonzero(wrong))
        raise held.error(file, expected, f"{values[where]!s} at {where} and {int(wrong.sum()) - 1} more like it")


def _image(held: Held, file: str, size: tuple[int, int]) -> Tensor:
    values = held.array(file, (*size, 3), "f")
    _first(held, file, ~((values >= 0) & (values <= 255)), values, "colours from 0 to 255")  # NaN is neither
    return _channels_first(values)


def _label(held: Held, file: str, size: tuple[int, int], classes: int) -> Tensor:
    values = held.array(file, size, "fiu")
    with np.errstate(invalid="ignore"):
        wrong = ~((values >= -1) & (values < classes) & (values == np.floor(values)))
    _first(held, file, wrong, values, f"classes 0 to {classes - 1}, or -1")
    return torch.from_numpy(values.astype(np.int64))


def _depth(held: Held, file: str, size: tuple[int, int], depths: tuple[float, float]) -> Tensor:
    values = held.array(file, (*size, 1), "f")
    least, largest = depths
    _first(held, file, ~((values >= least) & (values <= largest)), values, f"depths from {least:g} to {largest:g}")
    return _channels_first(values)


def _normal(held: Held, file: str, size: tuple[int, int]) -> Tensor:
    values = held.array(file, (*size, 3), "f")
    _first(held, file, ~(np.abs(values) <= 1.01), values, "unit vectors, or zero vectors where there is none")
    lengths = np.sqrt((values.astype(np.float64) ** 2).sum(2))
    _first(held, file, lengths > 1.01, lengths, "unit vectors")
    # a resize that averages shortens vectors at edges, but not everywhere
    short = (lengths > 0) & (lengths < 0.9)
    if short.sum() > 0.05 * (lengths > 0).sum():
        _first(held, file, short, lengths, "unit vectors, but for one in twenty at edges")
    return _channels_first(values)


def _channels_first(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(np.moveaxis(values, -1, 0), dtype=np.float32, order="C"))


def scale_crop_flip(targets: Iterable[str]) -> Callable[[Example, Generator], Example]:
    """The published augmentation, for targets of these kinds.

    A scale s of 1, 1.2 or 1.5; a random crop of (H/s, W/s), resized to (H, W): image and normals bilinearly with
    aligned corners, labels and depths to the nearest pixel; depths are divided by s. With probability 1/2 all is
    flipped from left to right, and the x of normals changes its sign. Normals are not made units again, and an
    inverse depth is divided as well, as in the published code.
    """
    kinds = ("image", *targets)

    def augment(example: Example, order: Generator) -> Example:
        height, width = example[0].shape[-2:]
        scale = SCALES[_draw(len(SCALES), order)]
        h, w = int(height / scale), int(width / scale)
        top, left = _draw(height - h + 1, order), _draw(width - w + 1, order)
        flips, made = _draw(2, order) == 1, []
        for kind, value in zip(kinds, example, strict=True):
            part = value[..., top : top + h, left : left + w]
            part = _resized(part, (height, width), kind in ("image", "normal"))
            part = part / scale if kind == "depth" else part
            part = part.flip(-1) if flips else part
            made.append(part * torch.tensor([-1.0, 1.0, 1.0])[:, None, None] if flips and kind == "normal" else part)
        return tuple(made)

    return augment


def _draw(count: int, order: Generator) -> int:
    return int(torch.randint(count, (1,), generator=order))


def _resized(value: Tensor, size: tuple[int, int], smooth: bool) -> Tensor:
    planes = value.reshape(1, -1, *value.shape[-2:]).float()
    new = F.interpolate(planes, size, mode="bilinear", align_corners=True) if smooth else F.interpolate(planes, size)
    return new.reshape(*value.shape[:-2], *size).to(value.dtype)


def load_folders(
    layout: Layout, tasks: tuple[Task, ...], counts: Mapping[str, Mapping[str, int]], root: Root, profile: str,
    given: Mapping[str, int | None], augment: bool,
) -> Problem:  # fmt: skip
    """The problem of a release; see `nyuv2.load`."""
    largest = {"train": layout.published["train"], "validation": layout.published["train"] - 1}
    chosen = sizes(counts, profile, given, "images", {**largest, "test": layout.published["test"]})
    held = Held(layout.name, place(root, layout.survey()))
    there = {split: layout.images(held, split) for split in FOLDERS}
    own = given["validation"] or 0
    for split, number in (("train", own + (given["train"] or 1)), ("test", given["test"] or 1)):
        if number > there[split]:
            raise held.error(FOLDERS[split], f"{number} images", f"{there[split]}")
    order = {
        split: numpy_generator(0, "split", f"{layout.name} {split}").permutation(there[split]) for split in FOLDERS
    }
    numbers = {"train": order["train"][own:][: chosen["train"]], "test": order["test"][: chosen["test"]]}
    parts: dict[str, Any] = {}
    judged = set()
    for name, folder, of in (
        ("train", "train", numbers["train"]),
        (
            "validation",
            "train" if own else "test",
            order["train"][:own] if own else numbers["test"][: chosen["validation"]],
        ),
        ("test", "test", numbers["test"]),
    ):
        for number in {int(number) for number in of if (folder, int(number)) not in judged}:
            layout.example(held, folder, number)  # judged now rather than in the middle of a training
            judged.add((folder, number))

        def read(number: int, folder=folder) -> Example:
            return layout.example(held, folder, int(number))

        changed = scale_crop_flip(layout.targets.values()) if augment and name == "train" else None
        parts[name] = Streamed(of, read, changed, layout.most)
    return Problem(
        tasks,
        **parts,
        source={
            "name": layout.name,
            "profile": profile,
            "origin": "MTAN's release, files that the user brought",
            "synthetic": False,
            "rebuilt": False,
            "complete": there == dict(layout.published),
            "checked": held.expected is not None,
            "files_sha256": held.identity(),
            "counts": {name: len(part) for name, part in parts.items()},
            "validation": "train images, held out" if own else "test images, as in the papers: select nothing by them",
            "augmented": augment,
        },
    )
