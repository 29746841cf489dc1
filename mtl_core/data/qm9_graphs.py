"""QM9 as graphs: atoms with 11 features, pairs of atoms with a bond and a distance, for a message-passing network.

The features are those of PyG's QM9, from which the published tables were made. Its 11 columns are H C N O F as one of
five, the atomic number, four flags (aromatic, sp, sp2, sp3) and the number of hydrogens; it reads molecules without
perception of rings, so its flags are zero everywhere and bonds are single, double or triple, never aromatic. The
package of molecules has no table of bonds. They are rebuilt from positions, see `bonds`.
"""

import hashlib
import io
from collections.abc import Mapping, Sequence

import numpy as np

from . import qm9
from .errors import DataError, damage_as_data_error
from .files import Root, data_root, read_npz, store
from .problem import Problem
from .qm9_descriptors import ATOMS, CHUNK, ELEMENTS, Molecules
from .qm9_files import CONTENT_SHA256, identity

RADII = np.array([0.31, 0.76, 0.71, 0.66, 0.57])  # covalent, angstrom, as ELEMENTS (Cordero et al., 2008)
STRETCH = 1.15  # of the sum of two radii: a longer distance is no bond
VALENCE = np.array([1, 4, 3, 2, 1])
H, C, N = 0, 1, 2  # positions among ELEMENTS
FORMAT = 1  # of qm9_bonds.npz; raise it when `bonds` gives others
BONDS_SHA256 = "2614f22f47323699774c19c8a32558ca58666a4e6bac024bc658cbabd3c79b07"  # of the full set, as `_identity`
COUNTS = qm9.COUNTS | {"small": {"train": 2_000, "validation": 500, "test": 2_000}}
NOTE = "Real molecules as graphs; bonds are rebuilt from positions."


def load(
    root: Root = None,
    profile: str = "tiny",
    seed: int = 0,
    *,
    train: int | None = None,
    validation: int | None = None,
    test: int | None = None,
    targets: Sequence[str] | None = None,
) -> Problem:
    """The problem of `data.qm9`, its molecules and targets, with graphs as inputs (N, 29, 43) float32, see `graphs`.

    profile  "tiny": the 500 embedded molecules; "small": 2,000 / 500 / 2,000 of the full set in the root, the first
             of those that `data.qm9` trains, validates and tests on; "paper": 110,831 / 10,000 / 10,000 of it.
    seed, train, validation, test, targets  as in `data.qm9.load`.
    Errors: ValueError for a count out of range; `DataError` where the full set is missing or damaged.
    """
    given = {"train": train, "validation": validation, "test": test}
    counts = qm9.sizes_of(COUNTS, profile, given)
    return qm9.problem(_graphs, "qm9_graphs", NOTE, root, profile, counts, targets=targets)


def _graphs(molecules: Molecules, positions: Mapping[str, np.ndarray], root: Root) -> dict[str, np.ndarray]:
    chosen = np.concatenate(list(positions.values()))
    if 2 * len(chosen) > len(molecules["atoms"]) > 1000:  # nearly all: keep their bonds, which take half a minute
        known = kept_bonds(molecules, root)
        return {split: graphs(molecules, part, known) for split, part in positions.items()}
    some = taken(molecules, chosen)
    known, ends = bonds(some), np.cumsum([len(part) for part in positions.values()])
    rows = np.split(np.arange(len(chosen)), ends[:-1])
    return {split: graphs(some, part, known) for split, part in zip(positions, rows, strict=True)}


def taken(molecules: Molecules, positions: np.ndarray) -> Molecules:
    """Atoms, elements and positions of the molecules at `positions`, in that order."""
    counts = molecules["atoms"].astype(np.int64)
    atom = _members(counts, positions)
    return {"atoms": molecules["atoms"][positions], **{key: molecules[key][atom] for key in ("elements", "positions")}}


