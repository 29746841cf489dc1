"""Small roots of made-up images in the true formats of the sets that a user brings: four images of each split or so."""

import numpy as np

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
