"""QM9, 11 targets, on descriptors that a plain network reads.

Molecules of Ramakrishnan et al. (Scientific Data 1, 140022, 2014) from the package `qm9pack` 1.0.3 of their
first author. The package is only read, never imported or installed. The targets are those of Navon et al.
(Nash-MTL, ICML 2022); the inputs are ours, so only gaps and orders can be compared with printed tables.
"""

import hashlib

import numpy as np
import torch
from tqdm import tqdm

from ..seeds import numpy_generator
from ..tasks import Problem, Split, regression
from .embedded import CHECKSUMS as MINI_CHECKSUMS
from .embedded import arrays as embedded_arrays
from .qm9_files import ELEMENTS, WHEEL, WHEEL_SHA256, read

EV, BOHR = 27.211386246, 0.529177210903  # electronvolt in a hartree, angstrom in a bohr

ATOMS = 29  # in the largest molecule
TARGETS = {  # name -> unit, in the order of the properties; the energies U0 to G are those of atomisation
    "mu": "D", "alpha": "bohr³", "HOMO": "meV", "LUMO": "meV", "R2": "bohr²", "ZPVE": "meV", "U0": "meV",
    "U": "meV", "H": "meV", "G": "meV", "Cv": "cal/(mol K)",
}  # fmt: skip
GROUPS = ("mu", "alpha", "HOMO", "LUMO", "R2", "ZPVE", *["atomisation"] * 4, "Cv")  # nearly one task: U0 to G
FREE_ATOMS = np.array([  # hartree; rows U0, U, H, G of one atom, columns as ELEMENTS
    [-0.500273, -37.846772, -54.583861, -75.064579, -99.718730],
    [-0.498857, -37.845355, -54.582445, -75.063163, -99.717314],
    [-0.497912, -37.844411, -54.581501, -75.062219, -99.716370],
    [-0.510927, -37.861317, -54.598897, -75.079532, -99.733544],
])  # fmt: skip
BLOCKS = {  # of one fixed permutation of the molecules; a profile takes the first of each block
    "tiny": {"test": 100, "validation": 50, "train": 350},
    "full": {"test": 10_000, "validation": 10_000, "train": 110_831},
}
COUNTS = {
    "tiny": {"train": 350, "validation": 50, "test": 100},
    "small": {"train": 20_000, "validation": 4_000, "test": 10_000},
    "paper": {"train": 110_831, "validation": 10_000, "test": 10_000},
}
CHUNK = 2000  # molecules at a time, for the memory of their distances
BINS, NEAREST, WIDTH = 40, 0.75, 0.25  # of the histogram of distances, angstrom; the last bin is open


def load(
    root=None,
    profile: str = "tiny",
    seed: int = 0,
    *,
    train: int | None = None,
    validation: int | None = None,
    test: int | None = None,
) -> Problem:
    """The problem: inputs (N, 74) float32, one regression task for each of the 11 `TARGETS`.

    profile  "tiny": 500 molecules of the package; "small": 20,000 / 4,000 / 10,000 of the full set in the
             root; "paper": 110,831 / 10,000 / 10,000 of it.
    seed     changes nothing: the molecules of a split are the same for every seed.
    train, validation, test  numbers of molecules in place of the profile's.

    Inputs and targets are z-scored with mean and standard deviation of the train molecules; errors are
    reported in the target's own unit. `GROUPS` joins the four atomisation energies, nearly one task.
    Errors: ValueError for a count out of range; DataError where the full set is missing or damaged.
    """
    counts = _counts(profile, {"train": train, "validation": validation, "test": test})
    if profile == "tiny":
        found = mini()
        found["descriptors"] = descriptors(found)
        origin = {"origin": "embedded mini set", "sha256": MINI_CHECKSUMS["qm9"]}
    else:
        found = read(root)
        origin = {"origin": f"{WHEEL}, all molecules", "sha256": WHEEL_SHA256}
    rows = _rows(len(found["index"]), profile, counts)
    inputs, _, _ = _standardise(found["descriptors"].astype(np.float64), rows["train"])
    targets, mean, scale = _standardise(targets_of(found), rows["train"])
    splits = {
        name: Split(torch.from_numpy(inputs[chosen]), tuple(torch.from_numpy(targets[chosen]).unbind(1)))
        for name, chosen in rows.items()
    }
    identities = {name: found["index"][chosen].astype("<i8").tobytes() for name, chosen in rows.items()}
    return Problem(
        tuple(regression(*task, float(s)) for task, s in zip(TARGETS.items(), scale, strict=True)),
        **splits,
        source={
            "name": "qm9",
            "profile": profile,
            **origin,
            "synthetic": False,
            "rebuilt": False,
            "note": "Real molecules; descriptors of our own in place of graphs: element counts, sorted "
            "Coulomb-matrix eigenvalues, histogram of distances.",
            "counts": counts,
            "molecules_sha256": {name: hashlib.sha256(data).hexdigest() for name, data in identities.items()},
            "target_mean": dict(zip(TARGETS, _six_digits(mean), strict=True)),
            "target_deviation": dict(zip(TARGETS, _six_digits(scale), strict=True)),
        },
    )


