"""Raw files, the mini sets and the composites. Small fake sets in the true format stand in for full ones."""

import gzip
import hashlib
import os
import pickle

import numpy as np
import pytest
import torch
from fake_images import fake_set, idx, md5s

from mtl_core import data
from mtl_core.data import DataError, files, mini_sets, multi_fashion_mnist
from mtl_core.seeds import numpy_generator

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A root with fake full sets, and the checksum table of the fakes in place of the real one."""
    table = {}
    for seed, name in enumerate(files.CHECKSUMS):
        raw = fake_set(seed=seed)
        table[name] = md5s(raw)
        folder = files.raw_folder(name, tmp_path)
        folder.mkdir(parents=True)
        for file, content in raw.items():
            (folder / file).write_bytes(content)
    monkeypatch.setattr(files, "CHECKSUMS", table)
    return tmp_path


def full_root():
    try:
        for name in files.CHECKSUMS:
            files.verify(name)
    except DataError as error:
        pytest.skip(f"the full sets are not there ({str(error).splitlines()[3].strip()}); set MTL_DATA")


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
    arrays = mini_sets.mini(name)
    for part, per_class in (("train", 160), ("test", 40)):
        images, labels, index = (arrays[f"{part}_{key}"] for key in ("images", "labels", "index"))
        assert images.shape == (10 * per_class, 28, 28) and images.dtype == np.uint8
        assert np.bincount(labels).tolist() == [per_class] * 10
        assert len(np.unique(index)) == len(index)
    assert (mini_sets.FOLDER / f"{name}.npz").stat().st_size < 1_000_000


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_mini_sets_are_what_they_say_of_the_full_sets(name):
    full_root()
    parts, _ = files.read(name)
    arrays = mini_sets.mini(name)
    for part, (images, labels) in parts.items():
        index = arrays[f"{part}_index"]
        np.testing.assert_array_equal(images[index], arrays[f"{part}_images"])
        np.testing.assert_array_equal(labels[index], arrays[f"{part}_labels"])
    for key, array in mini_sets.build(name).items():
        np.testing.assert_array_equal(array, arrays[key])


def test_a_changed_mini_set_is_refused(tmp_path, monkeypatch):
    changed = bytearray((mini_sets.FOLDER / "mnist.npz").read_bytes())
    changed[1000] ^= 1
    (tmp_path / "mnist.npz").write_bytes(changed)
    monkeypatch.setattr(mini_sets, "FOLDER", tmp_path)
    with pytest.raises(DataError, match=mini_sets.CHECKSUMS["mnist"]):
        data.load("multi_fashion_mnist")
    with pytest.raises(DataError, match=r"fashion_mnist.npz(.|\n)*no such file"):
        mini_sets.mini("fashion_mnist")


# the composites


@pytest.fixture(scope="module")
def tiny():
    return data.load("multi_fashion_mnist")


def splits(problem):
    return {name: getattr(problem, name) for name in ("train", "validation", "test")}


def test_sizes_tasks_and_source(tiny):
    assert {name: tuple(split.inputs.shape) for name, split in splits(tiny).items()} == {
        "train": (2000, 1, 36, 36),
        "validation": (320, 1, 36, 36),
        "test": (800, 1, 36, 36),
    }
    assert tiny.train.inputs.dtype == torch.uint8 and tiny.train.targets[0].dtype == torch.int64
    assert [(task.name, task.outputs) for task in tiny.tasks] == [("digit", 10), ("garment", 10)]
    assert tiny.source["origin"] == "embedded mini sets"
    assert tiny.source["synthetic"] is False and tiny.source["rebuilt"] is True


def test_identity_of_the_tiny_set(tiny):
    # A change here makes all results on this data set incomparable with those committed before.
    assert tiny.source["pairs_sha256"] == {
        "train": "0f26dc21259858190d67f5911d22d9e91fe5d7d4af0f2a2194791a05a0bbb2a7",
        "validation": "e93e279726aad1ccf44065c5ed85a54bc0a683c4eb364e272f4abf53c8db4706",
        "test": "df7c0867f4ea91bd432e23a7a7cecdb17cc65105b5f3326fc6e34ecf6aae66c4",
    }
    inputs = b"".join(split.inputs.numpy().tobytes() for split in splits(tiny).values())
    sha256 = hashlib.sha256(inputs).hexdigest()
    assert sha256 == "c85b8351ad49f0e73ebf74f9f0afab700ca42bbca90e8586251265ced3d3f6f0"


def test_the_hash_is_that_of_the_pairs(tiny):
    for name, drawn in multi_fashion_mnist.pairs().items():
        assert drawn.shape == (tiny.source["counts"][name], 2)
        assert hashlib.sha256(drawn.astype("<i8").tobytes()).hexdigest() == tiny.source["pairs_sha256"][name]


@pytest.mark.parametrize("offset", [8, 4, 0])
def test_composites_pixel_by_pixel(offset):
    problem = data.load("multi_fashion_mnist", offset=offset, train=40, validation=30, test=20)
    digits, garments = mini_sets.mini("mnist"), mini_sets.mini("fashion_mnist")
    for name, drawn in multi_fashion_mnist.pairs(train=40, validation=30, test=20).items():
        part, split = "test" if name == "test" else "train", getattr(problem, name)
        for row, (digit, garment) in enumerate(drawn):
            i = digits[f"{part}_index"].tolist().index(digit)
            j = garments[f"{part}_index"].tolist().index(garment)
            expected = np.zeros((36, 36), dtype=np.uint8)
            for y in range(28):
                expected[y, :28] = digits[f"{part}_images"][i, y]
            for y in range(28):
                for x in range(28):
                    pixel = garments[f"{part}_images"][j, y, x]
                    expected[y + offset, x + offset] = max(expected[y + offset, x + offset], pixel)
            np.testing.assert_array_equal(split.inputs[row, 0].numpy(), expected)
            assert split.targets[0][row] == digits[f"{part}_labels"][i]
            assert split.targets[1][row] == garments[f"{part}_labels"][j]


def check_pairs(drawn, sources):
    """No source image in two splits; all of them used, equally often; train and validation disjoint."""
    for column in range(2):
        used = {name: np.unique(drawn[name][:, column]) for name in ("train", "validation", "test")}
        assert len(np.intersect1d(used["train"], used["validation"])) == 0
        assert [len(positions) for positions in used.values()] == sources
        for name in drawn:
            uses = np.unique(drawn[name][:, column], return_counts=True)[1]
            assert uses.max() - uses.min() <= 1


def test_no_leak_and_equal_use():
    check_pairs(multi_fashion_mnist.pairs(), [1440, 160, 400])


def test_the_official_test_split_stays_apart(fake):
    # In the fake sets every image is unique, so a composite's digit corner tells where it is from.
    problem = data.load("multi_fashion_mnist", root=fake, profile="small", train=400, validation=60, test=90)
    parts, _ = files.read("mnist", fake)
    rows = {part: {image[:8].tobytes() for image in images} for part, (images, _) in parts.items()}
    for name, split in splits(problem).items():
        corners = {image[0, :8, :28].numpy().tobytes() for image in split.inputs}
        assert corners <= rows["test" if name == "test" else "train"]


def test_held_out_sources_are_a_stratified_tenth(fake):
    labels = files.read("mnist", fake)[0]["train"][1]
    inside, held_out = multi_fashion_mnist._split_sources(labels, "mnist")
    assert len(held_out) == 20 and sorted([*inside, *held_out]) == list(range(200))
    share = np.bincount(labels[held_out], minlength=10) - np.bincount(labels, minlength=10) / 10
    assert np.abs(share).max() < 1


def test_seed_draws_train_pairs_and_nothing_else(tiny):
    again, other = data.load("multi_fashion_mnist"), data.load("multi_fashion_mnist", seed=1)
    assert again.source == tiny.source and torch.equal(again.train.inputs, tiny.train.inputs)
    assert other.source["pairs_sha256"]["train"] != tiny.source["pairs_sha256"]["train"]
    for name in ("validation", "test"):
        assert torch.equal(getattr(other, name).inputs, getattr(tiny, name).inputs)
    sources = [set(multi_fashion_mnist.pairs(seed=seed)["train"][:, 0]) for seed in (0, 1)]
    assert sources[0] == sources[1]


def test_digit_and_garment_are_drawn_independently():
    drawn = multi_fashion_mnist.pairs()["train"]
    digits, garments = mini_sets.mini("mnist"), mini_sets.mini("fashion_mnist")
    first = digits["train_labels"][np.searchsorted(digits["train_index"], drawn[:, 0])]
    second = garments["train_labels"][np.searchsorted(garments["train_index"], drawn[:, 1])]
    table = np.histogram2d(first, second, bins=10)[0]
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
    assert ((table - expected) ** 2 / expected).sum() < 126  # chi-squared, 81 degrees of freedom, p = 0.001


def test_the_full_sets_make_the_papers_sizes():
    full_root()
    problem = data.load("multi_fashion_mnist", profile="paper")
    assert {name: len(split) for name, split in splits(problem).items()} == {
        "train": 108_000,
        "validation": 12_000,
        "test": 20_000,
    }
    assert problem.source["md5"] == files.CHECKSUMS
    assert problem.source["pairs_sha256"] == {
        "train": "0b5341aae24439d2a1d2437de7de1169d3e34cf0db3cdb6779b6bfcf4f134ec4",
        "validation": "58119309b90a2fb0c0fd9c9da5f0d6ab290435f176446dbf720abcbbec948fc9",
        "test": "5d8d91d7bd0f7bb1a5814acdc4c530f21161a6e18110b2c26ac5a9660b40fa68",
    }
    drawn = multi_fashion_mnist.pairs(profile="paper")
    check_pairs(drawn, [54_000, 6_000, 10_000])
    assert str(data.data_root()) not in str(problem.source)  # it is copied into committed records


# arguments


def test_unknown_names_and_options():
    with pytest.raises(ValueError, match="did you mean 'multi_fashion_mnist'"):
        data.load("multi_fashon_mnist")
    with pytest.raises(ValueError, match="profiles are tiny, small, paper"):
        data.load("multi_fashion_mnist", profile="huge")
    for offset in (9, -1):
        with pytest.raises(ValueError, match=f"offset is 0 to 8 pixels, got {offset}"):
            data.load("multi_fashion_mnist", offset=offset)
    with pytest.raises(ValueError, match="train is a number of composites, at least 1, got 0"):
        data.load("multi_fashion_mnist", train=0)


def test_a_part_is_a_stream_of_its_own():
    draws = [numpy_generator(3, "pairing", part).integers(1 << 60) for part in ("", "train", "test")]
    assert len(set(draws)) == 3
    assert draws[0] == numpy_generator(3, "pairing").integers(1 << 60)
