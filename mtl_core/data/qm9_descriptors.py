"""Descriptors of molecules: 74 numbers that a plain network reads in place of a graph."""

import numpy as np

SYMBOLS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}
ELEMENTS = np.array(list(SYMBOLS.values()))  # atomic numbers
MASSES = np.array([1.00782503207, 12, 14.0030740048, 15.99491461956, 18.99840322])  # u, of the commonest isotopes
ROTOR = 505.379005  # GHz u angstrom²: the rotational constant h / 8π²I times the moment of inertia I
BOHR = 0.529177210903  # angstrom
ATOMS = 29  # in the largest molecule
CHUNK = 2000  # molecules at a time, for the memory of their distances
BINS, NEAREST, WIDTH = 40, 0.75, 0.25  # of the histogram of distances, angstrom; the last bin is open
EIGENVALUES = slice(len(ELEMENTS), len(ELEMENTS) + ATOMS)  # their columns among the descriptors

Molecules = dict[str, np.ndarray]  # arrays of `qm9_files.read`


def descriptors(molecules: Molecules) -> np.ndarray:
    """Inputs (N, 74) float32, not yet z-scored. They stay when a molecule is moved, turned or renumbered.

    5 counts of H C N O F; 29 eigenvalues of the Coulomb matrix C, largest magnitude first, then zeros (Rupp
    et al., PRL 108, 058301, 2012): C_ii = 0.5 Z_i^2.4, C_ij = Z_i Z_j / |R_i - R_j| in atomic units; 40
    numbers of atom pairs by distance, in bins of 0.25 angstrom from 0.75 on, the last one open.
    """
    counts, parts = molecules["atoms"].astype(np.int64), []
    ends = np.cumsum(counts)
    upper = np.triu(np.ones((ATOMS, ATOMS), dtype=bool), 1)
    for first in range(0, len(counts), CHUNK):
        size = counts[first : first + CHUNK]
        is_atom = np.arange(ATOMS) < size[:, None]
        flat = slice(ends[first] - size[0], ends[first + len(size) - 1])
        charge, position = np.zeros(is_atom.shape), np.zeros((*is_atom.shape, 3))
        charge[is_atom], position[is_atom] = molecules["elements"][flat], molecules["positions"][flat]
        distance = np.sqrt(((position[:, :, None] - position[:, None]) ** 2).sum(-1))
        pair = is_atom[:, :, None] & is_atom[:, None] & ~np.eye(ATOMS, dtype=bool)
        coulomb = np.zeros_like(distance)
        np.divide(charge[:, :, None] * charge[:, None] * BOHR, distance, out=coulomb, where=pair)
        coulomb[:, range(ATOMS), range(ATOMS)] = 0.5 * charge**2.4
        eigenvalues = np.linalg.eigvalsh(coulomb)
        order = np.argsort(-np.abs(eigenvalues), axis=1)
        molecule, *_ = np.nonzero(pair & upper)
        bins = np.clip((distance[pair & upper] - NEAREST) // WIDTH, 0, BINS - 1).astype(np.int64)
        histogram = np.bincount(molecule * BINS + bins, minlength=len(size) * BINS).reshape(-1, BINS)
        parts.append(np.concatenate([np.take_along_axis(eigenvalues, order, 1), histogram], axis=1))
    return np.concatenate([element_counts(molecules), np.concatenate(parts)], axis=1).astype(np.float32)


def element_counts(molecules: Molecules) -> np.ndarray:
    """Atoms of each of the `ELEMENTS` in each molecule (N, 5)."""
    molecule = np.repeat(np.arange(len(molecules["atoms"])), molecules["atoms"])
    counts = np.zeros((len(molecules["atoms"]), len(ELEMENTS)))
    np.add.at(counts, (molecule, np.searchsorted(ELEMENTS, molecules["elements"])), 1)
    return counts


def rotational_constants(molecules: Molecules) -> np.ndarray:
    """A ≥ B ≥ C (N, 3) in GHz, from the moments of inertia of the positions, as QM9's own files print them.

    About its own axis a linear molecule has no moment, and no A: it gets its only constant, B, as A. That is where the
    smallest moment is below 0.1 u angstrom²: 11 of all molecules; the next, water, has 0.63.
    """
    mass = MASSES[np.searchsorted(ELEMENTS, molecules["elements"])][:, None]
    counts = molecules["atoms"].astype(np.int64)
    starts, position = np.cumsum(counts) - counts, molecules["positions"].astype(np.float64)
    centre = np.add.reduceat(mass * position, starts) / np.add.reduceat(mass, starts)
    position = position - np.repeat(centre, counts, axis=0)
    second = np.add.reduceat(mass[:, :, None] * position[:, :, None] * position[:, None], starts)
    moments = np.linalg.eigvalsh(np.trace(second, axis1=1, axis2=2)[:, None, None] * np.eye(3) - second)
    moments[:, 0] = np.where(moments[:, 0] < 0.1, moments[:, 1], moments[:, 0])
    return ROTOR / moments


def select(molecules: Molecules, positions: np.ndarray) -> Molecules:
    """The molecules at `positions`, ascending."""
    kept = np.isin(np.repeat(np.arange(len(molecules["atoms"])), molecules["atoms"]), positions)
    return {
        **{key: molecules[key][positions] for key in ("index", "atoms", "properties")},
        **{key: molecules[key][kept] for key in ("elements", "positions")},
    }


def are_descriptors_of(values: np.ndarray, molecules: Molecules, every: int = 500) -> bool:
    """Whether `values` are the `descriptors` of `molecules`, up to rounding.

    Of all molecules the element counts, the trace of the Coulomb matrix and the number of atom pairs are compared; of
    one in `every` all descriptors, since to compute them all takes 13 seconds.
    """
    atoms, counts = molecules["atoms"].astype(np.int64), element_counts(molecules)
    if values.shape != (len(atoms), EIGENVALUES.stop + BINS):
        return False
    sample = np.arange(0, len(atoms), every)
    # another processor may round an eigenvalue, or a distance to the next bin
    tolerance = np.repeat([0, 1e-2, 1], [len(ELEMENTS), ATOMS, BINS])
    return (
        np.array_equal(values[:, : EIGENVALUES.start], counts)
        and np.allclose(values[:, EIGENVALUES].sum(1), counts @ (0.5 * ELEMENTS**2.4), rtol=1e-4)
        and np.array_equal(values[:, EIGENVALUES.stop :].sum(1), atoms * (atoms - 1) // 2)
        and bool((np.abs(values[sample] - descriptors(select(molecules, sample))) <= tolerance).all())
    )
