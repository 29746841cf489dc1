"""Sets that a user brings: values, augmentation, every kind of damage, manifests, status; made-up roots."""

import copy
import hashlib
import io
import json
import pickle
import random
import re
import shutil
import tarfile
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from faults.damage import BYTES, damaged
from made_up_data import ROOTS, mtan_root
from PIL import Image
from scipy.io import loadmat, savemat
from torch import nn
from torch.nn import functional as F
from torch.utils.data import ConcatDataset, DataLoader
from torchvision import datasets

from mtl_core import data
from mtl_core.data import CHECKS, DataError, __main__, catalogue, cifar10, matlab, pascal, pickles, released_composites
from mtl_core.data.held import Held, check, place
from mtl_core.data.mtan_folders import scale_crop_flip
from mtl_core.models import MultiTaskModel
from mtl_core.seeds import torch_generator
from mtl_core.training import Schedule, fit


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A root with every set; tests copy what they change."""
    root = tmp_path_factory.mktemp("root")
    for make in ROOTS.values():
        make(root)
    return root


def copied(made, tmp_path, name):
    folder = CHECKS[name].folder
    shutil.copytree(made / folder, tmp_path / folder)
    return tmp_path / folder


def load(name, root, **options):
    if name == "multi_fashion_and_mnist":
        return data.load("multi_fashion_mnist", root, "paper", released=True, **options)
    return data.load(name, root, "paper", **options)


def refusal(action, *arguments, **options):
    """The sentence of the `DataError` that the call must end in."""
    with pytest.raises(DataError) as error:
        action(*arguments, **options)
    assert "\n" not in str(error.value) and len(str(error.value)) < 900
    return str(error.value)


def partial(name, root):
    return check(name, CHECKS[name], root, partial=True)


# --- values


@pytest.mark.parametrize("name", ["nyuv2", "cityscapes"])
def test_mtan_folders_are_read_as_their_own_loader_reads_them(made, name):
    problem = load(name, made)
    for part, split in (("train", "train"), ("val", "test")):
        streamed = getattr(problem, split)
        for position, number in enumerate(streamed.numbers):
            image, label, *others = streamed[position]
            arrays = {kind: np.load(made / name / part / kind / f"{number}.npy") for kind in ("image", "depth")}
            assert torch.equal(image, torch.from_numpy(np.moveaxis(arrays["image"], -1, 0)))
            folder = "label" if name == "nyuv2" else "label_7"
            expected = np.load(made / name / part / folder / f"{number}.npy")
            assert label.dtype == torch.int64 and torch.equal(label, torch.from_numpy(expected).long())
            assert torch.equal(others[0], torch.from_numpy(np.moveaxis(arrays["depth"], -1, 0)))
            if name == "nyuv2":
                normals = np.load(made / name / part / "normal" / f"{number}.npy")
                assert torch.equal(others[1], torch.from_numpy(np.moveaxis(normals, -1, 0)))
    assert problem.source["synthetic"] is False and problem.source["complete"] is False
    assert [task.outputs for task in problem.tasks] == [13, 1, 3][: len(problem.tasks)] or name == "cityscapes"


def test_other_dtypes_and_orders_of_the_same_numbers_are_read(made, tmp_path):
    folder = copied(made, tmp_path, "cityscapes")
    whole = load("cityscapes", made, augment=False)
    for file in folder.glob("*/*/*.npy"):
        array = np.load(file)
        kind = ">i2" if file.parent.name == "label_7" else ">f8"
        np.save(file, np.asfortranarray(array).astype(kind))
    other = load("cityscapes", tmp_path, augment=False)
    for one, two in zip(whole.train, other.train, strict=True):
        assert all(map(torch.equal, one, two))


def test_held_out_images_are_train_images_and_are_not_trained_on(tmp_path):
    mtan_root(tmp_path, "cityscapes", images=5)
    problem = load("cityscapes", tmp_path, validation=2)
    numbers = [*map(int, problem.train.numbers), *map(int, problem.validation.numbers)]
    assert sorted(numbers) == [0, 1, 2, 3, 4] and len(problem.validation) == 2
    assert problem.source["validation"] == "train images, held out"
    assert problem.train.augment is not None and problem.validation.augment is None
    with pytest.raises(DataError, match="7 images"):
        load("cityscapes", tmp_path, validation=2, train=5)


def test_a_root_may_be_the_folder_itself(made):
    assert load("nyuv2", made / "nyuv2").source["files_sha256"] == load("nyuv2", made).source["files_sha256"]


def test_pascal_mt_is_read_as_its_own_loader_reads_it(made):
    held = Held("pascal", made / "PASCAL_MT")
    image, classes, parts, salient, normals = pascal.example(held, "2008_000000")
    assert image.shape == (3, 40, 50) and image.max() > 1
    expected = np.array(Image.open(made / "PASCAL_MT/semseg/VOC12/2008_000000.png")).astype(int)
    assert (classes[0] == -1).all() and np.array_equal(classes[1:], expected[1:])
    assert (parts[5:7, :10] == 1).all() and (parts[2:5, :10] == 4).all() and parts[7:].sum() == 0  # head, lower arm
    assert torch.equal(
        salient, torch.from_numpy(np.array(Image.open(made / "PASCAL_MT/sal_distill/2008_000000.png")) > 127)
    )
    assert (normals[:, :, 25:] == 0).all() and (normals[:, :, :25].norm(dim=0) - 1).abs().max() < 0.02
    assert (pascal.example(held, "2008_000001")[2] == -1).all()  # a dog's parts are none


def test_pascals_images_are_padded_with_what_has_no_label(made):
    problem = load("pascal", made, size=64)
    image, classes, parts, salient, normals = problem.test[0]
    assert image.shape == (3, 64, 64) and -1 <= image.min() <= image.max() <= 1
    for labels in (classes, parts, salient):
        assert labels.shape == (64, 64) and (labels[0] == -1).all()
    assert (normals[:, 0] == 0).all() and (image[:, 0] == 0).all()
    inputs, targets = next(problem.train.batches(3, torch_generator(0, "batch order")))
    assert inputs.shape == (3, 3, 64, 64) and [t.shape[0] for t in targets] == [3] * 4
    predictions = [torch.randn(3, task.outputs, 64, 64, generator=torch_generator(0, "null")) for task in problem.tasks]
    for task, predicted, target in zip(problem.tasks, predictions, targets, strict=True):
        assert task.loss(predicted, target).isfinite()
        for make in task.metrics.values():
            metric = make()
            metric.update(predicted, target)
            assert metric.compute().isfinite()


def test_class_balanced_cross_entropy_is_the_published_one():
    generator = torch_generator(0, "null")
    logits, targets = torch.randn(2, 1, 4, 5, generator=generator), torch.randint(-1, 2, (2, 4, 5), generator=generator)
    answers, found = targets[targets >= 0].float(), logits[:, 0][targets >= 0]
    share = 1 - answers.mean()
    factor = 1 / (1 - share)
    published = F.binary_cross_entropy_with_logits(found, answers, pos_weight=share * factor) / factor
    torch.testing.assert_close(pascal.saliency().loss(logits, targets), published)


def test_faces_from_a_folder_and_from_an_archive(made, tmp_path):
    held = partial("celeba", made)
    problem = load("celeba", made)
    assert {split: len(getattr(problem, split)) for split in ("train", "validation", "test")} == dict.fromkeys(
        ("train", "validation", "test"), 4
    )
    rows = (made / "celeba/list_attr_celeba.txt").read_text().splitlines()
    for number, (image, *answers) in zip(problem.test.numbers, problem.test, strict=True):
        assert number >= 8 and image.shape == (3, 64, 64)
        words = rows[2 + number].split()
        assert [int(a) for a in answers] == [(int(word) + 1) // 2 for word in words[1:]]
        colour = np.array(Image.open(made / "celeba/img_align_celeba" / words[0]))[0, 0]
        assert (image[:, 30, 30] * 255 - torch.from_numpy(colour)).abs().max() < 2
    assert load("celeba", made, logits=2).train[0][1].dtype == torch.int64
    folder = copied(made, tmp_path, "celeba")
    with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as archive:
        for file in sorted((folder / "img_align_celeba").iterdir()):
            archive.write(file, f"img_align_celeba/{file.name}")
    shutil.rmtree(folder / "img_align_celeba")
    (folder / held.manifest).unlink()
    partial("celeba", tmp_path)
    for one, two in zip(problem.train, load("celeba", tmp_path).train, strict=True):
        assert all(map(torch.equal, one, two))


def test_cifar_as_ten_questions(made, monkeypatch, tmp_path):
    """As torchvision reads it, from the folder and from the archive; its checksums are asked for."""
    folder, manifest = copied(made, tmp_path, "cifar10"), "manifest-cifar10.json"
    (folder / manifest).unlink(missing_ok=True)
    assert "expected MD5 c99cafc15" in refusal(load, "cifar10", tmp_path)
    sums = {path.name: Held("cifar10", folder).read(path.name, 1 << 20) and _md5(path) for path in folder.iterdir()}
    for attribute in ("train_list", "test_list"):
        new = [[file, sums[file]] for file, _ in getattr(datasets.CIFAR10, attribute)]
        monkeypatch.setattr(datasets.CIFAR10, attribute, new)
    monkeypatch.setattr(datasets.CIFAR10, "_load_meta", lambda self: None)
    found = cifar10.read(Held("cifar10", folder))
    for part in ("train", "test"):
        library = datasets.CIFAR10(tmp_path, train=part == "train")
        assert np.array_equal(found[part][0], library.data.transpose(0, 3, 1, 2))
        assert found[part][1].tolist() == library.targets
    with tarfile.open(tmp_path / cifar10.ARCHIVE, "w:gz") as archive:
        archive.add(folder, cifar10.FOLDER)
    shutil.rmtree(folder)
    problem = load("cifar10", tmp_path, train=20, validation=4, test=6)
    assert (
        problem.train.inputs.shape == (20, 3, 32, 32) and torch.stack(problem.test.targets).sum(0).tolist() == [1] * 6
    )
    whole = (tmp_path / cifar10.ARCHIVE).read_bytes()
    (tmp_path / cifar10.ARCHIVE).write_bytes(whole[: len(whole) // 2])
    assert cifar10.ARCHIVE in refusal(load, "cifar10", tmp_path)


def _md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_house_numbers_side_by_side(made):
    partial("svhn", made)
    problem = load("svhn", made)
    left, right, odd, total, _ = problem.train.targets
    assert problem.train.inputs.shape == (18, 3, 32, 64) and set(left.tolist()) <= set(range(10))
    assert torch.equal(odd, (left * right % 2).float())
    torch.testing.assert_close(total * 4.06 + 9, (left + right).float())
    images, labels = data.svhn.read(Held("svhn", made / "svhn"))["train"]
    assert labels[9] == 0 and labels[0] == 1  # class 10 is the digit 0
    for pair, a, b in zip(problem.train.inputs, left, right, strict=True):
        sides = [
            next(n for n, image in enumerate(images) if np.array_equal(image, side)) for side in pair.split(32, dim=2)
        ]
        assert [labels[n] for n in sides] == [a, b]


def test_the_released_composites_are_read_as_stored(made):
    problem = load("multi_fashion_and_mnist", made)
    whole = pickle.loads((made / "multi_fashion_and_mnist" / released_composites.FILE).read_bytes())
    images = {bytes(row.astype(np.float32)): tuple(labels) for row, labels in zip(whole[0], whole[1], strict=True)}
    assert problem.train.inputs.shape == (36, 1, 36, 36) and problem.train.inputs.max() > 1
    for image, *labels in zip(problem.train.inputs, *problem.train.targets, strict=True):
        assert images[bytes(image.numpy())] == tuple(map(int, labels))
    with pytest.raises(ValueError, match="offset"):
        load("multi_fashion_and_mnist", made, offset=4)


# --- augmentation


def test_scale_crop_and_flip_are_the_published_ones(made):
    """Each augmented example is found again among all scales, crops and flips, done here as in MTAN's code."""
    example = load("nyuv2", made).train[0]
    image, label, depth, normal = (value[..., 40:64, :30] for value in example)  # the upper rows have no normals
    augment, order, seen = scale_crop_flip(("label", "depth", "normal")), torch_generator(0, "batch order"), set()
    for _ in range(12):
        state = order.get_state()
        got = augment((image, label, depth, normal), order)
        order.set_state(state)
        assert all(map(torch.equal, got, augment((image, label, depth, normal), order)))
        found = [
            (scale, flip)
            for scale in (1.0, 1.2, 1.5)
            for top in range(24 - int(24 / scale) + 1)
            for left in range(30 - int(30 / scale) + 1)
            for flip in (False, True)
            if all(map(torch.equal, got, _published((image, label, depth, normal), scale, top, left, flip)))
        ]
        assert len(found) >= 1
        seen |= set(found)
    assert {scale for scale, _ in seen} == {1.0, 1.2, 1.5} and {flip for _, flip in seen} == {False, True}


