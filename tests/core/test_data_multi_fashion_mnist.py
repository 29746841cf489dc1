"""Multi-Fashion+MNIST: composites pixel by pixel, pairs, splits and identities."""

import hashlib

import numpy as np
import pytest
import torch
from fake_images import need_full_sets, write_fake_sets

from mtl_core import data
from mtl_core.data import composites, embedded, mnist_files, multi_fashion_mnist
from mtl_core.seeds import numpy_generator


@pytest.fixture
def fake_root(tmp_path, monkeypatch):
    """A root with fake full sets, and their checksum table in place of the real one."""
    monkeypatch.setattr(mnist_files, "CHECKSUMS", write_fake_sets(tmp_path))
    return tmp_path


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
    digits, garments = embedded.arrays("mnist"), embedded.arrays("fashion_mnist")
    for name, drawn in multi_fashion_mnist.pairs(train=40, validation=30, test=20).items():
        part, split = "test" if name == "test" else "train", getattr(problem, name)
        for n, (digit, garment) in enumerate(drawn):
            i = digits[f"{part}_index"].tolist().index(digit)
            j = garments[f"{part}_index"].tolist().index(garment)
            expected = np.zeros((36, 36), dtype=np.uint8)
            for y in range(28):
                expected[y, :28] = digits[f"{part}_images"][i, y]
            for y in range(28):
                for x in range(28):
                    pixel = garments[f"{part}_images"][j, y, x]
                    expected[y + offset, x + offset] = max(expected[y + offset, x + offset], pixel)
            np.testing.assert_array_equal(split.inputs[n, 0].numpy(), expected)
            assert split.targets[0][n] == digits[f"{part}_labels"][i]
            assert split.targets[1][n] == garments[f"{part}_labels"][j]


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


def test_the_official_test_split_stays_apart(fake_root):
    # In the fake sets every image is unique, so a composite's digit corner tells where it is from.
    problem = data.load("multi_fashion_mnist", root=fake_root, profile="small", train=400, validation=60, test=90)
    parts, _ = mnist_files.read("mnist", fake_root)
    tops = {part: {image[:8].tobytes() for image in images} for part, (images, _) in parts.items()}
    for name, split in splits(problem).items():
        corners = {image[0, :8, :28].numpy().tobytes() for image in split.inputs}
        assert corners <= tops["test" if name == "test" else "train"]


def test_held_out_sources_are_a_stratified_tenth(fake_root):
    source, _ = composites.read_source("mnist", fake_root, "small")
    labels, positions = source.parts["train"].labels, composites.split_positions(source)
    inside, held_out = positions["train"], positions["validation"]
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
    digits, garments = embedded.arrays("mnist"), embedded.arrays("fashion_mnist")
    first = digits["train_labels"][np.searchsorted(digits["train_index"], drawn[:, 0])]
    second = garments["train_labels"][np.searchsorted(garments["train_index"], drawn[:, 1])]
    table = np.histogram2d(first, second, bins=10)[0]
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
    assert ((table - expected) ** 2 / expected).sum() < 126  # chi-squared, 81 degrees of freedom, p = 0.001


def test_the_full_sets_make_the_papers_sizes():
    need_full_sets()
    problem = data.load("multi_fashion_mnist", profile="paper")
    assert {name: len(split) for name, split in splits(problem).items()} == {
        "train": 108_000,
        "validation": 12_000,
        "test": 20_000,
    }
    assert problem.source["md5"]["mnist"]["train-images-idx3-ubyte"] == "6bbc9ace898e44ae57da46a324031adb"
    assert problem.source["md5"]["fashion_mnist"]["t10k-labels-idx1-ubyte"] == "15d484375f8d13e6eb1aabb0c3f46965"
    assert problem.source["pairs_sha256"] == {
        "train": "0b5341aae24439d2a1d2437de7de1169d3e34cf0db3cdb6779b6bfcf4f134ec4",
        "validation": "58119309b90a2fb0c0fd9c9da5f0d6ab290435f176446dbf720abcbbec948fc9",
        "test": "5d8d91d7bd0f7bb1a5814acdc4c530f21161a6e18110b2c26ac5a9660b40fa68",
    }
    drawn = multi_fashion_mnist.pairs(profile="paper")
    check_pairs(drawn, [54_000, 6_000, 10_000])
    assert str(data.data_root()) not in str(problem.source)  # it is copied into committed records


@pytest.mark.parametrize("offset", [9, -1])
def test_offsets_out_of_range_are_refused(offset):
    with pytest.raises(ValueError, match=f"offset is 0 to 8 pixels, got {offset}"):
        data.load("multi_fashion_mnist", offset=offset)


def test_each_part_has_an_independent_stream():
    draws = [numpy_generator(3, "pairing", part).integers(1 << 60) for part in ("", "train", "test")]
    assert len(set(draws)) == 3
    assert draws[0] == numpy_generator(3, "pairing").integers(1 << 60)
