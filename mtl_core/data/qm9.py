"""QM9, 11 targets, on descriptors that a plain network reads.

Molecules of Ramakrishnan et al. (Scientific Data 1, 140022, 2014) from the package `qm9pack` 1.0.3 of their
first author. The package is only read, never imported or installed. The targets are those of Navon et al.
(Nash-MTL, ICML 2022); the inputs are ours, so only gaps and orders can be compared with printed tables.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch

from .._names import did_you_mean
from ..seeds import numpy_generator
from . import embedded
from .files import Root
from .problem import Problem, Split, regression
from .profiles import sizes
from .qm9_descriptors import Molecules, descriptors, element_counts, rotational_constants
from .qm9_files import WHEEL, WHEEL_SHA256, read

EV = 27.211386246  # electronvolt in a hartree
TARGETS = {  # name -> unit, in the order of the properties; the energies U0 to G are those of atomisation
    "mu": "D",
    "alpha": "bohr³",
    "HOMO": "meV",
    "LUMO": "meV",
    "R2": "bohr²",
    "ZPVE": "meV",
    "U0": "meV",
    "U": "meV",
    "H": "meV",
    "G": "meV",
    "Cv": "cal/(mol K)",
}
ROTATIONAL = dict.fromkeys(("log A", "log B", "log C"), "log GHz")  # natural logs; errors are relative ones, nearly
GROUPS = ("mu", "alpha", "HOMO", "LUMO", "R2", "ZPVE", *["atomisation"] * 4, "Cv")  # nearly one task: U0 to G
FREE_ATOMS = np.array(
    [  # hartree; U0, U, H, G of one atom, columns as ELEMENTS
        [-0.500273, -37.846772, -54.583861, -75.064579, -99.718730],
        [-0.498857, -37.845355, -54.582445, -75.063163, -99.717314],
        [-0.497912, -37.844411, -54.581501, -75.062219, -99.716370],
        [-0.510927, -37.861317, -54.598897, -75.079532, -99.733544],
    ]
)
BLOCKS = {  # of one fixed permutation of the molecules; a profile takes the first of each block
    "tiny": {"test": 100, "validation": 50, "train": 350},
    "full": {"test": 10_000, "validation": 10_000, "train": 110_831},
}
COUNTS = {
    "tiny": {"train": 350, "validation": 50, "test": 100},
    "small": {"train": 20_000, "validation": 4_000, "test": 10_000},
    "paper": {"train": 110_831, "validation": 10_000, "test": 10_000},
}
NOTE = (
    "Real molecules; descriptors of our own in place of graphs: element counts, sorted "
    "Coulomb-matrix eigenvalues, histogram of distances."
)


def load(
    root: Root = None,
    profile: str = "tiny",
    seed: int = 0,
    *,
    train: int | None = None,
    validation: int | None = None,
    test: int | None = None,
    fresh: bool = False,
    targets: Sequence[str] | None = None,
) -> Problem:
    """The problem: inputs (N, 74) float32, one regression task for each of the 11 `TARGETS`.

    profile  "tiny": the 500 embedded molecules; "small": 20,000 / 4,000 / 10,000 of the full set in the
             root; "paper": 110,831 / 10,000 / 10,000 of it.
    seed     changes nothing: the molecules of a split are the same for every seed.
    train, validation, test  numbers of molecules in place of the profile's.
    fresh    test on molecules that neither "small" nor this problem trains, validates or tests on: the last of the
             train block. Where the profile trains on these, it trains on fewer: 250 in "tiny", 100,831 in "paper".
    targets  names among `TARGETS` and `ROTATIONAL`, in their order here, in place of the 11. Logs of the rotational
             constants follow from the positions; a linear molecule has its B as A (`rotational_constants`).

    Inputs and targets are z-scored with mean and standard deviation of the train molecules; errors are
    reported in the target's own unit. `GROUPS` joins the four atomisation energies, nearly one task.
    Errors: ValueError for a count out of range; `DataError` where the full set is missing or damaged.
    """
    given = {"train": train, "validation": validation, "test": test}
    return problem(_described, "qm9", NOTE, root, profile, sizes_of(COUNTS, profile, given), fresh, targets, train)


def sizes_of(counts: Mapping[str, Mapping[str, int]], profile: str, given: Mapping[str, int | None]) -> dict[str, int]:
    """Split -> number of molecules: those `given`, else those of the profile."""
    return sizes(counts, profile, given, "molecules", BLOCKS[_blocks(profile)])


def _blocks(profile: str) -> str:
    return "tiny" if profile == "tiny" else "full"


def _described(molecules: Molecules, positions: Mapping[str, np.ndarray], root: Root) -> dict[str, np.ndarray]:
    every = molecules["descriptors"] if "descriptors" in molecules else descriptors(molecules)
    inputs, _, _ = _standardise(every.astype(np.float64), positions["train"])
    return {split: inputs[chosen] for split, chosen in positions.items()}


def problem(
    inputs_of: Callable[[Molecules, Mapping[str, np.ndarray], Root], dict[str, np.ndarray]],
    name: str,
    note: str,
    root: Root,
    profile: str,
    counts: dict[str, int],
    fresh: bool = False,
    targets: Sequence[str] | None = None,
    train: int | None = None,
) -> Problem:
    """The problem with what `inputs_of` (molecules, split -> positions, root) gives for each split; see `load`.

    counts  split -> number of molecules; train: that of the train split where the caller asked for one.
    """
    blocks = _blocks(profile)
    if fresh:
        room = BLOCKS[blocks]["train"] - counts["test"]
        if room < (train or 1):
            raise ValueError(f"fresh test molecules leave {room} of the train block, got train={train}: give fewer")
        counts["train"] = min(counts["train"], room)
    units = TARGETS | ROTATIONAL
    names = list(TARGETS if targets is None else targets)
    for target in names:
        if target not in units:
            raise ValueError(f"no target {target!r}{did_you_mean(target, units)}; the targets are {', '.join(units)}")
    if profile == "tiny":
        molecules = embedded.arrays("qm9")
        origin = {"origin": "embedded mini set", "sha256": embedded.CHECKSUMS["qm9"]}
    else:
        molecules = read(root)
        origin = {"origin": f"{WHEEL}, all molecules", "sha256": WHEEL_SHA256}
    positions = split_positions(len(molecules["index"]), blocks, counts, fresh)
    inputs = inputs_of(molecules, positions, root)
    values, mean, deviation = _standardise(targets_of(molecules, names), positions["train"])
    splits = {
        split: Split(torch.from_numpy(inputs[split]), tuple(torch.from_numpy(values[chosen]).unbind(1)))
        for split, chosen in positions.items()
    }
    numbers = {split: molecules["index"][chosen].astype("<i8").tobytes() for split, chosen in positions.items()}
    return Problem(
        tuple(regression(target, units[target], float(d)) for target, d in zip(names, deviation, strict=True)),
        **splits,
        source={
            "name": name,
            "profile": profile,
            **origin,
            "synthetic": False,
            "rebuilt": False,
            "note": note,
            "counts": counts,
            **({"fresh": True} if fresh else {}),
            "molecules_sha256": {split: hashlib.sha256(data).hexdigest() for split, data in numbers.items()},
            "target_mean": dict(zip(names, _six_digits(mean), strict=True)),
            "target_deviation": dict(zip(names, _six_digits(deviation), strict=True)),
        },
    )


def _six_digits(values: Iterable[float]) -> list[float]:
    # the last digits of a mean differ between machines, which must not make two records differ
    return [float(f"{value:.6g}") for value in values]


def split_positions(
    molecules: int, blocks: str, counts: Mapping[str, int], fresh: bool = False
) -> dict[str, np.ndarray]:
    """Split -> positions among `molecules` molecules: the first of each block of one permutation, see `BLOCKS`.

    fresh  the test split is the last of the train block.
    """
    order, start, positions = numpy_generator(0, "split", f"qm9 {blocks}").permutation(molecules), 0, {}
    for split, size in BLOCKS[blocks].items():
        positions[split] = order[start : start + counts[split]]
        start += size
        if fresh and split == "train":
            positions["test"] = order[start - counts["test"] : start]
    return positions


def _standardise(values: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mean, deviation = values[train].mean(0), values[train].std(0)
    deviation[deviation == 0] = 1  # a descriptor that never changes, such as a bin that no distance reaches
    return ((values - mean) / deviation).astype(np.float32), mean, deviation


def targets_of(molecules: Molecules, names: Sequence[str] = tuple(TARGETS)) -> np.ndarray:
    """The targets `names` (N, 11 by default) in their units. Atomisation: a molecule's energy less its free atoms'."""
    values = molecules["properties"].copy()
    values[:, 6:10] -= element_counts(molecules) @ FREE_ATOMS.T
    energies = [unit == "meV" for unit in TARGETS.values()]
    values[:, energies] *= 1000 * EV
    if set(names) & set(ROTATIONAL):
        values = np.concatenate([values, np.log(rotational_constants(molecules))], axis=1)
    order = [*TARGETS, *ROTATIONAL]
    return values[:, [order.index(name) for name in names]]