def _published(example, scale, top, left, flip):
    height, width = example[0].shape[-2:]
    image, label, depth, normal = (
        value[..., top : top + int(height / scale), left : left + int(width / scale)] for value in example
    )
    size = (height, width)
    image, normal = (F.interpolate(v[None], size, mode="bilinear", align_corners=True)[0] for v in (image, normal))
    label = F.interpolate(label[None, None].float(), size, mode="nearest")[0, 0].long()
    depth = F.interpolate(depth[None], size, mode="nearest")[0] / scale
    if flip:
        image, label, depth, normal = (value.flip(-1) for value in (image, label, depth, normal))
        normal = torch.stack([-normal[0], normal[1], normal[2]])
    return image, label, depth, normal


def test_pascals_flip_negates_x_and_crops_keep_pixels_together(made):
    example = pascal.example(Held("pascal", made / "PASCAL_MT"), "2008_000000")
    column = torch.arange(50).expand(40, 50)
    marked = (torch.stack([column.float()] * 3), column, column, column, torch.stack([column.float()] * 3) + 1)
    signs, scales, order = set(), set(), torch_generator(0, "batch order")
    for _ in range(30):
        image, classes, parts, salient, normals = pascal.scale_crop_flip(marked, 64, order)
        inside = classes >= 0
        assert torch.equal(classes, parts) and torch.equal(classes, salient)
        assert torch.equal(normals[1][inside], classes[inside] + 1.0) and (normals[1][~inside] == 0).all()
        assert (normals[0].abs() == normals[1]).all()
        signs.add(float(normals[0].sum().sign()))
        scales.add(int(inside.any(1).sum()))
    assert signs == {-1.0, 1.0} and len(scales) >= 4
    assert pascal._finished(pascal.scale_crop_flip(example, 32, order))[0].shape == (3, 32, 32)


