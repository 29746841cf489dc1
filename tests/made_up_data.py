"""Small roots of made-up images in the true formats of the sets that a user brings: four images of each split or so."""

import pickle

import numpy as np
from PIL import Image
from scipy.io import savemat

SIZES = {"nyuv2": (288, 384), "cityscapes": (128, 256)}


def mtan_root(root, name, images=2, seed=0):
    """Write ROOT/name in MTAN's layout: `images` in train and in val. Returns the folder."""
    generator, (height, width) = np.random.default_rng(seed), SIZES[name]
    label, classes = ("label", 13) if name == "nyuv2" else ("label_7", 7)
    for split in ("train", "val"):
        for number in range(images):
            arrays = {
                "image": generator.random((height, width, 3), dtype=np.float32),
                label: generator.integers(-1, classes, (height, width)).astype(np.float32),
                "depth": generator.random((height, width, 1), dtype=np.float32),
            }
            if name == "nyuv2":
                normals = generator.standard_normal((height, width, 3), dtype=np.float32)
                normals /= np.linalg.norm(normals, axis=2, keepdims=True)
                normals[: height // 8] = 0
                arrays["normal"] = normals
            for kind, array in arrays.items():
                folder = root / name / split / kind
                folder.mkdir(parents=True, exist_ok=True)
                np.save(folder / f"{number}.npy", array)
    return root / name


def pascal_root(root, images=3, seed=0):
    """Write ROOT/PASCAL_MT: `images` in train and in val, of unequal sizes; the first of each shows a person."""
    generator, folder = np.random.default_rng(seed), root / "PASCAL_MT"
    for kind in ("ImageSets/Context", "JPEGImages", "semseg/VOC12", "semseg/pascal-context", "human_parts"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for kind in ("normals_distill", "sal_distill", "pascal-context/trainval"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for year, split in ((2008, "train"), (2010, "val")):
        names = [f"{year}_{number:06d}" for number in range(images)]
        (folder / f"ImageSets/Context/{split}.txt").write_text("\n".join(names) + "\n")
        for number, name in enumerate(names):
            size = (40 + 3 * number, 50 - 4 * number)
            Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)).save(
                folder / f"JPEGImages/{name}.jpg"
            )
            classes = generator.integers(0, 21, size, dtype=np.uint8)
            classes[0] = 255
            palette = Image.fromarray(classes).convert("L")
            palette.putpalette(list(range(256)) * 3)
            palette.save(folder / f"semseg/{'VOC12' if number % 2 == 0 else 'pascal-context'}/{name}.png")
            normals = generator.standard_normal((*size, 3))
            normals /= np.linalg.norm(normals, axis=2, keepdims=True)
            encoded = ((normals + 1) * 127.5).round().astype(np.uint8)
            Image.fromarray(encoded).save(folder / f"normals_distill/{name}.png")
            salient = generator.integers(0, 256, size, dtype=np.uint8)
            Image.fromarray(salient).save(folder / f"sal_distill/{name}.png")
            context = np.where(np.arange(size[1]) < size[1] // 2, 440, 1) * np.ones(size)  # wall, and an accordion
            savemat(
                folder / f"pascal-context/trainval/{name}.mat",
                {"LabelMap": context.astype(np.uint16)},
                do_compression=True,
            )
            savemat(folder / f"human_parts/{name}.mat", {"anno": _annotation(size, number == 0)}, do_compression=True)
    return folder


def _annotation(size, shows_person):
    """PASCAL-Part's nested structs: imname, objects of class, class_ind, mask and parts of part_name and mask."""
    mask = np.zeros(size, dtype=np.uint8)
    mask[:10, :10] = 1
    parts = np.zeros((1, 2), dtype=[("part_name", object), ("mask", object)])
    for column, (name, rows) in enumerate((("head", 4), ("llarm", 2))):
        inside = np.zeros(size, dtype=np.uint8)
        inside[rows : rows + 3, :10] = 1
        parts[0, column] = (name, inside)
    objects = np.zeros((1, 2), dtype=[("class", object), ("class_ind", object), ("mask", object), ("parts", object)])
    objects[0, 0] = ("person" if shows_person else "dog", 15.0 if shows_person else 12.0, mask, parts)
    objects[0, 1] = ("sofa", 18.0, mask, np.zeros((0, 0)))
    annotation = np.zeros((1, 1), dtype=[("imname", object), ("objects", object)])
    annotation[0, 0] = ("name", objects)
    return annotation


def celeba_root(root, images=12, seed=0):
    """Write ROOT/celeba: the two lists and JPEG files, four of each split."""
    generator, folder = np.random.default_rng(seed), root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    files = [f"{number + 1:06d}.jpg" for number in range(images)]
    values = generator.choice([-1, 1], (images, 40))
    lines = [f"{file}  {' '.join(f'{v:2d}' for v in row)} " for file, row in zip(files, values, strict=True)]
    names = " ".join(f"Attribute_{number}" for number in range(40))
    (folder / "list_attr_celeba.txt").write_text("\n".join([str(images), names + " ", *lines]) + "\n")
    partition = "".join(f"{file} {number * 3 // images}\n" for number, file in enumerate(files))
    (folder / "list_eval_partition.txt").write_text(partition)
    for file in files:
        pixels = np.full((218, 178, 3), generator.integers(0, 256, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "img_align_celeba" / file)
    return folder


def cifar_root(root, images=6, seed=0):
    """Write ROOT/cifar-10-batches-py: five train batches and a test batch, pickled as by Python 2 (protocol 2)."""
    generator, folder = np.random.default_rng(seed), root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for file in [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]:
        batch = {
            "data": generator.integers(0, 256, (images, 3072), dtype=np.uint8),
            "labels": [int(label) for label in generator.integers(0, 10, images)],
            "filenames": [f"{n}.png" for n in range(images)],
            "batch_label": "a batch",
        }
        (folder / file).write_bytes(pickle.dumps(batch, protocol=2))
    return folder


def svhn_root(root, images=20, seed=0):
    """Write ROOT/svhn: train and test in MATLAB's format; the digit 0 is class 10."""
    generator, folder = np.random.default_rng(seed), root / "svhn"
    folder.mkdir(parents=True)
    for part in ("train", "test"):
        arrays = {
            "X": generator.integers(0, 256, (32, 32, 3, images), dtype=np.uint8),
            "y": (np.arange(images, dtype=np.uint8)[:, None] % 10) + 1,
        }
        savemat(folder / f"{part}_32x32.mat", arrays, do_compression=True)
    return folder


def released_root(root, train=40, test=10, dtype=np.float32, seed=0):
    """Write ROOT/multi_fashion_and_mnist/…pickle: train images and labels, test images and labels."""
    generator, folder, made = np.random.default_rng(seed), root / "multi_fashion_and_mnist", []
    folder.mkdir(parents=True)
    for count in (train, test):
        made += [generator.integers(0, 256, (count, 36 * 36)).astype(dtype), generator.integers(0, 10, (count, 2))]
    (folder / "multi_fashion_and_mnist.pickle").write_bytes(pickle.dumps(made, protocol=4))
    return folder


ROOTS = {
    "nyuv2": lambda root: mtan_root(root, "nyuv2"),
    "cityscapes": lambda root: mtan_root(root, "cityscapes"),
    "pascal": pascal_root,
    "celeba": celeba_root,
    "cifar10": cifar_root,
    "svhn": svhn_root,
    "multi_fashion_and_mnist": released_root,
}
