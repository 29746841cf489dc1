"""Raw files and the mini sets. Small fake sets in the true format stand in for the full ones."""

import gzip
import hashlib
import os
import pickle

import numpy as np
import pytest
import torch
from fake_images import fake_set, idx, md5s, need_full_sets, write_fake_sets

from mtl_core import data
from mtl_core.data import DataError, embedded, files

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A root with fake full sets, and their checksum table in place of the real one."""
    monkeypatch.setattr(files, "CHECKSUMS", write_fake_sets(tmp_path))
    return tmp_path


# reading


def test_reads_what_the_files_hold(fake):
    parts, sums = files.read("mnist", fake)
    raw = fake_set(seed=0)
    assert sums == md5s(raw)
    for part, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = parts[part]
        assert images.dtype == np.uint8 and labels.dtype == np.int64
        assert idx(images) == raw[f"{prefix}-images-idx3-ubyte"]
        assert idx(labels) == raw[f"{prefix}-labels-idx1-ubyte"]


def test_a_packed_file_is_accepted_and_unpacked(fake):
    path = files.raw_folder("mnist", fake) / TRAIN_IMAGES
    whole = path.read_bytes()
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(whole, mtime=1))
    path.unlink()
    files.verify("mnist", fake)
    assert path.read_bytes() == whole


def test_root_is_argument_then_variable_then_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("MTL_DATA", str(tmp_path / "variable"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data.data_root(tmp_path) == tmp_path
    assert data.data_root() == tmp_path / "variable"
    monkeypatch.delenv("MTL_DATA")
    assert data.data_root() == tmp_path / "cache" / "conflicting-gradients"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data.data_root().parts[-2:] == (".cache", "conflicting-gradients")


# every kind of damage: one exception that says what was looked for, where, what was found, what to do


def damage_truncated(path):
    path.write_bytes(path.read_bytes()[:-1])
    return "156815 bytes: truncated", "156816 bytes, as its header says (shape (200, 28, 28))"


def damage_too_long(path):
    path.write_bytes(path.read_bytes() + b"x")
    return "156817 bytes: too long", "156816 bytes"


def damage_one_pixel(path):
    before = hashlib.md5(path.read_bytes()).hexdigest()
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    return f"MD5 {hashlib.md5(path.read_bytes()).hexdigest()}", f"MD5 {before}"


def damage_magic(path):
    path.write_bytes(b"\0\0\x0d\x03" + path.read_bytes()[4:])
    return "0x00000d03, 156816 bytes in all", "idx magic 0x00000803"


def damage_empty(path):
    path.write_bytes(b"")
    return "0x00000000, 0 bytes", "idx magic 0x00000803"


def damage_absent(path):
    path.unlink()
    return f"{TEST_IMAGES}, {TEST_LABELS}, {TRAIN_LABELS}", f"{TRAIN_IMAGES} or {TRAIN_IMAGES}.gz"


def damage_folder(path):
    for file in path.parent.iterdir():
        file.unlink()
    path.parent.rmdir()
    return "no such folder", TRAIN_IMAGES


def damage_packed(path):
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes())[:-20])
    path.unlink()
    return "EOFError", f"gzip data with {TRAIN_IMAGES}"


@pytest.mark.parametrize(
    "damage",
    [
        damage_truncated,
        damage_too_long,
        damage_one_pixel,
        damage_magic,
        damage_empty,
        damage_absent,
        damage_folder,
        damage_packed,
    ],
)
def test_damage_is_named(fake, damage):
    folder = files.raw_folder("mnist", fake)
    found, looked_for = damage(folder / TRAIN_IMAGES)
    with pytest.raises(DataError) as error:
        data.load("multi_fashion_mnist", root=fake, profile="small")  # never the embedded sets instead
    message = str(error.value)
    for said in ("data set mnist", looked_for, found, str(folder), "fetch mnist", 'profile="tiny"'):
        assert said in message


def test_labels_and_images_of_different_lengths(fake):
    short = fake_set(train=199, seed=0)[TRAIN_LABELS]
    (files.raw_folder("mnist", fake) / TRAIN_LABELS).write_bytes(short)
    table = files.CHECKSUMS["mnist"] | {TRAIN_LABELS: None}  # the checksum switched off for this file
    with pytest.raises(DataError, match="train: as many labels as images(.|\n)*200 images, 199 labels"):
        files.verify("mnist", fake, table)


def test_torchvisions_old_processed_files_are_refused(fake):
    processed = files.raw_folder("mnist", fake).with_name("processed")
    processed.mkdir()
    for file in ("training.pt", "test.pt"):
        torch.save((torch.zeros(3, 28, 28), torch.zeros(3)), processed / file)
    with pytest.raises(DataError, match="training.pt(.|\n)*remove"):
        files.read("mnist", fake)


def test_the_error_survives_the_way_from_a_worker_process(tmp_path):
    with pytest.raises(DataError) as error:
        files.verify("mnist", tmp_path)
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


def test_a_crash_while_writing_leaves_the_old_file_or_none(tmp_path, monkeypatch):
    class PowerCut(BaseException):
        pass

    def cut(*_):
        raise PowerCut

    for moment in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, moment, cut)
            with pytest.raises(PowerCut):
                files.write_atomically(tmp_path / "new", b"content")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old").write_bytes(b"as before")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", cut)
        with pytest.raises(PowerCut):
            files.write_atomically(tmp_path / "old", b"content")
    assert (tmp_path / "old").read_bytes() == b"as before"


# the mini sets


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_mini_sets_are_balanced_and_small(name):
    arrays = embedded.mini(name)
    for part, per_class in (("train", 160), ("test", 40)):
        images, labels, index = (arrays[f"{part}_{key}"] for key in ("images", "labels", "index"))
        assert images.shape == (10 * per_class, 28, 28) and images.dtype == np.uint8
        assert np.bincount(labels).tolist() == [per_class] * 10
        assert len(np.unique(index)) == len(index)
    assert (embedded.FOLDER / f"{name}.npz").stat().st_size < 1_000_000


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_mini_sets_are_what_they_say_of_the_full_sets(name):
    need_full_sets()
    parts, _ = files.read(name)
    arrays = embedded.mini(name)
    for part, (images, labels) in parts.items():
        index = arrays[f"{part}_index"]
        np.testing.assert_array_equal(images[index], arrays[f"{part}_images"])
        np.testing.assert_array_equal(labels[index], arrays[f"{part}_labels"])
    for key, array in embedded.build(name).items():
        np.testing.assert_array_equal(array, arrays[key])


def test_a_changed_mini_set_is_refused(tmp_path, monkeypatch):
    changed = bytearray((embedded.FOLDER / "mnist.npz").read_bytes())
    changed[1000] ^= 1
    (tmp_path / "mnist.npz").write_bytes(changed)
    monkeypatch.setattr(embedded, "FOLDER", tmp_path)
    with pytest.raises(DataError, match=embedded.CHECKSUMS["mnist"]):
        data.load("multi_fashion_mnist")
    with pytest.raises(DataError, match=r"fashion_mnist.npz(.|\n)*no such file"):
        embedded.mini("fashion_mnist")