# --- damage


def _array(change):
    def damage(path):
        np.save(path, change(np.load(path)), allow_pickle=True)

    return damage


def _put(place, value):
    def change(array):
        array = array.copy()
        array[place] = value
        return array

    return change


def _npz():
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(3))
    return buffer.getvalue()


DAMAGE = {  # case -> (folder, damage, what the sentence says)
    "empty": ("image", lambda path: path.write_bytes(b""), "a file with content in .*found none"),
    "cut": ("image", lambda path: path.write_bytes(path.read_bytes()[:-9]), "bytes after the header"),
    "longer": ("depth", lambda path: path.write_bytes(path.read_bytes() + b"x"), "bytes after the header"),
    "cut in the header": ("depth", lambda path: path.write_bytes(path.read_bytes()[:20]), "ValueError"),
    "text": ("label", lambda path: path.write_text("no array"), "ValueError"),
    "a pickle": ("label", lambda path: path.write_bytes(pickle.dumps(np.zeros(3))), "ValueError"),
    "an open bracket": (
        "label",
        lambda path: path.write_bytes(b"\x93NUMPY\1\0\x0b\0{'descr': (" + bytes(99)),
        "TokenError|ValueError",
    ),
    "many fields": ("depth", _array(lambda a: np.zeros(9, [(f"field {n}", "f4") for n in range(400)])), "shape"),
    "an npz file": ("label", lambda path: path.write_bytes(_npz()), "ValueError"),
    "not there": ("normal", lambda path: path.unlink(), "images 0 to 1.*no such file"),
    "a folder": ("normal", lambda path: (path.unlink(), path.mkdir()), "no such file"),
    "objects": ("label", _array(lambda a: np.full(a.shape, None, dtype=object)), "an array of floats or integers"),
    "bytes for colours": ("image", _array(lambda a: (a * 255).astype(np.uint8)), "an array of floats.*one of uint8"),
    "complex": ("depth", _array(lambda a: a.astype(complex)), "one of complex128"),
    "texts": ("label", _array(lambda a: a.astype("U3")), "one of <U3"),
    "a record": ("depth", _array(lambda a: a.view([("a", "f4")])), "array of floats"),
    "without its channel": ("depth", _array(lambda a: a[..., 0]), r"shape \(288, 384, 1\).*shape \(288, 384\)"),
    "channels first": ("image", _array(lambda a: np.moveaxis(a, -1, 0)), r"found shape \(3, 288, 384\)"),
    "a class too many": ("label", _array(_put((5, 6), 13)), r"classes 0 to 12, or -1.*13.0 at \(5, 6\) and 0 more"),
    "a class too few": ("label", _array(_put((5, 6), -2)), r"-2.0 at \(5, 6\)"),
    "half a class": ("label", _array(_put((5, 6), 1.5)), "1.5 at"),
    "NaN for a class": ("label", _array(_put((5, 6), np.nan)), "nan at"),
    "255 for void": ("label", _array(lambda a: np.where(a < 0, 255, a).astype(np.uint8)), "255 at"),
    "NaN depth": ("depth", _array(_put((5, 6, 0), np.nan)), r"depths from 0 to 100.*nan at \(5, 6, 0\)"),
    "infinite depth": ("depth", _array(_put((5, 6, 0), np.inf)), "inf at"),
    "negative depth": ("depth", _array(_put((5, 6, 0), -1)), "-1.0 at"),
    "millimetres": ("depth", _array(lambda a: a * 1000 + 1000), "depths from 0 to 100"),
    "NaN colour": ("image", _array(_put((5, 6, 0), np.nan)), "colours from 0 to 255.*nan"),
    "NaN normal": ("normal", _array(_put((200, 6, 0), np.nan)), "unit vectors.*nan"),
    "a long normal": ("normal", _array(_put((200, 6), [1, 1, 0])), r"unit vectors.*1.41\d* at \(200, 6\)"),
    "short normals": ("normal", _array(lambda a: a / 2), "unit vectors"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_named_by_load_and_by_check(made, tmp_path, case):
    folder = copied(made, tmp_path, "nyuv2")
    kind, damage, said = DAMAGE[case]
    (folder / "manifest-nyuv2.json").unlink(missing_ok=True)
    path = folder / "train" / kind / "1.npy"
    damage(path)
    for action in (lambda: load("nyuv2", tmp_path), lambda: partial("nyuv2", tmp_path)):
        message = refusal(action)
        assert str(path) in message and "data set nyuv2" in message and "mtl_core.data status" in message
        assert re.search(said, message)


def test_an_array_that_claims_a_huge_shape_reserves_nothing(made, tmp_path):
    folder = copied(made, tmp_path, "nyuv2")
    (folder / "manifest-nyuv2.json").unlink(missing_ok=True)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 3)})
    (folder / "val/image/0.npy").write_bytes(header.getvalue() + b"x")
    tracemalloc.start()
    assert "shape (1099511627776, 3)" in refusal(load, "nyuv2", tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 60 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("name", ROOTS)
def test_any_damaged_byte_is_refused_by_name_once_a_manifest_is_there(made, tmp_path, name):
    folder = copied(made, tmp_path, name)
    held = partial(name, tmp_path)
    draw, files = random.Random(name), sorted(held.sums)
    for way in BYTES:
        file = draw.choice(files)
        before = (folder / file).read_bytes()
        after = damaged(before, draw, way)
        (folder / file).write_bytes(after)
        if after != before:
            assert str(folder / file) in refusal(partial, name, tmp_path)
        (folder / file).write_bytes(before)
    partial(name, tmp_path)


@pytest.mark.parametrize("name", ROOTS)
def test_any_damaged_byte_is_refused_or_read_without_one(made, tmp_path, name):
    folder = copied(made, tmp_path, name)
    manifest, draw = folder / f"manifest-{name}.json", random.Random(name)
    manifest.unlink(missing_ok=True)
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    for n in range(10):
        file = draw.choice(files)
        before = file.read_bytes()
        file.write_bytes(damaged(before, draw, BYTES[n % len(BYTES)]))
        try:
            partial(name, tmp_path)
        except DataError as error:
            assert str(folder) in str(error) and "\n" not in str(error)
        manifest.unlink(missing_ok=True)
        file.write_bytes(before)


PASCAL = {
    "a path for a name": ("ImageSets/Context/train.txt", b"../../../etc/passwd\n", "lines such as"),
    "a name twice": ("ImageSets/Context/train.txt", b"2008_000000\n2008_000000\n", "one twice"),
    "no name": ("ImageSets/Context/val.txt", b"\n", "no image"),
    "an image in both lists": (
        "ImageSets/Context/val.txt",
        b"2008_000000\n",
        "not in train.txt in .*found 2008_000000",
    ),
    "no MATLAB file": ("human_parts/2008_000001.mat", b"x" * 200, "MATLAB file of version 5"),
    "another image": ("sal_distill/2008_000001.png", None, "44 pixels|46 pixels|43 x 46"),
}


@pytest.mark.parametrize("case", PASCAL)
def test_damage_of_pascal_mt_is_named(made, tmp_path, case):
    folder = copied(made, tmp_path, "pascal")
    (folder / "manifest-pascal.json").unlink(missing_ok=True)
    file, content, said = PASCAL[case]
    (folder / file).write_bytes(content or (folder / "sal_distill/2008_000000.png").read_bytes())
    message = refusal(load, "pascal", tmp_path)
    assert file in message and re.search(said, message)
    (folder / file).unlink()
    assert file in refusal(load, "pascal", tmp_path)


def test_masks_of_parts_that_are_no_numbers_and_sizes_that_are_none_are_refused(made, tmp_path):
    file = copied(made, tmp_path, "pascal") / "human_parts/2008_000000.mat"
    (file.parents[1] / "manifest-pascal.json").unlink(missing_ok=True)
    for mask in (np.full((40, 50), np.nan), np.full((40, 50), "a", dtype=object)):
        found = loadmat(file)
        found["anno"][0][0][1][0][0][3][0][0][1] = mask
        savemat(file, {"anno": found["anno"]})
        assert "a mask of" in refusal(load, "pascal", tmp_path)
    for size in (0, 1.5):
        with pytest.raises(ValueError, match="size is a number of pixels"):
            load("pascal", made, size=size)


# --- hostile files


def _saved(array):
    buffer = io.BytesIO()
    savemat(buffer, {"X": array}, do_compression=True)
    return buffer.getvalue()


def test_a_matlab_bomb_is_refused_before_it_fills_the_memory(tmp_path):
    bomb, held = _saved(np.zeros(40 << 20, dtype=np.uint8)), Held("svhn", tmp_path)
    tracemalloc.start()
    assert "more than 1,000,000 bytes" in refusal(matlab.arrays, held, "train_32x32.mat", bomb, 1_000_000)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    assert np.array_equal(matlab.arrays(held, "a", _saved(np.arange(9)), 1_000_000)["X"], np.arange(9)[None])


def _element(kind, content):
    return kind.to_bytes(4, "little") + len(content).to_bytes(4, "little") + content + bytes(-len(content) % 8)


def _matrix(kind, side, content):
    flags, sides = kind.to_bytes(8, "little"), (1).to_bytes(4, "little") + side.to_bytes(4, "little")
    return _element(14, _element(6, flags) + _element(5, sides) + _element(1, b"X") + content)


def test_a_matlab_file_that_claims_too_much_or_nests_too_deep_is_refused(tmp_path):
    """scipy reserves what a text without bytes claims, and ends the process where cells lie some thousands deep."""
    held, header, deep = Held("svhn", tmp_path), b"MATLAB".ljust(124) + b"\0\1IM", _matrix(4, 1, _element(1, b"a"))
    for _ in range(30):
        deep = _matrix(1, 1, deep)
    claims = _matrix(4, 100_000_000, _element(1, b""))
    packed = zlib.compress(claims)
    packed = (15).to_bytes(4, "little") + len(packed).to_bytes(4, "little") + packed
    for content, said in (
        (claims, "claims 100,000,000"),
        (packed, "claims 100,000,000"),
        (deep, "more than 20 arrays"),
    ):
        assert said in refusal(matlab.arrays, held, "train_32x32.mat", header + content, 1_000_000)


def test_an_image_bomb_is_refused_before_it_is_decoded(made, tmp_path):
    folder = copied(made, tmp_path, "pascal")
    (folder / "manifest-pascal.json").unlink(missing_ok=True)

    def chunk(kind, content):
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    for side in (10_000, 60_000):
        header = side.to_bytes(4, "big") * 2 + b"\x08\0\0\0\0"
        bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
        (folder / "sal_distill/2008_000000.png").write_bytes(bomb + chunk(b"IEND", b""))
        assert "sal_distill/2008_000000.png" in refusal(load, "pascal", tmp_path)


@pytest.mark.parametrize("kind", ["bomb", "elsewhere", "cut", "empty"])
def test_a_hostile_archive_of_faces_is_refused_and_writes_nothing(made, tmp_path, kind):
    folder = copied(made, tmp_path, "celeba")
    (folder / "manifest-celeba.json").unlink(missing_ok=True)
    images = {f"img_align_celeba/{file.name}": file.read_bytes() for file in (folder / "img_align_celeba").iterdir()}
    shutil.rmtree(folder / "img_align_celeba")
    if kind == "bomb":
        images["img_align_celeba/000001.jpg"] = bytes(30 << 20)
    if kind == "elsewhere":
        images = {f"../../{name}": content for name, content in images.items()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in images.items():
            archive.writestr(name, content)
    content = {"cut": buffer.getvalue()[:-30], "empty": b""}.get(kind, buffer.getvalue())
    (folder / "img_align_celeba.zip").write_bytes(content)
    before = sorted(tmp_path.rglob("*"))
    assert "img_align_celeba.zip" in refusal(partial, "celeba", tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


class _Calls:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


HOSTILE = {
    "empty": b"",
    "cut": pickle.dumps([np.arange(9.0)] * 4)[:-20],
    "a call": pickle.dumps(_Calls(print, "executed")),
    "os.system": b"cos\nsystem\n(S'touch executed'\ntR.",
    "eval by another way": b"(S'1+1'\nibuiltins\neval\n.",
    "getattr": b"cbuiltins\ngetattr\n(cnumpy\nndarray\nS'dump'\ntR.",
    "a class of numpy's": pickle.dumps(np.random.default_rng(0)),
    "objects": pickle.dumps(np.array([{}, None], dtype=object)),
    "a record": pickle.dumps(np.zeros(3, dtype=[("a", "f8")])),
    "a subclass": pickle.dumps(np.matrix([[1.0]])),
    "a dtype": pickle.dumps(np.dtype("f8")),
    "a place that reserves memory": b"\x80\x04K\x01r\xff\xff\xff\xff.",
    "bytes that reserve memory": b"\x80\x05\x96" + (1 << 50).to_bytes(8, "little") + b"abc.",
    "a long frame": b"\x80\x04\x95" + (1 << 60).to_bytes(8, "little") + b"K\x01.",
    "an array of a claimed size": b"\x80\x02cnumpy\ndtype\n(U\x02f8tR.",
    "stand-ins changed": b"\x80\x02cnumpy\nndarray\n}U\x04fillK\x01sb.",
    "a stand-in called": b"\x80\x02cnumpy\nndarray\n)R.",
    "nested": b"(" * 50_000 + b"t" * 50_000 + b".",
    "a persistent thing": b"Pabc\n.",
    "a number of many digits": b"I" + b"9" * 100_000 + b"\n.",
    "another format": b"PK\3\4" + bytes(99),
    "a key that takes forever": b"\x80\x04}K\x01" + b"2\x86" * 60 + b"K\x01s.",
    "keys that take forever": b"\x80\x04}(K\x01" + b"2\x86" * 60 + b"K\x01u.",
    "a dict that takes forever": b"\x80\x04(K\x01" + b"2\x86" * 60 + b"K\x01d.",
    "a set that takes forever": b"\x80\x04(K\x01" + b"2\x86" * 60 + b"\x91.",
    "a code that takes forever": b"\x80\x04cnumpy\ndtype\nK\x01" + b"2\x86" * 60 + b"\x85R.",
    "one text again and again": b"\x80\x02]X\x40\x42\x0f\0"
    + b"a" * 1_000_000
    + b"q\x010("
    + b"c_codecs\nencode\nh\x01\x85R" * 400
    + b"e.",
    "a name of several lines": b"\x80\x04X\x05\0\0\0a\nb\x1b[X\x03\0\0\0x\ny\x93.",
    "a long name": b"c" + b"m" * 100_000 + b"\nname\n.",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_pickle_ends_in_one_kind_of_error(tmp_path, monkeypatch, capsys, case):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "multi_fashion_and_mnist" / released_composites.FILE
    file.parent.mkdir()
    file.write_bytes(HOSTILE[case])
    tracemalloc.start()
    assert str(file) in refusal(load, "multi_fashion_and_mnist", tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 60 << 20
    tracemalloc.stop()
    assert not (tmp_path / "executed").exists() and capsys.readouterr().out == ""
    assert np.array_equal(pickles.read(pickle.dumps(np.arange(3))), np.arange(3))  # nothing of it stays


def test_a_pickle_has_so_many_instructions(monkeypatch):
    monkeypatch.setattr(pickles, "MOST_READS", 1000)
    with pytest.raises(ValueError, match="more than 1,000 instructions"):
        pickles.read(b"]" * 2000 + b".")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_every_protocol_are_read(protocol):
    arrays = [
        *(np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3))),
        *(np.arange(3, dtype=np.uint8), np.zeros((0, 4), dtype=np.float16), np.array([True, False])),
    ]
    for one, two in zip(arrays, pickles.read(pickle.dumps(tuple(arrays), protocol)), strict=True):
        np.testing.assert_array_equal(one, two, strict=True)
    assert pickles.read(pickle.dumps({"data": arrays[2], "labels": [1, 2]}, protocol))["labels"] == [1, 2]


RELEASED = {
    "three arrays": lambda found: found[:3],
    "another shape": lambda found: [found[0][:, :-1], *found[1:]],
    "fewer labels": lambda found: [found[0], found[1][:-1], *found[2:]],
    "a class too many": lambda found: [found[0], found[1] + 1, *found[2:]],
    "NaN": lambda found: [found[0] * np.nan, *found[1:]],
    "texts": lambda found: ["a", "b", "c", "d"],
}


@pytest.mark.parametrize("case", RELEASED)
def test_other_arrays_in_the_released_file_are_refused(made, tmp_path, case):
    folder = copied(made, tmp_path, "multi_fashion_and_mnist")
    (folder / "manifest-multi_fashion_and_mnist.json").unlink(missing_ok=True)
    file = folder / released_composites.FILE
    file.write_bytes(pickle.dumps(RELEASED[case](pickle.loads(file.read_bytes()))))
    assert str(file) in refusal(load, "multi_fashion_and_mnist", tmp_path)


def test_files_that_a_system_leaves_are_passed_over_and_others_named(made, tmp_path):
    folder = copied(made, tmp_path, "cityscapes")
    (folder / "manifest-cityscapes.json").unlink(missing_ok=True)
    for name in (".DS_Store", "._0.npy", "Thumbs.db"):
        (folder / "train/image" / name).write_bytes(b"x")
    assert len(load("cityscapes", tmp_path).train) == 2
    (folder / "train/image/copy of 0.npy").write_bytes(b"x")
    assert "train/image/copy of 0.npy, found this one: take it away" in refusal(load, "cityscapes", tmp_path)


def test_a_folder_that_may_not_be_read_is_named(made, tmp_path, monkeypatch):
    copied(made, tmp_path, "cityscapes")
    for method, part in (("is_file", "manifest"), ("is_dir", "cityscapes"), ("glob", "train")):
        whole = getattr(Path, method)

        def refuse(path, *arguments, whole=whole, part=part):
            if part in str(path) and str(tmp_path) in str(path):
                raise PermissionError(13, "Permission denied", str(path))
            return whole(path, *arguments)

        with monkeypatch.context() as patched:
            patched.setattr(Path, method, refuse)
            assert "Permission denied" in refusal(load, "cityscapes", tmp_path)
            states = {entry["name"]: entry["state"] for entry in catalogue.status(tmp_path, data.FILES, CHECKS)}
            assert method == "glob" or "not usable" in states["cityscapes"]


def test_other_contents_of_a_batch_are_refused(made, tmp_path):
    folder = copied(made, tmp_path, "cifar10")
    (folder / "manifest-cifar10.json").unlink(missing_ok=True)
    for pixels in ("x", [1, 2], 3):
        (folder / "data_batch_1").write_bytes(pickle.dumps({"data": pixels, "labels": [1]}, 2))
        assert "data_batch_1, found ValueError: pixels are a" in refusal(partial, "cifar10", tmp_path)


def test_released_composites_of_another_byte_order_are_read(made, tmp_path):
    file = copied(made, tmp_path, "multi_fashion_and_mnist") / released_composites.FILE
    (file.parent / "manifest-multi_fashion_and_mnist.json").unlink(missing_ok=True)
    file.write_bytes(
        pickle.dumps([array.astype(array.dtype.newbyteorder(">")) for array in pickle.loads(file.read_bytes())])
    )
    one, two = (load("multi_fashion_and_mnist", root).train for root in (made, tmp_path))
    assert torch.equal(one.inputs, two.inputs) and all(map(torch.equal, one.targets, two.targets))


def test_a_number_too_large_among_attributes_is_refused(made, tmp_path):
    file = copied(made, tmp_path, "celeba") / "list_attr_celeba.txt"
    (file.parent / "manifest-celeba.json").unlink(missing_ok=True)
    file.write_text(file.read_text().replace(" -1 ", f" {'9' * 30} ", 1))
    assert str(file) in refusal(partial, "celeba", tmp_path)


def test_an_archive_of_faces_is_read_by_several_processes_and_refused_where_lzma_is_damaged(made, tmp_path):
    folder = copied(made, tmp_path, "celeba")
    (folder / "manifest-celeba.json").unlink(missing_ok=True)
    file = folder / "img_align_celeba.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as archive:
        for image in sorted((folder / "img_align_celeba").iterdir()):
            archive.write(image, f"img_align_celeba/{image.name}")
    shutil.rmtree(folder / "img_align_celeba")
    partial("celeba", tmp_path)
    streamed = load("celeba", tmp_path).train
    whole = [streamed[n][0] for n in range(4)]
    many = ConcatDataset([streamed] * 50)
    for n, example in enumerate(DataLoader(many, batch_size=None, num_workers=2, multiprocessing_context="fork")):
        assert torch.equal(example[0], whole[n % 4])
    content = bytearray(file.read_bytes())
    content[80:100] = bytes(20)
    file.write_bytes(content)
    (folder / "manifest-celeba.json").unlink()
    assert str(file) in refusal(partial, "celeba", tmp_path)


# --- manifests, status, check


def test_later_loads_are_held_to_the_manifest(made, tmp_path):
    folder = copied(made, tmp_path, "cityscapes")
    (folder / "manifest-cityscapes.json").unlink(missing_ok=True)
    assert "expected 2,975 train, 500 test examples" in refusal(check, "cityscapes", CHECKS["cityscapes"], tmp_path)
    assert not (folder / "manifest-cityscapes.json").exists()
    held = partial("cityscapes", tmp_path)
    content = json.loads((folder / held.manifest).read_text())
    assert content["complete"] is False and content["files"] == held.sums and len(held.sums) == 12
    assert load("cityscapes", tmp_path).source["checked"] is True
    file = folder / "train/depth/1.npy"
    before, array = file.read_bytes(), np.load(file)
    array[3, 4] += 0.25  # a right value, but another one
    np.save(file, array)
    for action in (lambda: load("cityscapes", tmp_path), lambda: partial("cityscapes", tmp_path)):
        message = refusal(action)
        assert (
            str(file) in message and held.sums["train/depth/1.npy"] in message and "if the change is meant" in message
        )
    file.write_bytes(before)
    for kind in ("image", "label_7", "depth"):  # a whole image more, and a whole image less
        shutil.copy(folder / f"val/{kind}/1.npy", folder / f"val/{kind}/2.npy")
    assert "that manifest-cityscapes.json lists" in refusal(load, "cityscapes", tmp_path)
    for kind in ("image", "label_7", "depth"):
        (folder / f"val/{kind}/2.npy").unlink()
        (folder / f"val/{kind}/1.npy").unlink()
    assert "no such file" in refusal(load, "cityscapes", tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"files": 3}',
        '{"data_set": "nyuv2", "files": {}, "complete": 1}',
        "\0",
        '{"data_set": "cityscapes", "complete": false, "files": {"' + "a" * 5000 + '": "x"}}',
        '{"data_set": "cityscapes\\n' + "z" * 5000 + '", "complete": false, "files": {}}',
    ],
)
def test_a_damaged_manifest_is_named(made, tmp_path, content):
    folder = copied(made, tmp_path, "cityscapes")
    (folder / "manifest-cityscapes.json").write_text(content)
    message = refusal(load, "cityscapes", tmp_path)
    assert "manifest-cityscapes.json" in message and "run `python -m mtl_core.data check cityscapes` again" in message


def test_check_and_status_on_the_command_line(made, tmp_path, capsys):
    copied(made, tmp_path, "nyuv2")
    (tmp_path / "nyuv2/manifest-nyuv2.json").unlink(missing_ok=True)
    root = ["--root", str(tmp_path)]
    assert __main__.main(["status", *root]) == 0
    out = capsys.readouterr().out
    assert "present, not verified: run `python -m mtl_core.data check nyuv2`" in out
    assert __main__.main(["check", "nyuv2", *root]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert __main__.main(["check", "nyuv2", "--partial", *root]) == 0
    assert "nyuv2: a part of the set, 16 files right; later loads are held to" in capsys.readouterr().out
    assert __main__.main(["check", "nyuv2", *root]) == 0  # held to the manifest that is there
    assert __main__.main(["check", "mnist", *root]) == 1
    assert "fetch mnist" in capsys.readouterr().err
    assert __main__.main(["status", *root]) == 0
    out = capsys.readouterr().out
    for name, entry in catalogue.CATALOGUE.items():
        assert f"{name}: {entry.title}" in out and f"licence: {entry.licence}; size: {entry.size}" in out
    assert "present, verified: a part of the set, 16 files held to manifest-nyuv2.json" in out
    assert out.count("\n  where: ") == out.count("\n  get it: ") == len(catalogue.CATALOGUE)
    (tmp_path / "nyuv2/manifest-nyuv2.json").write_text("x")
    assert __main__.main(["status", *root]) == 0
    assert "present, not usable: data set nyuv2" in capsys.readouterr().out


def test_every_set_that_can_be_fetched_or_brought_is_in_the_catalogue():
    assert {*data.FILES, *CHECKS, *catalogue.PACKAGES} == set(catalogue.CATALOGUE)
    assert set(ROOTS) == set(CHECKS)
    for name, survey in CHECKS.items():
        assert "profile" not in refusal(check, name, survey, "/nonexistent")
        assert place("/nonexistent", survey).parent.name == "nonexistent"


# --- training


def small_network(tasks):
    trunk = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    return MultiTaskModel(trunk, [nn.Conv2d(4, task.outputs, 1) for task in tasks])


def test_a_training_goes_on_where_it_was_with_the_same_images(tmp_path):
    mtan_root(tmp_path, "cityscapes", images=4)
    problem = load("cityscapes", tmp_path)
    states = []

    def run(epochs, start=None, after=None):
        torch.manual_seed(0)
        model = small_network(problem.tasks)
        history = fit(model, problem, "equal", Schedule(epochs=epochs, batch_size=2), start=start, after_epoch=after)
        return history, model.state_dict()

    whole, weights = run(2, after=lambda loop: states.append(copy.deepcopy(loop.state())))
    again, others = run(2, start=states[0])
    assert whole.steps == 4 and [e["train_loss"] for e in whole.epochs] == [e["train_loss"] for e in again.epochs]
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    with pytest.raises(ValueError, match="a batch of 8 needs as many examples; there are 4"):
        next(problem.train.batches(8, torch_generator(0, "batch order")))