def _members(counts: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Where the members of the groups at `positions` lie, if group i has `counts[i]` of them and they follow."""
    some = counts[positions]
    return np.repeat((np.cumsum(counts) - counts)[positions] - np.cumsum(some) + some, some) + np.arange(some.sum())


def graphs(molecules: Molecules, positions: np.ndarray, known: Mapping[str, np.ndarray]) -> np.ndarray:
    """The molecules at `positions`, (n, 29, 43) float32, zeros where there is no atom.

    The columns of an atom: 11 features, its place (angstrom), and its bond to each of the 29 atoms: 0 none, 1 single,
    2 double, 3 triple, 4 aromatic. known: their `bonds`.
    """
    counts, number = molecules["atoms"].astype(np.int64), known["bonds"].astype(np.int64)
    made = np.zeros((len(positions), ATOMS, 14 + ATOMS), dtype=np.float32)
    there = np.arange(ATOMS) < counts[positions][:, None]
    atom, bond = _members(counts, positions), _members(number, positions)
    element = np.searchsorted(ELEMENTS, molecules["elements"][atom])
    flat = np.zeros((len(atom), 14), dtype=np.float32)
    flat[np.arange(len(atom)), element], flat[:, 5] = 1, molecules["elements"][atom]
    flat[:, 11:] = molecules["positions"][atom]
    made[there, :14] = flat
    molecule, (i, j) = np.repeat(np.arange(len(positions)), number[positions]), known["pairs"][bond].T
    made[molecule, i, 14 + j] = made[molecule, j, 14 + i] = known["orders"][bond]
    made[:, :, 10] = ((made[:, :, 14:] > 0) * made[:, None, :, H]).sum(2)
    return made


def bonds(molecules: Molecules) -> dict[str, np.ndarray]:
    """The bonds of molecules: bonds (N,) of each; pairs (E, 2) atoms i < j of the molecule; orders (E,), 1 to 3.

    Two atoms closer than 1.15 times the sum of their covalent radii have a bond. Orders fill the valences of H C N O F
    (1 4 3 2 1): of all ways to do so the one that leaves least open at carbon, then has fewest charges (nitrogen may
    have four bonds), then most bonds, then the shortest ones. Rings get one of their Kekulé forms.
    """
    counts, found = molecules["atoms"].astype(np.int64), []
    ends, upper = np.cumsum(counts), np.triu(np.ones((ATOMS, ATOMS), dtype=bool), 1)
    for first in range(0, len(counts), CHUNK):
        size = counts[first : first + CHUNK]
        there = np.arange(ATOMS) < size[:, None]
        flat = slice(ends[first] - size[0], ends[first + len(size) - 1])
        element, place = np.zeros(there.shape, np.int64), np.full((*there.shape, 3), np.inf)
        element[there], place[there] = (
            np.searchsorted(ELEMENTS, molecules["elements"][flat]),
            molecules["positions"][flat],
        )
        reach = RADII[element][:, :, None] + RADII[element][:, None]
        with np.errstate(invalid="ignore"):  # the distance of two absent atoms is no number
            ratio = np.sqrt(((place[:, :, None] - place[:, None]) ** 2).sum(-1)) / reach
        molecule, i, j = np.nonzero((ratio < STRETCH) & upper)
        degree = np.bincount(np.concatenate([molecule * ATOMS + i, molecule * ATOMS + j]), minlength=there.size)
        free = VALENCE[element] - degree.reshape(there.shape)
        orders = np.ones(len(molecule), np.uint8)
        starts = np.searchsorted(molecule, np.arange(len(size) + 1))
        for m in np.flatnonzero(((free > 0) & there).any(1)):
            own = slice(starts[m], starts[m + 1])
            joined = list(zip(i[own].tolist(), j[own].tolist(), strict=True))
            length = ratio[m, i[own], j[own]].tolist()
            orders[own] += np.array(_extra(joined, length, free[m].tolist(), element[m].tolist()), np.uint8)
        pairs = np.stack([i, j], 1).astype(np.uint8)
        found.append({"bonds": np.diff(starts).astype(np.uint8), "pairs": pairs, "orders": orders})
    return {key: np.concatenate([part[key] for part in found]) for key in ("bonds", "pairs", "orders")}


def _extra(pairs: list, length: list[float], free: list[int], element: list[int]) -> list[int]:
    """What the order of each bond of one molecule has above 1, see `bonds`. `free`: open valences of its atoms."""
    open_atoms = [a for a, f in enumerate(free) if f > 0]
    for spare in (0, 1):  # first without a nitrogen of four bonds, which few molecules need
        room = [f + (spare if kind == N and f >= 0 else 0) for f, kind in zip(free, element, strict=True)]
        edges = [e for e, (a, b) in enumerate(pairs) if room[a] > 0 < room[b] and (free[a] > 0 or free[b] > 0)]
        edges.sort(key=length.__getitem__)
        best, extra = _best(edges, pairs, length, room, open_atoms, free, element)
        if best[1] == 0:
            break
    return extra


def _best(edges, pairs, length, room, open_atoms, free, element):
    """The best key, see `bonds`, and the extra orders that have it."""
    extra, left = [0] * len(pairs), list(room)
    judged = sorted({*open_atoms, *(a for e in edges for a in pairs[e])})
    found: list[tuple[tuple, list[int]]] = [((99,), extra)]

    def visit(k):
        if k == len(edges):
            open_now = {a: left[a] - room[a] + free[a] for a in judged}
            key = (
                sum(max(o, 0) for a, o in open_now.items() if element[a] == C),
                sum(map(abs, open_now.values())),
                -sum(extra),
                sum(n * x for n, x in zip(extra, length, strict=True)),
            )
            if key < found[0][0]:
                found[0] = key, extra[:]
            return
        a, b = pairs[edges[k]]
        for n in range(min(left[a], left[b], 2), -1, -1):
            extra[edges[k]], left[a], left[b] = n, left[a] - n, left[b] - n
            visit(k + 1)
            extra[edges[k]], left[a], left[b] = 0, left[a] + n, left[b] + n

    visit(0)
    return found[0]


def kept_bonds(molecules: Molecules, root: Root = None) -> dict[str, np.ndarray]:
    """The bonds of the full set, from ROOT/qm9/qm9_bonds.npz; made and written there where it is missing or damaged."""
    path = data_root(root) / "qm9" / "qm9_bonds.npz"
    try:
        with damage_as_data_error("qm9", "the bonds of QM9", path):
            arrays = read_npz("qm9", path, path.read_bytes())
            if _identity(arrays) == BONDS_SHA256 and identity(molecules) == CONTENT_SHA256:
                return arrays
    except DataError:
        pass
    made, buffer = bonds(molecules), io.BytesIO()
    np.savez(buffer, **made)  # type: ignore[arg-type]
    store("qm9", path, buffer.getvalue())
    return made


def _identity(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for key in ("bonds", "pairs", "orders"):
        digest.update(np.ascontiguousarray(arrays[key]).tobytes())
    return digest.hexdigest()
