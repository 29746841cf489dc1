"""Every data set of the three papers: who uses it, how to get it, its licence and size; whether it is there."""

import importlib.util
from collections.abc import Mapping
from typing import NamedTuple

from .errors import DataError, damage_as_data_error
from .files import FileSet, Root, data_root
from .held import READABLE, Held, Survey, place


class Entry(NamedTuple):
    """What is known of a set before it is there. Licences are as commonly stated: read the set's own terms."""

    title: str
    papers: str
    get: str
    licence: str
    size: str


FETCH = "python -m mtl_core.data fetch {name}"
CATALOGUE = {
    "mnist": Entry("MNIST", "RotoGrad, Recon", FETCH, "CC BY-SA 3.0 (as commonly stated)", "55 MB"),
    "fashion_mnist": Entry("Fashion-MNIST", "Recon", FETCH, "MIT", "55 MB"),
    "multi_fashion_and_mnist": Entry(
        "Multi-Fashion+MNIST, the released file",
        "Recon",
        "multi_fashion_and_mnist.pickle from the folder that the repository Xi-L/ParetoMTL links",
        "none stated; as MNIST and Fashion-MNIST",
        "0.2 to 1.5 GB",
    ),
    "qm9": Entry("QM9", "SAM-GS's baselines", FETCH, "MIT (the package)", "104 MB"),
    "cifar10": Entry(
        "CIFAR-10",
        "RotoGrad",
        "cifar-10-python.tar.gz from the CIFAR page of the University of Toronto, or torchvision.datasets.CIFAR10",
        "none stated; cite Krizhevsky (2009)",
        "170 MB",
    ),
    "svhn": Entry(
        "SVHN, cropped digits",
        "RotoGrad",
        "train_32x32.mat and test_32x32.mat from Stanford's house numbers page, or torchvision.datasets.SVHN",
        "non-commercial use only",
        "250 MB",
    ),
    "celeba": Entry(
        "CelebA, aligned",
        "Recon, RotoGrad, SAM-GS",
        "img_align_celeba.zip and two lists from the CelebA page of CUHK's MMLab, or torchvision.datasets.CelebA",
        "non-commercial research only",
        "1.4 GB",
    ),
    "nyuv2": Entry(
        "NYUv2, MTAN's release",
        "Recon, RotoGrad, SAM-GS",
        "nyuv2.zip, which the README of the repository lorenmt/mtan links; unpack it to the folder",
        "research use",
        "several GB",
    ),
    "cityscapes": Entry(
        "CityScapes, MTAN's release at 128 x 256",
        "Recon, SAM-GS",
        "cityscapes2.zip, which the README of the repository lorenmt/mtan links; unpack it to the folder",
        "non-commercial; CityScapes' own terms ask for an account",
        "651 MB packed",
    ),
    "pascal": Entry(
        "PASCAL-Context for several tasks (PASCAL_MT)",
        "Recon",
        "PASCAL_MT.tgz, which the repository facebookresearch/astmt links; unpack it to the root",
        "research use; images under Flickr's terms",
        "several GB",
    ),
    "mt10": Entry(
        "Meta-World MT10, the simulator",
        "SAM-GS",
        "pip install metaworld packaging; demonstrations are in this package",
        "MIT",
        "370 MB installed",
    ),
}
PACKAGES = {"mt10": "metaworld"}  # sets that are programs


def where(name: str, root: Root, surveys: Mapping[str, Survey]) -> str:
    """The folder of a set, or the package that it is."""
    if name in PACKAGES:
        return f"package {PACKAGES[name]}"
    if name in surveys:
        return str(place(root, surveys[name]))
    folders = {"mnist": "MNIST/raw", "fashion_mnist": "FashionMNIST/raw"}
    return str(data_root(root) / folders.get(name, name))


def state(name: str, root: Root, files: Mapping[str, FileSet], surveys: Mapping[str, Survey]) -> str:
    """In words, whether a set is there and what is known of its files. Files under a manifest are not read again."""
    if name in PACKAGES:
        return "installed" if importlib.util.find_spec(PACKAGES[name]) else "not installed"
    try:
        if name in files:
            files[name].check(root)
            return "present, verified: checksums right"
        folder = place(root, surveys[name])
        with damage_as_data_error(name, "a folder that can be read", folder, READABLE):
            if not (folder / surveys[name].marker).exists():
                return "not there"
        held = Held(name, folder)
    except DataError as error:
        return "not there" if "no such f" in str(error) and name in files else f"present, not usable: {error}"
    if held.expected is None:
        return f"present, not verified: run `python -m mtl_core.data check {name}`"
    what = "the whole set" if held.complete else "a part of the set"
    return f"present, verified: {what}, {len(held.expected):,} files held to {held.manifest}"


def status(root: Root, files: Mapping[str, FileSet], surveys: Mapping[str, Survey]) -> list[dict[str, str]]:
    """A dictionary for each set of `CATALOGUE`: its entry, its name, `state` and `where`."""
    return [
        {
            "name": name,
            **entry._asdict(),
            "get": entry.get.format(name=name),
            "state": state(name, root, files, surveys),
            "where": where(name, root, surveys),
        }
        for name, entry in CATALOGUE.items()
    ]