def _six_digits(values):
    # the last digits of a mean differ between machines, which must not make two records differ
    return [float(f"{value:.6g}") for value in values]


def _counts(profile, given):
    if profile not in COUNTS:
        raise ValueError(f"unknown profile {profile!r}; the profiles are {', '.join(COUNTS)}")
    counts = {name: COUNTS[profile][name] if count is None else count for name, count in given.items()}
    for name, most in BLOCKS["tiny" if profile == "tiny" else "full"].items():
        if not isinstance(counts[name], int) or not 1 <= counts[name] <= most:
            raise ValueError(f"{name} is a number of molecules, 1 to {most}, got {counts[name]!r}")
    return counts


def _rows(molecules, profile, counts):
    block = "tiny" if profile == "tiny" else "full"
    order, start, rows = numpy_generator(0, "split", f"qm9 {block}").permutation(molecules), 0, {}
    for name, size in BLOCKS[block].items():
        rows[name] = order[start : start + counts[name]]
        start += size
    return rows


def _standardise(values, rows):
    mean, scale = values[rows].mean(0), values[rows].std(0)
    scale[scale == 0] = 1  # a descriptor that never changes, such as a bin that no distance reaches
    return ((values - mean) / scale).astype(np.float32), mean, scale


def targets_of(found: dict[str, np.ndarray]) -> np.ndarray:
    """The 11 targets (N, 11) in their units. Atomisation: a molecule's energy less its free atoms'."""
    values = found["properties"].copy()
    values[:, 6:10] -= _element_counts(found) @ FREE_ATOMS.T
    energies = [unit == "meV" for unit in TARGETS.values()]
    values[:, energies] *= 1000 * EV
    return values


def _element_counts(found):
    molecule = np.repeat(np.arange(len(found["atoms"])), found["atoms"])
    counts = np.zeros((len(found["atoms"]), len(ELEMENTS)))
    np.add.at(counts, (molecule, np.searchsorted(ELEMENTS, found["elements"])), 1)
    return counts


def descriptors(found: dict[str, np.ndarray], progress: bool = False) -> np.ndarray:
    """Inputs (N, 74) float32, not yet z-scored. They stay when a molecule is moved, turned or renumbered.

    5 counts of H C N O F; 29 eigenvalues of the Coulomb matrix C, largest magnitude first, then zeros (Rupp
    et al., PRL 108, 058301, 2012): C_ii = 0.5 Z_i^2.4, C_ij = Z_i Z_j / |R_i - R_j| in atomic units; 40
    numbers of atom pairs by distance, in bins of 0.25 angstrom from 0.75 on, the last one open.
    """
    counts, parts = found["atoms"].astype(np.int64), []
    ends = np.cumsum(counts)
    upper = np.triu(np.ones((ATOMS, ATOMS), dtype=bool), 1)
    for first in tqdm(range(0, len(counts), CHUNK), desc="descriptors", disable=not progress):
        size = counts[first : first + CHUNK]
        there = np.arange(ATOMS) < size[:, None]
        flat = slice(ends[first] - size[0], ends[first + len(size) - 1])
        charge, place = np.zeros(there.shape), np.zeros((*there.shape, 3))
        charge[there], place[there] = found["elements"][flat], found["positions"][flat]
        distance = np.sqrt(((place[:, :, None] - place[:, None]) ** 2).sum(-1))
        pair = there[:, :, None] & there[:, None] & ~np.eye(ATOMS, dtype=bool)
        coulomb = np.zeros_like(distance)
        np.divide(charge[:, :, None] * charge[:, None] * BOHR, distance, out=coulomb, where=pair)
        coulomb[:, range(ATOMS), range(ATOMS)] = 0.5 * charge**2.4
        eigenvalues = np.linalg.eigvalsh(coulomb)
        order = np.argsort(-np.abs(eigenvalues), axis=1)
        molecule, *_ = np.nonzero(pair & upper)
        bins = np.clip((distance[pair & upper] - NEAREST) // WIDTH, 0, BINS - 1).astype(np.int64)
        histogram = np.bincount(molecule * BINS + bins, minlength=len(size) * BINS).reshape(-1, BINS)
        parts.append(np.concatenate([np.take_along_axis(eigenvalues, order, 1), histogram], axis=1))
    return np.concatenate([_element_counts(found), np.concatenate(parts)], axis=1).astype(np.float32)


def mini() -> dict[str, np.ndarray]:
    """The 500 molecules that the package carries."""
    return embedded_arrays("qm9", "qm9.npz", MINI_CHECKSUMS["qm9"])


def build(root=None) -> dict[str, np.ndarray]:
    """The arrays of `mini`, drawn again from the full set in the root."""
    found = read(root)
    molecules = np.arange(len(found["index"]))
    chosen = np.sort(numpy_generator(0, "split", "embedded qm9").choice(molecules, 500, replace=False))
    molecule = np.repeat(molecules, found["atoms"])
    kept = np.isin(molecule, chosen)
    return {
        **{key: found[key][chosen] for key in ("index", "atoms", "properties")},
        **{key: found[key][kept] for key in ("elements", "positions")},
    }
